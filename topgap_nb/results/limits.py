"""What a test set of this size and kind leaves open, in sentences."""

import math
from collections.abc import Iterable

from topgap_nb.data.image_set import ImageSet
from topgap_nb.metrics.shortcuts import majority_baseline
from topgap_nb.results.records import MIN_TRAININGS
from topgap_nb.results.statistics import Estimate, wilson_interval

# Below this, a class's own accuracy has an interval of about a half.
MIN_IMAGES_PER_CLASS = 10
# Among fewer, the networks differ on one or two, and a t-interval needs more.
MIN_IMAGES = 30
SMALLEST_EFFECT = 0.05
NAMED_CLASSES = 5


def shortcut_verdict(without_object: Estimate, chance: float) -> str:
    """Return what an accuracy without the object shows: ``suspected`` or ``not shown``.

    A shortcut is suspected when the whole interval lies above the accuracy of naming one class. The
    contrary does not prove that there is none: with few images the interval is wide.
    """
    return "suspected" if without_object.low > chance else "not shown"


def half_width(n: int, share: float = 0.8) -> float:
    """Return half the width of the 95 % Wilson interval of a share of hits among ``n`` images.

    Example:
        >>> round(half_width(10), 2), round(half_width(1000), 3)
        (0.23, 0.025)
    """
    hits = round(share * n)
    interval = wilson_interval([True] * hits + [False] * (n - hits))
    return (interval.high - interval.low) / 2


def images_needed(difference: Estimate, smallest_effect: float = SMALLEST_EFFECT) -> int:
    """Return about how many test images would show a difference of ``smallest_effect``.

    The interval of a mean narrows with the square root of the number of images.
    """
    half = (difference.high - difference.low) / 2
    return math.ceil(difference.n * (half / smallest_effect) ** 2)


def cannot_conclude(
    test: ImageSet,
    difference: Estimate,
    accuracies: Iterable[Estimate] = (),
    n_trainings: int = 1,
    subjects_known: bool = False,
) -> list[str]:
    """Return what these test images leave open, one sentence each.

    Args:
        test: the test split.
        difference: accuracy of one network minus the other's, paired over the test images.
        accuracies: of the networks.
        n_trainings: how many times each network was trained.
        subjects_known: whether the split knew which images must stay together, for example those of
            one patient.
    """
    n = len(test)
    wide = f"±{half_width(n):.2f} (95 % interval)"
    sentences = [f"From {n} test images, an accuracy near 0.8 is known to {wide}."]
    best = max((accuracy.value for accuracy in accuracies), default=1.0)
    if best < (1 + majority_baseline(test.labels)) / 2:
        sentences.append(
            f"The better network is correct on only {best:.2f}, less than half of the way from "
            f"naming the most frequent class to no error: a longer training may change all of this."
        )
    if n < MIN_IMAGES:
        sentences.append(
            f"With fewer than {MIN_IMAGES} test images the interval of a difference is too narrow: "
            f"do not quote its verdict."
        )
    if difference.low <= 0 <= difference.high:
        sentences.append(
            f"Which network is more accurate is open: the difference lies between "
            f"{difference.low:+.2f} and {difference.high:+.2f}."
        )
    if (needed := images_needed(difference)) > n:
        sentences.append(
            f"A difference of {SMALLEST_EFFECT} would take about {needed:,} test images."
        )
    counts = test.labels.bincount(minlength=len(test.class_names)).tolist()
    small = [
        f"{name} ({count})"
        for name, count in zip(test.class_names, counts, strict=True)
        if count < MIN_IMAGES_PER_CLASS
    ]
    if small:
        rest = len(small) - NAMED_CLASSES
        sentences.append(
            f"No accuracy of a single class is given where it would rest on fewer than "
            f"{MIN_IMAGES_PER_CLASS} test images: {', '.join(small[:NAMED_CLASSES])}"
            + (f" and {rest} more." if rest > 0 else ".")
        )
    if test.masks is None:
        sentences.append(
            "There are no masks: whether the network looks at the object is not measured, the "
            "attack distance and the overlap with the object are missing, and k is a default."
        )
    elif test.mask_count < n:
        sentences.append(
            f"{test.mask_count} of {n} test images have masks: all results on object and "
            f"background rest on these."
        )
    if n_trainings < MIN_TRAININGS:
        sentences.append(
            f"A verdict takes {MIN_TRAININGS} trainings of each network, and here they are "
            f"{n_trainings}: another seed may reverse a close result."
        )
    if not subjects_known:
        sentences.append(
            "Near duplicates are kept on one side of the split, but different images of one "
            "patient, film or place are not recognised: if there are any, say which images belong "
            "together, or the accuracy is too high."
        )
    return sentences
