"""``wbc``: 300 stained white blood cells of five types, each with its outline: small microscopy.

Zheng et al. (2018), data set 1, with the folders ``images`` and ``masks`` and ``labels.csv``
(``image ID,class label``). A stand-in for ``wood``, which has no public copy. The mask is the whole
cell: cytoplasm (grey) and nucleus (white). A third of each type is the test split, an eighth of the
rest ``select``. The authors warn that some labels are their own, not experts'.
"""

import numpy as np

from topgap_nb.data.decode import Listing, carve, decoded, mask_from
from topgap_nb.data.images import ImageSet
from topgap_nb.data.sources import Source
from topgap_nb.errors import UserError

SOURCE = Source(
    name="wbc",
    folder="wbc-microscopy",
    needs=("images", "labels.csv"),
    counts={"all": 300},
    instruction=(
        "get `Dataset 1` and its class labels from github.com/zxaoyou/segmentation_WBC and put "
        "them into the folder `wbc-microscopy` as images/001.png, masks/001.png, labels.csv"
    ),
)
TYPES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")


def open_wbc(split: str, image_size: int = 96, min_samples: int = 1) -> ImageSet:
    """Return a split of the cells; types with fewer than ``min_samples`` are left out."""
    root = SOURCE.home()
    try:
        table = np.loadtxt(root / "labels.csv", np.int64, delimiter=",", skiprows=1, ndmin=2)
        numbers, labels = table.T
    except ValueError as error:
        raise UserError(f"{root / 'labels.csv'} is not `image ID,class label` rows") from error
    files = [root / "images" / f"{number:03d}.png" for number in numbers]
    masks = [root / "masks" / file.name for file in files]
    labels = labels - 1

    def mask(index: int, size: int) -> np.ndarray | None:
        path = masks[index]
        return mask_from(path, size, lambda grey: grey > 63) if path.exists() else None

    splits = carve(np.full(len(files), "train", object), labels, 1 / 3, "test")
    listing = Listing(
        name="wbc",
        files=tuple(files),
        labels=labels,
        class_names=TYPES,
        ids=tuple(file.stem for file in files),
        splits=carve(splits, labels, 1 / 8),
        mask=mask,
        origins=tuple(masks),
    )
    return decoded(listing.at_least(min_samples).only(split), image_size)
