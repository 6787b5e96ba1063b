"""From files on disk to images in memory: listed first, decoded once, kept as arrays.

A data set's module lists its files and labels in a ``Listing``. Small sets are decoded into an
``ImageSet``, and the arrays are kept under ``runs/decoded``, so that the second opening reads
nothing but memory-mapped pixels. Large ones stay on disk as ``LazyImages``, with the same items.
"""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from topgap_nb.data.images import ImageSet, as_float, read_image
from topgap_nb.errors import UserError
from topgap_nb.files import code_hash, runs_root

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
# Of the short side, what is cut off at each end: the usual 224 of 256 pixels.
BLEED = (1 - 224 / 256) / 2
IN_MEMORY = 4 * 2**30
Mask = Callable[[int, int], np.ndarray | None]


@dataclass(frozen=True, eq=False)
class Listing:
    """What a data set holds, before a pixel is decoded.

    Attributes:
        name: as in ``open_dataset``.
        files: one path per image.
        labels: int64 (N,).
        class_names: one name per class.
        ids: one stable name per image.
        splits: ``train``, ``select`` or ``test`` per image.
        mask: from (index, size) to bool (size, size), or None where an image has no mask.
        origins: per image, what its mask is made from, a file or numbers: told apart in the cache.
        variant: options that the masks depend on, for the same reason.
        groups, group_names: see ``ImageSet``.
        square: cut out the middle, as is usual on ImageNet; else the sides are stretched, so that
            objects at the border stay in.
    """

    name: str
    files: tuple[Path, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    splits: np.ndarray
    mask: Mask | None = None
    origins: tuple = ()
    variant: str = ""
    groups: np.ndarray | None = None
    group_names: tuple[str, ...] = ()
    square: bool = False

    def __len__(self) -> int:
        return len(self.files)

    def subset(self, indices: Sequence[int]) -> "Listing":
        """Return the images at ``indices``, in that order."""
        index = np.asarray(indices, dtype=np.int64)
        mask, groups = self.mask, self.groups
        return replace(
            self,
            files=tuple(self.files[i] for i in index),
            labels=self.labels[index],
            ids=tuple(self.ids[i] for i in index),
            splits=self.splits[index],
            mask=mask and (lambda i, size: mask(int(index[i]), size)),
            origins=tuple(self.origins[i] for i in index) if self.origins else (),
            groups=None if groups is None else groups[index],
        )

    def at_least(self, count: int) -> "Listing":
        """Return the classes with at least ``count`` images in all splits, labelled anew.

        Raises:
            UserError: there are none.
        """
        sizes = np.bincount(self.labels, minlength=len(self.class_names))
        kept = np.flatnonzero(sizes >= max(count, 1))
        if not len(kept):
            raise UserError(
                f"data set {self.name!r}: no class has {count} images (the largest has "
                f"{max(sizes, default=0)}): lower min_samples"
            )
        part = self.subset(np.flatnonzero(np.isin(self.labels, kept)))
        names = tuple(self.class_names[i] for i in kept)
        return replace(part, labels=np.searchsorted(kept, part.labels), class_names=names)

    def only(self, split: str) -> "Listing":
        """Return one split.

        Raises:
            UserError: it holds no image.
        """
        chosen = np.flatnonzero(self.splits == split)
        if not len(chosen):
            raise UserError(f"data set {self.name!r} has no images in its split {split!r}")
        return self.subset(chosen)


def carve(splits: np.ndarray, labels: np.ndarray, share: float, into: str = "select") -> np.ndarray:
    """Return ``splits`` with a share of every class's ``train`` images given to ``into``.

    At least one image of a class that has two; always the same ones, drawn at random.
    """
    splits, generator = splits.copy(), np.random.default_rng(0)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero((labels == label) & (splits == "train")))
        count = max(round(share * len(members)), 1) if len(members) > 1 else 0
        splits[members[:count]] = into
    return splits


def files_by_class(folder: Path, name: str) -> dict[str, list[Path]]:
    """Return the images of a folder of class folders, sorted, by class.

    Raises:
        UserError: there is no class folder, or one without images; the message names it.
    """
    found = {
        entry.name: sorted(p for p in entry.iterdir() if p.suffix.lower() in SUFFIXES)
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }
    if not found:
        raise UserError(f"data set {name!r}: {folder} holds no folder per class")
    for label, files in found.items():
        if not files:
            raise UserError(
                f"data set {name!r}: the class folder {folder / label} holds no images: fill or "
                "remove it"
            )
    return found


def decoded(listing: Listing, size: int) -> ImageSet:
    """Return the images of a listing in memory, decoded now or kept from before.

    Raises:
        UserError: a file is missing or not a readable image; the message names it.
    """
    folder = runs_root() / "decoded" / f"{listing.name}-{size}-{_key(listing, size)}"
    if not folder.exists():
        pixels, masks, masked = _decode(listing, size)
        _keep(folder, {"pixels": pixels, "masks": masks, "masked": masked})
    else:
        pixels, masks, masked = (_load(folder / f"{n}.npy") for n in ("pixels", "masks", "masked"))
    if masked is None or not masked.any():
        masks = masked = None
    return ImageSet(
        name=listing.name,
        pixels=torch.from_numpy(pixels),
        labels=torch.from_numpy(listing.labels.astype(np.int64)),
        class_names=listing.class_names,
        ids=listing.ids,
        masks=None if masks is None else torch.from_numpy(masks),
        masked=None if masked is None or masked.all() else torch.from_numpy(np.array(masked)),
        groups=None if listing.groups is None else torch.from_numpy(listing.groups),
        group_names=listing.group_names,
    )


class LazyImages(Dataset):
    """A data set that stays on disk, with the items and the labels of an ``ImageSet``.

    For sets too large for memory: read it through a ``DataLoader`` with workers, or ``sample``
    some images; of so many as fit, ``pixels`` and ``images`` can be asked for.
    """

    masks = masked = units = None
    has_masks = False

    def __init__(self, listing: Listing, size: int):
        self.listing, self.size = listing, size
        self.name, self.class_names, self.ids = listing.name, listing.class_names, listing.ids
        self.labels = torch.from_numpy(listing.labels.astype(np.int64))
        self.groups, self.group_names = listing.groups, listing.group_names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        index = range(len(self))[index]
        pixels = torch.from_numpy(_pixels(self.listing, index, self.size).copy())
        return {"image": as_float(pixels), "label": int(self.labels[index])}

    def subset(self, indices: Sequence[int] | Tensor) -> "LazyImages":
        """Return the images at ``indices``, in that order."""
        return LazyImages(self.listing.subset(np.asarray(indices)), self.size)

    sample = ImageSet.sample
    with_masks = ImageSet.with_masks

    @property
    def pixels(self) -> Tensor:
        """All images as uint8 (N, 3, H, W).

        Raises:
            UserError: they would take more than 4 GiB.
        """
        if len(self) * 3 * self.size**2 > IN_MEMORY:
            raise UserError(
                f"{len(self):,} images of {self.name!r} do not fit into memory: take a "
                "`.sample(count)`, or read them in batches through a DataLoader"
            )
        return decoded(self.listing, self.size).pixels

    @property
    def images(self) -> Tensor:
        """All images as float32 (N, 3, H, W) in [0, 1]; see ``pixels``."""
        return as_float(self.pixels)


def mask_from(path: Path, size: int, is_object: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return, bool (size, size), where a label image shows the object, by more than half a pixel.

    Raises:
        UserError: the file is not a readable image.
    """
    with _reading(path), Image.open(path) as image:
        inside = is_object(np.asarray(image))
    return _shrunk(Image.fromarray(inside.astype(np.uint8) * 255), size)


def box_mask(box: Sequence[float], width: int, height: int, size: int) -> np.ndarray:
    """Return, bool (size, size), the inside of a box (x, y, width, height) in image pixels."""
    x, y, w, h = box
    corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
    return polygon_mask([corners], width, height, size)


def polygon_mask(polygons: Sequence, width: int, height: int, size: int) -> np.ndarray:
    """Return, bool (size, size), the inside of polygons of (x, y) points in image pixels."""
    canvas = Image.new("L", (4 * size, 4 * size))
    for points in polygons:
        scaled = [(x * 4 * size / width - 0.5, y * 4 * size / height - 0.5) for x, y in points]
        ImageDraw.Draw(canvas).polygon(scaled, fill=255)
    return _shrunk(canvas, size)


def _shrunk(mask: Image.Image, size: int) -> np.ndarray:
    return np.asarray(mask.resize((size, size), Image.Resampling.BOX)) > 127


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise UserError(
            f"{path} is not a readable image ({error}): remove or replace it"
        ) from error


def _pixels(listing: Listing, index: int, size: int) -> np.ndarray:
    path = listing.files[index]
    if not listing.square:
        return read_image(path, size).transpose(2, 0, 1)
    with _reading(path), Image.open(path) as image:
        fitted = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR, BLEED)
        return np.asarray(fitted).transpose(2, 0, 1)


def _decode(listing: Listing, size: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    count = len(listing)
    pixels = np.empty((count, 3, size, size), np.uint8)
    masks = masked = None
    if listing.mask:
        masks, masked = np.zeros((count, size, size), bool), np.zeros(count, bool)

    def one(index: int) -> None:
        pixels[index] = _pixels(listing, index, size)
        if listing.mask and (mask := listing.mask(index, size)) is not None:
            masks[index], masked[index] = mask, True

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = {"total": count, "desc": f"decoding {listing.name}", "unit": "img", "leave": False}
        for _ in tqdm(pool.map(one, range(count)), disable=count < 2000, mininterval=2, **bar):
            pass
    return pixels, masks, masked


def _key(listing: Listing, size: int) -> str:
    """A hash of everything that the decoded arrays depend on."""
    own = Path(__file__).with_name(f"{listing.name.replace('-', '_')}.py")
    about = [code_hash(p for p in (Path(__file__), own) if p.exists())]
    about += [size, listing.square, listing.variant]
    for path, name in zip(listing.files, listing.ids, strict=True):
        if (state := _state(path)) is None:
            raise UserError(
                f"data set {listing.name!r}: {path} is missing: put it back, or prepare the data "
                "set again"
            )
        about.append((str(path), name, *state))
    about += [(str(o), _state(o)) if isinstance(o, Path) else o for o in listing.origins]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _keep(folder: Path, arrays: dict[str, np.ndarray | None]) -> None:
    """Write the arrays, all or none; a full disk costs the time of decoding again, no more."""
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
        for name, array in arrays.items():
            if array is not None:
                np.save(temporary / f"{name}.npy", array)
        temporary.rename(folder)
    except OSError as error:
        if not folder.exists():
            warnings.warn(f"decoded images are not kept: {error}", stacklevel=2)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _load(path: Path) -> np.ndarray | None:
    # Copy on write: as good as in memory, but the pages are shared and read when needed.
    return np.load(path, mmap_mode="c") if path.exists() else None
