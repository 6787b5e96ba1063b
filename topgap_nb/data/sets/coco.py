"""``coco``: COCO 2017 as the paper cuts it: images of exactly one object, with its outline.

An image counts when it has exactly one annotation, and that is not a crowd; a class counts when at
least ``min_samples`` such images show it (the paper: 20, which left 53 classes). Test images are
those of COCO's ``val2017``; ``val`` is an eighth of those of ``train2017``.
"""

import json
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np

from topgap_nb.data.fetch.sources import Archive, Source
from topgap_nb.data.image_set import ImageSet
from topgap_nb.data.reading import Manifest, Outline, decoded
from topgap_nb.data.registry import DataSet
from topgap_nb.data.splits import stratified_split
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
    alt_folders=("coco-tiny",),
)  # fmt: skip


def _open(split: str, image_size: int, min_samples: int) -> ImageSet:
    manifest = _manifest(SOURCE.home()).with_min_samples(min_samples)
    return decoded(manifest.only(split), image_size)


@cache
def _manifest(root: Path) -> Manifest:
    rows = [
        (split, folder, *row)
        for split, folder in (("train", "train2017"), ("test", "val2017"))
        for row in _single_objects(root / "annotations" / f"instances_{folder}.json")
    ]
    split, folder, image, class_name, outline = zip(*rows, strict=True) if rows else [()] * 5
    names = tuple(sorted(set(class_name)))
    labels = np.array([names.index(name) for name in class_name], np.int64)
    return Manifest(
        name="coco",
        files=tuple(root / f / i["file_name"] for f, i in zip(folder, image, strict=True)),
        labels=labels,
        class_names=names,
        ids=tuple(str(i["id"]) for i in image),
        splits=stratified_split(np.array(split, object), labels, 1 / 8),
        masks=tuple(
            Outline(polygons, (i["width"], i["height"]))
            for polygons, i in zip(outline, image, strict=True)
        ),
    )


def _single_objects(path: Path) -> list[tuple[dict, str, list]]:
    """Return (image, class, outline as polygons) of the images of exactly one object."""
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


COCO = DataSet(
    "coco", "images of exactly one object, with its outline", _open, {"min_samples": 20}, SOURCE
)
