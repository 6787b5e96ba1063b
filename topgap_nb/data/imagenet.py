"""``imagenet``: ImageNet-1k, 1.28 million photographs of 1,000 classes; it stays on disk.

The usual folders, ``train/<wnid>/`` and ``val/<wnid>/``, as torchvision's ``ImageNet`` makes them.
The publisher's ``val`` is the test split; ``select`` is a hundredth of ``train``. Labels are the
usual ones, also where only some classes are there. The middle 224 of 256 pixels are cut out.
"""

import shutil
from functools import cache
from pathlib import Path

import numpy as np

from topgap_nb.data.decode import LazyImages, Listing, carve, files_by_class
from topgap_nb.data.sources import Source
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
    finish=unpack,
    sized=False,
)


def open_imagenet(split: str, image_size: int = 224) -> LazyImages:
    """Return a split of ImageNet, read from disk image by image.

    Raises:
        UserError: the folders are missing, a class folder is empty, or no ImageNet class.
    """
    part = "val" if split == "test" else "train"
    return LazyImages(_listing(SOURCE.home() / part, "imagenet", part).only(split), image_size)


@cache
def wnids() -> tuple[str, ...]:
    """Return the 1,000 classes by label, as WordNet numbers (``n01440764``)."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo().label_names())


@cache
def _listing(folder: Path, name: str, part: str) -> Listing:
    number = {wnid: label for label, wnid in enumerate(wnids())}
    found = files_by_class(folder, name)
    if unknown := sorted(set(found) - set(number)):
        raise UserError(f"{folder / unknown[0]} is no ImageNet class such as {wnids()[0]}")
    files = [path for paths in found.values() for path in paths]
    labels = np.array([number[wnid] for wnid, paths in found.items() for _ in paths], np.int64)
    splits = np.full(len(files), "train" if part == "train" else "test", object)
    return Listing(
        name=name,
        files=tuple(files),
        labels=labels,
        class_names=wnids(),
        ids=tuple(f"{path.parent.name}/{path.stem}" for path in files),
        splits=carve(splits, labels, 1 / 100),
        square=True,
    )


def listing_of_test(folder: Path, name: str, split: str) -> Listing:
    """Return a folder of ImageNet classes that is for testing only.

    Raises:
        UserError: another split is asked for.
    """
    if split != "test":
        raise UserError(f"data set {name!r} has only a test split: train and select on `imagenet`")
    return _listing(folder, name, "test")
