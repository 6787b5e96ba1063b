"""The data sets by name, and ``open_dataset``.

A data set is a ``DataSet`` value in a file of ``topgap_nb/data/sets``, or of the folder that
``$TOPGAP_SETS`` names; nothing else has to know of it.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from topgap_nb.data.fetch.sources import Source
from topgap_nb.data.image_set import ImageSet, Splits
from topgap_nb.data.reading import LazyImages
from topgap_nb.data.splits import fold_of
from topgap_nb.errors import UserError


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set: what it is called, how a split of it is read, and where it comes from.

    Attributes:
        name: as ``open_dataset`` knows it.
        about: what it holds, in one line.
        open: reads a split: ``open(split, image_size, **options)`` with all options.
        options: its own controls with their defaults.
        source: where it is fetched from; None where nothing is to be fetched.
        paths: from the options, as a dictionary, to the files and folders that it reads; by default
            the folder of ``source``.
        recipe: fields in which training on it differs from a profile's default recipe.

    Example:
        >>> DataSet("dots", "dots on a plane", open=lambda split, image_size, seed: ...,
        ...         options={"seed": 0}).complete({"seed": 1})
        {'seed': 1}
    """

    name: str
    about: str
    open: Callable[..., ImageSet | LazyImages]
    options: Mapping = field(default_factory=dict)
    source: Source | None = None
    paths: Callable[[Mapping], list[Path]] | None = None
    recipe: Mapping = field(default_factory=dict)

    def complete(self, options: Mapping) -> dict:
        """Return these options, and the defaults of the others.

        Raises:
            UserError: the data set has no option of that name; the message lists those it has.
        """
        if unknown := set(options) - set(self.options):
            known = f"it has {', '.join(self.options)}" if self.options else "it has none"
            names = ", ".join(map(repr, sorted(unknown)))
            raise UserError(f"data set {self.name!r} has no option {names}: {known}")
        return {**self.options, **options}

    def inputs(self, options: Mapping) -> list[Path]:
        """Return the files and folders that are read for these options."""
        if self.paths is not None:
            return self.paths(self.complete(options))
        folder = self.source and self.source.where()
        return [folder] if folder else []


@cache
def data_sets() -> dict[str, DataSet]:
    """Return all data sets by name.

    Raises:
        UserError: two files define a set of one name, or are called the same.
    """
    sets = importlib.import_module("topgap_nb.data.sets")
    found: dict[str, DataSet] = {}
    files: dict[str, str] = {}
    for folder in sets.__path__:
        for _, module_name, _ in pkgutil.iter_modules([folder]):
            file = f"{folder}/{module_name}.py"
            module = importlib.import_module(f"{sets.__name__}.{module_name}")
            if Path(module.__file__) != Path(file):
                raise UserError(f"{file} and {module.__file__} are called the same: rename one")
            for value in vars(module).values():
                if not isinstance(value, DataSet) or value is found.get(value.name):
                    continue
                if value.name in found:
                    raise UserError(
                        f"{files[value.name]} and {file} both define a data set {value.name!r}: "
                        "rename one"
                    )
                found[value.name], files[value.name] = value, file
    return dict(sorted(found.items()))


def find_set(name: str) -> DataSet:
    """Return a data set by its name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name not in data_sets():
        raise UserError(f"data set {name!r} is unknown: there are {', '.join(data_sets())}")
    return data_sets()[name]


def is_absent(name: str) -> bool:
    """Return whether a data set has to be fetched first."""
    source = find_set(name).source
    return source is not None and source.where() is None


def open_dataset(
    name: str,
    image_size: int = 64,
    *,
    fold: int | None = None,
    folds: int = 5,
    train_images: int | None = None,
    **options,
) -> Splits:
    """Return the splits of a data set; each is read when it is first asked for.

    A split is an ``ImageSet``, decoded in memory, or, of ImageNet's size, ``LazyImages``.

    Args:
        name: one of ``data_sets()``.
        image_size: pixels per side.
        fold: 0..folds-1: ``val`` is this part of the training images, and ``train`` the rest.
        folds: how many parts they are divided into.
        train_images: how many images ``train`` has; all by default.
        options: the data set's own controls; see ``data_sets()[name].options``.

    Raises:
        UserError: unknown name or option, a number out of range.

    Example:
        >>> data = open_dataset("planted", image_size=32, images=24)
        >>> data.train.pixels.shape, data.test.class_names[:2]
        (torch.Size([24, 3, 32, 32]), ('disk', 'square'))
    """
    data_set = find_set(name)
    options = data_set.complete(options)
    if image_size < 16:
        raise UserError(f"image_size = {image_size}: the backbones need at least 16 pixels")
    if train_images is not None and train_images < 1:
        raise UserError(f"train_images = {train_images} must be at least 1")
    if fold is not None and folds < 2:
        raise UserError(f"folds = {folds} must be at least 2")
    if fold is not None and not 0 <= fold < folds:
        raise UserError(f"fold = {fold} must lie in 0..{folds - 1}")

    def open_split(split: str) -> ImageSet | LazyImages:
        if fold is None or split == "test":
            images = data_set.open(split, image_size, **options)
        else:
            whole = data_set.open("train", image_size, **options)
            images = fold_of(whole, fold, folds)[split == "val"]
        if split == "train" and train_images is not None:
            images = images.sample(train_images)
        return images

    return Splits(name, open_split)
