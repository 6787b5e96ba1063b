"""Explanation maps against object masks: sparsity, overlap, and the ranking of pixels."""

import torch
from torch import Tensor


def cam_sparsity(cams: Tensor) -> Tensor:
    """Return the mean of each explanation map, its l1 norm per pixel: (N,) in [0, 1].

    Source: paper, Table A4 and Figure 4.
    """
    return cams.abs().mean((1, 2))


def highlighted_area(cams: Tensor, threshold: float = 0.5) -> Tensor:
    """Return the share of pixels whose explanation is at least ``threshold``: (N,) in [0, 1]."""
    return (cams >= threshold).float().mean((1, 2))


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


def shared_threshold(cams: Tensor, masks: Tensor) -> float:
    """Return the threshold, in steps of 0.02, with the highest mean IoU over these images."""
    grid = torch.arange(1, 50) / 50
    return float(grid[torch.stack([mask_iou(cams, masks, float(t)).mean() for t in grid]).argmax()])


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
