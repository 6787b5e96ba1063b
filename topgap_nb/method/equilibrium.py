"""What Equation 1 asks for: its minimiser over free class maps, in closed form.

For one image, any h x w maps allowed, lambda * ||X||_1 + CE is least where the true class's map has
at most k values above 0, of sum k * a, and everything else is 0. Cross-entropy raises each of the k
largest positions with the force (1 - p) / k, the l1 term pulls each down with lambda * u, where u
is the weight of one position in ||X||_1; so they rest where 1 - p = lambda * u * k. To lower
another class would take all of its P positions, which costs more than it gains.

Only the sum is determined: one position at k * a is as good as k positions at a. So k is a ceiling
for the positions in use, and k / P one for the l1 norm of the scaled map.

Source: derived here from the paper's Definition 5 and Equation 1; checked on free maps by gradient
descent in notebook 01 and tests/method/test_equilibrium.py.
"""

import math
from typing import NamedTuple

from topgap_nb.errors import UserError
from topgap_nb.method.loss import READINGS, l1_factor
from topgap_nb.method.pooling import pixel_constraint


class Optimum(NamedTuple):
    """The minimum of Equation 1 over free class maps.

    Attributes:
        value: a >= 0, the mean of the true class's k largest values, its logit; 0 where empty maps
            are best.
        residual: 1 - p(y), what is left of the probability, in [0, 1).
        mean_abs: mean of |X| over classes and positions.
        map_l1: k / P, the largest mean that the true class's map can have after min-max scaling,
            with all k positions alike; 0 for an empty map.
        loss: lambda * ||X||_1 + CE, in nats.
    """

    value: float
    residual: float
    mean_abs: float
    map_l1: float
    loss: float


def optimum(
    k: int | float,
    size: tuple[int, int],
    classes: int,
    sparsity_weight: float,
    reduction: str = "mean",
) -> Optimum:
    """Return the minimum of Equation 1 over free class maps.

    Args:
        k: pixel constraint, a count or a share, as in ``pixel_constraint``.
        size: (h, w) of the class maps.
        classes: C, at least 2.
        sparsity_weight: lambda > 0; at 0 there is no minimum, since the maps grow without end.
        reduction: reading of ||X||_1, as in ``sparsity_loss``.

    Raises:
        UserError: ``k`` does not fit the map, fewer than two classes, a lambda that is not
            positive, or an unknown reading.

    Example:
        >>> best = optimum(47, (24, 24), classes=8, sparsity_weight=1.0)
        >>> round(best.residual, 4), round(best.value, 2), round(best.map_l1, 3)
        (0.0102, 6.52, 0.082)
    """
    height, width = size
    count = pixel_constraint(k, height * width)
    if classes < 2 or not 0 < sparsity_weight < math.inf or reduction not in READINGS:
        raise UserError(
            f"classes = {classes}, sparsity_weight = {sparsity_weight}, reduction = {reduction!r}: "
            f"need at least 2, a positive number, and one of {', '.join(READINGS)}"
        )
    entries = classes * height * width
    price = sparsity_weight * l1_factor(reduction, classes, height, width) / entries
    residual = min(price * count, 1 - 1 / classes)
    value = math.log((classes - 1) * (1 - residual) / residual)
    # Rounding must not make an empty map negative.
    value = max(value, 0.0) if residual < 1 - 1 / classes else 0.0
    map_l1 = count / (height * width) if value else 0.0
    loss = -math.log1p(-residual) + price * count * value
    return Optimum(value, residual, count * value / entries, map_l1, loss)
