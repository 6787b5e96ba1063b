"""Choosing the pixel constraint k without a training for each value.

The paper tunes k by training once per value, and names that as its limit. Everything here is ours.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from topgap_nb.errors import UserError
from topgap_nb.inputs import as_masks
from topgap_nb.method.pooling import TopKPool2d, top_k_pool

# One unit of the learnt parameter moves the share from 0.5 to nearly 1: the learning rates that
# suit weights would leave it where it starts.
LOGIT_SCALE = 30.0
K_FRACTIONS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)


def k_from_masks(masks: Tensor) -> float:
    """Return the mean share of the image that the object covers: k as a share of the map.

    Args:
        masks: (N, H, W), as ``inputs.as_masks`` takes them; a handful is enough where sizes vary
            little. Boxes give a larger k.

    Raises:
        UserError: no mask, or none that covers anything.

    Example:
        >>> k_from_masks(torch.tensor([[[True, False], [False, False]]]))
        0.25
    """
    masks = as_masks(masks)
    share = masks.float().mean().item() if masks.numel() else 0.0
    if not share:
        raise UserError("the masks cover nothing: k needs at least one object")
    return share


def suggested_k(masks: Tensor | None) -> tuple[float, str]:
    """Return (k as a share of the map, the reason in a sentence): ``k_from_masks``, or a default.

    Args:
        masks: (N, H, W) bool, of training images; None where no image has one.
    """
    if masks is None:
        # Our choice, for objects of medium size.
        return 0.2, "k is 20% of the class map, a default: no training image has a mask."
    share = k_from_masks(masks)
    why = f"k is {share:.1%} of the class map, the objects' mean share in {len(masks)} masks."
    return round(share, 4), why


def evidence_share(class_maps: Tensor, part: float = 0.9) -> Tensor:
    """Return the smallest share of positions that carries ``part`` of each map's evidence, (N,).

    Evidence is the positive part of the map. A share of 1 means that every position is needed, 0
    that the map has no evidence.

    Args:
        class_maps: (N, h, w), unnormalised, of one class per image.
        part: in (0, 1].

    Raises:
        UserError: ``part`` out of range.

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
    """Return the smallest k, at least 1, that carries ``part`` of each map's evidence, (N,) counts.

    One k for objects of every size is the second limit that the paper states. Arguments and errors
    as in ``evidence_share``.
    """
    positions = class_maps.shape[-2] * class_maps.shape[-1]
    return (evidence_share(class_maps, part) * positions).round().long().clamp(min=1)


class Choice(NamedTuple):
    """A chosen k as a share of the map, and the accuracy of each share that was tried.

    The data cannot distinguish the shares from ``low`` to ``high`` (see ``k_on_val``).
    """

    k: float
    low: float
    high: float
    accuracy: dict[float, float]


def k_on_val(class_maps: Tensor, labels: Tensor, shares: Sequence[float] = K_FRACTIONS) -> Choice:
    """Return the k with the best accuracy on the maps of a network trained with ``k="auto"``.

    All shares within one standard error of the best accuracy count as equal, and k is their
    geometric mean: which of them is the highest is chance.

    Args:
        class_maps: (N, C, h, w), unnormalised, of images of ``val``: never of the test images.
        labels: (N,).
        shares: of the map, to try.
    """
    accuracy = {}
    for share in shares:
        hits = top_k_pool(class_maps, share).argmax(1).cpu() == labels.cpu()
        accuracy[share] = hits.float().mean().item()
    best = max(accuracy.values())
    error = np.sqrt(best * (1 - best) / len(labels))
    plateau = [share for share, value in accuracy.items() if value >= best - error]
    k = float(np.exp(np.mean(np.log(plateau))))
    return Choice(k, min(plateau), max(plateau), accuracy)


class DrawnTopK(TopKPool2d):
    """Top-k pooling whose k is drawn log-uniformly from 1..h*w for every batch of training.

    The maps then serve every k: choose it after training (``k_on_val``) and assign it to ``k``.
    Until then, evaluation pools a share of 0.1.
    """

    def __init__(self):
        super().__init__(0.1)

    def forward(self, class_maps: Tensor) -> Tensor:
        if not self.training:
            return super().forward(class_maps)
        positions = class_maps.shape[-2] * class_maps.shape[-1]
        exponent = torch.rand(()).item()
        return top_k_pool(class_maps, round(positions**exponent))


class LearntTopK(nn.Module):
    """Top-k pooling with one learnt share of the map per class.

    In training the i-th largest value has the weight sigmoid((k_c - i + 1/2) / width), normalised,
    with a width of a tenth of k_c, in positions: a relaxed top-k, with a gradient for k_c. In
    evaluation it is the top-k mean with k_c rounded.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        # A quarter of the map to start from.
        logit = math.log(0.25 / 0.75)
        self.parameter = nn.Parameter(torch.full((num_classes,), logit / LOGIT_SCALE))

    @property
    def k_fraction(self) -> Tensor:
        """(C,) shares of the map, in (0, 1)."""
        return torch.sigmoid(LOGIT_SCALE * self.parameter)

    def forward(self, class_maps: Tensor) -> Tensor:
        values = class_maps.flatten(2).sort(-1, descending=True).values
        positions = values.shape[-1]
        k = self.k_fraction[:, None] * positions
        place = torch.arange(positions, device=values.device) + 0.5
        if self.training:
            weight = torch.sigmoid((k - place) / (0.1 * k.detach() + 0.5))
        else:
            weight = (place < k.round().clamp(min=1)).to(values)
        return (weight / weight.sum(-1, keepdim=True) * values).sum(-1)


def make_pool(k: int | float | str, num_classes: int) -> nn.Module:
    """Return the pool for ``k``: a count, a share, ``"auto"`` or ``"learnt"``."""
    if k == "auto":
        return DrawnTopK()
    if k == "learnt":
        return LearntTopK(num_classes)
    if isinstance(k, str):
        raise UserError(f'k = {k!r} is unknown: give a count, a share, "auto" or "learnt"')
    return TopKPool2d(k)
