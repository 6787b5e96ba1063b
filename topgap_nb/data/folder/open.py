"""A folder of a person's own images: read, joined where alike, split.

``layout`` says which arrangements of files are understood.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image

from topgap_nb.data.folder.duplicates import joined, near_duplicates
from topgap_nb.data.folder.layout import ImageFile, find_images
from topgap_nb.data.folder.table import few
from topgap_nb.data.image_file import plain
from topgap_nb.data.image_set import SPLITS, ImageSet, Splits
from topgap_nb.data.masks import MaskFile, values_in
from topgap_nb.data.reading import Manifest, decoded
from topgap_nb.data.registry import find_set
from topgap_nb.data.splits import grouped_folds
from topgap_nb.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

# Independent images that a class needs to stand in train, val and test.
MIN_IMAGES_PER_CLASS = 8
# One of 4 parts is the test split, one of 5 of the rest the val split: 60, 15, 25 %.
PARTS = {"test": 4, "val": 5}
# Near duplicates are looked for at one size, so that the split does not depend on ``image_size``.
COMPARED_SIZE = 96


class Arranged(NamedTuple):
    """The images of a folder, decoded and split, and what should be known about them."""

    splits: dict[str, ImageSet]
    notes: tuple[str, ...]


def open_folder(split: str, image_size: int, **options) -> ImageSet:
    """Return a split of a folder of images, of all classes with at least 8 independent images.

    The split is stratified by class, 60 / 15 / 25 %. Near duplicates
    (``duplicates.near_duplicates``) stay on one side of it. The sides of the images are stretched
    to a square, and what is transparent shows white.

    Args:
        split: ``train``, ``val`` or ``test``.
        image_size: pixels per side.
        options: ``path``: the folder; see ``layout`` for how it may be arranged. ``masks``: folder
            of the masks, inside ``path``; ``masks`` where there is one; or ``alpha``: the object is
            what is not transparent. ``mask_values``: the pixel values that mean the object; by
            default all but 0 (in a JPEG, all above 127; of a palette of black and white, white).
            ``labels``: table of classes, inside ``path``. ``subject_pattern``: regular expression;
            images in whose names it finds the same text (a patient, a film) stay on one side.
            ``seed``: of the split.

    Raises:
        UserError: no such folder, one class only, an empty class folder, unreadable images, masks
            of another size than their images, too few images to split.
    """
    return _opened(image_size, **options).splits[split]


def folder_notes(image_size: int = 96, **options) -> tuple[str, ...]:
    """Return what was left out or joined when the folder was read, one sentence each.

    Args and errors as in ``open_folder``.
    """
    return _opened(image_size, **find_set("folder").complete(options)).notes


def _opened(
    image_size: int,
    path: str,
    masks: str,
    mask_values: Sequence[int],
    labels: str,
    subject_pattern: str,
    seed: int,
) -> Arranged:
    files, _, notes = find_images(path, masks, labels)
    # Part of the arguments, so that a changed file is read again.
    states = tuple(
        (state.st_mtime_ns, state.st_size)
        for item in files
        for state in (file.stat() for file in (item.file, item.mask) if file)
    )
    return _arranged(files, states, image_size, tuple(mask_values), subject_pattern, seed, notes)


@lru_cache(maxsize=4)
def _arranged(
    files: tuple[ImageFile, ...],
    states: tuple,
    image_size: int,
    mask_values: tuple[int, ...],
    subject_pattern: str,
    seed: int,
    found: tuple[str, ...],
) -> Arranged:
    manifest = _manifest(files, mask_values)
    grey = decoded(replace(manifest, masks=(), mode="L"), COMPARED_SIZE).pixels
    whole, notes = _with_usable_masks(decoded(manifest, image_size), files)
    pairs = near_duplicates(grey)
    if pairs:
        notes.append(
            f"{len({i for pair in pairs for i in pair})} images are near duplicates of others and "
            f"stay with them on one side of the split."
        )
    if crossing := [(i, j) for i, j in pairs if whole.labels[i] != whole.labels[j]]:
        examples = few((f"{whole.ids[i]} and {whole.ids[j]}" for i, j in crossing), 3)
        notes.append(
            f"Pairs that look alike in different classes: {len(crossing)}, such as {examples}. "
            f"Check their labels."
        )
    if subject_pattern:
        pairs = pairs + _same_subject(whole.ids, subject_pattern)
    part, too_small = _large_classes(whole, np.array(joined(len(whole), pairs)))
    if too_small:
        notes.append(
            f"Left out, {len(whole) - len(part)} images of classes of which fewer than "
            f"{MIN_IMAGES_PER_CLASS} are independent: {few(too_small)}."
        )
    return Arranged(_split(part, seed), (*found, *notes))


def _manifest(files: Sequence[ImageFile], mask_values: tuple[int, ...]) -> Manifest:
    def mask_of(item: ImageFile) -> MaskFile | None:
        if item.mask is None:
            return None
        return MaskFile(item.mask, mask_values, image=item.file)

    class_names = tuple(sorted({item.label for item in files}))
    return Manifest(
        name="folder",
        files=tuple(item.file for item in files),
        labels=np.array([class_names.index(item.label) for item in files]),
        class_names=class_names,
        ids=tuple(item.name for item in files),
        splits=np.full(len(files), "train", object),
        masks=tuple(map(mask_of, files)),
    )


def _with_usable_masks(images: ImageSet, files: Sequence[ImageFile]) -> tuple[ImageSet, list[str]]:
    """Return the images without the masks that mark nothing or everything, and notes on masks."""
    count = sum(item.mask is not None for item in files)
    if not count:
        return images, []
    usable = images.masks.any(2).any(1) & ~images.masks.all(2).all(1)
    if not usable.any():
        first = next(item.mask for item in files if item.mask is not None)
        if first == files[0].file:
            raise UserError("no image has a part that is transparent: leave masks empty")
        raise UserError(
            f"every mask marks all of its image or nothing, such as {plain(first)}: say with "
            f"mask_values which pixel values ({few(values_in(first))}) are the object"
        )
    notes = []
    if empty := count - int(usable.sum()):
        notes.append(f"Masks that mark all of their image or nothing count as missing: {empty}.")
    if count < len(files):
        notes.append(f"{len(files) - count} of {len(files)} images have no mask.")
    masks = images.masks & usable[:, None, None]
    return replace(images, masks=masks, masked=None if usable.all() else usable), notes


def _same_subject(ids: Sequence[str], pattern: str) -> list[tuple[int, int]]:
    """Return pairs (first image, another image) of those in whose names the same text is found."""
    try:
        matches = [re.search(plain(pattern), plain(name)) for name in ids]
    except re.error as error:
        raise UserError(
            f"subject_pattern {pattern!r} is not a regular expression: {error}"
        ) from error
    first: dict[str, int] = {}
    return [
        (first[match[0]], index)
        for index, match in enumerate(matches)
        if match and first.setdefault(match[0], index) != index
    ]


def _large_classes(images: ImageSet, subjects: np.ndarray) -> tuple[ImageSet, list[str]]:
    """Return the images of the classes with enough subjects, and the names of the others."""
    labels = images.labels.numpy()
    counts = [len(set(subjects[labels == c])) for c in range(len(images.class_names))]
    large = [c for c, count in enumerate(counts) if count >= MIN_IMAGES_PER_CLASS]
    small = [
        f"{images.class_names[c]} ({count})" for c, count in enumerate(counts) if c not in large
    ]
    if len(large) < 2:
        raise UserError(
            f"fewer than two classes have {MIN_IMAGES_PER_CLASS} independent images, near "
            f"duplicates counted once: too few are in {', '.join(small[:5])}"
            f"{' ...' if len(small) > 5 else ''}"
        )
    index = np.flatnonzero(np.isin(labels, large))
    part = replace(
        images.subset(index),
        labels=torch.from_numpy(np.searchsorted(large, labels[index])),
        class_names=tuple(images.class_names[c] for c in large),
        subject_ids=tuple(f"subject-{subjects[i]}" for i in index),
    )
    return part, small


def _split(images: ImageSet, seed: int) -> dict[str, ImageSet]:
    splits, rest = {}, images
    classes = range(len(images.class_names))
    for name, parts in PARTS.items():
        labels = rest.labels.numpy()
        for others, held_out in grouped_folds(labels, rest.subject_ids, parts, seed):
            if all(set(labels[side]) == set(classes) for side in (others, held_out)):
                break
        else:
            raise UserError(
                "no split has every class on both sides: too many images of a class are near "
                "duplicates of each other, or of one subject"
            )
        splits[name], rest = rest.subset(held_out), rest.subset(others)
    return {**splits, "train": rest}


def class_balance(data: Splits, max_classes: int = 12) -> "pd.DataFrame":
    """Return the number of images per class and split, then of all, independent and masked ones.

    Args:
        data: the folder's splits.
        max_classes: classes to list; the others, those with the fewest images, are summed up.
    """
    import pandas as pd

    splits = {name: getattr(data, name) for name in SPLITS}
    names = data.train.class_names
    counts = pd.DataFrame(
        {n: s.labels.bincount(minlength=len(names)).tolist() for n, s in splits.items()},
        index=pd.Index(names, name="class"),
    )
    if len(counts) > max_classes:
        order = counts.sum(axis=1).sort_values(ascending=False, kind="stable").index
        rest = counts.loc[order[max_classes - 1 :]]
        counts = counts.loc[order[: max_classes - 1]]
        counts.loc[f"{len(rest)} more classes"] = rest.sum()
    counts.loc["all images"] = {n: len(s) for n, s in splits.items()}
    counts.loc["independent images"] = {n: len(set(s.subject_ids)) for n, s in splits.items()}
    counts.loc["with a mask"] = {n: s.mask_count for n, s in splits.items()}
    return counts.assign(total=counts.sum(axis=1)).reset_index()


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
