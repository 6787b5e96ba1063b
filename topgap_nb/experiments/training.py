"""One run: from a specification to a trained network, once.

``trained(spec)`` returns the network of a ``RunSpec``. It trains only if no finished run with that
specification exists, writes a checkpoint after every epoch, and goes on from the last good one
after an interruption. All randomness is drawn from (seed, epoch) and the learning rate is a
function of the step, so a checkpoint needs only weights and optimizer state, and a resumed run
ends with the same weights, bit for bit on a CPU.
"""

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm.auto import tqdm

from topgap_nb.data import ImageSet, check_dataset, open_dataset
from topgap_nb.data.augment import augment, draws_for
from topgap_nb.data.batches import feeder
from topgap_nb.device import device
from topgap_nb.errors import UserError
from topgap_nb.experiments import checkpoints, parallel
from topgap_nb.experiments.depthwise import speed_up_depthwise
from topgap_nb.experiments.precision import run_dtype
from topgap_nb.experiments.spec import RunSpec
from topgap_nb.method.loss import LossTerms, sparsity_loss, top_gap_loss
from topgap_nb.method.model import MapClassifier, build_model
from topgap_nb.method.weights import check_backbone


class Diverged(ArithmeticError):
    """The loss is no longer a finite number."""


class Trained(NamedTuple):
    """A finished run: its network in evaluation mode, and what training it showed."""

    spec: RunSpec
    model: MapClassifier
    history: list[dict]
    folder: Path


def run_sets(spec: RunSpec) -> dict[str, ImageSet]:
    """Return the run's ``train`` and ``select`` sets: the data set's own, or fold by fold."""
    train = open_dataset(spec.dataset, "train", spec.image_size, **spec.options)
    select = open_dataset(spec.dataset, "select", spec.image_size, **spec.options)
    if spec.fold is not None:
        train, select = fold_of(train, spec.fold, spec.folds)
    if spec.train_images is not None:
        train = train.sample(spec.train_images)
    return {"train": train, "select": select}


def fold_of(images: ImageSet, fold: int, folds: int) -> tuple[ImageSet, ImageSet]:
    """Return (rest, held-out fold): stratified by class, never splitting a unit (a patient).

    Raises:
        UserError: a class has fewer images than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    sizes = images.labels.bincount(minlength=len(images.class_names))
    if sizes.min() < folds:
        raise UserError(
            f"class {images.class_names[sizes.argmin()]!r} of {images.name!r} has {sizes.min()} "
            f"training images, fewer than the {folds} folds: leave out small classes (the option "
            "min_samples), or use fewer folds"
        )
    units = images.units or images.ids
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=0)
    rest, held_out = list(splitter.split(images.labels, images.labels, units))[fold]
    return images.subset(rest), images.subset(held_out)


def untrained(spec: RunSpec, classes: int) -> MapClassifier:
    """Return the network of a specification before its first step, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        model = build_model(spec.head, spec.backbone, classes, spec.k, spec.pretrained)
    if spec.head == "standard" and not (
        spec.pretrained and classes == model.net.pretrained_cfg["num_classes"]
    ):
        # timm's start for a new classifier gives large random logits. Ours starts at zero, so the
        # baseline gets the same good start.
        for parameter in model.net.get_classifier().parameters():
            torch.nn.init.zeros_(parameter)
    return model.to(memory_format=torch.channels_last)


def trained(spec: RunSpec, runs: Path | str | None = None, quiet: bool = False) -> Trained:
    """Return the network of ``spec``, on the CPU, training it only if no finished run exists.

    Two processes that ask for the same run at once train it once: the second waits. A damaged
    checkpoint is set aside with a warning, and the run goes on from the one before.

    Args:
        spec: what to train.
        runs: folder of all runs; ``runs/models`` of the project, or ``$TOPGAP_RUNS``, by default.
        quiet: no progress bar.

    Raises:
        Diverged: the loss became NaN or infinite; names the step and the last good checkpoint.
        UserError: the specification names a data set, backbone, ... that does not exist.
    """
    # A mistyped name must not leave an empty run behind.
    check_dataset(spec.dataset)
    check_backbone(spec.backbone)
    folder = checkpoints.run_folder(spec, runs)
    folder.mkdir(parents=True, exist_ok=True)
    quiet = quiet or not parallel.is_main()
    with parallel.main_holds(_lock(folder, spec.title, quiet)):
        with parallel.main_first():
            done = checkpoints.read_finished(folder)
        if done is None:
            done = _train(spec, folder, quiet)
    weights, history, classes = done
    # The weights are about to be replaced, so pretrained ones need not be loaded first.
    model = untrained(spec.but(pretrained=False), classes)
    model.load_state_dict(weights)
    return Trained(spec, model.eval().requires_grad_(False), history, folder)


@contextmanager
def _lock(folder: Path, title: str, quiet: bool) -> Iterator[None]:
    """Hold a run's folder; say so when another process holds it."""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        if not quiet:
            tqdm.write(f"{title}: another process is training it; waiting for its result")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _train(spec: RunSpec, folder: Path, quiet: bool) -> tuple[dict, list[dict], int]:
    sets = run_sets(spec)
    train = sets["train"]
    classes = len(train.class_names)
    model = speed_up_depthwise(untrained(spec, classes)).to(device())
    optimizer = _optimizer(model, spec)
    feed, mine = feeder(train, device()), parallel.my_share()
    if 0 < len(train) % spec.batch_size < parallel.members():
        raise UserError(
            f"the last batch, of {len(train) % spec.batch_size}, cannot be shared by "
            f"{parallel.members()} processes: choose another batch_size than {spec.batch_size}"
        )
    with parallel.main_first():
        start, history = checkpoints.resume(folder, model, optimizer)
        trial = copy.deepcopy(model).train()
        (first,) = feed([torch.arange(min(spec.batch_size, len(train)))])
        kind = f"{spec.backbone}-{spec.image_size}"
        dtype = run_dtype(folder, kind, lambda: loss_of(trial, *first, spec)[0].total.backward())
    loss = parallel.shared(_Loss(model, spec))
    steps = math.ceil(len(train) / spec.batch_size)
    norms = [
        m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d | torch.nn.SyncBatchNorm)
    ]
    if not quiet:
        with torch.autocast(device().type, dtype, enabled=dtype != torch.float32):
            seconds = _seconds(lambda: loss_of(trial, *first, spec)[0].total.backward())
        left = spec.epochs - start
        processes = f", {parallel.members()} processes" if parallel.members() > 1 else ""
        tqdm.write(
            f"{spec.title}: training on {device()} in {str(dtype).removeprefix('torch.')}"
            f"{processes}, {left} × {len(train)} images, about "
            f"{seconds * steps * left / parallel.members() / 60:.1f} min"
        )
    bar = tqdm(
        total=spec.epochs * len(train), initial=start * len(train), desc=spec.title, unit="img",
        disable=quiet, leave=False, mininterval=2,
    )  # fmt: skip
    with bar:
        for epoch in range(start, spec.epochs):
            generator = torch.Generator().manual_seed(spec.seed * 10_007 + epoch)
            torch.manual_seed(spec.seed * 10_007 + epoch)
            order = torch.randperm(len(train), generator=generator).split(spec.batch_size)
            seen, model = _Running(), model.train()
            for step, (images, labels) in enumerate(feed([index[mine] for index in order])):
                progress = (epoch * steps + step) / (spec.epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * rate(progress)
                for norm in norms:
                    # Small batches make noisy statistics: as the weights settle, the running means
                    # are taken over ever more batches, from about 10 to 50.
                    norm.momentum = 0.02 + 0.08 * rate(progress)
                whole = len(order[step])
                images = augment(images, spec.augmentation, draws_for(whole, generator)[:, mine])
                with torch.autocast(device().type, dtype, enabled=dtype != torch.float32):
                    terms, logits = loss(images, labels)
                if not torch.isfinite(terms.total):
                    raise _diverged(spec, folder, f"the loss is {terms.total.item()}", step, epoch)
                optimizer.zero_grad()
                parallel.weighted(terms.total, len(labels), whole).backward()
                optimizer.step()
                seen.add(terms, logits, labels)
                bar.update(whole)
                bar.set_postfix_str(seen.words(), refresh=False)
            if not all(torch.isfinite(p).all() for p in model.parameters()):
                raise _diverged(spec, folder, "weights are not finite", steps - 1, epoch)
            history.append({"epoch": epoch + 1, **seen.of_all().means()})
            if parallel.is_main():
                checkpoints.write(folder, epoch + 1, model, optimizer, history)
    if parallel.is_main():
        checkpoints.finish(folder, spec, model, history, classes)
    return model.state_dict(), history, classes


def _diverged(spec: RunSpec, folder: Path, what: str, step: int, epoch: int) -> Diverged:
    return Diverged(
        f"{spec.title}: {what} at step {step} of epoch {epoch + 1}; the last good checkpoint is "
        f"{checkpoints.latest(folder) or 'none'}. Lower learning_rate ({spec.learning_rate}) or "
        f"sparsity_weight ({spec.sparsity_weight})"
    )


def _seconds(step: Callable[[], None]) -> float:
    """Return how long a step takes, once it is warm."""
    step()
    start = time.perf_counter()
    step()
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def loss_of(
    model: MapClassifier, images: Tensor, labels: Tensor, spec: RunSpec
) -> tuple[LossTerms, Tensor]:
    """Return the loss terms and the logits of a batch, from one forward pass.

    ``spec.sparsity_on`` says what the l1 term is taken on: the class maps (the paper's method), or,
    as in its ablations (Tables A5 to A7), the last feature map or all of the backbone's.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    if spec.sparsity_on == "class_maps":
        if model.pool is None:
            logits = model(images)
            return top_gap_loss(logits, logits[..., None, None], labels, 0.0), logits
        maps = model.class_maps(images)
        logits = model.pool(maps)
        return (
            top_gap_loss(logits, maps, labels, spec.sparsity_weight, spec.sparsity_reduction),
            logits,
        )
    features = model.features(images)
    logits = model.pool(model.maps_of(features[-1]))
    chosen = features if spec.sparsity_on == "all_features" else features[-1:]
    norm = sum(sparsity_loss(f, spec.sparsity_reduction) for f in chosen) / len(chosen)
    terms = top_gap_loss(logits, features[-1], labels, spec.sparsity_weight)
    return terms._replace(sparsity=norm), logits


class _Loss(torch.nn.Module):
    """``loss_of`` as a module, since only a module's gradients can be shared by processes."""

    def __init__(self, model: MapClassifier, spec: RunSpec):
        super().__init__()
        self.model, self.spec = model, spec

    def forward(self, images: Tensor, labels: Tensor) -> tuple[LossTerms, Tensor]:
        return loss_of(self.model, images, labels, self.spec)


def rate(progress: float) -> float:
    """Return the learning rate at a share of training: up over a fifth, then down a cosine."""
    warm = 0.2
    if progress < warm:
        return 0.04 + 0.96 * progress / warm
    return 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))


def _optimizer(model: MapClassifier, spec: RunSpec) -> torch.optim.Optimizer:
    """Return the optimizer, with the new classifier, or pyramid head, at its own rate."""
    new = model.head if spec.head == "topgap" else model.net.get_classifier()
    fresh = set(new.parameters())
    groups = [
        {"params": [p for p in model.parameters() if p not in fresh], "peak": spec.learning_rate},
        {"params": [p for p in model.parameters() if p in fresh], "peak": spec.head_rate},
    ]
    if spec.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=0.0, momentum=0.9, nesterov=True, weight_decay=spec.weight_decay
        )
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=spec.weight_decay)


class _Running:
    """Means of the current epoch, and the throughput."""

    def __init__(self):
        self.images, self.start = 0, time.perf_counter()
        self.sums = {"cross_entropy": 0.0, "sparsity": 0.0, "accuracy": 0.0}

    def add(self, terms: LossTerms, logits: Tensor, labels: Tensor) -> None:
        count = len(labels)
        self.images += count
        right = (logits.argmax(1) == labels).float().mean()
        values = (terms.cross_entropy, terms.sparsity, right)
        for name, value in zip(self.sums, values, strict=True):
            self.sums[name] += count * value.item()

    def of_all(self) -> "_Running":
        """Return the sums over all processes in place of this one's."""
        self.images, *sums = parallel.summed([self.images, *self.sums.values()])
        self.sums = dict(zip(self.sums, sums, strict=True))
        return self

    def means(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.start
        means = {name: total / self.images for name, total in self.sums.items()}
        return {**means, "images_per_second": self.images / seconds}

    def words(self) -> str:
        m = self.means()
        return (
            f"loss {m['cross_entropy']:.3f}, l1 {m['sparsity']:.3f}, accuracy {m['accuracy']:.3f}"
        )


def history_table(run: Trained):
    """Return the epochs of a run as a data frame: loss terms, accuracy, images per second."""
    import pandas as pd

    return pd.DataFrame(run.history).set_index("epoch")


def spec_of(folder: Path) -> RunSpec:
    """Return the specification that a run folder was made from."""
    return RunSpec(**json.loads((folder / "spec.json").read_text())["spec"])
