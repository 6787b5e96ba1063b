"""Data sets: one file each, one interface, ``open_dataset``."""

from collections.abc import Callable

from topgap_nb.data.images import SPLITS, ImageSet
from topgap_nb.data.planted import open_planted
from topgap_nb.data.pneumonia import open_pneumonia
from topgap_nb.errors import UserError

DATASETS: dict[str, Callable[..., ImageSet]] = {
    "planted": open_planted,
    "pneumonia": open_pneumonia,
}


def open_dataset(name: str, split: str = "train", image_size: int = 64, **options) -> ImageSet:
    """Return a split of a data set, decoded in memory.

    Args:
        name: one of ``DATASETS``.
        split: ``train`` to learn from, ``select`` to choose k, lambda and thresholds on,
            ``test`` to be read once.
        image_size: pixels per side.
        options: the data set's own controls; see its function (``open_planted``, ...).

    Raises:
        UserError: unknown name, split or option.
    """
    check_dataset(name)
    if split not in SPLITS:
        raise UserError(f"split {split!r} is unknown: use {', '.join(SPLITS)}")
    if image_size < 16:
        raise UserError(f"image_size = {image_size}: the backbones need at least 16 pixels")
    try:
        return DATASETS[name](split, image_size=image_size, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise UserError(f"data set {name!r}: {str(error).split(') ')[-1]}") from error


def check_dataset(name: str) -> None:
    """Raise a UserError that lists the data sets, unless ``name`` is one of them."""
    if name not in DATASETS:
        raise UserError(f"data set {name!r} is unknown: there are {', '.join(sorted(DATASETS))}")
