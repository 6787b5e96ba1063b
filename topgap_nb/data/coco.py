"""``coco``: COCO 2017 as the paper cuts it: images of exactly one object, with its outline.

An image counts when it has exactly one annotation, and that is not a crowd; a class counts when at
least ``min_samples`` such images show it (the paper: 20, which left 53 classes). Test images are
those of COCO's ``val2017``; ``select`` is an eighth of those of ``train2017``.
"""

import json
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np

from topgap_nb.data.decode import Listing, carve, decoded, polygon_mask
from topgap_nb.data.images import ImageSet
from topgap_nb.data.sources import Archive, Source
from topgap_nb.errors import UserError

HOST = "http://images.cocodataset.org"
SOURCE = Source(
    name="coco",
    folder="coco",
    needs=(
        "train2017", "val2017",
        "annotations/instances_train2017.json", "annotations/instances_val2017.json",
    ),
    archives=(
        Archive(
            f"{HOST}/annotations/annotations_trainval2017.zip",
            "md5:f4bbac642086de4f52a3fdda2de5fa2c", 252_907_541, "coco",
        ),
        Archive(
            f"{HOST}/zips/val2017.zip",
            "md5:442b8da7639aecaf257c1dceb8ba8c80", 815_585_330, "coco",
        ),
        Archive(
            f"{HOST}/zips/train2017.zip",
            "md5:cced6f7f71b7629ddf16f17bbcfab6b2", 19_336_861_798, "coco",
        ),
    ),
    unpacked=21_200_000_000,
    also=("coco-tiny",),
)  # fmt: skip


def open_coco(split: str, image_size: int = 96, min_samples: int = 20) -> ImageSet:
    """Return a split of COCO's images of one object.

    Args:
        split: train, select or test.
        image_size: pixels per side.
        min_samples: leave out classes with fewer such images, in all splits together.
    """
    return decoded(_listing(SOURCE.home()).at_least(min_samples).only(split), image_size)


@cache
def _listing(root: Path) -> Listing:
    rows = [
        (split, folder, *row)
        for split, folder in (("train", "train2017"), ("test", "val2017"))
        for row in _single_objects(root / "annotations" / f"instances_{folder}.json")
    ]
    split, folder, image, _, outline = zip(*rows, strict=True) if rows else [()] * 5
    names = tuple(sorted({row[3] for row in rows}))
    labels = np.array([names.index(row[3]) for row in rows], np.int64)

    def mask(index: int, size: int) -> np.ndarray:
        return polygon_mask(outline[index], image[index]["width"], image[index]["height"], size)

    return Listing(
        name="coco",
        files=tuple(root / f / i["file_name"] for f, i in zip(folder, image, strict=True)),
        labels=labels,
        class_names=names,
        ids=tuple(str(i["id"]) for i in image),
        splits=carve(np.array(split, object), labels, 1 / 8),
        mask=mask,
        origins=outline,
    )


def _single_objects(path: Path) -> list[tuple[dict, str, list]]:
    """(image, class, outline as polygons of points) of the images of exactly one object."""
    try:
        content = json.loads(path.read_text())
        images = {image["id"]: image for image in content["images"]}
        classes = {c["id"]: c["name"] for c in content["categories"]}
        counts = Counter(a["image_id"] for a in content["annotations"])
        return [
            (images[a["image_id"]], classes[a["category_id"]], _points(a["segmentation"]))
            for a in sorted(content["annotations"], key=lambda a: a["image_id"])
            if counts[a["image_id"]] == 1 and not a["iscrowd"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a COCO annotation file: {error!r}") from error


def _points(polygons: list[list[float]]) -> list[list[tuple[float, float]]]:
    return [list(zip(p[::2], p[1::2], strict=True)) for p in polygons]
