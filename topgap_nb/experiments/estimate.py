"""What a grid will cost, from measured throughput: hours on this machine, and disk."""

import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import torch

from topgap_nb.device import device
from topgap_nb.experiments.checkpoints import KEPT
from topgap_nb.experiments.depthwise import speed_up_depthwise
from topgap_nb.experiments.grid import is_absent, is_finished
from topgap_nb.experiments.precision import faster_dtype
from topgap_nb.experiments.recipes import read_profile
from topgap_nb.experiments.spec import RunSpec
from topgap_nb.experiments.training import loss_of, run_sets, untrained
from topgap_nb.files import runs_root, write_atomic
from topgap_nb.method.model import PYRAMID_WIDTH, build_model

# Few pixels give nearly the throughput of a whole batch on a CPU, in a fraction of the time.
CPU_PIXELS = 4 * 224**2


class Row(NamedTuple):
    """Runs of one data set, network and method.

    ``hours`` are those of the runs not finished, one after another, or None where the number of
    images is not known; ``disk`` the bytes of all finished networks, ``peak`` those of the
    checkpoints while one trains; ``measured`` says where ``speed``, in images/s, is from.
    """

    dataset: str
    backbone: str
    method: str
    runs: int
    finished: int
    speed: float
    measured: str
    hours: float | None
    disk: int
    peak: int


def estimate(profile: str, specs: list[RunSpec], runs: Path | None = None) -> list[Row]:
    """Return what the runs cost, by data set, network and method.

    Throughput is the median of finished runs of the same network, head and image size on this kind
    of device; where there are none, a few steps are timed once and kept in runs/throughput.json.

    Args:
        profile: where the runs are from; its ``sets`` give the number of training images and
            classes of data sets that are absent.
        specs: see ``grid_of``.
        runs: folder of all runs, as for ``trained``.
    """
    groups = defaultdict(list)
    for spec in specs:
        method = spec.head if spec.sparsity_on == "class_maps" else f"l1 on {spec.sparsity_on}"
        groups[spec.dataset, spec.backbone, method].append(spec)
    published = read_profile(profile).get("sets", {})
    extents = {spec.dataset: _extent(spec, published.get(spec.dataset)) for spec in specs}
    rows = []
    for names, group in groups.items():
        images, classes = extents[group[0].dataset]
        left = [spec for spec in group if not is_finished(spec, runs)]
        speed, measured = _throughput(group[0], classes, runs)
        seconds = [spec.epochs * _used(spec, images) / speed for spec in left] if images else []
        hours = sum(seconds) / 3600 if images or not left else None
        with torch.device("meta"):
            model = build_model(group[0].head, group[0].backbone, classes, group[0].k)
        size = 4 * sum(p.numel() for p in model.parameters())
        disk, peak = size * len(group), 3 * size * KEPT  # weights, and two moments of AdamW
        rows.append(
            Row(*names, len(group), len(group) - len(left), speed, measured, hours, disk, peak)
        )
    return rows


def _extent(spec: RunSpec, published: dict | None) -> tuple[int | None, int]:
    """Return (training images of all folds together, classes)."""
    if published and ("images" in published or is_absent(spec.dataset)):
        return published.get("images"), published["classes"]
    train = run_sets(spec.but(fold=None, train_images=None, image_size=16))["train"]
    return len(train), len(train.class_names)


def _used(spec: RunSpec, images: int) -> int:
    """Return how many images an epoch has."""
    if spec.fold is not None:
        images = images * (spec.folds - 1) // spec.folds
    return min(images, spec.train_images or images)


def _throughput(spec: RunSpec, classes: int, runs: Path | None) -> tuple[float, str]:
    seen = [
        about["history"][-1]["images_per_second"]
        for file in Path(runs or runs_root() / "models").glob("*/spec.json")
        if _alike(spec, about := json.loads(file.read_text()))
    ]
    if seen:
        return statistics.median(seen), f"{len(seen)} finished runs"
    folded = "folded" if classes < PYRAMID_WIDTH else f"{classes} classes"
    name = f"{spec.backbone}-{spec.head}-{spec.image_size}-{folded}-{device().type}"
    file = runs_root() / "throughput.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    if name not in known:
        known[name] = timed(spec, classes)
        write_atomic(file, json.dumps(known, indent=1))
    return known[name], "a few steps"


def _alike(spec: RunSpec, about: dict) -> bool:
    fields = ("backbone", "head", "image_size")
    same = all(about["spec"][name] == getattr(spec, name) for name in fields)
    return same and about["device"] == device().type


def timed(spec: RunSpec, classes: int) -> float:
    """Return images per second of a few training steps on random images."""
    model = speed_up_depthwise(untrained(spec.but(pretrained=False), classes))
    model = model.to(device()).train()
    enough = CPU_PIXELS // spec.image_size**2 if device().type == "cpu" else spec.batch_size
    count = min(spec.batch_size, max(2, enough))
    images = torch.rand(count, 3, spec.image_size, spec.image_size).to(device())
    labels = (torch.arange(count) % classes).to(device())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> None:
        loss_of(model, images, labels, spec)[0].total.backward()

    dtype = faster_dtype(step)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.autocast(device().type, dtype, enabled=dtype != torch.float32):
            step()
        optimizer.step()
        if device().type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return count / min(seconds)


def report(rows: list[Row], machine: str) -> list[str]:
    """Return the rows and their sums as lines of text."""
    columns = "{:<10} {:<18} {:<22} {:>5} {:>5} {:>9} {:>9} {:>6}"
    names = ("data set", "network", "method", "runs", "done", "images/s", "hours", "GB")
    lines = [columns.format(*names)]
    for row in rows:
        hours = "?" if row.hours is None else f"{row.hours:,.1f}"
        cells = (*row[:5], f"{row.speed:,.1f}", hours, f"{row.disk / 1e9:.2f}")
        absent = "; data absent" if is_absent(row.dataset) else ""
        lines.append(f"{columns.format(*cells)}  {row.measured}{absent}")
    unknown = {row.dataset for row in rows if row.hours is None}
    without = f" without {', '.join(sorted(unknown))}" if unknown else ""
    lines.append(
        f"{sum(row.runs for row in rows)} runs, {sum(row.finished for row in rows)} finished; "
        f"{sum(row.hours or 0 for row in rows):,.1f} hours{without}, one after another on {machine}"
    )
    lines.append(
        f"{sum(row.disk for row in rows) / 1e9:.2f} GB in the end, and up to "
        f"{max(row.peak for row in rows) / 1e9:.2f} GB of checkpoints for each run in training"
    )
    return lines
