"""Pools that need no k before training: beyond the paper, which leaves k to tuning.

``TopGapNet(k="auto")`` trains with a k that is drawn anew for every batch, so that k can be chosen
afterwards, from one training. ``k="learnt"`` learns one k per class.
"""

import math

import torch
from torch import Tensor, nn

from topgap_nb.errors import UserError
from topgap_nb.method.pooling import TopKPool2d, top_k_pool

# What k="auto" pools with after training until it is told otherwise, as a share of the map.
UNTIL_CHOSEN = 0.1
# One unit of the parameter moves the share from 0.5 to nearly 1. The rates that suit weights would
# leave it where it starts.
SPEED = 30.0


def make_pool(k: int | float | str, num_classes: int) -> nn.Module:
    """Return the pool for ``k``: a count, a share, ``"auto"`` or ``"learnt"``.

    Raises:
        UserError: ``k`` is none of these.
    """
    if k == "auto":
        return DrawnTopK()
    if k == "learnt":
        return LearntTopK(num_classes)
    if isinstance(k, str):
        raise UserError(f'k = {k!r} is unknown: give a count, a share, "auto" or "learnt"')
    return TopKPool2d(k)


class DrawnTopK(TopKPool2d):
    """Top-k pooling whose k is drawn log-uniformly from 1..h*w for every batch of training.

    The maps then serve every k: choose it after training (``measures.constraint``) and assign it to
    ``k``. Until then, evaluation pools a share of 0.1.
    """

    def __init__(self):
        super().__init__(UNTIL_CHOSEN)

    def forward(self, class_maps: Tensor) -> Tensor:
        if not self.training:
            return super().forward(class_maps)
        positions = class_maps.shape[-2] * class_maps.shape[-1]
        exponent = torch.rand(()).item()
        return top_k_pool(class_maps, round(positions**exponent))


class LearntTopK(nn.Module):
    """Top-k pooling with one learnt share of the map per class.

    In training the i-th largest value has the weight sigmoid((k_c - i + 1/2) / width), normalised,
    with a width of a tenth of k_c: a relaxed top-k, with a gradient for k_c. In evaluation it is
    the top-k mean with k_c rounded.
    """

    def __init__(self, num_classes: int, start: float = 0.25):
        super().__init__()
        logit = math.log(start / (1 - start))
        self.parameter = nn.Parameter(torch.full((num_classes,), logit / SPEED))

    @property
    def k_fraction(self) -> Tensor:
        """(C,) shares of the map, in (0, 1)."""
        return torch.sigmoid(SPEED * self.parameter)

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
