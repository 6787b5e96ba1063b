"""Where a folder of images keeps its classes and masks, and how its files are read.

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

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from topgap_nb.errors import UserError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
LOSSY = {".jpeg", ".jpg", ".webp"}


class Found(NamedTuple):
    """An image file, its class, its mask file or None; ``name`` is its path in the folder."""

    name: str
    file: Path
    label: str
    mask: Path | None


def find_images(path: str = "", masks: str = "", labels: str = "") -> list[Found]:
    """Return the images of a folder with their classes and masks, in the order of their names.

    Raises:
        UserError: see ``open_folder``.
    """
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise UserError(f"there is no folder {path!r}: give a folder that holds a folder per class")
    for name in (masks, labels):
        if name and not (root / name).exists():
            raise UserError(f"there is no {name!r} in {root}")
    mask_root = root / (masks or "masks")
    top = root / "images" if (root / "images").is_dir() else root
    folders = [
        folder
        for folder in sorted(top.iterdir())
        if folder.is_dir() and folder != mask_root and not folder.name.startswith(".")
    ]
    table = root / (labels or "labels.csv")
    if labels or (table.exists() and not any(map(_images_in, folders))):
        classes = _from_table(table, _images_in(top))
    elif folders:
        classes = _from_folders(folders)
    else:
        classes = _from_names(top, _images_in(top))
    names = Counter(classes.values())
    if len(names) < 2:
        raise UserError(f"{root} has one class only ({', '.join(names)}): a classifier needs two")
    mask_of = _masks_of(classes, mask_root) if mask_root.is_dir() else {}
    return [
        Found(file.relative_to(top).as_posix(), file, label, mask_of.get(file))
        for file, label in sorted(classes.items())
    ]


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def _from_folders(folders: list[Path]) -> dict[Path, str]:
    classes = {}
    for folder in folders:
        files = _images_in(folder)
        if not files:
            inner = any(path.is_dir() for path in folder.iterdir())
            raise UserError(
                f"class folder {folder} holds no images: "
                + ("give the folder that holds the class folders" if inner else "fill or remove it")
            )
        classes |= dict.fromkeys(files, folder.name)
    return classes


def _from_table(table: Path, files: list[Path]) -> dict[Path, str]:
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
    """What a table and a file must share: the name, or the number where it is one (7 is 007)."""
    name = name.strip()
    return str(int(name)) if name.isdecimal() else name


def _from_names(folder: Path, files: list[Path]) -> dict[Path, str]:
    found = {file: re.fullmatch(r"(.+?)[ _-]*\d+", file.stem) for file in files}
    if not files or not all(found.values()):
        raise UserError(
            f"{folder} holds neither class folders nor a labels.csv nor images named "
            f"<class>_<number>: sort the images into one folder per class"
        )
    return {file: match[1] for file, match in found.items()}


def _masks_of(classes: dict[Path, str], folder: Path) -> dict[Path, Path]:
    there = {p.relative_to(folder).with_suffix("").as_posix(): p for p in folder.rglob("*.*")}
    stems = Counter(file.stem for file in classes)
    found = {}
    for file, label in classes.items():
        flat = there.get(file.stem)
        if flat and stems[file.stem] > 1:
            raise UserError(
                f"{flat} could belong to {stems[file.stem]} images: put the masks into class "
                f"folders, as {folder / label / flat.name}"
            )
        mask = there.get(f"{label}/{file.stem}", flat)
        if mask:
            found[file] = mask
    if not found:
        raise UserError(
            f"no mask in {folder} has the name of an image: call the mask of "
            f"{next(iter(classes)).name} {next(iter(classes)).stem}.png"
        )
    return found


def read_picture(file: Path) -> Image.Image:
    """Return an image file as 8-bit RGB, the right way up."""
    with Image.open(file) as image:
        # convert would clip 16 bits to 255 instead of scaling them.
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return ImageOps.exif_transpose(image).convert("RGB")


def read_mask(file: Path, values: tuple = ()) -> Image.Image:
    """Return a mask as an 8-bit image, 255 on the object.

    Args:
        file: an image file, grey or of palette numbers.
        values: the pixel values that mean the object; by default all but 0.
    """
    with Image.open(file) as image:
        image = ImageOps.exif_transpose(image)
        numbers = image.mode in ("1", "L", "P", "I", "I;16")
        grey = np.asarray(image if numbers else image.convert("L"))
    if values:
        marked = np.isin(grey, values)
    else:
        marked = grey > (127 if file.suffix.lower() in LOSSY else 0)
    return Image.fromarray(marked.astype(np.uint8) * 255)
