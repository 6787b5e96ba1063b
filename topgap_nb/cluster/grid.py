"""Grids of runs: what a profile's ``grid:`` section asks for, trained here or on Ray.

A grid is a list of blocks, and a block is a product of fields of a recipe:

    grid:
      - dataset: [cub, coco]
        backbone: [resnet18, convnext_tiny]
        fold: [0, 1, 2, 3, 4]
        methods:
          - {head: standard}
          - {head: topgap, k: [64, 128, 256]}

A value that is a list is gone through; the others are the recipe's (``training.profile``), so that
a notebook that asks for the same run finds it trained. Each of ``methods`` is a product of its own:
what belongs to one method only, such as k, is written there. ``{head: standard}`` is the recipe's
standard network.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from topgap_nb.data.image_set import Splits
from topgap_nb.data.registry import is_absent, open_dataset
from topgap_nb.errors import Diverged, UserError
from topgap_nb.store.fingerprint import fingerprint
from topgap_nb.store.layout import environment
from topgap_nb.training.loop import network_folder, network_key, train_or_load
from topgap_nb.training.profile import SPEC_FIELDS, Profile
from topgap_nb.training.spec import TrainingSpec

# How often Ray starts a run again whose worker died; it resumes from its last checkpoint.
RETRIES = 3
ENGINES = ("local", "ray")
METHOD_FIELDS = {"k", "sparsity_weight", "sparsity_on", "sparsity_reduction", "sparsity_ramp"}


class Run(NamedTuple):
    """One training of a grid: which images, by name, and how."""

    dataset: str
    data: Mapping
    spec: TrainingSpec

    def open(self) -> Splits:
        """Return the run's images; those of the last run, where they are the same."""
        return _opened(self.dataset, json.dumps(dict(self.data)))

    @property
    def title(self) -> str:
        """A short name for progress lines."""
        fold = f" fold {self.data['fold']}" if self.data.get("fold") is not None else ""
        return f"{self.dataset} {self.spec.backbone} {self.spec.title}{fold}"


@lru_cache(maxsize=1)
def _opened(dataset: str, data: str) -> Splits:
    # A grid has many runs on the same images, whose hash would be taken for each of them.
    return open_dataset(dataset, **json.loads(data))


def grid_of(profile: Profile, dataset: str | None = None) -> list[Run]:
    """Return the runs of a profile's grid, in its order, each once.

    Args:
        profile: one with a ``grid:`` section.
        dataset: only the runs on this data set.

    Raises:
        UserError: no grid, a block without a data set, a field that does not exist, or no run left.
    """
    if not profile.grid:
        raise UserError(f"profile {profile.name!r} has no `grid:`, a list of blocks of runs")
    runs = {}
    for block in profile.grid:
        for run in _block(profile, block):
            runs.setdefault(fingerprint([run.dataset, run.data, run.spec]), run)
    chosen = [run for run in runs.values() if dataset in (None, run.dataset)]
    if not chosen:
        known = ", ".join(sorted({run.dataset for run in runs.values()}))
        raise UserError(f"the grid of {profile.name!r} has no runs on {dataset!r}: {known}")
    return chosen


def _block(profile: Profile, block: Mapping) -> Iterator[Run]:
    if not isinstance(block, Mapping) or "dataset" not in block:
        raise UserError(f"a block of the grid of {profile.name!r} names no dataset: {block}")
    block = dict(block)
    methods = block.pop("methods", [{}])
    for outer in _product(block):
        for method in methods:
            for inner in _product(method):
                yield _run(profile, **{**outer, **inner})


def _product(fields: Mapping) -> Iterator[dict]:
    values = [value if isinstance(value, list) else [value] for value in fields.values()]
    for chosen in itertools.product(*values):
        yield dict(zip(fields, chosen, strict=True))


def _run(profile: Profile, dataset: str, head: str = "topgap", **fields) -> Run:
    if head == "topgap":
        recipe = profile.recipe(dataset, **fields)
        return Run(dataset, recipe.data, recipe.spec)
    method = {name: fields.pop(name) for name in METHOD_FIELDS & set(fields)}
    recipe = profile.recipe(dataset, **fields)
    # What the grid asks for goes before what the recipe says of the standard network.
    asked = {name: value for name, value in fields.items() if name in SPEC_FIELDS}
    return Run(dataset, recipe.data, recipe.standard.replace(head=head, **asked, **method))


def is_stored(run: Run) -> bool:
    """Return whether a run's network is there; its content is checked when it is read."""
    return not is_absent(run.dataset) and network_folder(run.spec, run.open()).exists()


def state_of(run: Run) -> tuple[bool, str]:
    """Return (whether a run's network is stored, what is wrong with its images in one line)."""
    try:
        return is_stored(run), ""
    except Exception as error:
        # Whatever a damaged list or image makes its reader raise stops no other data set.
        return False, fault_of(error)


def fault_of(error: Exception) -> str:
    """Return an error in one line; what is no refusal begins with its kind."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


def run_grid(
    runs: list[Run],
    engine: str = "local",
    echo: Callable[[str], None] = print,
    cores: int | None = None,
) -> list[tuple[Run, str]]:
    """Train the runs that are not stored; return those that failed, each with its fault.

    A failed run does not stop the others. Stopped at any moment and called again, it resumes.

    Args:
        runs: see ``grid_of``.
        engine: ``local``, one after another in this process, or ``ray`` (see ``on_ray``).
        echo: where the progress lines go.
        cores: CPU cores that Ray sets aside for each run; 1 when None.

    Raises:
        UserError: unknown engine, or ``cores`` for another one than Ray.
    """
    if engine not in ENGINES:
        raise UserError(f"engine {engine!r} is unknown: use {' or '.join(ENGINES)}")
    if cores and engine != "ray":
        raise UserError("`cores` is for the engine ray: how many it sets aside for each run")
    absent = {name for name in {run.dataset for run in runs} if is_absent(name)}
    failed, todo, stored = [], [], 0
    for run in runs:
        if run.dataset in absent:
            continue
        is_there, fault = state_of(run)
        if fault:
            failed.append((run, fault))
        elif is_there:
            stored += 1
        else:
            todo.append(run)
    echo(f"{len(runs)} runs, {stored} of them stored")
    for name in sorted(absent):
        echo(f"{name}: data absent, its runs are left out")
    for run, fault in failed:
        echo(f"{run.title}: {fault}")
    done = on_ray(todo, cores or 1) if engine == "ray" else ((run, _attempt(run)) for run in todo)
    for number, (run, fault) in enumerate(done, start=1):
        if fault:
            failed.append((run, fault))
        echo(f"[{number}/{len(todo)}] {run.title}: {fault or 'done'}")
    return failed


def _attempt(run: Run) -> str:
    try:
        train_or_load(run.spec, run.open(), quiet=True)
    except UserError as error:
        return fault_of(error)
    except Diverged as error:
        return str(error)
    return ""


def on_ray(runs: list[Run], cores: int) -> Iterator[tuple[Run, str]]:
    """Train runs as Ray tasks: one GPU each where there are some, else a share of the cores.

    They run on the cluster of $RAY_ADDRESS or the one on this machine, which is started where there
    is none. A run whose worker dies is started again on another and resumes from its last
    checkpoint.

    Args:
        runs: the runs; $TOPGAP_RUNS must be the same folder on every node.
        cores: CPU cores to set aside for each run.
    """
    import ray

    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level="ERROR")
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    task = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=RETRIES)(_task)
    # Of what is set here: the folders of another node are its own where nothing names them.
    here = {n: v for n, v in os.environ.items() if n.startswith("TOPGAP_")}
    here |= {n: v for n, v in environment().items() if n in here}
    waiting = {task.remote(run, _key(run), here): run for run in runs}
    while waiting:
        (ready,), _ = ray.wait(list(waiting))
        try:
            fault = ray.get(ready)
        except ray.exceptions.RayError as error:
            fault = str(error).strip().splitlines()[-1]
        yield waiting.pop(ready), fault


def _key(run: Run) -> str:
    return fingerprint(network_key(run.spec, run.open()))


def _task(run: Run, key: str, environment: dict) -> str:
    os.environ.update(environment)
    if _key(run) != key:
        return "this node has another version of topgap_nb or of the data: install the same"
    return _attempt(run)
