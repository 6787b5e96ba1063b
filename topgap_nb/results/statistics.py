"""From a value per image, and per training, to numbers with intervals."""

from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest
from torch import Tensor

from topgap_nb.errors import UserError
from topgap_nb.metrics.scores import correct

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A measured number with its 95 % interval.

    Attributes:
        value: the number.
        low, high: ends of the interval.
        n: how many test images it rests on.
    """

    value: float
    low: float
    high: float
    n: int


def wilson_interval(hits: Tensor | np.ndarray) -> Estimate:
    """Return a share of hits with its Wilson score interval.

    Args:
        hits: (N,) booleans, one per test image, **all** test images.

    Source: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953.

    Example:
        >>> [round(v, 3) for v in wilson_interval(np.array([True] * 8 + [False] * 2))]
        [0.8, 0.49, 0.943, 10]
    """
    hits = np.asarray(hits, dtype=float)
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(float(hits.mean()), float(interval.low), float(interval.high), len(hits))


def bootstrap(values: Tensor | np.ndarray, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Return a mean with its percentile bootstrap interval.

    Args:
        values: (N,), one per test image; or (R, N) with one row per training (seed or fold) on the
            same images. Trainings and images are then resampled independently, so that the
            interval covers both; the part of the trainings is widened by sqrt(R / (R - 1)), which
            their resampling loses. For a paired comparison pass the differences. Booleans that all
            agree get a Wilson interval instead of one without width.
        resamples: how many.
        seed: of the resampling.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13. The two-way
    resampling is ours.

    Example:
        >>> bootstrap(np.full((2, 50), 0.25))
        Estimate(value=0.25, low=0.25, high=0.25, n=50)
    """
    values = np.atleast_2d(np.asarray(values))
    if values.dtype == bool and (values.all() or not values.any()):
        # No resample could show a miss, or a hit; that is not certainty.
        return wilson_interval(values[0])
    is_share = values.dtype == bool
    values = values.astype(float)
    trainings, n = values.shape
    rng = np.random.default_rng(seed)
    images = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    chosen = rng.multinomial(trainings, np.full(trainings, 1 / trainings), size=resamples)
    chosen = chosen / trainings
    mean = values.mean()
    # Resampling the distances from the mean keeps rounding out of an interval without width.
    by_training = images @ (values - mean).T
    overall = by_training.mean(1, keepdims=True)
    widen = np.sqrt(trainings / max(trainings - 1, 1))
    means = mean + overall[:, 0] + widen * (chosen * (by_training - overall)).sum(1)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means.clip(0, 1) if is_share else means, [tail, 100 - tail])
    return Estimate(float(mean), float(low), float(high), n)


def paired_difference(first: Tensor | np.ndarray, second: Tensor | np.ndarray) -> Estimate:
    """Return the mean of ``first`` minus ``second``, image by image, with its interval.

    Where all images agree, for example when both networks fail on every one, no resample could show
    anything else. That is not certainty: the interval then has the half-width of the Wilson
    interval of no disagreement among so many images.

    Args:
        first, second: booleans, (N,), or (R, N) with one row per training, as in ``bootstrap``.

    Example:
        >>> [round(v, 3) for v in paired_difference(np.array([False] * 8), np.array([False] * 8))]
        [0.0, -0.324, 0.324, 8]
    """
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if np.ptp(difference) > 0:
        return bootstrap(difference)
    n, value = difference.shape[-1], float(difference.flat[0])
    half = wilson_interval(np.zeros(n)).high
    return Estimate(value, max(-1.0, value - half), min(1.0, value + half), n)


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
