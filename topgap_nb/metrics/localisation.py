"""Explanation maps against object masks: sparsity, overlap, and the ranking of pixels."""

import torch
from torch import Tensor

from topgap_nb.errors import UserError
from topgap_nb.inputs import gated


@gated
def cam_sparsity(cams: Tensor) -> Tensor:
    """Return the mean of each explanation map, its l1 norm per pixel: (N,) in [0, 1].

    Grad-CAM is what a ReLU leaves: compare it with ``own_cam(..., relu=True)``. A map that
    ``is_empty`` has 0 and is not sparse but missing.

    Source: paper, Table A4 and Figure 4.
    """
    return cams.abs().mean((1, 2))


@gated
def is_empty(cams: Tensor) -> Tensor:
    """Return which maps say nothing about position, (N,) bool: one value everywhere.

    They have no sparsity and no overlap; a mean without them should say how many they are.
    """
    return cams.amin((1, 2)) == cams.amax((1, 2))


@gated
def hoyer(maps: Tensor) -> Tensor:
    """Return Hoyer's sparsity of each map, (N,) in [0, 1]; NaN where nothing is above 0.

    (sqrt(n) - sum |x| / sqrt(sum x^2)) / (sqrt(n) - 1) with n = h * w. 0 is a constant map, 1 a
    single position. Unlike ``cam_sparsity``, it needs no scaling to [0, 1]: c * x has that of x.
    Compare maps of the same size.

    Args:
        maps: (N, h, w), >= 0, unscaled, such as ``own_map(...).clamp(min=0)``.

    Raises:
        UserError: another shape, or a negative value.

    Source: Hoyer 2004, https://www.jmlr.org/papers/v5/hoyer04a.html; Hurley and Rickard 2009,
    https://arxiv.org/abs/0811.4706.

    Example:
        >>> hoyer(torch.tensor([[[0.0, 3.0], [0.0, 0.0]], [[2.0, 2.0], [2.0, 2.0]]]))
        tensor([1., 0.])
    """
    if (maps < 0).any():
        raise UserError("maps must not be negative: `maps.clamp(min=0)` is a ReLU")
    root = maps[0].numel() ** 0.5
    values = maps.flatten(1)
    # Scaled first, because the squares of small values underflow.
    values = values / values.amax(1, keepdim=True)
    return (root - values.sum(1) / values.norm(dim=1)) / (root - 1)


@gated
def centre_map(height: int, width: int) -> Tensor:
    """Return a map of nothing but the image's centre, (H, W) in [0, 1], for any image.

    A pyramid: 1 minus the distance from the centre as a share of the half sides, the larger of the
    two. What it scores is what an object's habit of lying in the middle scores.
    """
    down, across = (torch.linspace(-1, 1, side).abs() for side in (height, width))
    return 1 - torch.maximum(down[:, None], across)


@gated
def moved_masks(masks: Tensor, seed: int = 0) -> Tensor:
    """Return each region moved to another place of its image, (N, H, W) bool: a control.

    What leaves the image at one side comes in at the other, so that shape and area stay. The place
    is random among those where a region overlaps its old self the least, which is not at all for
    most regions smaller than half the image.

    Args:
        masks: (N, H, W) bool.
        seed: of the places.
    """
    # How much a mask shares with itself at every shift: its circular autocorrelation.
    spectrum = torch.fft.rfft2(masks.float()).abs() ** 2
    overlap = torch.fft.irfft2(spectrum, masks.shape[-2:]).round()
    least = overlap == overlap.amin((1, 2), keepdim=True)
    draw = torch.rand(masks.shape, generator=torch.Generator().manual_seed(seed)).to(masks.device)
    chosen = (least + draw).flatten(1).argmax(1).tolist()
    shifts = (divmod(place, masks.shape[-1]) for place in chosen)
    return torch.stack([m.roll(shift, (0, 1)) for m, shift in zip(masks, shifts, strict=True)])


@gated
def highlighted_area(cams: Tensor, threshold: float = 0.5) -> Tensor:
    """Return the share of pixels whose explanation is at least ``threshold``: (N,) in [0, 1]."""
    return (cams >= threshold).float().mean((1, 2))


@gated
def mask_iou(cams: Tensor, masks: Tensor, threshold: float = 0.5) -> Tensor:
    """Return the intersection over union of ``cam >= threshold`` with the object's mask, (N,).

    1 is the mask itself; 0 is no common pixel, also where both are empty.

    Args:
        cams: (N, H, W) in [0, 1].
        masks: (N, H, W) bool.
        threshold: report a fixed one, or one that ``shared_threshold`` chose on ``val``; never the
            best of each image.

    Source: paper, Table 7, which does not state its threshold.

    Example:
        >>> mask_iou(torch.tensor([[[0.9, 0.6], [0.1, 0.0]]]), torch.tensor([[[True, False]] * 2]))
        tensor([0.3333])
    """
    highlighted = cams >= threshold
    union = (highlighted | masks).sum((1, 2))
    return (highlighted & masks).sum((1, 2)) / union.clamp(min=1)


@gated
def shared_threshold(cams: Tensor, masks: Tensor) -> float:
    """Return the threshold, in steps of 0.02, with the highest mean IoU over these images."""
    grid = torch.arange(1, 50) / 50
    return float(grid[torch.stack([mask_iou(cams, masks, float(t)).mean() for t in grid]).argmax()])


@gated
def pxap(cams: Tensor, masks: Tensor) -> float:
    """Return the pixel average precision: the area under precision against recall of all pixels.

    1 means that every object pixel of the whole set ranks above every background pixel; a map
    without information scores the object's share of the pixels.

    Args:
        cams: (N, H, W) in [0, 1].
        masks: (N, H, W) bool.

    Source: Choe et al. 2020, https://arxiv.org/abs/2001.07437.
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(masks.flatten().numpy(), cams.flatten().numpy()))
