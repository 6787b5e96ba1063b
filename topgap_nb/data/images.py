"""What every data set looks like: decoded images in memory as uint8, labels, masks, groups."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from topgap_nb.errors import UserError

SPLITS = ("train", "select", "test")


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset):
    """A data set held decoded in memory.

    An item is ``{"image": float32 (3, H, W) in [0, 1], "label": int}`` with ``"mask"``, bool
    (H, W), True on the object, and ``"group"``, int, where the set has them. Batches are cheaper:
    index ``pixels`` and call ``as_float``.

    Attributes:
        name: the name ``open_dataset`` knows it by.
        pixels: uint8 (N, 1 or 3, H, W).
        labels: int64 (N,).
        class_names: one name per class.
        ids: one stable identifier per image.
        masks: bool (N, H, W), or None.
        masked: bool (N,), which images have a mask; None when all do or none does.
        groups: int64 (N,), or None; what group 0, 1, ... means is said by ``group_names``.
        units: one name per image of what must not be split (a patient), or None.
    """

    name: str
    pixels: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    masks: Tensor | None = None
    masked: Tensor | None = None
    groups: Tensor | None = None
    group_names: tuple[str, ...] = ()
    units: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        index = range(len(self))[index]
        item = {"image": as_float(self.pixels[index]), "label": int(self.labels[index])}
        if self.masks is not None and (self.masked is None or self.masked[index]):
            item["mask"] = self.masks[index]
        if self.groups is not None:
            item["group"] = int(self.groups[index])
        return item

    @property
    def has_masks(self) -> bool:
        """Whether every image has a mask."""
        return self.masks is not None and self.masked is None

    @property
    def images(self) -> Tensor:
        """All images as float32 (N, 3, H, W) in [0, 1]; for sets small enough to hold that way."""
        return as_float(self.pixels)

    def subset(self, indices: Sequence[int] | Tensor) -> "ImageSet":
        """Return the images at ``indices``, in that order."""
        index = torch.as_tensor(indices, dtype=torch.long)

        def chosen(values):
            if values is None:
                return None
            if isinstance(values, Tensor):
                return values[index]
            return tuple(values[i] for i in index.tolist())

        fields = ("pixels", "labels", "ids", "masks", "masked", "groups", "units")
        return replace(self, **{name: chosen(getattr(self, name)) for name in fields})

    def with_masks(self) -> "ImageSet":
        """Return the images that have a mask.

        Raises:
            UserError: there are none.
        """
        if self.masks is None:
            raise UserError(f"data set {self.name!r} has no masks in this split")
        if self.masked is None:
            return self
        return replace(self.subset(self.masked.nonzero()[:, 0]), masked=None)

    def sample(self, count: int) -> "ImageSet":
        """Return ``count`` images, always the same random ones, or all when there are no more."""
        if count >= len(self):
            return self
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        return self.subset(order[:count].sort().values)


def as_float(pixels: Tensor) -> Tensor:
    """Return uint8 (..., 1 or 3, H, W) pixels as float32 (..., 3, H, W) in [0, 1]."""
    values = pixels.float().div_(255)
    return values.expand(*values.shape[:-3], 3, *values.shape[-2:])


def read_image(path: Path, size: int, mode: str = "RGB") -> np.ndarray:
    """Return an image file as uint8, resized to ``size`` x ``size``.

    Raises:
        UserError: the file is not a readable image; the message names it.
    """
    try:
        with Image.open(path) as image:
            # A JPEG decodes faster at the power of two just above the size that is wanted.
            image.draft(mode, (size, size))
            smooth = Image.Resampling.NEAREST if mode == "1" else Image.Resampling.BILINEAR
            return np.asarray(image.convert(mode).resize((size, size), smooth))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise UserError(
            f"{path} is not a readable image ({error}): remove or replace it"
        ) from error
