"""Has a network worked on Equation 1? How far a training is from what its loss asks for.

A network that stopped early has other maps than the method asks for, and what is measured on it is
no evidence about the method.
"""

import math
from typing import NamedTuple

import pandas as pd

from topgap_nb.data.image_set import Splits
from topgap_nb.method.equilibrium import Optimum, optimum
from topgap_nb.training.loop import TrainedNetwork

# How far from the optimum over free maps a judged network may be: what may be left of the way that
# the loss goes from empty maps, and how many times as dense the map may be. No network reaches the
# optimum, since its maps are not free.
MOST_LEFT, DENSITY_FACTOR = 0.15, 2.0
# Every network must have learnt its training images. Without an l1 term Equation 1 has no optimum,
# and this is all that is asked.
FITTED = 0.98


class Gauge(NamedTuple):
    """How far the last epoch of a training is from the optimum of Equation 1.

    Attributes:
        loss: its loss over the optimum's; 1 is the optimum. NaN without an l1 term.
        left: share of the way from empty maps, whose loss is ln C, that its loss has still to go; 0
            is the optimum, 1 has learnt nothing. NaN without an l1 term.
        density: the l1 norm of the true class's min-max scaled map over the largest that an optimum
            has, k / P. NaN without an l1 term.
        empty: share of positions of that map that are near zero; an optimum has at least
            1 - k / P.
        mean_abs: mean of |X| over the optimum's. NaN without an l1 term.
        accuracy: on the training images, as augmented.
        converged: ``accuracy`` at least ``FITTED``; with an l1 term also ``left`` at most
            ``MOST_LEFT`` and ``density`` at most ``DENSITY_FACTOR``.
    """

    loss: float
    left: float
    density: float
    empty: float
    mean_abs: float
    accuracy: float
    converged: bool


def gauge(network: TrainedNetwork, data: Splits) -> Gauge:
    """Return how far a finished training is from the optimum of Equation 1.

    Args:
        network: as from ``train_or_load``.
        data: what it was trained on.
    """
    return Gauge(*gauge_history(network, data).iloc[-1])


def gauge_history(network: TrainedNetwork, data: Splits) -> pd.DataFrame:
    """Return the ``Gauge`` of every epoch, one row each."""
    history, best = network.history, asked_for(network, data)
    loss = left = density = mean_abs = float("nan")
    converged = history.accuracy >= FITTED
    if best is not None and best.value:
        loss = history.cross_entropy + network.spec.sparsity_weight * history.sparsity
        left = (loss - best.loss) / (math.log(data.num_classes) - best.loss)
        loss, density = loss / best.loss, history.map_l1 / best.map_l1
        mean_abs = history.mean_abs / best.mean_abs
        converged &= (left <= MOST_LEFT) & (density <= DENSITY_FACTOR)
    columns = (loss, left, density, history["empty"], mean_abs, history.accuracy, converged)
    return pd.DataFrame(dict(zip(Gauge._fields, columns, strict=True)), index=history.index)


def asked_for(network: TrainedNetwork, data: Splits) -> Optimum | None:
    """Return the optimum of Equation 1 for a network; None where it has no l1 term or no k."""
    spec = network.spec
    on_maps = spec.sparsity_weight and spec.sparsity_on == "class_maps"
    if not on_maps or isinstance(spec.k, str):
        return None
    size = network.model.class_maps(data.train.images[:1]).shape[-2:]
    return optimum(spec.k, size, data.num_classes, spec.sparsity_weight, spec.sparsity_reduction)
