"""Top-k pooling of class maps: section 3.2 and Definition 5 of the paper."""

import operator
import sys

from torch import Tensor, nn

from topgap_nb.errors import UserError


def pixel_constraint(k: int | float, positions: int) -> int:
    """Return ``k`` as a count of class-map positions, from a count or from a share of the map.

    Args:
        k: an integer is a count, 1..positions; a float is a share (``k_fraction``), in (0, 1],
            rounded to the nearest count, at least 1. So ``1`` is global max pooling and ``1.0`` is
            global average pooling.
        positions: h * w of the class map.

    Raises:
        UserError: ``k`` is out of range, or neither a count nor a share.

    Source: paper, section 3.2 (the pixel constraint). Shares are ours: a count of positions means
    another part of the image on a map of another size.

    Example:
        >>> pixel_constraint(0.25, 576), pixel_constraint(64, 576), pixel_constraint(1.0, 576)
        (144, 64, 576)
    """
    # A layer that has not seen a map yet can check the lower bound only.
    largest = "h*w" if positions == sys.maxsize else str(positions)
    if isinstance(k, float):
        if not 0.0 < k <= 1.0:
            raise UserError(
                f"k = {k} is neither a count nor a share: give an integer from 1 to {largest} or a "
                f"float in (0, 1]"
            )
        return max(1, round(k * positions))
    try:
        count = operator.index(k)
    except TypeError:
        count = 0
    if isinstance(k, bool) or not 1 <= count <= positions:
        raise UserError(
            f"k = {k!r} does not fit a class map of {largest} positions: give an integer from 1 to "
            f"{largest}, or a float share in (0, 1]"
        )
    return count


def is_average(k: int | float) -> bool:
    """Return whether ``k`` is average pooling on every map: the share 1.0, not the count 1."""
    return isinstance(k, float) and k == 1.0


def top_k_pool(class_maps: Tensor, k: int | float) -> Tensor:
    """Return the mean of the k largest values of each class map: (N, C), in the units of the maps.

    Top-GAP(X, k)_t = 1/k * sum_{i=1..k} X_(i),t, with X_(1),t >= X_(2),t >= ... the sorted values
    of class map t. Each class picks its own positions. The gradient is 1/k at the chosen positions
    and 0 elsewhere.

    Args:
        class_maps: (N, C, h, w), unnormalised.
        k: a count or a share, as in ``pixel_constraint``, which raises for one that does not fit.

    Source: paper, Definition 5.

    Example:
        >>> import torch
        >>> top_k_pool(torch.tensor([[[[4.0, 1.0], [3.0, 0.0]]]]), k=2)
        tensor([[3.5000]])
    """
    values = class_maps.flatten(2)
    count = pixel_constraint(k, values.shape[-1])
    if count == values.shape[-1]:
        return values.mean(-1)
    return values.topk(count, dim=-1, sorted=False).values.mean(-1)


class TopKPool2d(nn.Module):
    """``top_k_pool`` as a layer: (N, C, h, w) to (N, C).

    ``k`` is a plain attribute: assign to it to pool the same trained maps differently.
    """

    def __init__(self, k: int | float):
        super().__init__()
        pixel_constraint(k, sys.maxsize)
        self.k = k

    def forward(self, class_maps: Tensor) -> Tensor:
        return top_k_pool(class_maps, self.k)

    def extra_repr(self) -> str:
        return f"k={self.k}"
