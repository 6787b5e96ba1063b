"""``imagenet``: ImageNet-1k, 1.28 million photographs of 1,000 classes; it stays on disk.

The usual folders, ``train/<wnid>/`` and ``val/<wnid>/``, as torchvision's ``ImageNet`` makes them.
The publisher's ``val`` is the test split; ``val`` is a hundredth of ``train``. Labels are the
usual ones, also where only some classes are there. The middle 224 of 256 pixels are cut out.
"""

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from topgap_nb.data.fetch.sources import Source
from topgap_nb.data.reading import LazyImages, Manifest, class_folders
from topgap_nb.data.registry import DataSet
from topgap_nb.data.splits import stratified_split
from topgap_nb.errors import UserError

TRAIN, VAL, KIT = (
    f"ILSVRC2012_{name}" for name in ("img_train.tar", "img_val.tar", "devkit_t12.tar.gz")
)


def unpack(folder: Path) -> bool:
    """Unpack the publisher's archives with torchvision; False when they are not in ``folder``."""
    from torchvision.datasets import imagenet

    if not all((folder / name).exists() for name in (TRAIN, VAL, KIT)):
        return False
    imagenet.parse_devkit_archive(folder)
    parsers = {"train": imagenet.parse_train_archive, "val": imagenet.parse_val_archive}
    for name, parse in parsers.items():
        if not (folder / name).exists():
            # Renamed when whole: an interruption must not leave what looks like the data set.
            shutil.rmtree(folder / f".{name}", ignore_errors=True)
            parse(folder, folder=f".{name}")
            (folder / f".{name}").rename(folder / name)
    return True


SOURCE = Source(
    name="imagenet",
    folder="imagenet",
    needs=("train", "val"),
    counts={"train": 1_281_167, "test": 50_000},
    unpacked=310_000_000_000,
    instruction=(
        f"log in at image-net.org, put {TRAIN}, {VAL} and {KIT} into the folder `imagenet` there, "
        "and run `topgap data prepare imagenet`"
    ),
    post_process=unpack,
)


def _open(split: str, image_size: int) -> LazyImages:
    part = "val" if split == "test" else "train"
    return LazyImages(_manifest(SOURCE.home() / part, "imagenet", part).only(split), image_size)


@cache
def wnids() -> tuple[str, ...]:
    """Return the 1,000 classes by label, as WordNet numbers (``n01440764``)."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo().label_names())


@cache
def _manifest(folder: Path, name: str, part: str) -> Manifest:
    manifest = class_folders(name, folder)
    number = {wnid: label for label, wnid in enumerate(wnids())}
    if unknown := sorted(set(manifest.class_names) - set(number)):
        raise UserError(f"{folder / unknown[0]} is no ImageNet class such as {wnids()[0]}")
    labels = np.array([number[wnid] for wnid in manifest.class_names])[manifest.labels]
    splits = np.full(len(manifest), "test", object)
    if part == "train":
        splits = stratified_split(manifest.splits, labels, 1 / 100)
    return replace(manifest, labels=labels, class_names=wnids(), splits=splits, crop=True)


def manifest_for_testing(folder: Path, name: str, split: str) -> Manifest:
    """Return the images of a folder of ImageNet classes that is for testing only.

    Raises:
        UserError: another split is asked for.
    """
    if split != "test":
        raise UserError(f"data set {name!r} has only a test split: train and choose on `imagenet`")
    return _manifest(folder, name, "test")


IMAGENET = DataSet("imagenet", "1.28 million photographs, 1,000 classes", _open, {}, SOURCE)
