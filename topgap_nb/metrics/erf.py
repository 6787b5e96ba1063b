"""The effective receptive field (ERF): section 4.1 and Definitions 1 and 6 of the paper."""

from collections.abc import Sequence

import torch
from torch import Tensor

from topgap_nb.errors import UserError
from topgap_nb.method.model import MapClassifier
from topgap_nb.metrics.evaluation import eval_on_device, frozen
from topgap_nb.store.cached import cached

Position = tuple[int, int]


def corner_and_centre(height: int, width: int) -> tuple[Position, Position]:
    """Return the two positions of Definition 6, (row, column) counted from 0.

    The paper counts from 1: its corner (1, 1) is (0, 0) here. Its centre (h/2, w/2) is rounded up,
    so that a map of odd size has its true centre.

    Raises:
        UserError: the map has fewer than 3 rows or columns, so that the two would be neighbours.

    Example:
        >>> corner_and_centre(7, 8)
        ((0, 0), (3, 3))
    """
    if min(height, width) < 3:
        raise UserError(
            f"a map of {height} x {width} has no centre apart from its corners: ERF distance needs "
            f"at least 3 x 3; take a larger image_size"
        )
    return (0, 0), ((height - 1) // 2, (width - 1) // 2)


def output_maps(model: MapClassifier, images: Tensor) -> Tensor:
    """Return the maps whose ERF is meant: class maps of a Top-GAP network, X^(n) of a standard one.

    Source: paper, section 4.1 and Definition 1.
    """
    return model.class_maps(images) if hasattr(model, "head") else model.features(images)[-1]


@cached
def erf_map(model: MapClassifier, images: Tensor, positions: Sequence[Position]) -> Tensor:
    """Return the effective receptive field of output positions: (P, N, H, W), >= 0.

    ERF(i, j) = sum_c |d/dI_c sum_t X_t(i, j)|: the gradient of the output X at one position, summed
    over the output's channels t, with respect to every pixel of the image I; its absolute value is
    summed over the colours c. It is in units of output per unit of pixel.

    Args:
        model: a standard or a Top-GAP network.
        images: (N, 3, H, W) in [0, 1].
        positions: P pairs (row, column) of the output map, counted from 0.

    Raises:
        UserError: a position outside the map.

    Source: paper, Definition 1. Its appendix B z-normalises afterwards: ``erf_value`` does that.
    After Luo et al. 2016, https://arxiv.org/abs/1701.04128, who average the gradient over images
    before they take its absolute value.
    """
    with eval_on_device(model) as place, torch.enable_grad():
        # One forward pass serves all positions, and each costs one backward pass for all images:
        # an image's output depends on that image alone.
        pixels = images.detach().to(place).contiguous(memory_format=torch.channels_last)
        pixels.requires_grad_()
        outputs = output_maps(model, pixels).sum(1)
        height, width = outputs.shape[-2:]
        gradients = []
        for row, column in positions:
            if not (0 <= row < height and 0 <= column < width):
                raise UserError(
                    f"position ({row}, {column}) lies outside the output map of {height} x {width}"
                )
            output = outputs[:, row, column].sum()
            (gradient,) = torch.autograd.grad(output, pixels, retain_graph=True)
            gradients.append(gradient.detach().to(images.device))
    return torch.stack(gradients).abs().sum(2)


def erf_value(fields: Tensor, normalise: str = "together") -> Tensor:
    """Return ERF(position), the mean of each ERF map over its pixels: (P, N).

    Args:
        fields: (P, N, H, W) from ``erf_map``.
        normalise: how the paper's "the gradients were z-normalized" (appendix B) is read.
            ``none``: raw means. ``together``: all positions of an image are scaled by their common
            mean and standard deviation, so that positions can be compared. ``each``: every map is
            z-normalised by itself and the mean of its absolute value is taken, which compares
            shapes and hides sizes.

    Raises:
        UserError: unknown reading.

    Source: paper, Definition 6 and appendix B.
    """
    if normalise == "none":
        return fields.mean((2, 3))
    if normalise == "together":
        by_image = fields.transpose(0, 1).flatten(1)
        mean, std = by_image.mean(1), by_image.std(1, correction=0).clamp(min=1e-12)
        return (fields.mean((2, 3)) - mean) / std
    if normalise == "each":
        mean = fields.mean((2, 3), keepdim=True)
        std = fields.std((2, 3), keepdim=True, correction=0).clamp(min=1e-12)
        return ((fields - mean) / std).abs().mean((2, 3))
    raise UserError(f"normalise {normalise!r} is unknown: use 'none', 'together' or 'each'")


@cached
def erf_distance(
    model: MapClassifier, images: Tensor, normalise: str = "together"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (distance, centre, corner), (N,) each: ERF(h/2, w/2) - ERF(1, 1) per image.

    A positive distance: the centre of the map sees more of the image than its corner. Arguments as
    in ``erf_map`` and ``erf_value``.

    Raises:
        UserError: the output map is smaller than 3 x 3.

    Source: paper, Definition 6.
    """
    with torch.no_grad(), frozen(model):
        size = output_maps(model, images[:1]).shape[-2:]
    corner, centre = corner_and_centre(*size)
    values = erf_value(erf_map(model, images, [corner, centre]), normalise)
    return values[1] - values[0], values[1], values[0]


def object_share(fields: Tensor, masks: Tensor) -> Tensor:
    """Return the share of each ERF, (P, N, H, W), that lies on the object's mask: (P, N)."""
    return (fields * masks).sum((2, 3)) / fields.sum((2, 3)).clamp(min=1e-12)
