"""From files on disk to images in memory: listed first, decoded once, kept as arrays.

A data set lists its files, labels and masks in a ``Manifest``. Small sets are decoded into an
``ImageSet``, whose arrays are kept in the store, so that a second opening only maps them into
memory. Large ones stay on disk as ``LazyImages``, with the same items.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from topgap_nb.data.image_file import images_in, plain, read_image, state
from topgap_nb.data.image_set import ImageSet, as_float
from topgap_nb.data.masks import MaskFile, Outline, RunLengths
from topgap_nb.errors import UserError
from topgap_nb.store.fingerprint import code_fingerprint, content, fingerprint
from topgap_nb.store.store import Kind, get_or_make

MAX_BYTES_IN_MEMORY = 4 * 2**30


@dataclass(frozen=True, eq=False)
class Manifest:
    """What a data set holds, before a pixel is decoded.

    Attributes:
        name: the data set's name.
        files: one path per image.
        labels: int64 (N,).
        class_names: one name per class.
        ids: one stable name per image.
        splits: ``train``, ``val`` or ``test`` per image.
        masks: per image one of ``masks``, or None; empty where there are no masks.
        group, group_names, subject_ids: see ``ImageSet``.
        mode, crop: see ``read_image``.
    """

    name: str
    files: tuple[Path, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    splits: np.ndarray
    masks: tuple[MaskFile | Outline | RunLengths | None, ...] = ()
    group: np.ndarray | None = None
    group_names: tuple[str, ...] = ()
    subject_ids: tuple[str, ...] | None = None
    mode: str = "RGB"
    crop: bool = False

    def __len__(self) -> int:
        return len(self.files)

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Manifest":
        """Return the images at ``indices``, in that order."""
        index = np.asarray(indices, dtype=np.int64)

        def chosen(values):
            if values is None or isinstance(values, np.ndarray):
                return values if values is None else values[index]
            return tuple(values[i] for i in index) if values else values

        fields = ("files", "labels", "ids", "splits", "masks", "group", "subject_ids")
        return replace(self, **{name: chosen(getattr(self, name)) for name in fields})

    def with_min_samples(self, count: int) -> "Manifest":
        """Return the classes with at least ``count`` images in all splits, labelled from 0.

        Raises:
            UserError: there are none.
        """
        sizes = np.bincount(self.labels, minlength=len(self.class_names))
        large = np.flatnonzero(sizes >= max(count, 1))
        if not len(large):
            raise UserError(
                f"data set {self.name!r}: no class has {count} images (the largest has "
                f"{max(sizes, default=0)}): lower min_samples"
            )
        part = self.subset(np.flatnonzero(np.isin(self.labels, large)))
        names = tuple(self.class_names[i] for i in large)
        return replace(part, labels=np.searchsorted(large, part.labels), class_names=names)

    def only(self, split: str) -> "Manifest":
        """Return one split.

        Raises:
            UserError: it holds no image.
        """
        index = np.flatnonzero(self.splits == split)
        if not len(index):
            raise UserError(f"data set {self.name!r} has no images in its split {split!r}")
        return self.subset(index)


def class_folders(name: str, folder: Path) -> Manifest:
    """Return the images of a folder of class folders, all of them in ``train``.

    Raises:
        UserError: there is no class folder, or one without images; the message names it.
    """
    classes = {
        entry.name: images_in(entry)
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }
    require_images(folder, classes)
    files = tuple(path for paths in classes.values() for path in paths)
    return Manifest(
        name=name,
        files=files,
        labels=np.repeat(np.arange(len(classes)), [len(paths) for paths in classes.values()]),
        class_names=tuple(classes),
        ids=tuple(f"{path.parent.name}/{path.stem}" for path in files),
        splits=np.full(len(files), "train", object),
    )


def require_images(folder: Path, classes: Mapping[str, Sequence[Path]]) -> None:
    """Check that a folder of class folders has some, and images in each.

    Raises:
        UserError: it has not; the message names the class folder.
    """
    if not classes:
        raise UserError(f"{plain(folder)} holds no folder per class")
    for name, files in classes.items():
        if not files:
            has_folders = any(path.is_dir() for path in (folder / name).iterdir())
            raise UserError(
                f"the class folder {plain(folder / name)} holds no images: "
                + ("give the folder of the class folders" if has_folders else "fill or remove it")
            )


def decoded(manifest: Manifest, size: int) -> ImageSet:
    """Return the images of a manifest in memory, decoded now or kept from before.

    Raises:
        UserError: a file is missing or not a readable image; the message names it.
    """
    key = _key(manifest, size)
    arrays = get_or_make(KIND, f"{manifest.name}-{size}", key, lambda _: _decode(manifest, size))
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    masked = tensors.get("masked")
    return ImageSet(
        name=manifest.name,
        pixels=tensors["pixels"],
        labels=torch.from_numpy(manifest.labels.astype(np.int64)),
        class_names=manifest.class_names,
        ids=manifest.ids,
        masks=tensors.get("masks"),
        masked=None if masked is None or masked.all() else masked,
        group=_tensor_or_none(manifest.group),
        group_names=manifest.group_names,
        subject_ids=manifest.subject_ids,
    )


def _tensor_or_none(values: np.ndarray | None) -> Tensor | None:
    return None if values is None else torch.from_numpy(values)


def _key(manifest: Manifest, size: int) -> dict:
    """Return what the arrays depend on. The labels and how the files were chosen are not in it."""
    states = [state(path) for path in manifest.files]
    for path, known in zip(manifest.files, states, strict=True):
        if known[1] is None:
            raise UserError(
                f"data set {manifest.name!r}: {plain(path)} is missing: put it back, or prepare "
                "the data set again"
            )
    return {
        "files": fingerprint(states),
        "masks": fingerprint(list(manifest.masks)),
        "size": size,
        "mode": manifest.mode,
        "crop": manifest.crop,
        "code": code_fingerprint(__name__),
        "pillow": PIL.__version__,
    }


def _decode(manifest: Manifest, size: int) -> dict[str, np.ndarray]:
    count, channels = len(manifest), len(manifest.mode)
    arrays = {"pixels": np.empty((count, channels, size, size), np.uint8)}
    if any(manifest.masks):
        arrays["masks"] = np.zeros((count, size, size), bool)
        arrays["masked"] = np.zeros(count, bool)

    def decode_one(index: int) -> str:
        try:
            arrays["pixels"][index] = _read(manifest, index, size)
            mask = manifest.masks[index] if manifest.masks else None
            if mask is not None and (inside := mask.read(size)) is not None:
                arrays["masks"][index], arrays["masked"][index] = inside, True
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = {"total": count, "desc": f"decoding {manifest.name}", "unit": "img", "leave": False}
        results = tqdm(
            pool.map(decode_one, range(count)), disable=count < 2000, mininterval=2, **bar
        )
        errors = [result for result in results if result]
    if errors:
        more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
        raise UserError("; ".join(errors[:3]) + more)
    if "masked" in arrays and not arrays["masked"].any():
        del arrays["masks"], arrays["masked"]
    return arrays


def _read(manifest: Manifest, index: int, size: int) -> np.ndarray:
    """Return one image as uint8 (3 or 1, size, size)."""
    pixels = read_image(manifest.files[index], size, manifest.mode, manifest.crop)
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def _write(arrays: dict[str, np.ndarray], folder: Path) -> None:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def _load(folder: Path) -> dict[str, np.ndarray]:
    # Copy on write: as good as in memory, but the pages are shared and read when needed.
    return {path.stem: np.load(path, mmap_mode="c") for path in sorted(folder.glob("*.npy"))}


KIND = Kind("images", _write, _load)


class LazyImages(Dataset):
    """A data set that stays on disk, with the items and the labels of an ``ImageSet``.

    For sets too large for memory: read it through a ``DataLoader`` with workers, or ``sample``
    some images; of so many as fit, ``pixels`` and ``images`` can be asked for.
    """

    masks = masked = subject_ids = None
    has_masks, mask_count = False, 0

    def __init__(self, manifest: Manifest, size: int):
        self.manifest, self.size = manifest, size
        self.name, self.class_names, self.ids = manifest.name, manifest.class_names, manifest.ids
        self.labels = torch.from_numpy(manifest.labels.astype(np.int64))
        self.group, self.group_names = _tensor_or_none(manifest.group), manifest.group_names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        index = range(len(self))[index]
        pixels = torch.from_numpy(_read(self.manifest, index, self.size).copy())
        return {"image": as_float(pixels), "label": int(self.labels[index])}

    def __fingerprint__(self) -> list:
        """Return names, labels and size: the content of so many files is not read for a hash."""
        return [self.name, self.ids, content(self.labels), self.size]

    def subset(self, indices: Sequence[int] | Tensor) -> "LazyImages":
        """Return the images at ``indices``, in that order."""
        return LazyImages(self.manifest.subset(np.asarray(indices)), self.size)

    sample = ImageSet.sample
    with_masks = ImageSet.with_masks

    @property
    def pixels(self) -> Tensor:
        """All images as uint8 (N, 3, H, W).

        Raises:
            UserError: they would take more than 4 GiB.
        """
        if len(self) * 3 * self.size**2 > MAX_BYTES_IN_MEMORY:
            raise UserError(
                f"{len(self):,} images of {self.name!r} do not fit into memory: take a "
                "`.sample(count)`, or read them in batches through a DataLoader"
            )
        return decoded(self.manifest, self.size).pixels

    @property
    def images(self) -> Tensor:
        """All images as float32 (N, 3, H, W) in [0, 1]; see ``pixels``."""
        return as_float(self.pixels)
