"""``wood``: microscopy of fibrous material, nine hardwood species, one folder per species.

The wood identification set of Nieradzik et al. (2023): folders of images, no masks and no split.
A fifth of each species is the test split, and an eighth of the rest ``select``; for the paper's
five-fold numbers give a run its ``fold``.
"""

import numpy as np

from topgap_nb.data.decode import Listing, carve, decoded, files_by_class
from topgap_nb.data.images import ImageSet
from topgap_nb.data.sources import Source

SOURCE = Source(
    name="wood",
    folder="wood",
    needs=(),
    instruction=(
        "ask its authors for it (Nieradzik et al. 2023, reference 32 of the paper) and put it into "
        "the folder `wood` there, one folder of images per species"
    ),
)


def open_wood(split: str, image_size: int = 96, min_samples: int = 1) -> ImageSet:
    """Return a split of the wood images; species with fewer than ``min_samples`` are left out.

    Raises:
        UserError: the folder is missing, or a species' folder holds no images.
    """
    found = files_by_class(SOURCE.home(), "wood")
    files = [path for paths in found.values() for path in paths]
    labels = np.repeat(np.arange(len(found)), [len(paths) for paths in found.values()])
    splits = carve(np.full(len(files), "train", object), labels, 1 / 5, "test")
    listing = Listing(
        name="wood",
        files=tuple(files),
        labels=labels,
        class_names=tuple(found),
        ids=tuple(f"{path.parent.name}/{path.stem}" for path in files),
        splits=carve(splits, labels, 1 / 8),
    )
    return decoded(listing.at_least(min_samples).only(split), image_size)
