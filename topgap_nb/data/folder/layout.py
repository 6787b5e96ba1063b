"""Where a folder of images keeps its classes and masks.

Layouts, in the order in which they are looked for; the images may stand in ``images/``:

- ``<class>/<image>``: one folder per class;
- ``labels.csv`` and images side by side: first column the file (its name, stem or number), second
  the class;
- ``<class>_<number>.jpg``: the class is in the file name.

Masks stand in ``masks/``, as ``<class>/<image stem>.png`` or ``<image stem>.png``.
"""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from topgap_nb.data.reading import files_by_class, images_in
from topgap_nb.errors import UserError


class ImageFile(NamedTuple):
    """An image file, its class, its mask file or None; ``name`` is its path in the folder."""

    name: str
    file: Path
    label: str
    mask: Path | None


def find_images(path: str, masks: str = "", labels: str = "") -> list[ImageFile]:
    """Return the images of a folder with their classes and masks, in the order of their names.

    Raises:
        UserError: no such folder, one class only, an empty class folder, or a table or masks that
            do not go with the images.
    """
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise UserError(f"there is no folder {path!r}: give a folder that holds a folder per class")
    for name in (masks, labels):
        if name and not (root / name).exists():
            raise UserError(f"there is no {name!r} in {root}")
    mask_root = root / (masks or "masks")
    top = root / "images" if (root / "images").is_dir() else root
    table = root / (labels or "labels.csv")
    folders = [
        folder
        for folder in top.iterdir()
        if folder.is_dir() and folder != mask_root and not folder.name.startswith(".")
    ]
    if labels or (table.exists() and not any(map(images_in, folders))):
        classes = _from_table(table, images_in(top))
    elif folders:
        by_class = files_by_class(top, leave_out=mask_root)
        classes = {file: label for label, files in by_class.items() for file in files}
    else:
        classes = _from_names(top, images_in(top))
    names = Counter(classes.values())
    if len(names) < 2:
        raise UserError(f"{root} has one class only ({', '.join(names)}): a classifier needs two")
    mask_of = _masks_of(classes, mask_root) if mask_root.is_dir() else {}
    return [
        ImageFile(file.relative_to(top).as_posix(), file, label, mask_of.get(file))
        for file, label in sorted(classes.items())
    ]


def _from_table(table: Path, files: list[Path]) -> dict[Path, str]:
    import pandas as pd

    try:
        rows = pd.read_csv(table, sep=None, engine="python", dtype=str, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise UserError(f"{table} is not a table: {' '.join(str(error).split())}") from error
    if rows.shape[1] < 2:
        raise UserError(f"{table} needs two columns: the image, then its class")
    label_of = {_key(name): label for name, label in rows.iloc[:, :2].dropna().to_numpy()}
    classes = {}
    for file in files:
        for key in (_key(file.name), _key(file.stem)):
            if key in label_of:
                classes[file] = label_of[key].strip()
                break
    if not classes:
        raise UserError(f"no row of {table} names an image in {table.parent}: the first column is")
    return classes


def _key(name: str) -> str:
    """Return what a table and a file must share: the name, or its number (7 is 007)."""
    name = name.strip()
    return str(int(name)) if name.isdecimal() else name


def _from_names(folder: Path, files: list[Path]) -> dict[Path, str]:
    matches = {file: re.fullmatch(r"(.+?)[ _-]*\d+", file.stem) for file in files}
    if not files or not all(matches.values()):
        raise UserError(
            f"{folder} holds neither class folders nor a labels.csv nor images named "
            f"<class>_<number>: sort the images into one folder per class"
        )
    return {file: match[1] for file, match in matches.items()}


def _masks_of(classes: dict[Path, str], folder: Path) -> dict[Path, Path]:
    files = {p.relative_to(folder).with_suffix("").as_posix(): p for p in folder.rglob("*.*")}
    stems = Counter(file.stem for file in classes)
    masks = {}
    for file, label in classes.items():
        flat = files.get(file.stem)
        if flat and stems[file.stem] > 1:
            raise UserError(
                f"{flat} could belong to {stems[file.stem]} images: put the masks into class "
                f"folders, such as {folder / label / flat.name}"
            )
        if mask := files.get(f"{label}/{file.stem}", flat):
            masks[file] = mask
    if not masks:
        raise UserError(
            f"no mask in {folder} has the name of an image: call the mask of "
            f"{next(iter(classes)).name} {next(iter(classes)).stem}.png"
        )
    return masks
