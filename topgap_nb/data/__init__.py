"""Data sets: one file each, one interface, ``open_dataset``."""

import ast
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from topgap_nb.data.cifar10 import open_cifar10
from topgap_nb.data.coco import open_coco
from topgap_nb.data.cub import open_cub
from topgap_nb.data.decode import LazyImages
from topgap_nb.data.folder import open_folder
from topgap_nb.data.imagenet import open_imagenet
from topgap_nb.data.imagenet_c import open_imagenet_c
from topgap_nb.data.imagenet_sketch import open_imagenet_sketch
from topgap_nb.data.images import SPLITS, ImageSet
from topgap_nb.data.pasted import open_pasted
from topgap_nb.data.pets import open_pets
from topgap_nb.data.planted import open_planted
from topgap_nb.data.pneumonia import open_pneumonia
from topgap_nb.data.sources import Source
from topgap_nb.data.waterbirds import open_waterbirds
from topgap_nb.data.wbc import open_wbc
from topgap_nb.data.wood import open_wood
from topgap_nb.errors import UserError

DATASETS: dict[str, Callable[..., ImageSet | LazyImages]] = {
    "planted": open_planted,
    "pneumonia": open_pneumonia,
    "folder": open_folder,
    "pets": open_pets,
    "cub": open_cub,
    "waterbirds": open_waterbirds,
    "pasted": open_pasted,
    "coco": open_coco,
    "wood": open_wood,
    "wbc": open_wbc,
    "cifar10": open_cifar10,
    "imagenet": open_imagenet,
    "imagenet-sketch": open_imagenet_sketch,
    "imagenet-c": open_imagenet_c,
}


def open_dataset(
    name: str, split: str = "train", image_size: int = 64, **options
) -> ImageSet | LazyImages:
    """Return a split of a data set: decoded in memory or, of ImageNet's size, left on disk.

    Args:
        name: one of ``DATASETS``.
        split: ``train`` to learn from, ``select`` to choose k, lambda and thresholds on,
            ``test`` to be read once.
        image_size: pixels per side.
        options: the data set's own controls; see its function (``open_planted``, ...).

    Raises:
        UserError: unknown name, split or option.
    """
    check_dataset(name)
    if split not in SPLITS:
        raise UserError(f"split {split!r} is unknown: use {', '.join(SPLITS)}")
    if image_size < 16:
        raise UserError(f"image_size = {image_size}: the backbones need at least 16 pixels")
    try:
        return DATASETS[name](split, image_size=image_size, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise UserError(f"data set {name!r}: {str(error).split(') ')[-1]}") from error


def check_dataset(name: str) -> None:
    """Raise a UserError that lists the data sets, unless ``name`` is one of them."""
    if name not in DATASETS:
        raise UserError(f"data set {name!r} is unknown: there are {', '.join(sorted(DATASETS))}")


def module_of(name: str):
    """Return the module of a data set."""
    return sys.modules[DATASETS[name].__module__]


def source_of(name: str) -> Source | None:
    """Return where a data set comes from; None where nothing is to be fetched."""
    check_dataset(name)
    return getattr(module_of(name), "SOURCE", None)


def deciding(name: str, options: Mapping) -> dict:
    """Return the options without those that decide no weight, as where a folder stands."""
    places = getattr(module_of(name), "PLACES", ()) if name in DATASETS else ()
    return {option: value for option, value in options.items() if option not in places}


def identity(name: str, **options) -> str | None:
    """Return a hash of the copy of the data that is here; None for what the code alone decides."""
    if name not in DATASETS:
        return None
    module = module_of(name)
    if hasattr(module, "identity"):
        return module.identity(**options)
    source = source_of(name)
    return source.identity() if source else None


@cache
def data_modules(name: str) -> list[Path]:
    """Return the files of ``topgap_nb.data`` that decide a data set's pixels and labels.

    Its own, and those that it imports from there. ``sources`` is left out: how files arrive does
    not matter, and what has arrived is told by ``identity``.
    """
    if name not in DATASETS or not DATASETS[name].__module__.startswith("topgap_nb.data."):
        return []
    found: list[Path] = []
    waiting = [DATASETS[name].__module__]
    while waiting:
        path = Path(__file__).with_name(f"{waiting.pop().rpartition('.')[2]}.py")
        if path in found or path.stem == "sources":
            continue
        found.append(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "topgap_nb.data":
                near = (path.with_name(f"{n.name}.py") for n in node.names)
                waiting += [f"topgap_nb.data.{p.stem}" for p in near if p.exists()]
            elif isinstance(node, ast.ImportFrom) and node.module.startswith("topgap_nb.data."):
                waiting.append(node.module)
    return found
