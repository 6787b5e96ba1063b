"""What a test set of this size and kind cannot tell, in sentences."""

import math
from collections.abc import Iterable

from topgap_nb.data.images import ImageSet
from topgap_nb.measures.scores import Estimate, proportion
from topgap_nb.measures.shortcuts import commonest_share

# Below this, a class's own accuracy has an interval of about a half.
PER_CLASS = 10
WORTH_SEEING = 0.05
# Resampling so few images repeats the one or two on which the networks differ.
FEW = 30


def half_width(n: int, share: float = 0.8) -> float:
    """Return half the width of the 95 % Wilson interval of a share of hits among ``n`` images.

    Example:
        >>> round(half_width(10), 2), round(half_width(1000), 3)
        (0.23, 0.025)
    """
    hits = round(share * n)
    interval = proportion([True] * hits + [False] * (n - hits))
    return (interval.high - interval.low) / 2


def images_needed(difference: Estimate, worth: float = WORTH_SEEING) -> int:
    """Return about how many test images would show a difference of ``worth``.

    The interval of a mean narrows with the square root of the number of images.
    """
    half = (difference.high - difference.low) / 2
    return math.ceil(difference.n * (half / worth) ** 2)


def cannot_conclude(
    test: ImageSet,
    difference: Estimate,
    accuracies: Iterable[Estimate] = (),
    trainings: int = 1,
    units_given: bool = False,
) -> list[str]:
    """Return what these test images leave open, one sentence each.

    Args:
        test: the test split.
        difference: accuracy of one network minus the other's, paired over the test images.
        accuracies: of the networks.
        trainings: how many times each network was trained.
        units_given: whether the split was told which images belong together (patients, films).
    """
    n = len(test)
    wide = f"±{half_width(n):.2f} (95 % interval)"
    found = [f"From {n} test images, an accuracy near 0.8 is known to {wide}."]
    best = max((accuracy.value for accuracy in accuracies), default=1.0)
    if best < (1 + commonest_share(test.labels)) / 2:
        found.append(
            f"The better network has only {best:.2f} right, less than half of the way from naming "
            f"the commonest class to no error: trained longer (`STEPS`), all of this may change."
        )
    if n < FEW:
        found.append(
            f"With fewer than {FEW} test images an interval of a difference is drawn too narrow: "
            f"do not quote its verdict."
        )
    if difference.low <= 0 <= difference.high:
        found.append(
            f"Which network is more accurate is open: the difference lies between "
            f"{difference.low:+.2f} and {difference.high:+.2f}."
        )
    if (needed := images_needed(difference)) > n:
        found.append(f"A difference of {WORTH_SEEING} would take about {needed:,} test images.")
    counts = test.labels.bincount(minlength=len(test.class_names)).tolist()
    few = [
        f"{name} ({c})" for name, c in zip(test.class_names, counts, strict=True) if c < PER_CLASS
    ]
    if few:
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        found.append(
            f"No accuracy of a single class is given where fewer than {PER_CLASS} test images "
            f"stand behind it: {', '.join(few[:5])}{more}."
        )
    if test.masks is None:
        found.append(
            "There are no masks: whether the network looks at the object is not measured, the "
            "attack distance and the overlap with the object are missing, and k is a default."
        )
    elif test.masked is not None and not test.masked.all():
        found.append(
            f"{int(test.masked.sum())} of {n} test images have masks: what is said about object "
            f"and background rests on these."
        )
    if trainings < 2:
        found.append("Each network was trained once: another seed may turn a close result round.")
    if not units_given:
        found.append(
            "Near duplicates are kept on one side of the split, but different images of one "
            "patient, film or place are not recognised: if there are any, name them by a "
            "`UNIT_PATTERN`, or the accuracy is too high."
        )
    return found
