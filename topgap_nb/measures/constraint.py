"""Choosing the pixel constraint k: from masks, from maps, from one trained network, per image.

The paper tunes k by training once per value, and names that as its limit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from topgap_nb.errors import UserError
from topgap_nb.measures.scores import correct
from topgap_nb.method.pooling import top_k_pool

SHARES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)


def k_from_masks(masks: Tensor) -> float:
    """Return the mean share of the image that the object covers: k as a share of the map.

    Args:
        masks: (N, H, W) bool; a handful is enough where sizes vary little. Filled boxes do too, and
            give a larger k.

    Raises:
        UserError: no mask, or none that covers anything.

    Example:
        >>> k_from_masks(torch.tensor([[[True, False], [False, False]]]))
        0.25
    """
    share = masks.float().mean().item() if masks.numel() else 0.0
    if not share:
        raise UserError("the masks cover nothing: k needs at least one object")
    return share


def evidence_share(class_maps: Tensor, part: float = 0.9) -> Tensor:
    """Return (N,): the smallest share of positions that carries ``part`` of a map's evidence.

    Evidence is the positive part of the map; a map without any needs no position: 0.

    Args:
        class_maps: (N, h, w), unnormalised, of one class per image.
        part: in (0, 1].

    Example:
        >>> evidence_share(torch.tensor([[[6.0, 3.0], [1.0, -5.0]]]), 0.9)
        tensor([0.5000])
    """
    if not 0 < part <= 1:
        raise UserError(f"part = {part} must lie in (0, 1]")
    evidence = class_maps.clamp(min=0).flatten(1).sort(-1, descending=True).values
    carried = evidence.cumsum(-1)
    total = carried[:, -1:]
    # A share reached up to rounding counts as reached.
    count = (carried < total * (part - 1e-6)).sum(-1) + 1
    return torch.where(total[:, 0] > 0, count / evidence.shape[1], 0.0)


def k_per_image(class_maps: Tensor, part: float = 0.9) -> Tensor:
    """Return (N,) counts: the smallest k, at least 1, that carries ``part`` of the evidence.

    The second limit that the paper states: one k for objects of every size.

    Args:
        class_maps: (N, h, w) of one class per image.
        part: share of the evidence, in (0, 1].
    """
    positions = class_maps.shape[-2] * class_maps.shape[-1]
    return (evidence_share(class_maps, part) * positions).round().long().clamp(min=1)


class Choice(NamedTuple):
    """A chosen k and how far the data could tell: every share from ``low`` to ``high`` is as good.

    Attributes:
        k: share of the map.
        low, high: the smallest and largest share within one standard error of the best accuracy.
        accuracy: of each share that was tried, {share: accuracy}.
    """

    k: float
    low: float
    high: float
    accuracy: dict[float, float]


def k_on_select(class_maps: Tensor, labels: Tensor, shares: Sequence[float] = SHARES) -> Choice:
    """Return the k for the maps of a network that was trained for all (``k="auto"``).

    All shares whose accuracy lies within one standard error of the best are taken as equal, and k
    is their geometric mean: the middle of the plateau, since its highest point is chance.

    Args:
        class_maps: (N, C, h, w) of images that chose nothing else and are not the test images.
        labels: (N,).
        shares: to try.
    """
    hits = {share: correct(top_k_pool(class_maps, share), labels) for share in shares}
    accuracy = {share: hit.float().mean().item() for share, hit in hits.items()}
    best = max(accuracy.values())
    error = np.sqrt(best * (1 - best) / len(labels))
    plateau = [share for share, value in accuracy.items() if value >= best - error]
    k = float(np.exp(np.mean(np.log(plateau))))
    return Choice(k, min(plateau), max(plateau), accuracy)
