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
from topgap_nb.data.masks import Outline, RunLengths
from topgap_nb.data.reading import Manifest, decoded
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
        (split, root / folder / image["file_name"], image, class_name, segmentation)
        for split, folder in (("train", "train2017"), ("test", "val2017"))
        for image, class_name, segmentation in _single_objects(
            root / "annotations" / f"instances_{folder}.json"
        )
    ]
    split, files, images, class_name, segmentations = zip(*rows, strict=True) if rows else [()] * 5
    names = tuple(sorted(set(class_name)))
    labels = np.array([names.index(name) for name in class_name], np.int64)
    return Manifest(
        name="coco",
        files=files,
        labels=labels,
        class_names=names,
        ids=tuple(str(image["id"]) for image in images),
        splits=stratified_split(np.array(split, object), labels, 1 / 8),
        masks=tuple(map(_mask, segmentations, images, files)),
    )


def _single_objects(path: Path) -> list[tuple[dict, str, list | dict]]:
    """Return (image, class, segmentation) of the images of exactly one object."""
    try:
        content = json.loads(path.read_text())
        images = {image["id"]: image for image in content["images"]}
        classes = {c["id"]: c["name"] for c in content["categories"]}
        counts = Counter(a["image_id"] for a in content["annotations"])
        return [
            (images[a["image_id"]], classes[a["category_id"]], a.get("segmentation"))
            for a in sorted(content["annotations"], key=lambda a: a["image_id"])
            if counts[a["image_id"]] == 1 and not a.get("iscrowd")
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not a COCO annotation file: {error!r}") from error


def _mask(segmentation: list | dict | None, about: dict, file: Path) -> Outline | RunLengths | None:
    """Return an object's mask, of polygons or run lengths; None where it has none."""
    if not segmentation:
        return None
    try:
        size = (about["width"], about["height"])
        if isinstance(segmentation, dict):
            height, width = segmentation.get("size", size[::-1])
            return RunLengths(segmentation["counts"], (width, height), file)
        if any(len(polygon) < 6 for polygon in segmentation):
            raise ValueError("a polygon of fewer than three points")
        points = [list(zip(p[::2], p[1::2], strict=True)) for p in segmentation]
        if not np.isfinite(np.concatenate(segmentation).astype(float)).all() or min(size) < 1:
            raise ValueError("numbers that are no place in the image")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the outline of {file.name} is neither polygons nor run lengths as COCO writes them "
            f"({error!r}): export the annotations again"
        ) from error
    return Outline(points, size, file)


COCO = DataSet(
    "coco", "images of exactly one object, with its outline", _open, {"min_samples": 20}, SOURCE
)
