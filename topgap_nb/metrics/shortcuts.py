"""Does the network need the object? Accuracy with parts of the image occluded."""

import torch
from torch import Tensor, nn

from topgap_nb.data.image_set import ImageSet
from topgap_nb.errors import UserError
from topgap_nb.inputs import gated
from topgap_nb.metrics.scores import correct, predict

PARTS = ("object", "background", "centre", "border")
# Side of the central square, as a share of the image's: half of the pixels.
CENTRE_SIDE = 0.5**0.5


@gated
def with_known_object(images: ImageSet) -> tuple[ImageSet, tuple[str, str]]:
    """Return the images whose object is known, and the two parts to occlude on them.

    Where no image has a mask: all images, and the centre in place of the object.
    """
    if images.masks is None or not images.masks.any():
        return images, ("centre", "border")
    return images.with_masks(), ("object", "background")


@gated
def occluded(images: ImageSet, part: str) -> Tensor:
    """Return the images with a part painted over in the mean colour of the rest, (N, 3, H, W).

    The colour says nothing about what it hides. An object is occluded with its bounding box, since
    its outline would still show its shape.

    Args:
        images: a data set; with masks for ``object`` and ``background``.
        part: ``object``, the bounding box of the mask; ``background``, all outside the mask;
            ``centre``, the central square of half of the pixels; ``border``, all around it.

    Raises:
        UserError: unknown part, or images without masks.

    Example:
        >>> pixels = torch.tensor([[[[200, 50], [100, 0]]]], dtype=torch.uint8)
        >>> masks = torch.tensor([[[True, False], [False, False]]])
        >>> one = ImageSet("one", pixels, torch.tensor([0]), ("a", "b"), ("1",), masks)
        >>> (255 * occluded(one, "object")[0, 0]).round()
        tensor([[ 50.,  50.],
                [100.,   0.]])
    """
    if part not in PARTS:
        raise UserError(f"part {part!r} is unknown: use {', '.join(PARTS)}")
    clean = images.images
    if part in ("object", "background"):
        if not images.has_masks:
            raise UserError(f"not every image of {images.name!r} has a mask: pass `.with_masks()`")
        hidden = bounding_boxes(images.masks) if part == "object" else ~images.masks
    else:
        hidden = _centre(*clean.shape[-2:]).expand(len(clean), -1, -1)
        hidden = hidden if part == "centre" else ~hidden
    visible = ~hidden[:, None]
    count = visible.sum((2, 3), keepdim=True)
    mean = (clean * visible).sum((2, 3), keepdim=True) / count.clamp(min=1)
    # Where nothing is visible there is no colour to take.
    return torch.where(visible, clean, torch.where(count > 0, mean, 0.5))


@gated
def bounding_boxes(masks: Tensor) -> Tensor:
    """Return the masks grown to their bounding boxes, (N, H, W) bool; empty ones stay empty."""

    def between(hit: Tensor) -> Tensor:
        counts = hit.int()
        return (counts.cummax(-1).values * counts.flip(-1).cummax(-1).values.flip(-1)).bool()

    return between(masks.any(2))[:, :, None] & between(masks.any(1))[:, None, :]


def _centre(height: int, width: int) -> Tensor:
    inside = torch.zeros(height, width, dtype=torch.bool)
    top, left = (round(size * (1 - CENTRE_SIDE) / 2) for size in (height, width))
    inside[top : height - top, left : width - left] = True
    return inside


@gated
def occluded_hits(model: nn.Module, images: ImageSet, part: str) -> Tensor:
    """Return which images are classified correctly with a part occluded: (N,) bool."""
    return correct(predict(model, occluded(images, part)), images.labels)


@gated
def majority_baseline(labels: Tensor) -> float:
    """Return the accuracy of always naming the most frequent class."""
    return float(labels.bincount().max() / len(labels))
