"""``cub``: 11,788 photographs of birds of 200 species, with segmentations or boxes.

CUB-200-2011 in the publisher's folder; its segmentations, a separate download, lie in
``segmentations`` inside it. Where they are missing the mask is the inside of the bounding box.
``test`` is the publisher's; ``val`` is an eighth of its training images.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from topgap_nb.data.fetch.sources import Archive, Source
from topgap_nb.data.image_set import ImageSet
from topgap_nb.data.masks import MaskFile, Outline
from topgap_nb.data.reading import Manifest, decoded
from topgap_nb.data.registry import DataSet
from topgap_nb.data.splits import stratified_split
from topgap_nb.errors import UserError

SOURCE = Source(
    name="cub",
    folder="CUB_200_2011",
    needs=("images", "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"),
    counts={"train": 5994, "test": 5794},
    archives=(
        Archive(
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            "md5:97eceeb196236b17998738112f37df78", 1_150_585_339,
        ),
        Archive(
            "https://data.caltech.edu/records/w9d68-gec53/files/segmentations.tgz",
            "md5:4d47ba1228eae64f2fa547c47bc65255", 39_272_883, "CUB_200_2011",
        ),
    ),
    unpacked=1_300_000_000,
)  # fmt: skip
MASKS = ("auto", "segmentations", "boxes")


def _open(split: str, image_size: int, masks: str, min_samples: int) -> ImageSet:
    manifest = _manifest(masks).with_min_samples(min_samples)
    return decoded(manifest.only(split), image_size)


def segmentation_of(image_name: str, image: Path | None = None) -> MaskFile:
    """Return the segmentation of an image (``species/name.jpg``), and check it against the file.

    Its grey levels say how many annotators agree: the object is where most of them do.
    """
    file = Path(image_name).with_suffix(".png")
    return MaskFile(SOURCE.home() / "segmentations" / file, above=127, image=image)


def _manifest(masks: str) -> Manifest:
    root = SOURCE.home()
    if masks not in MASKS:
        raise UserError(f"masks {masks!r}: use {', '.join(MASKS)}")
    if masks == "auto":
        masks = "segmentations" if (root / "segmentations").is_dir() else "boxes"
    place = root / {"boxes": "bounding_boxes.txt"}.get(masks, masks)
    if not place.exists():
        raise UserError(f"data set 'cub' has no {masks} here: {place} is missing")
    names = {key: name for key, (name,) in _table(root / "images.txt").items()}
    species, train = _table(root / "image_class_labels.txt"), _table(root / "train_test_split.txt")
    files = {key: root / "images" / name for key, name in names.items()}
    labels = np.array([int(*species[key]) - 1 for key in names])
    splits = np.array(["train" if train[key] == ["1"] else "test" for key in names], object)
    if masks == "boxes":
        boxes = _table(place)
        masks_of = [_box(map(float, boxes[key]), files[key]) for key in names]
    else:
        masks_of = [segmentation_of(name, files[key]) for key, name in names.items()]
    return Manifest(
        name="cub",
        files=tuple(files.values()),
        labels=labels,
        class_names=tuple(name for (name,) in _table(root / "classes.txt").values()),
        ids=tuple(file.stem for file in files.values()),
        splits=stratified_split(splits, labels, 1 / 8),
        masks=tuple(masks_of),
    )


def _box(box: Iterable[float], image: Path) -> Outline:
    x, y, width, height = box
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    return Outline([corners], image=image)


def _table(path: Path) -> dict[str, list[str]]:
    """Return the rows of one of the publisher's text files by their first field, a number."""
    rows = (line.split() for line in path.read_text().splitlines() if line.strip())
    return {key: values for key, *values in rows}


# masks: segmentations, boxes, or auto: the first where there are any. min_samples: species with
# fewer images, in all splits together, are left out.
OPTIONS = {"masks": "auto", "min_samples": 1}
CUB = DataSet("cub", "11,788 birds of 200 species, with masks or boxes", _open, OPTIONS, SOURCE)
