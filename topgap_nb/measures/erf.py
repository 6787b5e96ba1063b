"""The effective receptive field: Definitions 1 and 6 of the paper, its section 4.1."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from topgap_nb.errors import UserError
from topgap_nb.measures.frozen import frozen, measured
from topgap_nb.method.model import MapClassifier

CONVENTIONS = ("paper", "luo", "replknet")
Position = tuple[int, int]


def corner_and_centre(height: int, width: int) -> tuple[Position, Position]:
    """Return the two positions of Definition 6, counted from 0.

    The paper counts from 1: its corner (1, 1) is (0, 0) here, and its centre (h/2, w/2), rounded up
    so that a map of odd size has its true centre, is ((h - 1) // 2, (w - 1) // 2).

    Raises:
        UserError: the map has fewer than 3 rows or columns, so that the two would be neighbours.
    """
    if min(height, width) < 3:
        raise UserError(
            f"a map of {height} x {width} has no centre apart from its corners: ERF distance needs "
            f"at least 3 x 3; take a larger image_size"
        )
    return (0, 0), ((height - 1) // 2, (width - 1) // 2)


def output_maps(model: MapClassifier, images: Tensor) -> Tensor:
    """Return the last feature map: class maps of a Top-GAP network, X^(n) of a standard one.

    Source: paper, section 4.1: X^(n+1) where a convolution has replaced the linear layer, and
    Definition 1 for standard networks.
    """
    return model.class_maps(images) if hasattr(model, "head") else model.features(images)[-1]


def erf_map(
    model: MapClassifier,
    images: Tensor,
    positions: Sequence[Position],
    convention: str = "paper",
) -> Tensor:
    """Return the effective receptive field of output positions, as maps over the input.

    The gradient of the output at one position, summed over the output's channels, with respect to
    every input pixel; its absolute value is summed over the colour channels.

    Args:
        model: a standard or a Top-GAP network.
        images: (N, 3, H, W) in [0, 1].
        positions: P pairs (row, column) of the output map, counted from 0.
        convention: ``paper``: the absolute gradient, per image. ``luo``: the gradient averaged over
            the images before its absolute value is taken (Luo et al. 2017). ``replknet``: ReLU
            before the sum over output channels, and negative gradients dropped (Ding et al. 2022).

    Returns:
        (P, N, H, W), >= 0, in units of output per unit of pixel; N = 1 for ``luo``.

    Raises:
        UserError: unknown convention, or a position outside the map.

    Source: paper, Definition 1. Its appendix B z-normalises afterwards: ``erf_value`` does that.
    """
    if convention not in CONVENTIONS:
        raise UserError(f"ERF convention {convention!r} is unknown: use {', '.join(CONVENTIONS)}")
    with measured(model) as place, torch.enable_grad():
        # One forward pass serves all positions, and each costs one backward pass for all images:
        # an image's output depends on that image alone.
        pixels = images.detach().to(place).contiguous(memory_format=torch.channels_last)
        pixels.requires_grad_()
        outputs = output_maps(model, pixels)
        _check_positions(positions, outputs.shape[-2:])
        outputs = (F.relu(outputs) if convention == "replknet" else outputs).sum(1)
        fields = []
        for row, column in positions:
            (gradient,) = torch.autograd.grad(
                outputs[:, row, column].sum(), pixels, retain_graph=True
            )
            fields.append(gradient.detach().to(images.device))
    gradients = torch.stack(fields)
    if convention == "luo":
        return gradients.mean(1, keepdim=True).abs().sum(2)
    if convention == "replknet":
        return gradients.clamp(min=0).sum(2)
    return gradients.abs().sum(2)


def erf_value(fields: Tensor, normalise: str = "together") -> Tensor:
    """Return ERF(position): the mean over input pixels of ERF maps, (P, N).

    Args:
        fields: (P, N, H, W) from ``erf_map``.
        normalise: what the paper's "the gradients were z-normalized" (appendix B) is read as.
            ``none``: raw means, in units of output per unit of pixel. ``together``: all positions
            of an image are scaled by their common mean and standard deviation, so positions can be
            compared. ``each``: every position's map is z-normalised by itself and the
            mean of its absolute value is taken, which compares shapes and hides sizes.

    Source: paper, Definition 6 and appendix B.
    """
    if normalise == "none":
        return fields.mean((2, 3))
    if normalise == "together":
        spread = fields.transpose(0, 1).flatten(1)
        mean, std = spread.mean(1), spread.std(1, correction=0).clamp(min=1e-12)
        return (fields.mean((2, 3)) - mean) / std
    if normalise == "each":
        mean = fields.mean((2, 3), keepdim=True)
        std = fields.std((2, 3), keepdim=True, correction=0).clamp(min=1e-12)
        return ((fields - mean) / std).abs().mean((2, 3))
    raise UserError(f"normalise {normalise!r} is unknown: use 'none', 'together' or 'each'")


def erf_distance(
    model: MapClassifier, images: Tensor, normalise: str = "together"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (distance, centre, corner), (N,) each: ERF(h/2, w/2) - ERF(1, 1) per image.

    Raises:
        UserError: the output map is smaller than 3 x 3.

    Source: paper, Definition 6; ``normalise`` as in ``erf_value``.
    """
    with torch.no_grad(), frozen(model):
        size = output_maps(model, images[:1]).shape[-2:]
    corner, centre = corner_and_centre(*size)
    values = erf_value(erf_map(model, images, [corner, centre]), normalise)
    return values[1] - values[0], values[1], values[0]


def object_share(fields: Tensor, masks: Tensor) -> Tensor:
    """Return (P, N): the share of each ERF that lies on the object; 1 means all of it.

    Args:
        fields: (P, N, H, W).
        masks: (N, H, W) bool.
    """
    total = fields.sum((2, 3))
    return (fields * masks).sum((2, 3)) / total.clamp(min=1e-12)


def _check_positions(positions: Sequence[Position], size: tuple[int, int]) -> None:
    height, width = size
    for row, column in positions:
        if not (0 <= row < height and 0 <= column < width):
            raise UserError(
                f"position ({row}, {column}) lies outside the output map of {height} x {width}"
            )
