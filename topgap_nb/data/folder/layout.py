"""Where a folder of images keeps its classes and masks.

Layouts, in the order in which they are looked for; the images may stand in ``images/``:

- ``<class>/<image>``: one folder per class;
- ``labels.csv`` and images side by side: see ``table``;
- ``<class>_<number>.jpg``: the class is in the file name.

Masks stand in ``masks/``, as ``<class>/<image stem>.png`` or ``<image stem>.png``, or are the alpha
channels of the images. Names are compared as they read, however their accents are stored. Every
file of the folder is used, or counted in a note.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from topgap_nb.data.folder.table import few, read_table
from topgap_nb.data.image_file import is_image, plain
from topgap_nb.data.reading import require_images
from topgap_nb.errors import UserError

# Put there by an operating system, as are names that begin with a dot.
OF_THE_SYSTEM = ("desktop.ini", "thumbs.db")
ELSEWHERE = "Images that lie deeper than this layout has them, or beside it, not used"
MASK_WORD = re.compile(r"(^|[ _.-])(masks?|seg|segmentations?|annotations?|trimaps?|gt)$", re.I)


class ImageFile(NamedTuple):
    """An image file, its class, its mask file or None; ``name`` is its path in the folder.

    Where the mask is the image's alpha channel, its mask file is the image itself.
    """

    name: str
    file: Path
    label: str
    mask: Path | None


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
        images: in the order of their names.
        unused: the files that are not used, by the reason.
        notes: one sentence for each reason, and for what else should be known.
    """

    images: tuple[ImageFile, ...]
    unused: dict[str, list[Path]]
    notes: tuple[str, ...]


def find_images(path: str, masks: str = "", labels: str = "") -> Found:
    """Return the images of a folder with their classes and masks, and what is not used.

    Args:
        path: the folder.
        masks: the folder of masks in it, or ``alpha`` for the alpha channels of the images.
        labels: the table of classes in it.

    Raises:
        UserError: no such folder, one class only, an empty class folder, or a table or masks that
            do not go with the images.
    """
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise UserError(f"there is no folder {path!r}: give a folder that holds a folder per class")
    top = _child(root, "images", is_folder=True) or root
    alpha = masks == "alpha" and not (root / masks).exists()
    mask_root = None if alpha else _child(root, masks or "masks", True, required=bool(masks))
    table = _child(root, labels or "labels.csv", False, required=bool(labels))
    if mask_root and top.is_relative_to(mask_root):
        raise UserError(f"masks {masks!r} holds the images: give the masks a folder of their own")

    files = _files_under(root)
    inside = os.path.join(mask_root, "") if mask_root else "\0"
    if mask_root and not any(str(file).startswith(inside) for file in files):
        # Masks may lie outside the folder.
        files |= _files_under(mask_root)
    shown = sorted(file for file, fault in files.items() if not fault)
    mask_files = [file for file in shown if str(file).startswith(inside)]
    pictures = [file for file in shown if not str(file).startswith(inside)]
    direct = [file for file in pictures if file.parent == top]
    by_class = _class_folders(top, pictures, mask_root)
    rows = []
    if table and (labels or not any(by_class.values())):
        classes, rows = read_table(table, direct)
    else:
        table = None
        if by_class:
            require_images(top, by_class)
        classes = {file: plain(name) for name, found in by_class.items() for file in found}
        classes = classes or _from_names(top, direct)
    if len(set(classes.values())) < 2:
        raise UserError(
            f"{plain(root)} has one class only ({next(iter(classes.values()))}): a classifier "
            "needs two"
        )
    _refuse_masks_among(classes)
    mask_of = {file: file for file in classes} if alpha else {}
    if mask_root:
        mask_of = _masks_of(classes, mask_root, mask_files)

    unused = defaultdict(list)
    for file in sorted(files.keys() - classes.keys() - set(mask_of.values()) - {table}):
        reason = files[file] or ELSEWHERE
        if file in mask_files:
            reason = "Masks of no image"
        elif table and file in direct:
            reason = f"Images that {plain(table.name)} gives no class"
        unused[reason].append(file)
    notes = [
        f"{reason}: {len(names)} ({few(os.path.relpath(file, root) for file in names)})."
        for reason, names in unused.items()
    ]
    if rows:
        notes.append(f"Rows of {plain(table.name)} of no image: {len(rows)} ({few(rows)}).")
    images = [
        ImageFile(file.relative_to(top).as_posix(), file, classes[file], mask_of.get(file))
        for file in sorted(classes, key=lambda file: plain(file).split(os.sep))
    ]
    return Found(tuple(images), dict(unused), tuple(notes))


def _child(root: Path, name: str, is_folder: bool, required: bool = False) -> Path | None:
    """Return the folder or file of that name, whether it is written small or in capitals."""
    path = root / name
    if not path.exists() and not required:
        alike = (entry for entry in sorted(root.iterdir()) if entry.name.lower() == name)
        path = next(alike, path)
    if path.is_dir() if is_folder else path.is_file():
        return path
    if required:
        raise UserError(f"there is no {'folder' if is_folder else 'file'} {name!r} in {root}")
    return None


def _files_under(folder: Path) -> dict[Path, str]:
    """Return all that lies in a folder and is no folder, and why it cannot be used, if so."""
    found, waiting = {}, [(folder, False)]
    try:
        while waiting:
            place, is_hidden = waiting.pop()
            for entry in os.scandir(place):
                path, hidden = Path(entry.path), is_hidden or _is_hidden(entry.name)
                if not entry.is_dir():
                    found[path] = _fault(path, hidden, entry.is_file())
                # A link to a folder that it stands in would never end.
                elif not entry.is_symlink() or not place.resolve().is_relative_to(path.resolve()):
                    waiting.append((path, hidden))
    except OSError as error:
        raise UserError(
            f"{plain(folder)} cannot be read ({error.strerror}): check its links and rights"
        ) from error
    return found


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in OF_THE_SYSTEM


def _fault(path: Path, is_hidden: bool, is_file: bool) -> str:
    if is_hidden:
        return "Hidden files, not used"
    if not is_file:
        return "Links to nothing, not used"
    return "" if is_image(path) else "Files that are no image of a known type, not used"


def _class_folders(
    top: Path, pictures: Sequence[Path], mask_root: Path | None
) -> dict[str, list[Path]]:
    """Return, by the folders that may be classes, the images that lie directly in them."""
    inside = defaultdict(list)
    for file in pictures:
        inside[file.parent].append(file)
    return {
        folder.name: inside[folder]
        for folder in sorted(top.iterdir())
        if folder.is_dir()
        and not _is_hidden(folder.name)
        and not (mask_root and mask_root.is_relative_to(folder))
    }


def _from_names(folder: Path, files: Sequence[Path]) -> dict[Path, str]:
    matches = {file: re.fullmatch(r"(.+?)[ _-]*\d+", plain(file.stem)) for file in files}
    if not files or not all(matches.values()):
        other = next((f", as {plain(file.name)} is not" for file in files if not matches[file]), "")
        raise UserError(
            f"{plain(folder)} holds neither class folders nor a labels.csv nor images all named "
            f"<class>_<number>{other}: sort the images into one folder per class"
        )
    return {file: match[1] for file, match in matches.items()}


def _refuse_masks_among(classes: Mapping[Path, str]) -> None:
    """Check that no class is a folder of masks, and no image the mask of the one beside it.

    Raises:
        UserError: one looks like that.
    """
    stems, classes_of = defaultdict(set), defaultdict(set)
    for file, label in classes.items():
        stems[label].add(file.stem)
        classes_of[file.stem].add(label)
    for file, label in classes.items():
        word = MASK_WORD.search(file.stem)
        if word and file.stem[: word.start()] in stems[label]:
            raise UserError(
                f"{plain(file)} has the name of a mask and lies among the images: put the masks "
                "into a folder `masks`, each under the name of its image"
            )
    for label, own in stems.items():
        others = [classes_of[stem] - {label} for stem in own]
        named = bool(MASK_WORD.search(label))
        # Numbered images have the same names in every class, masks those of several classes.
        spread = all(len(found) == 1 for found in others) and len(set().union(*others)) > 1
        if all(others) and (named or spread):
            raise UserError(
                f"the class {label!r} has the names of other classes' images, as masks have: say "
                f"masks={label!r}, or, if it is a class, rename its files"
            )


def _masks_of(
    classes: Mapping[Path, str], folder: Path, mask_files: Sequence[Path]
) -> dict[Path, Path]:
    """Return the mask of each image that has one."""
    files = defaultdict(list)
    for file in mask_files:
        files[plain(file.relative_to(folder).with_suffix("").as_posix())].append(file)
    stems = Counter(plain(file.stem) for file in classes)
    masks = {}
    for file, label in classes.items():
        stem = plain(file.stem)
        flat = files.get(stem)
        if flat and stems[stem] > 1:
            raise UserError(
                f"{plain(flat[0])} could belong to {stems[stem]} images: put the masks into class "
                f"folders, such as {plain(folder / label / flat[0].name)}"
            )
        found = files.get(f"{label}/{stem}", flat) or []
        if len(found) > 1:
            raise UserError(
                f"{plain(found[0])} and {plain(found[1].name)} are both masks of "
                f"{plain(file.name)}: keep one"
            )
        if found:
            masks[file] = found[0]
    if not masks:
        first = next(iter(classes))
        raise UserError(
            f"no mask in {plain(folder)} has the name of an image: call the mask of "
            f"{plain(first.name)} {plain(first.stem)}.png"
        )
    return masks
