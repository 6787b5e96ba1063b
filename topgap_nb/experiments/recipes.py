"""Training recipes per profile and data set: the choices that all notebooks share.

They stand in ``notebooks/profiles/<profile>.yaml`` under ``recipes``, so that one set of trained
networks serves every notebook of a profile.
"""

import os
from pathlib import Path

import yaml

from topgap_nb.errors import UserError
from topgap_nb.experiments.spec import RunSpec
from topgap_nb.files import ROOT

PROFILES = ROOT / "notebooks" / "profiles"
NUMBERED = "[0-9][0-9]_*.ipynb"
# The notebook that reads the others' records, and so runs after them.
LAST = "90"


def profile_file(profile: str, must_exist: bool = False) -> Path:
    """Return the file of a profile.

    Raises:
        UserError: with ``must_exist``, when there is no such profile; it names those there are.
    """
    path = PROFILES / f"{profile}.yaml"
    if must_exist and not path.exists():
        names = (p.relative_to(PROFILES).with_suffix("") for p in PROFILES.rglob("*.yaml"))
        known = ", ".join(sorted(name.as_posix() for name in names))
        raise UserError(f"profile {profile!r} is unknown: there are {known}")
    return path


def read_profile(profile: str) -> dict:
    """Return the content of a profile file.

    A profile that ``extends`` another has what the other has, entry by entry, where it has nothing
    of its own; its recipes stand beside the other's.

    Raises:
        UserError: no such profile, or not valid YAML with ``recipes``.
    """
    path = profile_file(profile, must_exist=True)
    try:
        content = yaml.safe_load(path.read_text())
        if base := content.pop("extends", None):
            base = read_profile(base)
            recipes = {**base["recipes"], **content.get("recipes", {})}
            content = {**base, **content, "recipes": recipes}
        content["recipes"].items()
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a profile: {' '.join(str(error).split())}") from error
    return content


def side_by_side(profile: str) -> int:
    """Return how many of a profile's notebooks run at a time: one a core up to 4, one on a GPU."""
    import torch

    books = (path.name for path in PROFILES.parent.glob(NUMBERED))
    names = read_profile(profile).get("only") or list(books)
    count = sum(not name.startswith(LAST) for name in names)
    return max(1, 1 if torch.cuda.is_available() else min(4, os.cpu_count() or 1, count))


def threads_of(profile: str) -> int:
    """Return how many threads a notebook of a profile computes with: its share of the cores.

    The same however many really run beside it. Another number of threads adds up in another order,
    which trains another network.
    """
    return max(1, (os.cpu_count() or 1) // side_by_side(profile))


def recipe(profile: str, dataset: str, **changes) -> RunSpec:
    """Return the Top-GAP run of a data set under a profile's recipe.

    What a recipe says under ``networks`` for the backbone replaces what it says for all.

    Args:
        profile: ``smoke``, ``demo`` or ``paper``.
        dataset: a data set that the profile has a recipe for.
        changes: fields of ``RunSpec`` that differ from the recipe.

    Raises:
        UserError: no such profile or recipe, or a field that does not exist.
    """
    recipes = read_profile(profile)["recipes"]
    if dataset not in recipes:
        raise UserError(
            f"profile {profile!r} has no recipe for {dataset!r}: it has {', '.join(recipes)}"
        )
    fields = {**recipes[dataset]}
    fields.pop("standard", None)
    networks = fields.pop("networks", {})
    own = networks.get(changes.get("backbone", fields.get("backbone")), {})
    try:
        return RunSpec(dataset=dataset, **{**fields, **own, **changes})
    except TypeError as error:
        raise UserError(f"recipe of {dataset!r} in profile {profile!r}: {error}") from error


def baseline(spec: RunSpec, profile: str) -> RunSpec:
    """Return the same run with the standard network: no pyramid, GAP, no sparsity term.

    Same images, epochs and seed. Where the standard network learns better otherwise, the recipe
    says so under ``standard``, found on held-out data with the same care as for Top-GAP: a baseline
    with the other network's learning rate would be a straw man.
    """
    own = read_profile(profile)["recipes"].get(spec.dataset, {}).get("standard", {})
    return spec.but(head="standard", k=1.0, sparsity_weight=0.0, **own)
