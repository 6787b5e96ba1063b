"""What every data set looks like: images in memory as uint8, with labels, masks and groups."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.data import Dataset

from topgap_nb.errors import UserError
from topgap_nb.inputs import as_labels, as_masks
from topgap_nb.store.fingerprint import content, fingerprint

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset):
    """Images held decoded in memory.

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
        group: int64 (N,), the subpopulation of each image (WILDS' word), or None; what 0, 1, ...
            mean is said by ``group_names``.
        subject_ids: one name per image of what must not be split, such as a patient; or None.
    """

    name: str
    pixels: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    masks: Tensor | None = None
    masked: Tensor | None = None
    group: Tensor | None = None
    group_names: tuple[str, ...] = ()
    subject_ids: tuple[str, ...] | None = None

    def __post_init__(self):
        """Check that all parts are of the same images.

        Raises:
            UserError: pixels, labels or masks of another shape or type than stated.
        """
        pixels, count = self.pixels, len(self.pixels)
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
            raise UserError(
                f"pixels of {self.name!r} are {pixels.dtype} {tuple(pixels.shape)}: give uint8 "
                f"(N, 1 or 3, H, W)"
            )
        object.__setattr__(self, "labels", as_labels(self.labels, count))
        if self.masks is not None:
            masks = as_masks(self.masks, (count, *pixels.shape[-2:]))
            object.__setattr__(self, "masks", masks)
        for name in ("ids", "masked", "group", "subject_ids"):
            values = getattr(self, name)
            if values is not None and len(values) != count:
                raise UserError(f"{name} of {self.name!r} are {len(values)} for {count} images")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        index = range(len(self))[index]
        item = {"image": as_float(self.pixels[index]), "label": int(self.labels[index])}
        if self.masks is not None and (self.masked is None or self.masked[index]):
            item["mask"] = self.masks[index]
        if self.group is not None:
            item["group"] = int(self.group[index])
        return item

    def __fingerprint__(self) -> dict:
        """Return what measurements depend on: pixels, labels and masks."""
        return {name: content(getattr(self, name)) for name in ("pixels", "labels", "masks")}

    @property
    def has_masks(self) -> bool:
        """Whether every image has a mask."""
        return self.masks is not None and self.masked is None

    @property
    def mask_count(self) -> int:
        """How many images have a mask."""
        if self.masks is None:
            return 0
        return len(self) if self.masked is None else int(self.masked.sum())

    @property
    def images(self) -> Tensor:
        """All images as float32 (N, 3, H, W) in [0, 1]; for sets small enough to hold that way."""
        return as_float(self.pixels)

    def subset(self, indices: Sequence[int] | Tensor) -> "ImageSet":
        """Return the images at ``indices``, in that order; or where a bool tensor (N,) is True."""
        index = torch.as_tensor(indices)
        index = index.nonzero()[:, 0] if index.dtype == torch.bool else index.long()

        def chosen(values):
            if values is None:
                return None
            if isinstance(values, Tensor):
                return values[index]
            return tuple(values[i] for i in index.tolist())

        fields = ("pixels", "labels", "ids", "masks", "masked", "group", "subject_ids")
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
        return replace(self.subset(self.masked), masked=None)

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


class Splits:
    """The three splits of a data set, each opened when it is first asked for.

    Attributes:
        name: the data set's name.
        train: images to learn from.
        val: images to choose k, lambda and thresholds on.
        test: images to be read once.
    """

    def __init__(self, name: str, open_split: Callable[[str], ImageSet]):
        self.name, self._open_split = name, open_split

    @cached_property
    def train(self) -> ImageSet:
        """Images to learn from."""
        return self._open_split("train")

    @cached_property
    def val(self) -> ImageSet:
        """Images to choose k, lambda and thresholds on."""
        return self._open_split("val")

    @cached_property
    def test(self) -> ImageSet:
        """Images to be read once."""
        return self._open_split("test")

    def replace(self, **splits: ImageSet) -> "Splits":
        """Return the same splits with some exchanged: ``data.replace(train=fewer)``.

        Raises:
            UserError: a name that is no split.
        """
        if unknown := set(splits) - set(SPLITS):
            raise UserError(f"{', '.join(sorted(unknown))}: the splits are {', '.join(SPLITS)}")
        other = Splits(self.name, lambda split: getattr(self, split))
        vars(other).update(splits)
        return other

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what a network that is trained on them depends on: pixels, labels, classes."""
        train = self.train
        # No weight depends on a mask.
        decisive = [train.pixels, train.labels] if isinstance(train, ImageSet) else train
        return fingerprint({"images": decisive, "classes": len(train.class_names)})

    @property
    def num_classes(self) -> int:
        """How many classes a network for them has."""
        return len(self.train.class_names)

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{split} {len(vars(self)[split]):,}" for split in SPLITS if split in vars(self)
        )
        return f"{self.name}: {sizes or 'not opened yet'}"
