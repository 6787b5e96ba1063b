"""What a grid will cost, from measured throughput: hours on this machine, and disk."""

from collections import defaultdict
from typing import NamedTuple

import torch

from topgap_nb.cluster.grid import Run, fault_of, state_of
from topgap_nb.data.registry import is_absent
from topgap_nb.errors import UserError
from topgap_nb.method.model import build_model
from topgap_nb.training.checkpoints import MAX_CHECKPOINTS
from topgap_nb.training.cost import step_cost
from topgap_nb.training.profile import Profile


class Cost(NamedTuple):
    """What the runs of one data set, network and method cost.

    ``hours`` are those of the runs not stored, one after another, or None where the number of
    images is not known; ``speed`` is in images/s; ``disk`` is the bytes of all networks, ``peak``
    those of the checkpoints while one trains; ``note`` says what is wrong with the data.
    """

    dataset: str
    backbone: str
    method: str
    runs: int
    stored: int
    speed: float
    hours: float | None
    disk: int
    peak: int
    note: str


def predict_cost(profile: Profile, runs: list[Run]) -> list[Cost]:
    """Return what runs cost, by data set, network and method, from a few steps timed here.

    Args:
        profile: where the runs are from; its ``sets`` give the number of training images and
            classes of data sets that are absent.
        runs: see ``grid_of``.
    """
    groups = defaultdict(list)
    for run in runs:
        spec = run.spec
        method = spec.head if spec.sparsity_on == "class_maps" else f"l1 on {spec.sparsity_on}"
        groups[run.dataset, spec.backbone, method].append(run)
    extents = {name: _extent(profile, run) for name, run in {r.dataset: r for r in runs}.items()}
    rows = []
    for names, group in groups.items():
        images, classes, note = extents[names[0]]
        states = [(False, note)] * len(group) if note else [state_of(run) for run in group]
        todo = [run for run, (stored, _) in zip(group, states, strict=True) if not stored]
        note = next((fault for _, fault in states if fault), "")
        spec = group[0].spec
        speed = 1 / step_cost(spec, group[0].data["image_size"], classes).step
        seconds = [run.spec.epochs * _epoch_images(run, images) / speed for run in todo if images]
        hours = sum(seconds) / 3600 if images or not todo else None
        with torch.device("meta"):
            model = build_model(spec.head, spec.backbone, classes, spec.k)
        size = 4 * sum(p.numel() for p in model.parameters())
        # A checkpoint holds the weights and two moments of AdamW; one more stands while it is
        # written.
        disk, peak = size * len(group), 3 * size * (MAX_CHECKPOINTS + 1)
        rows.append(
            Cost(*names, len(group), len(group) - len(todo), speed, hours, disk, peak, note)
        )
    return rows


def _extent(profile: Profile, run: Run) -> tuple[int | None, int, str]:
    """Return (training images of all folds together, classes, what is wrong with the data)."""
    published = profile.sets.get(run.dataset, {})
    try:
        if is_absent(run.dataset):
            raise UserError("data absent")
        whole = {"fold": None, "train_images": None}
        train = run._replace(data={**run.data, **whole}).open().train
        return published.get("images", len(train)), len(train.class_names), ""
    except Exception as error:
        # As in ``state_of``: the others are estimated.
        return published.get("images"), published.get("classes", 10), fault_of(error)


def _epoch_images(run: Run, images: int) -> int:
    if run.data.get("fold") is not None:
        folds = run.data.get("folds", 5)
        images = images * (folds - 1) // folds
    return min(images, run.data.get("train_images") or images)


def cost_report(rows: list[Cost], machine: str) -> list[str]:
    """Return costs and their sums as lines of text."""
    columns = "{:<10} {:<18} {:<22} {:>5} {:>6} {:>9} {:>9} {:>6}"
    names = ("data set", "network", "method", "runs", "stored", "images/s", "hours", "GB")
    lines = [columns.format(*names)]
    for row in rows:
        hours = "?" if row.hours is None else f"{row.hours:,.1f}"
        cells = (*row[:5], f"{row.speed:,.1f}", hours, f"{row.disk / 1e9:.2f}")
        lines.append(f"{columns.format(*cells)}  {row.note}".rstrip())
    unknown = {row.dataset for row in rows if row.hours is None}
    without = f" without {', '.join(sorted(unknown))}" if unknown else ""
    lines.append(
        f"{sum(row.runs for row in rows)} runs, {sum(row.stored for row in rows)} stored; "
        f"{sum(row.hours or 0 for row in rows):,.1f} hours{without}, one after another on {machine}"
    )
    lines.append(
        f"{sum(row.disk for row in rows) / 1e9:.2f} GB in the end, and up to "
        f"{max(row.peak for row in rows) / 1e9:.2f} GB of checkpoints for each run in training"
    )
    return lines
