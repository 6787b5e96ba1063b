"""From a value per image, and per training, to numbers with intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit
from scipy.stats import binomtest
from torch import Tensor

from topgap_nb.errors import UserError
from topgap_nb.metrics.scores import correct

CONFIDENCE = 0.95
# Beyond every correction for many claims, and well above rounding.
SMALLEST_P = 1e-12


class Estimate(NamedTuple):
    """A measured number with its 95 % interval.

    Attributes:
        value: the number.
        low, high: ends of the interval.
        n: how many test images it rests on.
        n_trainings: how many trainings (seeds or folds) it rests on.
        trainings_share: the part of the variance that is known from the trainings alone, in [0, 1];
            the rest is known from the images.
    """

    value: float
    low: float
    high: float
    n: int
    n_trainings: int = 1
    trainings_share: float = 0.0

    def p_above(self, bound: float) -> float:
        """Return the one-sided p-value against the true number being at most ``bound``.

        It is the level at which the lower end of the interval would lie on the bound; the 95 %
        interval lies above it exactly if the p-value is below 0.025.
        """
        gap, half = self.value - bound, max(self.value - self.low, self.high - self.value)
        if not half > 0:
            return float(not gap > 0)
        parts = self.trainings_share, 1 - self.trainings_share
        unit = half / _half_width((1 - CONFIDENCE) / 2, *parts, self.n_trainings, self.n)

        def beyond(p: float) -> float:
            return unit * _half_width(p, *parts, self.n_trainings, self.n) - abs(gap)

        p = brentq(beyond, SMALLEST_P, 0.5) if beyond(SMALLEST_P) > 0 else SMALLEST_P
        return p if gap > 0 else 1 - p


def wilson_interval(hits: Tensor | np.ndarray) -> Estimate:
    """Return a share of hits with its Wilson score interval.

    Args:
        hits: (N,) booleans, one per test image, **all** test images.

    Source: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953.

    Example:
        >>> [round(v, 3) for v in wilson_interval(np.array([True] * 8 + [False] * 2))[:4]]
        [0.8, 0.49, 0.943, 10]
    """
    hits = np.asarray(hits, dtype=float)
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(float(hits.mean()), float(interval.low), float(interval.high), len(hits))


def mean_interval(values: Tensor | np.ndarray) -> Estimate:
    """Return a mean with its t-interval over images and, where there are several, trainings.

    The variance of the mean is that of the two-way random model, the sum of what the trainings, the
    images and the rest add, each at least 0. What the mean squares of trainings and of images tell
    of it enters with a t quantile of its own; one quantile with Satterthwaite's degrees of freedom
    covers less than 95 % from three trainings.

    Args:
        values: (N,), one per test image; or (R, N) with one row per training (seed or fold) on the
            same images. For a paired comparison pass the differences. The interval of booleans
            stays in [0, 1]; booleans of one training, and those that all agree, get Wilson's.

    Source: Searle et al. 1992, Variance Components, https://doi.org/10.1002/9780470316856; two
    quantiles as in Howe 1974, Journal of the American Statistical Association 69, 789-794, and Zou
    and Donner 2008, https://doi.org/10.1002/sim.3095.

    Example:
        >>> [round(v, 2) for v in mean_interval(np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]))[:4]]
        [2.5, -4.32, 9.32, 2]
    """
    values = np.atleast_2d(np.asarray(values))
    trainings, n = values.shape
    is_share, agree = values.dtype == bool, np.all(values == values[0, 0])
    if is_share and (agree or trainings == 1):
        # Hits without a miss are not certain.
        return wilson_interval(values[0])._replace(n_trainings=trainings)
    value = float(values.mean())
    if agree:
        # The mean of equal numbers may round.
        return Estimate(*[float(values[0, 0])] * 3, n, trainings)
    parts = _variances(values.astype(float))
    half = _half_width((1 - CONFIDENCE) / 2, *parts, trainings, n)
    ends = np.clip([value - half, value + half], *((0, 1) if is_share else (-np.inf, np.inf)))
    return Estimate(value, *map(float, ends), n, trainings, float(parts[0] / sum(parts)))


def _variances(values: np.ndarray) -> tuple[float, float]:
    """Return the variance of the mean as known from the trainings, and what the images add."""
    trainings, n = values.shape
    centred = values - values.mean()
    of_training, of_image = centred.mean(1, keepdims=True), centred.mean(0, keepdims=True)
    rest = centred - of_training - of_image
    # Mean squares over R N; one training, or one image, shows no spread.
    from_trainings = (of_training**2).sum() / max(trainings - 1, 1) / trainings
    from_images = (of_image**2).sum() / max(n - 1, 1) / n
    from_rest = (rest**2).sum() / max((trainings - 1) * (n - 1), 1) / values.size
    # Both of the first hold the rest, which counts once.
    return from_trainings, max(from_images, from_rest) - min(from_trainings, from_rest)


def _half_width(p: float, of_trainings: float, of_images: float, trainings: int, n: int) -> float:
    """Return the distance from the mean to the end of its interval with ``p`` beyond it."""
    quantiles = stdtrit(np.maximum([trainings - 1, n - 1], 1), p)
    return float(np.sqrt(quantiles**2 @ [of_trainings, of_images]))


def paired_difference(first: Tensor | np.ndarray, second: Tensor | np.ndarray) -> Estimate:
    """Return the mean of ``first`` minus ``second``, image by image, with its interval.

    Where all images agree, for example when both networks fail on every one, that is not certainty:
    the interval then has the half-width of the Wilson interval of no disagreement among so many
    images.

    Args:
        first, second: booleans, (N,), or (R, N) with one row per training, as in ``mean_interval``.

    Example:
        >>> a, b = np.array([False] * 8), np.array([False] * 8)
        >>> [round(v, 3) for v in paired_difference(a, b)[:4]]
        [0.0, -0.324, 0.324, 8]
    """
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    found = mean_interval(difference)
    half = wilson_interval(np.zeros(found.n)).high if found.low == found.high else 0.0
    low, high = min(found.low, found.value - half), max(found.high, found.value + half)
    return found._replace(low=max(-1.0, low), high=min(1.0, high))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p-values, (M,), corrected for M claims by Holm's step-down method, in their order.

    Source: Holm 1979, https://www.jstor.org/stable/4615733.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, dtype=float)
    order = p_values.argsort()
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(p_values)
    corrected[order] = np.maximum.accumulate(steps).clip(max=1)
    return corrected


def clean_accuracy(logits: Tensor, labels: Tensor) -> Estimate:
    """Return the share of test images classified correctly, with its Wilson interval."""
    return wilson_interval(correct(logits, labels))


class GroupAccuracy(NamedTuple):
    """Accuracy over all images, averaged over groups by weight, and of the worst group."""

    average: Estimate
    adjusted: float
    worst: Estimate
    worst_group: int


def group_accuracy(hits: Tensor, group: Tensor, shares: Tensor) -> GroupAccuracy:
    """Return average, adjusted and worst-group accuracy.

    Args:
        hits: (N,) booleans.
        group: (N,) group of each image.
        shares: (G,) share of each group in the training set, the weights of the adjusted average.

    Raises:
        UserError: fewer than two groups among the images.

    Source: Sagawa et al. 2020, https://arxiv.org/abs/1911.08731.
    """
    present = group.unique().tolist()
    if len(present) < 2:
        raise UserError(
            f"group accuracy needs at least two groups among the images, found {len(present)}"
        )
    by_group = {g: wilson_interval(hits[group == g]) for g in present}
    worst = min(present, key=lambda g: by_group[g].value)
    weights = shares[present] / shares[present].sum()
    adjusted = sum(float(w) * by_group[g].value for w, g in zip(weights, present, strict=True))
    return GroupAccuracy(wilson_interval(hits), adjusted, by_group[worst], worst)
