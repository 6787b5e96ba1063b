"""Grids of runs: what a profile's ``grid:`` section asks for, trained by one of two engines.

A grid is a list of blocks, and a block is a product of fields of ``RunSpec``:

    grid:
      - dataset: [cub, coco]
        backbone: [resnet18, convnext_tiny]
        fold: [0, 1, 2, 3, 4]
        methods:
          - {head: standard}
          - {head: topgap, k: [64, 128, 256]}

A value that is a list is gone through; the others are the recipe's (``experiments.recipes``), so
that a notebook asking for the same run finds it trained. Each of ``methods`` is a product of its
own: what belongs to one method only, as k does, is written there. ``{head: standard}`` is the
recipe's baseline.

An engine takes runs and gives back, as they end, each run with its fault in one line, or with "".
Finished runs are never handed to it: a run's folder carries the hash of all that it depends on.
"""

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from topgap_nb.data import DATASETS
from topgap_nb.errors import UserError
from topgap_nb.experiments.checkpoints import run_folder
from topgap_nb.experiments.recipes import baseline, profile_file, read_profile, recipe
from topgap_nb.experiments.spec import RunSpec
from topgap_nb.experiments.training import Diverged, trained
from topgap_nb.files import runs_root

# How often Ray starts a run again whose worker died; it goes on from its last checkpoint.
RETRIES = 3


def grid_of(profile: str, dataset: str | None = None) -> list[RunSpec]:
    """Return the runs of a profile's grid, in its order, each once.

    Args:
        profile: a file in notebooks/profiles with a ``grid:`` section.
        dataset: only the runs on this data set.

    Raises:
        UserError: no grid, a block without a data set, a field that does not exist, or no run left.
    """
    blocks = read_profile(profile).get("grid")
    if not isinstance(blocks, list) or not all(isinstance(b, dict) for b in blocks):
        raise UserError(f"{profile_file(profile)} has no `grid:`, a list of blocks of runs")
    # A dictionary keeps the order and drops what two blocks share.
    specs = dict.fromkeys(spec for block in blocks for spec in _block(profile, block))
    chosen = [spec for spec in specs if dataset in (None, spec.dataset)]
    if not chosen:
        known = sorted({spec.dataset for spec in specs})
        raise UserError(f"the grid of {profile!r} has no runs on {dataset!r}: {', '.join(known)}")
    return chosen


def _block(profile: str, block: dict) -> Iterator[RunSpec]:
    block = dict(block)
    methods = block.pop("methods", [{}])
    if "dataset" not in block:
        raise UserError(f"a block of the grid of {profile!r} names no dataset: {block}")
    for outer in _product(block):
        for method in methods:
            for inner in _product(method):
                yield _spec(profile, **outer, **inner)


def _product(fields: dict) -> Iterator[dict]:
    values = [value if isinstance(value, list) else [value] for value in fields.values()]
    for chosen in itertools.product(*values):
        yield dict(zip(fields, chosen, strict=True))


def _spec(profile: str, dataset: str, head: str = "topgap", **fields) -> RunSpec:
    if head == "topgap":
        return recipe(profile, dataset, **fields)
    method = {"k", "sparsity_weight", "sparsity_on", "sparsity_reduction"} & set(fields)
    plain = recipe(profile, dataset, **{n: v for n, v in fields.items() if n not in method})
    return baseline(plain, profile).but(head=head, **{name: fields[name] for name in method})


def is_finished(spec: RunSpec, runs: Path | str | None = None) -> bool:
    """Return whether a run's network is there (its content is checked when it is read)."""
    folder = run_folder(spec, runs)
    return (folder / "spec.json").exists() and (folder / "model.safetensors").exists()


def is_absent(dataset: str) -> bool:
    """Return whether a data set's files are not here, or the data set is not known at all."""
    if dataset not in DATASETS:
        return True
    # What has to be fetched has a source that says where it lies; what is embedded has none.
    source = getattr(sys.modules[DATASETS[dataset].__module__], "SOURCE", None)
    return source is not None and source.where() is None


def run_grid(
    specs: list[RunSpec],
    engine: str = "local",
    runs: Path | str | None = None,
    echo: Callable[[str], None] = print,
    **options,
) -> dict[RunSpec, str]:
    """Train the runs that are not finished; return those that failed, with the reason in one line.

    A failed run does not stop the others. Stopped at any moment and called again, it goes on.

    Args:
        specs: see ``grid_of``.
        engine: ``local``, one after another in this process, or ``ray`` (see ``on_ray``).
        runs: folder of all runs, as for ``trained``; every worker must see it at this path.
        echo: where the progress lines go.
        options: the engine's own.

    Raises:
        UserError: unknown engine.
    """
    if engine not in ENGINES:
        raise UserError(f"engine {engine!r} is unknown: use {' or '.join(ENGINES)}")
    runs = Path(runs or runs_root() / "models").absolute()
    open_ones = [spec for spec in specs if not is_finished(spec, runs)]
    absent = {name for name in {spec.dataset for spec in open_ones} if is_absent(name)}
    todo = [spec for spec in open_ones if spec.dataset not in absent]
    echo(f"{len(specs)} runs, {len(specs) - len(open_ones)} of them finished")
    for name in sorted(absent):
        echo(f"{name}: data absent, its runs are left out")
    failed = {}
    for number, (spec, fault) in enumerate(ENGINES[engine](todo, runs, **options), start=1):
        if fault:
            failed[spec] = fault
        echo(f"[{number}/{len(todo)}] {spec.backbone} {spec.title}: {fault or 'done'}")
    return failed


def locally(specs: list[RunSpec], runs: Path) -> Iterator[tuple[RunSpec, str]]:
    """Train one run after another in this process."""
    for spec in specs:
        yield spec, _attempt(spec, runs)


def _attempt(spec: RunSpec, runs: Path) -> str:
    try:
        trained(spec, runs, quiet=True)
    except (UserError, Diverged) as error:
        return " ".join(str(error).split())
    return ""


def on_ray(
    specs: list[RunSpec], runs: Path, address: str | None = None, cores: int = 1
) -> Iterator[tuple[RunSpec, str]]:
    """Train runs as Ray tasks: one GPU each where there are some, else a share of the cores.

    A run whose worker dies is started again on another and resumes from its last checkpoint.

    Args:
        specs: the runs.
        runs: folder of all runs, at the same path on every node.
        address: of a running cluster; None takes $RAY_ADDRESS or the one on this machine, and
            starts one on this machine where there is none.
        cores: CPU cores for each run. Bit for bit the weights of another engine, given as many.
    """
    import ray

    if not ray.is_initialized():
        ray.init(address=address, include_dashboard=False, logging_level="ERROR")
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    task = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=RETRIES)(_task)
    here = {name: value for name, value in os.environ.items() if name.startswith("TOPGAP_")}
    waiting = {task.remote(spec, spec.digest, runs, cores, here): spec for spec in specs}
    while waiting:
        (ready,), _ = ray.wait(list(waiting))
        try:
            fault = ray.get(ready)
        except ray.exceptions.RayError as error:
            fault = str(error).strip().splitlines()[-1]
        yield waiting.pop(ready), fault


def _task(spec: RunSpec, digest: str, runs: Path, cores: int, environment: dict) -> str:
    import torch

    os.environ.update(environment)
    if spec.digest != digest:
        return "this node has another version of topgap_nb or of the data: install the same"
    torch.set_num_threads(cores)
    return _attempt(spec, runs)


ENGINES = {"local": locally, "ray": on_ray}
