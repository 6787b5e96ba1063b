"""The effective receptive field (ERF): section 4.1 and Definitions 1 and 6 of the paper."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from topgap_nb.data.image_set import ImageSet
from topgap_nb.errors import UserError
from topgap_nb.inputs import as_logits, gated, in_format_of
from topgap_nb.method.model import MapClassifier, frozen, of_class
from topgap_nb.metrics.evaluation import eval_on_device
from topgap_nb.store.cached import cached

Position = tuple[int, int]
# Images per backward pass.
BATCH = 64
# The readings of "the gradients were z-normalized": whether of |gradient| summed over the colours,
# or of the signed gradient; over which dimensions of (P, N, 3, H, W); whether |.| comes after.
READINGS = {
    "signed": (True, (2, 3, 4), True),
    "signed_together": (True, (0, 2, 3, 4), True),
    "each": (False, (2, 3, 4), True),
    "together": (False, (0, 2, 3, 4), False),
    "none": (False, None, False),
}


@gated
def corner_and_centre(height: int, width: int, corner: float = 0.0) -> tuple[Position, Position]:
    """Return the two positions of Definition 6, (row, column) counted from 0.

    The paper counts from 1: its corner (1, 1) is (0, 0) here. Its centre (h/2, w/2) is rounded up,
    so that a map of odd size has its true centre.

    Args:
        height, width: of the output map.
        corner: where the first position is meant to lie in the image, as a share of its height and
            of its width: the position whose cell's middle is nearest, the smaller of two. 0 is the
            paper's, which on a coarse map lies further from the border than on a fine one; 1/6 is
            the same place on maps of 3 x 3 and of 24 x 24.

    Raises:
        UserError: the map has fewer than 3 rows or columns, so that the two would be neighbours, or
            ``corner`` is at the centre or beyond.

    Example:
        >>> corner_and_centre(7, 8)
        ((0, 0), (3, 3))
        >>> corner_and_centre(3, 3, 1 / 6), corner_and_centre(24, 24, 1 / 6)
        (((0, 0), (1, 1)), ((3, 3), (11, 11)))
    """
    if min(height, width) < 3:
        raise UserError(
            f"a map of {height} x {width} has no centre apart from its corners: ERF distance needs "
            f"at least 3 x 3; take a larger image_size"
        )
    first, centre = ((_nearest(height, share), _nearest(width, share)) for share in (corner, 0.5))
    if first == centre:
        raise UserError(
            f"corner = {corner:g} is the centre of a map of {height} x {width}: take a smaller one"
        )
    return first, centre


def _nearest(positions: int, share: float) -> int:
    """Return the index of the position whose middle is nearest to a share of the side."""
    # Rounded, so that two that are equally near stay so.
    return min(range(positions), key=lambda i: round(abs((i + 0.5) / positions - share), 9))


@gated
def output_maps(model: MapClassifier, images: Tensor) -> Tensor:
    """Return the maps whose ERF is meant: class maps of a Top-GAP network, X^(n) of a standard one.

    Source: paper, section 4.1 and Definition 1.
    """
    if not isinstance(model, MapClassifier):
        raise UserError(
            f"a {type(model).__name__} has no output maps: give a network of the package"
        )
    return model.class_maps(images) if hasattr(model, "head") else model.features(images)[-1]


@gated
def erf_gradients(model: MapClassifier, images: Tensor, positions: Sequence[Position]) -> Tensor:
    """Return the signed gradient of output positions by every pixel value: (P, N, 3, H, W).

    d/dI sum_t X_t(i, j): the output X at one position is summed over its channels t. In units of
    output per unit of pixel.

    Args:
        model: a standard or a Top-GAP network.
        images: (N, 3, H, W) in [0, 1].
        positions: P pairs (row, column) of the output map, counted from 0.

    Raises:
        UserError: a position outside the map.

    Source: paper, Definition 1.
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
    return torch.stack(gradients)


@gated
@cached
def erf_map(model: MapClassifier, images: Tensor, positions: Sequence[Position]) -> Tensor:
    """Return the effective receptive field of output positions: (P, N, H, W), >= 0.

    ERF(i, j) = sum_c |d/dI_c sum_t X_t(i, j)|: the absolute values of ``erf_gradients``, summed
    over the colours c. Arguments and errors are those of ``erf_gradients``.

    Source: paper, Definition 1. Its appendix B z-normalises: ``erf_value`` does that. After Luo et
    al. 2016, https://arxiv.org/abs/1701.04128, who average the gradient over images before they
    take its absolute value.
    """
    return erf_gradients(model, images, positions).abs().sum(2)


@gated
def erf_value(gradients: Tensor, normalise: str = "signed") -> Tensor:
    """Return ERF(position), a mean over the pixels: (P, N).

    Args:
        gradients: (P, N, 3, H, W) from ``erf_gradients``.
        normalise: how the paper's "the gradients were z-normalized to have mean at 0 and standard
            deviation at 1" (appendix B) is read, where z(x) = (x - mean) / standard deviation.
            ``signed``: as it says, mean |z(gradient)| with z over all pixel values of a position.
            At most 1, whatever the size of the gradient: evenly spread gradients are high, a few
            large ones low. ``signed_together``: the same with z over all positions of an image, so
            that a position with larger gradients is higher. ``each``: mean |z(ERF map)|, map by
            map. ``together``: mean z(ERF map) with z over all positions of an image; of two
            positions the one is minus the other. ``none``: the mean of the ERF map.

    Raises:
        UserError: unknown reading, or other than signed gradients.

    Source: paper, Definition 6 and appendix B.
    """
    if normalise not in READINGS:
        raise UserError(f"normalise {normalise!r} is unknown: use {', '.join(READINGS)}")
    signed, over, absolute = READINGS[normalise]
    values = gradients if signed else gradients.abs().sum(2, keepdim=True)
    if over:
        std, mean = torch.std_mean(values, over, correction=0, keepdim=True)
        values = (values - mean) / std.clamp(min=1e-12)
    return (values.abs() if absolute else values).mean((2, 3, 4))


@gated
@cached
def erf_distance(
    model: MapClassifier, images: Tensor, normalise: str = "signed", corner: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (distance, centre, corner), (N,) each: ERF(h/2, w/2) - ERF(1, 1) per image.

    A positive distance: the centre of the map sees more of the image than its corner. Arguments as
    in ``erf_map``, ``erf_value`` and ``corner_and_centre``.

    Raises:
        UserError: the output map is smaller than 3 x 3, or as in these.

    Source: paper, Definition 6.
    """
    with torch.no_grad(), frozen(model):
        size = output_maps(model, images[:1]).shape[-2:]
    positions = corner_and_centre(*size, corner)
    values = erf_value(erf_gradients(model, images, positions), normalise)
    return values[1] - values[0], values[1], values[0]


@gated
def object_share(fields: Tensor, masks: Tensor) -> Tensor:
    """Return the share of each ERF, (P, N, H, W), that lies on the object's mask: (P, N)."""
    return (fields * masks).sum((2, 3)) / fields.sum((2, 3)).clamp(min=1e-12)


@gated
@cached
def logit_gradient_share(model: nn.Module, images: ImageSet) -> tuple[Tensor, Tensor]:
    """Return (share of the logit's gradient on the object, share of the image), (N,) each.

    sum over the object's pixels of |d z_y / dI| over the same sum of all pixels, for the logit z_y
    of the true class y: how much of what sways the decision lies on the object. The quotient of the
    two is the density: above 1, an object's pixel counts more than a pixel of the background. NaN
    where the gradient is zero everywhere.

    Args:
        model: any classifier of images in [0, 1].
        images: a data set with masks.

    Raises:
        UserError: images without masks.

    Source: paper, section 1, which asks for "the influence of the feature output on the
    background and object pixels", and section 4.1, which measures positions of the map instead.
    """
    if not images.has_masks:
        raise UserError(f"not every image of {images.name!r} has a mask: pass `.with_masks()`")
    fields = []
    with eval_on_device(model) as place, torch.enable_grad():
        for index in torch.arange(len(images)).split(BATCH):
            batch = images.subset(index)
            pixels = in_format_of(model, batch.images).to(place).requires_grad_()
            logits = as_logits(model(pixels), len(batch))
            true = of_class(logits, logits, batch.labels).sum()
            fields.append(torch.autograd.grad(true, pixels)[0].abs().float().sum(1).cpu())
    field = torch.cat(fields)
    on_object = (field * images.masks).sum((1, 2)) / field.sum((1, 2))
    return on_object, images.masks.float().mean((1, 2))
