"""``pets``: 7,349 photographs of 37 breeds of cats and dogs, each with a trimap.

Oxford-IIIT Pet, in the publisher's folders. Trimaps: 1 object, 2 background, 3 the border between
them. ``test`` is the publisher's; ``val`` is an eighth of ``trainval``.
"""

import numpy as np

from topgap_nb.data.fetch.sources import Archive, Source
from topgap_nb.data.image_set import ImageSet
from topgap_nb.data.masks import MaskFile
from topgap_nb.data.reading import Manifest, decoded
from topgap_nb.data.registry import DataSet
from topgap_nb.data.splits import stratified_split

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
OBJECT, BORDER = 1, 3


def _open(split: str, image_size: int, border: bool, min_samples: int) -> ImageSet:
    manifest = _manifest(border).with_min_samples(min_samples)
    return decoded(manifest.only(split), image_size)


def _manifest(border: bool) -> Manifest:
    root = SOURCE.home()
    names, labels, splits = [], [], []
    for split, part in (("train", "trainval"), ("test", "test")):
        for line in (root / "annotations" / f"{part}.txt").read_text().splitlines():
            name, number, *_ = line.split()
            names.append(name)
            labels.append(int(number) - 1)
            splits.append(split)
    # The file names carry the breeds; in a part of the set some numbers are missing.
    breeds = {label: name.rpartition("_")[0] for label, name in zip(labels, names, strict=True)}
    trimaps = root / "annotations" / "trimaps"
    values = (OBJECT, BORDER) if border else (OBJECT,)
    files = tuple(root / "images" / f"{name}.jpg" for name in names)
    return Manifest(
        name="pets",
        files=files,
        labels=np.array(labels),
        class_names=tuple(breeds.get(label, "") for label in range(max(breeds) + 1)),
        ids=tuple(names),
        splits=stratified_split(np.array(splits, object), np.array(labels), 1 / 8),
        masks=tuple(MaskFile(trimaps / f"{file.stem}.png", values, image=file) for file in files),
    )


# border: count the trimap's border to the object. min_samples: breeds with fewer images, in all
# splits together, are left out.
OPTIONS = {"border": True, "min_samples": 1}
PETS = DataSet("pets", "7,349 cats and dogs of 37 breeds, with masks", _open, OPTIONS, SOURCE)
