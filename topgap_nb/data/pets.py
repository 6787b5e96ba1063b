"""``pets``: 7,349 photographs of 37 breeds of cats and dogs, each with a trimap.

Oxford-IIIT Pet, in the publisher's folders as torchvision's ``OxfordIIITPet`` reads them. Trimaps:
1 object, 2 background, 3 the border between them. ``test`` is the publisher's; ``select`` is an
eighth of ``trainval``.
"""

from pathlib import Path

import numpy as np

from topgap_nb.data.decode import Listing, carve, decoded, mask_from
from topgap_nb.data.images import ImageSet
from topgap_nb.data.sources import Archive, Source

HOST = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
SOURCE = Source(
    name="pets",
    folder="oxford-iiit-pet",
    needs=("images", "annotations/trainval.txt", "annotations/test.txt"),
    counts={"train": 3680, "test": 3669},
    archives=(
        Archive(
            f"{HOST}/images.tar.gz",
            "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c", 791_918_971, "oxford-iiit-pet",
        ),
        Archive(
            f"{HOST}/annotations.tar.gz",
            "md5:95a8c909bbe2e81eed6a22bccdf3f68f", 19_173_078, "oxford-iiit-pet",
        ),
    ),
    unpacked=850_000_000,
)  # fmt: skip
BACKGROUND, BORDER = 2, 3


def open_pets(
    split: str, image_size: int = 96, border: bool = True, min_samples: int = 1
) -> ImageSet:
    """Return a split of Oxford-IIIT Pet.

    Args:
        split: train, select or test.
        image_size: pixels per side.
        border: count the trimap's border to the object.
        min_samples: leave out breeds with fewer images, in all splits together.
    """
    return decoded(_listing(border).at_least(min_samples).only(split), image_size)


def _listing(border: bool) -> Listing:
    from torchvision.datasets import OxfordIIITPet

    parts = {
        split: OxfordIIITPet(SOURCE.home().parent, name, target_types="category")
        for split, name in (("train", "trainval"), ("test", "test"))
    }
    files = [Path(path) for part in parts.values() for path in part._images]
    labels = np.array([label for part in parts.values() for label in part._labels])
    splits = np.array([split for split, part in parts.items() for _ in range(len(part))], object)
    # The publisher's labels have gaps in a part of the set; names come with the file names.
    names = {label: path.stem.rpartition("_")[0] for path, label in zip(files, labels, strict=True)}
    trimaps = [Path(path) for part in parts.values() for path in part._segs]

    def mask(index: int, size: int) -> np.ndarray | None:
        path = trimaps[index]
        other = [BACKGROUND] if border else [BACKGROUND, BORDER]
        return mask_from(path, size, lambda t: ~np.isin(t, other)) if path.exists() else None

    return Listing(
        name="pets",
        files=tuple(files),
        labels=labels,
        class_names=tuple(names.get(label, "") for label in range(max(names) + 1)),
        ids=tuple(path.stem for path in files),
        splits=carve(splits, labels, 1 / 8),
        mask=mask,
        origins=tuple(trimaps),
        variant=f"border {border}",
    )
