"""``folder``: a folder of your own images, one folder per class, with or without masks.

``layout`` says which arrangements of files are understood. Masks are True on the object.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from topgap_nb.data.duplicates import SIDE, joined, near_duplicates
from topgap_nb.data.images import ImageSet
from topgap_nb.data.layout import Found, find_images, read_mask, read_picture
from topgap_nb.errors import UserError

# Independent images that a class needs to stand in train, select and test.
LEAST = 8
# One of 4 parts is the test split; one of 5 of the rest is the select split: 60, 15, 25 %.
PARTS = {"test": 4, "select": 5}
# Options that decide no weight: where the images stand, and their masks.
PLACES = ("path", "masks", "mask_values", "labels")


class Arranged(NamedTuple):
    """The images of a folder, decoded and split, and what should be known about them."""

    splits: dict[str, ImageSet]
    notes: tuple[str, ...]


def open_folder(split: str, image_size: int = 96, path: str = "", **options) -> ImageSet:
    """Return a split of a folder of images.

    The split is stratified by class, drawn from ``seed``, 60 / 15 / 25 %. Near duplicates
    (``duplicates.near_duplicates``) are one unit and stay on one side. Images are squeezed to a
    square, as everywhere in this workbook.

    Args:
        split: ``train``, ``select`` or ``test``.
        image_size: pixels per side.
        path: the folder; see ``layout`` for how it may be arranged.
        options: ``masks``: folder of the masks, inside ``path``; ``masks`` where there is one.
            ``mask_values``: the pixel values that mean the object; by default all but 0 (in a JPEG,
            all above 127). ``labels``: table of classes, inside ``path``.
            ``unit_pattern``: regular expression; images in whose names it finds the same text (a
            patient, a film) are one unit. ``seed``: of the split.

    Raises:
        UserError: no such folder, one class only, an empty class folder, unreadable images, masks
            of another size than their images, too few images to split.
    """
    return arranged_folder(image_size, path, **options).splits[split]


def folder_notes(image_size: int = 96, path: str = "", **options) -> tuple[str, ...]:
    """Return what was left out or joined when the folder was read, one sentence each.

    Args and errors as in ``open_folder``.
    """
    return arranged_folder(image_size, path, **options).notes


def identity(**options) -> str | None:
    """Return a hash of the content of images and classes, wherever they stand.

    Masks do not count: no weight depends on them. None where no folder is named.
    """
    if not options.get("path"):
        return None
    found = find_images(**{k: options[k] for k in ("path", "masks", "labels") if k in options})
    digest = hashlib.sha256()
    for item in found:
        digest.update(f"{item.name}\0{item.label}\0{_content(*_stamp(item.file))}\n".encode())
    return digest.hexdigest()


def arranged_folder(
    image_size: int = 96,
    path: str = "",
    masks: str = "",
    mask_values: Sequence[int] = (),
    labels: str = "",
    unit_pattern: str = "",
    seed: int = 0,
) -> Arranged:
    """Return all splits of a folder with notes on what was left out; see ``open_folder``."""
    found = tuple(find_images(path, masks, labels))
    stamps = tuple(_stamp(file) for item in found for file in (item.file, item.mask) if file)
    return _arranged(found, stamps, image_size, tuple(mask_values), unit_pattern, seed)


def _stamp(file: Path) -> tuple[Path, int, int]:
    about = file.stat()
    return file, about.st_mtime_ns, about.st_size


@cache
def _content(file: Path, modified: int, size: int) -> str:
    """Return the hash of a file; read again only when its time or size has changed."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


@lru_cache(maxsize=4)
def _arranged(found, stamps, image_size, mask_values, unit_pattern, seed) -> Arranged:
    whole, thumbnails, notes = _decoded(found, image_size, mask_values)
    pairs = near_duplicates(thumbnails)
    crossing = [pair for pair in pairs if whole.labels[pair[0]] != whole.labels[pair[1]]]
    if pairs:
        notes.append(
            f"{len({i for pair in pairs for i in pair})} images are near duplicates of others and "
            f"stay with them on one side of the split."
        )
    if crossing:
        examples = ", ".join(f"{whole.ids[i]} and {whole.ids[j]}" for i, j in crossing[:3])
        notes.append(
            f"Pairs that look alike in different classes: {len(crossing)}, as {examples}. Check "
            f"their labels."
        )
    if unit_pattern:
        pairs = pairs + _named_alike(whole.ids, unit_pattern)
    numbers = joined(len(whole), pairs)
    enough, too_small = _large_enough(whole, numbers)
    if too_small:
        more = f" and {len(too_small) - 8} more" if len(too_small) > 8 else ""
        notes.append(
            f"Left out, as fewer than {LEAST} of their images are independent: "
            f"{', '.join(too_small[:8])}{more}."
        )
    whole = _without_classes(whole, numbers, enough)
    return Arranged(_split(whole, seed), tuple(notes))


def _named_alike(ids: Sequence[str], pattern: str) -> list[tuple[int, int]]:
    try:
        found = [re.search(pattern, name) for name in ids]
    except re.error as error:
        raise UserError(f"unit_pattern {pattern!r} is not a regular expression: {error}") from error
    first: dict[str, int] = {}
    return [
        (first[match[0]], index)
        for index, match in enumerate(found)
        if match and first.setdefault(match[0], index) != index
    ]


def _large_enough(whole: ImageSet, numbers: list[int]) -> tuple[list[int], list[str]]:
    """Return (classes with enough units, names of the others with their counts)."""
    units = [set() for _ in whole.class_names]
    for label, number in zip(whole.labels.tolist(), numbers, strict=True):
        units[label].add(number)
    enough = [label for label, of_class in enumerate(units) if len(of_class) >= LEAST]
    small = [
        f"{name} ({len(units[label])})"
        for label, name in enumerate(whole.class_names)
        if label not in enough
    ]
    if len(enough) < 2:
        raise UserError(
            f"fewer than two classes have {LEAST} independent images, near duplicates counted "
            f"once: too few are in {', '.join(small[:5])}{' ...' if len(small) > 5 else ''}"
        )
    return enough, small


def _without_classes(whole: ImageSet, numbers: list[int], enough: list[int]) -> ImageSet:
    """Return the images of the classes with enough images, relabelled, with their units."""
    kept = [index for index, label in enumerate(whole.labels.tolist()) if label in enough]
    part = whole.subset(kept)
    return replace(
        part,
        labels=torch.tensor([enough.index(label) for label in part.labels.tolist()]),
        class_names=tuple(whole.class_names[label] for label in enough),
        units=tuple(f"unit-{numbers[index]}" for index in kept),
    )


def _split(whole: ImageSet, seed: int) -> dict[str, ImageSet]:
    from sklearn.model_selection import StratifiedGroupKFold

    splits, rest = {}, whole
    for name, parts in PARTS.items():
        splitter = StratifiedGroupKFold(n_splits=parts, shuffle=True, random_state=seed)
        classes = set(range(len(whole.class_names)))
        for others, chosen in splitter.split(rest.labels, rest.labels, rest.units):
            sides = (rest.labels[others], rest.labels[chosen])
            if all(set(side.tolist()) == classes for side in sides):
                break
        else:
            raise UserError(
                "no split has every class on both sides: too many images of a class are near "
                "duplicates of each other, or of one unit"
            )
        splits[name], rest = rest.subset(np.sort(chosen)), rest.subset(np.sort(others))
    return {**splits, "train": rest}


def _decoded(
    found: Sequence[Found], size: int, mask_values: tuple
) -> tuple[ImageSet, torch.Tensor, list[str]]:
    """Return (all images, grey thumbnails, notes), or refuse what cannot be used."""
    pixels = np.zeros((len(found), 3, size, size), dtype=np.uint8)
    masks = np.zeros((len(found), size, size), dtype=bool)
    # Of one size whatever ``size`` is, so that the split does not depend on it.
    thumbnails = np.zeros((len(found), 1, SIDE, SIDE), dtype=np.uint8)
    broken, misfits, empty = [], [], 0
    for index, item in enumerate(found):
        try:
            image = read_picture(item.file)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            broken.append(str(item.file))
            continue
        pixels[index] = np.asarray(image.resize((size, size))).transpose(2, 0, 1)
        thumbnails[index] = np.asarray(image.convert("L").resize((SIDE, SIDE)))
        if item.mask is None:
            continue
        try:
            mask = read_mask(item.mask, mask_values)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            broken.append(str(item.mask))
            continue
        if mask.size != image.size:
            misfits.append(f"{item.mask} ({_words(mask)}) of {item.file.name} ({_words(image)})")
        masks[index] = np.asarray(mask.resize((size, size), Image.Resampling.NEAREST)) > 0
        if masks[index].all():
            masks[index] = False
        empty += not masks[index].any()
    _refuse(broken, "cannot be read as images: remove or replace them")
    _refuse(misfits, "are masks of another size than their images: make them pixel by pixel equal")
    masked = torch.from_numpy(masks.any((1, 2)))
    given = sum(item.mask is not None for item in found)
    if given and not masked.any():
        raise UserError(
            f"every mask marks all of its image or nothing, as {found[0].mask or 'the first'}: say "
            f"with mask_values which pixel values are the object"
        )
    notes = []
    if empty:
        notes.append(f"Masks that mark all of their image or nothing count as missing: {empty}.")
    if given and given < len(found):
        notes.append(f"{len(found) - given} of {len(found)} images have no mask.")
    class_names = tuple(sorted({item.label for item in found}))
    whole = ImageSet(
        name="folder",
        pixels=torch.from_numpy(pixels),
        labels=torch.tensor([class_names.index(item.label) for item in found]),
        class_names=class_names,
        ids=tuple(item.name for item in found),
        masks=torch.from_numpy(masks) if given else None,
        masked=masked if given and not masked.all() else None,
    )
    return whole, torch.from_numpy(thumbnails), notes


def _words(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"


def _refuse(names: list[str], what: str) -> None:
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(f"{', '.join(names[:3])}{more} {what}")


def class_balance(splits: Mapping[str, ImageSet], most: int = 12) -> pd.DataFrame:
    """Return the number of images per class and split, then of all, independent and masked ones.

    Args:
        splits: data sets by name.
        most: classes to list; the others, those with the fewest images, are summed up.
    """
    names = next(iter(splits.values())).class_names
    counts = pd.DataFrame(
        {n: s.labels.bincount(minlength=len(names)).tolist() for n, s in splits.items()},
        index=pd.Index(names, name="class"),
    )
    if len(counts) > most:
        order = counts.sum(axis=1).sort_values(ascending=False, kind="stable").index
        rest = counts.loc[order[most - 1 :]]
        counts = counts.loc[order[: most - 1]]
        counts.loc[f"{len(rest)} more classes"] = rest.sum()
    counts.loc["all images"] = {n: len(s) for n, s in splits.items()}
    counts.loc["independent images"] = {n: len(set(s.units)) for n, s in splits.items()}
    counts.loc["with a mask"] = {n: _masked_count(s) for n, s in splits.items()}
    return counts.assign(total=counts.sum(axis=1)).reset_index()


def _masked_count(images: ImageSet) -> int:
    if images.masks is None:
        return 0
    return len(images) if images.masked is None else int(images.masked.sum())


def write_folder(images: ImageSet, path: Path) -> Path:
    """Write a data set as a folder of class folders, with its masks, as PNG; return ``path``."""
    for index, label in enumerate(images.labels.tolist()):
        name = f"{images.class_names[label]}/{index:04d}.png"
        pictures = {path / name: images.pixels[index].expand(3, -1, -1).permute(1, 2, 0)}
        if images.masks is not None and (images.masked is None or images.masked[index]):
            pictures[path / "masks" / name] = images.masks[index].to(torch.uint8) * 255
        for file, picture in pictures.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.contiguous().numpy()).save(file)
    return path
