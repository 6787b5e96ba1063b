"""Does the network need the object? Accuracy with parts of the image blanked."""

import torch
from torch import Tensor, nn

from topgap_nb.data.images import ImageSet
from topgap_nb.errors import UserError
from topgap_nb.measures.scores import Estimate, correct, predict

BLANKS = ("object", "background", "centre", "border")
# Side of the central square, as a share of the image's: half of the pixels.
CENTRE = 0.5**0.5


def judgeable(images: ImageSet) -> tuple[ImageSet, tuple[str, str]]:
    """Return the images whose object is known, and the two parts to blank on them.

    Where no image has a mask, all images, and the centre in place of the object.
    """
    if images.masks is None or not images.masks.any():
        return images, ("centre", "border")
    return images.with_masks(), ("object", "background")


def blanked(images: ImageSet, what: str) -> Tensor:
    """Return the images with a part painted over in the mean colour of the rest, (N, 3, H, W).

    The colour says nothing about what it hides. An object is blanked with its bounding box, since
    its outline would still tell its shape.

    Args:
        images: a data set; with masks for ``object`` and ``background``.
        what: ``object``, the bounding box of the mask; ``background``, all outside the mask;
            ``centre``, the central square of half of the pixels; ``border``, all around it.

    Raises:
        UserError: unknown part, or images without masks.

    Example:
        >>> pixels = torch.tensor([[[[200, 50], [100, 0]]]], dtype=torch.uint8)
        >>> masks = torch.tensor([[[True, False], [False, False]]])
        >>> some = ImageSet("some", pixels, torch.zeros(1), ("a", "b"), ("1",), masks)
        >>> (255 * blanked(some, "object")[0, 0]).round()
        tensor([[ 50.,  50.],
                [100.,   0.]])
    """
    if what not in BLANKS:
        raise UserError(f"part {what!r} is unknown: use {', '.join(BLANKS)}")
    clean = images.images
    if what in ("object", "background"):
        if not images.has_masks:
            raise UserError(f"not every image of {images.name!r} has a mask: pass `.with_masks()`")
        hidden = bounding_boxes(images.masks) if what == "object" else ~images.masks
    else:
        hidden = _centre(*clean.shape[-2:]).expand(len(clean), -1, -1)
        hidden = hidden if what == "centre" else ~hidden
    shown = ~hidden[:, None]
    count = shown.sum((2, 3), keepdim=True)
    mean = (clean * shown).sum((2, 3), keepdim=True) / count.clamp(min=1)
    # Where nothing is left there is no colour to take.
    return torch.where(shown, clean, torch.where(count > 0, mean, 0.5))


def bounding_boxes(masks: Tensor) -> Tensor:
    """Return the masks grown to their bounding boxes, (N, H, W) bool; empty ones stay empty."""

    def between(hit: Tensor) -> Tensor:
        counts = hit.int()
        return (counts.cummax(-1).values * counts.flip(-1).cummax(-1).values.flip(-1)).bool()

    return between(masks.any(2))[:, :, None] & between(masks.any(1))[:, None, :]


def _centre(height: int, width: int) -> Tensor:
    inside = torch.zeros(height, width, dtype=torch.bool)
    top, left = (round(size * (1 - CENTRE) / 2) for size in (height, width))
    inside[top : height - top, left : width - left] = True
    return inside


def blanked_hits(model: nn.Module, images: ImageSet, what: str) -> Tensor:
    """Return (N,) bool: which images are classified rightly with a part blanked."""
    return correct(predict(model, blanked(images, what)), images.labels)


def commonest_share(labels: Tensor) -> float:
    """Return the accuracy of always naming the commonest class.

    Example:
        >>> commonest_share(torch.tensor([0, 0, 1, 0]))
        0.75
    """
    return float(labels.bincount().max() / len(labels))


def suspicion(without_object: Estimate, chance: float) -> str:
    """Return what an accuracy without the object says: ``suspected`` or ``not shown``.

    A shortcut is suspected when the whole interval lies above what naming one class gets. The
    contrary is not proof of none: with few images the interval is wide.
    """
    return "suspected" if without_object.low > chance else "not shown"
