"""From maps, logits and masks to numbers with intervals."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from topgap_nb.data.decode import LazyImages
from topgap_nb.data.images import ImageSet, as_float
from topgap_nb.errors import UserError
from topgap_nb.measures.frozen import measured

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A measured number: value, 95 % interval, and how many test images it rests on."""

    value: float
    low: float
    high: float
    n: int


@torch.no_grad()
def predict(
    model: nn.Module, images: ImageSet | LazyImages | Tensor, batch_size: int = 128
) -> Tensor:
    """Return logits, (N, C) on the CPU, of a data set or of float images in [0, 1].

    Raises:
        UserError: a data set that stays on disk and does not fit into memory.
    """
    pixels = images if isinstance(images, Tensor) else images.pixels
    with measured(model) as place:
        out = []
        for part in pixels.split(batch_size):
            part = as_float(part.to(place)) if part.dtype == torch.uint8 else part.to(place)
            out.append(model(part.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(out)


def proportion(hits: Tensor | np.ndarray) -> Estimate:
    """Return a share of hits with its Wilson score interval.

    Args:
        hits: (N,) booleans, one per test image, **all** test images.

    Example:
        >>> [round(v, 3) for v in proportion(np.array([True] * 8 + [False] * 2))]
        [0.8, 0.49, 0.943, 10]
    """
    hits = np.asarray(hits, dtype=float)
    n, share, z = len(hits), hits.mean(), 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At a share of 0 or 1 the interval ends there, but for rounding.
    low, high = max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
    return Estimate(float(share), float(low), float(high), n)


def bootstrap(values: Tensor | np.ndarray, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Return a mean with its percentile bootstrap interval.

    Args:
        values: (N,), one per test image; or (R, N) with one row per run (seed or fold) on the same
            images. Runs and images are then resampled independently, so the interval covers both;
            the part of the runs is widened by sqrt(R / (R - 1)), which their resampling loses.
            For a paired comparison pass the differences. Booleans that all agree get a Wilson
            interval instead of one without width.

    Example:
        >>> bootstrap(np.full((2, 50), 0.25))
        Estimate(value=0.25, low=0.25, high=0.25, n=50)
    """
    values = np.atleast_2d(np.asarray(values))
    if values.dtype == bool and (values.all() or not values.any()):
        # No resample could show a miss, or a hit; that is not certainty.
        return proportion(values[0])
    share = values.dtype == bool
    values = values.astype(float)
    runs, n = values.shape
    rng = np.random.default_rng(seed)
    images = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    chosen = rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples) / runs
    mean = values.mean()
    # Resampling the distances from the mean keeps rounding out of an interval without width.
    of_run = images @ (values - mean).T
    of_all = of_run.mean(1, keepdims=True)
    widen = np.sqrt(runs / max(runs - 1, 1))
    means = mean + of_all[:, 0] + widen * (chosen * (of_run - of_all)).sum(1)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means.clip(0, 1) if share else means, [tail, 100 - tail])
    return Estimate(float(mean), float(low), float(high), n)


def paired(first: Tensor | np.ndarray, second: Tensor | np.ndarray) -> Estimate:
    """Return the mean of ``first`` minus ``second``, image by image, with its interval.

    Where all images agree, as when both networks break on every one, no resample could show
    anything else. That is not certainty: the interval then has the half-width of the Wilson
    interval of no disagreement among so many images.

    Args:
        first, second: booleans, (N,), or (R, N) with one row per run, as in ``bootstrap``.

    Example:
        >>> [round(v, 3) for v in paired(np.array([False] * 8), np.array([False] * 8))]
        [0.0, -0.324, 0.324, 8]
    """
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if np.ptp(difference) > 0:
        return bootstrap(difference)
    n, value = difference.shape[-1], float(difference.flat[0])
    room = proportion(np.zeros(n)).high
    return Estimate(value, max(-1.0, value - room), min(1.0, value + room), n)


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (N,) booleans: whether each image is classified rightly."""
    return logits.argmax(1).cpu() == labels.cpu()


def clean_accuracy(logits: Tensor, labels: Tensor) -> Estimate:
    """Return the share of test images classified rightly, with its interval."""
    return proportion(correct(logits, labels))


def cam_sparsity(cams: Tensor) -> Tensor:
    """Return (N,): the mean of each explanation map, its l1 norm per pixel; 0 is an empty map.

    Source: paper, Table A4 and Figure 4.
    """
    return cams.abs().mean((1, 2))


def mask_iou(cams: Tensor, masks: Tensor, threshold: float = 0.5) -> Tensor:
    """Return (N,): intersection over union of ``cam >= threshold`` with the object mask.

    Source: paper, Table 7, which does not state its threshold. Report a fixed one, or one that
    ``shared_threshold`` chose on a split that is not the test split; never the best per image.

    Example:
        >>> mask_iou(torch.tensor([[[0.9, 0.6], [0.1, 0.0]]]), torch.tensor([[[True, False]] * 2]))
        tensor([0.3333])
    """
    shown = cams >= threshold
    either = (shown | masks).sum((1, 2))
    return (shown & masks).sum((1, 2)) / either.clamp(min=1)


def shared_threshold(cams: Tensor, masks: Tensor) -> float:
    """Return the threshold, in steps of 0.02, with the highest mean IoU over these images."""
    grid = torch.arange(1, 50) / 50
    return float(grid[torch.stack([mask_iou(cams, masks, float(t)).mean() for t in grid]).argmax()])


def pxap(cams: Tensor, masks: Tensor) -> float:
    """Return the pixel average precision: the area under precision against recall of all pixels.

    1 means every object pixel outranks every background pixel of the whole set; a map without
    information scores the object's share of the pixels.
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(masks.flatten().numpy(), cams.flatten().numpy()))


def highlighted_area(cams: Tensor, threshold: float = 0.5) -> Tensor:
    """Return (N,): the share of pixels whose explanation is at least ``threshold``."""
    return (cams >= threshold).float().mean((1, 2))


class GroupAccuracy(NamedTuple):
    """Accuracy over all images, averaged over groups by weight, and of the worst group."""

    average: Estimate
    adjusted: float
    worst: Estimate
    worst_group: int


def group_accuracy(hits: Tensor, groups: Tensor, shares: Tensor) -> GroupAccuracy:
    """Return average, adjusted and worst-group accuracy.

    Args:
        hits: (N,) booleans.
        groups: (N,) group of each image.
        shares: share of each group in the training set, which the adjusted average weighs by.

    Raises:
        UserError: fewer than two groups among the images.
    """
    present = groups.unique().tolist()
    if len(present) < 2:
        raise UserError(
            f"group accuracy needs at least two groups among the images, found {len(present)}"
        )
    by_group = {g: proportion(hits[groups == g]) for g in present}
    worst = min(present, key=lambda g: by_group[g].value)
    weights = shares[present] / shares[present].sum()
    adjusted = sum(float(w) * by_group[g].value for w, g in zip(weights, present, strict=True))
    return GroupAccuracy(proportion(hits), adjusted, by_group[worst], worst)
