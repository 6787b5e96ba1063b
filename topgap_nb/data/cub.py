"""``cub``: 11,788 photographs of birds of 200 species, with segmentations or boxes.

CUB-200-2011 in the publisher's folder; its segmentations, a separate download, lie in
``segmentations`` inside it. Where they are missing the mask is the inside of the bounding box.
``test`` is the publisher's; ``select`` is an eighth of its training images.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from topgap_nb.data.decode import Listing, box_mask, carve, decoded, mask_from
from topgap_nb.data.images import ImageSet
from topgap_nb.data.sources import Archive, Source
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


def open_cub(
    split: str, image_size: int = 96, masks: str = "auto", min_samples: int = 1
) -> ImageSet:
    """Return a split of CUB-200-2011; of a part of it, the species that are there.

    Args:
        split: train, select or test.
        image_size: pixels per side.
        masks: ``segmentations``, ``boxes``, or ``auto``: the first where there are any.
        min_samples: leave out species with fewer images, in all splits together.

    Raises:
        UserError: the data is not there, or not the masks that are asked for.
    """
    return decoded(_listing(masks).at_least(min_samples).only(split), image_size)


def segmentation_of(image_name: str) -> Path:
    """Return where the segmentation of an image (``species/name.jpg``) lies, if it is there."""
    return SOURCE.home() / "segmentations" / Path(image_name).with_suffix(".png")


def read_segmentation(path: Path, size: int) -> np.ndarray | None:
    """Return a segmentation as a mask, or None; its grey levels are annotators in agreement."""
    if not path.exists():
        return None
    return mask_from(path, size, lambda grey: (grey if grey.ndim == 2 else grey[..., 0]) > 127)


def _listing(masks: str) -> Listing:
    root = SOURCE.home()
    if masks not in MASKS:
        raise UserError(f"masks {masks!r}: use {', '.join(MASKS)}")
    if masks == "auto":
        masks = "segmentations" if (root / "segmentations").is_dir() else "boxes"
    if not (lies := root / {"boxes": "bounding_boxes.txt"}.get(masks, masks)).exists():
        raise UserError(f"data set 'cub' has no {masks} here: {lies} is missing")
    names, species = _table(root / "images.txt"), _table(root / "image_class_labels.txt")
    train, classes = _table(root / "train_test_split.txt"), _table(root / "classes.txt")
    files = [root / "images" / name for (name,) in names.values()]
    labels = np.array([int(*species[key]) - 1 for key in names])
    splits = np.array(["train" if train[key] == ["1"] else "test" for key in names], object)
    if masks == "boxes":
        boxes = _table(lies)
        origins = [tuple(map(float, boxes[key])) for key in names]
    else:
        origins = [segmentation_of(name) for (name,) in names.values()]

    def mask(index: int, size: int) -> np.ndarray | None:
        if masks == "segmentations":
            return read_segmentation(origins[index], size)
        with Image.open(files[index]) as image:
            return box_mask(origins[index], *image.size, size)

    return Listing(
        name="cub",
        files=tuple(files),
        labels=labels,
        class_names=tuple(name for (name,) in classes.values()),
        ids=tuple(file.stem for file in files),
        splits=carve(splits, labels, 1 / 8),
        mask=mask,
        origins=tuple(origins),
    )


def _table(path: Path) -> dict[str, list[str]]:
    """Rows of the publisher's text files, by their first field, the image's number."""
    rows = (line.split() for line in path.read_text().splitlines() if line.strip())
    return {key: values for key, *values in rows}
