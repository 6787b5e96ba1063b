"""Profiles: how large the experiments are. One typed object, read from one YAML file.

``notebooks/profiles/<name>.yaml`` holds the recipes (how each data set is trained), the parameters
of each notebook, a grid of runs, and limits. So one set of trained networks serves every notebook
of a profile.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml

from topgap_nb.data.image_set import Splits
from topgap_nb.data.registry import find_set, open_dataset
from topgap_nb.errors import UserError
from topgap_nb.store.layout import profiles_root
from topgap_nb.training.spec import TrainingSpec

SPEC_FIELDS = {f.name for f in fields(TrainingSpec)}
DATA_FIELDS = {"image_size", "fold", "folds", "train_images"}
# The recipe for data sets that have none of their own.
DEFAULT = "default"
NEEDED = ("recipes", "notebooks")
KINDS = {
    "mapping": (Mapping, ("recipes", "notebooks", "sets")),
    "list": (list | tuple, ("only", "first", "grid")),
    "whole number": (int, ("cell_seconds", "threads")),
}


@dataclass(frozen=True)
class Recipe:
    """How a profile trains on one data set.

    Attributes:
        dataset: the data set's name.
        data: arguments of ``open_dataset``: image size, the set's own options, a fold.
        spec: the Top-GAP network.
        baseline: fields in which the standard network's training differs. Found on held-out data
            with the same care: at the other network's learning rate it would be a straw man.
        networks: {backbone: fields that differ for it}.
    """

    dataset: str
    data: Mapping
    spec: TrainingSpec
    baseline: Mapping = field(default_factory=dict)
    networks: Mapping = field(default_factory=dict)

    @property
    def standard(self) -> TrainingSpec:
        """The standard network, otherwise alike: no pyramid, GAP, no sparsity term."""
        method = {
            "head": "standard", "k": 1.0, "sparsity_weight": 0.0, "sparsity_reduction": "mean",
            "sparsity_ramp": 0.0,
        }  # fmt: skip
        return self.spec.replace(**{**method, **self.baseline})

    def open(self, **changes) -> Splits:
        """Return the recipe's data; ``changes`` are arguments of ``open_dataset``."""
        return open_dataset(self.dataset, **{**self.data, **changes})

    def replace(self, **changes) -> "Recipe":
        """Return the recipe with some fields of its data or of its training changed.

        ``options`` are added to the data set's own. Another backbone brings its own fields along.
        """
        data = {name: changes.pop(name) for name in DATA_FIELDS & set(changes)}
        data |= changes.pop("options", {})
        own = self.networks.get(changes.get("backbone"), {})
        spec = self.spec.replace(**{**own, **changes})
        return Recipe(self.dataset, {**self.data, **data}, spec, self.baseline, self.networks)


@dataclass(frozen=True)
class Profile:
    """What one file in ``notebooks/profiles`` says.

    Attributes:
        name: the file's path there without its suffix.
        recipes: {data set: fields of its recipe}; ``default`` is for every other data set.
        notebooks: {notebook: parameters that differ from its defaults}.
        cell_seconds: how long one cell may take.
        threads: CPU threads of each notebook and each training, 0 for all; see ``TrainingSpec``.
        precision: number format of trainings.
        only: beginnings of the notebooks that the profile is for; empty is all.
        first: notebooks that take longest: started last, one of them would run on alone.
        grid: blocks of runs, see ``cluster.grid``.
        sets: {data set: {images, classes} as published}, for estimating what is absent.
    """

    name: str
    recipes: Mapping[str, Mapping]
    notebooks: Mapping[str, Mapping]
    cell_seconds: int = 1200
    threads: int = 1
    precision: str = "float32"
    only: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    grid: tuple[Mapping, ...] = ()
    sets: Mapping[str, Mapping] = field(default_factory=dict)

    def recipe(self, dataset: str, **changes) -> Recipe:
        """Return the recipe for a data set, with some fields changed (see ``Recipe.replace``).

        Raises:
            UserError: no such data set, no recipe for it, or a field that does not exist.
        """
        own = find_set(dataset).recipe
        entry = self.recipes.get(dataset) or self.recipes.get(DEFAULT)
        if entry is None:
            known = ", ".join(self.recipes)
            raise UserError(
                f"profile {self.name!r} has no recipe for {dataset!r}: it has {known}, and no "
                f"`{DEFAULT}`"
            )
        entry = dict(entry) if dataset in self.recipes else {**entry, **own}
        baseline, networks = entry.pop("standard", {}), entry.pop("networks", {})
        data = {name: entry.pop(name) for name in DATA_FIELDS & set(entry)}
        data |= entry.pop("options", {})
        if "image_size" not in data:
            raise UserError(f"recipe of {dataset!r} in profile {self.name!r} has no image_size")
        given = set(entry).union(baseline, *networks.values())
        if unknown := given - SPEC_FIELDS:
            raise UserError(
                f"recipe of {dataset!r} in profile {self.name!r}: {', '.join(sorted(unknown))} is "
                f"unknown; there are {', '.join(sorted(SPEC_FIELDS | DATA_FIELDS))}, options, "
                "standard and networks"
            )
        settings = {"threads": self.threads, "precision": self.precision, **entry}
        if "backbone" not in changes:
            settings |= networks.get(settings.get("backbone"), {})
        return Recipe(dataset, data, TrainingSpec(**settings), baseline, networks).replace(
            **changes
        )


def profile_names() -> list[str]:
    """Return the names of all profiles."""
    root = profiles_root()
    return sorted(
        path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml")
    )


def load_profile(name: str) -> Profile:
    """Return the profile of that name.

    A profile that ``extends`` another has what the other has, entry by entry, where it has nothing
    of its own; its recipes stand beside the other's.

    Raises:
        UserError: no such profile, no valid YAML, an unknown key, or a value of a wrong kind.
    """
    path = profiles_root() / f"{name}.yaml"
    if not path.exists():
        raise UserError(f"profile {name!r} is unknown: there are {', '.join(profile_names())}")
    return read_profile(path, name)


def read_profile(path: Path, name: str) -> Profile:
    """Return what the file of a profile says; see ``load_profile``."""
    try:
        entries = yaml.safe_load(path.read_text())
        base = entries.pop("extends", None)
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is not a profile: {' '.join(str(error).split())}") from error
    known = {f.name for f in fields(Profile)} - {"name"}
    if unknown := set(entries) - known:
        raise UserError(
            f"{path}: {', '.join(sorted(unknown))} is unknown; a profile may have "
            f"{', '.join(sorted(known))} and extends"
        )
    if base:
        inherited = load_profile(base)
        recipes = {**inherited.recipes, **(entries.get("recipes") or {})}
        entries = {**{key: getattr(inherited, key) for key in known}, **entries, "recipes": recipes}
    for word, (kind, keys) in KINDS.items():
        for key in keys:
            if key in {*entries, *NEEDED} and not isinstance(entries.get(key), kind):
                raise UserError(f"{path}: `{key}` is missing or no {word}")
    for key in ("only", "first", "grid"):
        entries[key] = tuple(entries.get(key, ()))
    entries["notebooks"] = {nb: given or {} for nb, given in entries["notebooks"].items()}
    return Profile(name, **entries)
