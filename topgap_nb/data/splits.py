"""How images are divided into training, validation and test images."""

from collections.abc import Sequence

import numpy as np

from topgap_nb.data.image_set import ImageSet
from topgap_nb.errors import UserError


def stratified_split(
    splits: np.ndarray, labels: np.ndarray, share: float, into: str = "val"
) -> np.ndarray:
    """Return ``splits`` with a share of every class's ``train`` images given to ``into``.

    At least one image of a class that has two; always the same ones, drawn at random.

    Args:
        splits: name of a split per image, (N,).
        labels: class per image, (N,).
        share: in [0, 1], of the ``train`` images of each class.
        into: the split that they go to.
    """
    splits, generator = splits.copy(), np.random.default_rng(0)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero((labels == label) & (splits == "train")))
        count = max(round(share * len(members)), 1) if len(members) > 1 else 0
        splits[members[:count]] = into
    return splits


def grouped_folds(
    labels: np.ndarray, subjects: Sequence[str], folds: int, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (indices of the rest, indices held out) per fold, each in ascending order.

    Stratified by class; all images of a subject are on one side.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    return list(splitter.split(labels, labels, subjects))


def fold_of(images: ImageSet, fold: int, folds: int) -> tuple[ImageSet, ImageSet]:
    """Return (rest, held-out fold): stratified by class, never splitting a subject.

    Raises:
        UserError: a class has fewer images than there are folds.
    """
    sizes = images.labels.bincount(minlength=len(images.class_names))
    if sizes.min() < folds:
        raise UserError(
            f"class {images.class_names[sizes.argmin()]!r} of {images.name!r} has {sizes.min()} "
            f"training images, fewer than the {folds} folds: leave out small classes (the option "
            "min_samples), or use fewer folds"
        )
    subjects = images.subject_ids or images.ids
    rest, held_out = grouped_folds(images.labels.numpy(), subjects, folds)[fold]
    return images.subset(rest), images.subset(held_out)
