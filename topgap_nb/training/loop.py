"""One training: from a specification and images to a network, once.

``train_or_load(spec, data)`` trains only if the store holds no network of the same specification,
images and code. It writes a checkpoint after every epoch and resumes from the last good one. All
randomness is drawn from (seed, epoch) and the learning rate is a function of the step, so a
checkpoint needs only weights and optimizer state, and a resumed training ends with the same
weights, bit for bit on a CPU.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from topgap_nb.data.image_set import Splits
from topgap_nb.errors import Diverged, UserError
from topgap_nb.method.backbones import check_backbone
from topgap_nb.method.loss import LossTerms, sparsity_loss, top_gap_loss
from topgap_nb.method.model import MapClassifier, build_model
from topgap_nb.metrics.evaluation import device
from topgap_nb.store import store
from topgap_nb.store.fingerprint import code_fingerprint
from topgap_nb.store.machine import hardware, versions
from topgap_nb.training import processes
from topgap_nb.training.adversarial import attacked
from topgap_nb.training.augment import augment, augmentation_noise
from topgap_nb.training.batches import batch_iterator
from topgap_nb.training.checkpoints import checkpoints_in, resume, save_checkpoint
from topgap_nb.training.depthwise import speed_up_depthwise
from topgap_nb.training.spec import TrainingSpec

WARM_UP = 0.2
# A position counts as empty below this share of its map's largest value.
NEAR_ZERO = 0.05


class TrainedNetwork(NamedTuple):
    """A finished training.

    Attributes:
        spec: what was trained.
        model: the network, in evaluation mode, on the CPU.
        history: one row per epoch, means over its images: cross_entropy and sparsity (the terms of
            Equation 1), accuracy, mean_abs (of the class maps), map_l1 (mean of the true class's
            map after min-max scaling), empty (share of that map's positions within a twentieth of
            its largest value from zero); and images_per_second.
        folder: where it is kept.
    """

    spec: TrainingSpec
    model: MapClassifier
    history: pd.DataFrame
    folder: Path


class _Stored(NamedTuple):
    """What the store keeps of a training."""

    weights: dict[str, Tensor]
    history: list[dict]
    classes: int
    spec: dict


def _write(network: _Stored, folder: Path) -> None:
    save_file({n: t.contiguous() for n, t in network.weights.items()}, folder / "model.safetensors")
    about = {"spec": network.spec, "classes": network.classes, "history": network.history}
    (folder / "network.json").write_text(json.dumps({**about, "machine": hardware()}, indent=1))


def _read(folder: Path) -> _Stored:
    about = json.loads((folder / "network.json").read_text())
    weights = load_file(folder / "model.safetensors")
    return _Stored(weights, about["history"], about["classes"], about["spec"])


NETWORKS = store.Kind("networks", _write, _read)


def network_key(spec: TrainingSpec, data: Splits) -> dict:
    """Return everything that the weights of a training depend on."""
    return {
        "spec": asdict(spec),
        "data": data.fingerprint,
        # The specification's own module holds names and checks of values that are in the key; what
        # is refused decides no weight.
        "code": code_fingerprint(__name__, without=(TrainingSpec.__module__, "topgap_nb.inputs")),
        "versions": {name: versions()[name] for name in ("torch", "timm")},
    }


def network_folder(spec: TrainingSpec, data: Splits) -> Path:
    """Return where the network of a training is kept, whether it is there or not."""
    return store.entry_of(NETWORKS, data.name, network_key(spec, data))


def init_model(spec: TrainingSpec, num_classes: int) -> MapClassifier:
    """Return the network of a specification before its first step, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        model = build_model(spec.head, spec.backbone, num_classes, spec.k, spec.pretrained)
    if spec.head == "standard" and not (
        spec.pretrained and num_classes == model.net.pretrained_cfg["num_classes"]
    ):
        # timm's start for a new classifier gives large random logits. Ours starts at zero, so the
        # baseline gets the same good start.
        for parameter in model.net.get_classifier().parameters():
            torch.nn.init.zeros_(parameter)
    return model.to(memory_format=torch.channels_last)


def train_or_load(spec: TrainingSpec, data: Splits, quiet: bool = False) -> TrainedNetwork:
    """Return the network of a specification, trained on ``data.train`` unless it is stored.

    Two processes that ask for the same training do it once: the second waits. A damaged network is
    set aside and trained again; a damaged checkpoint is set aside and the one before is taken.

    Args:
        spec: how to train.
        data: what to train on; see ``open_dataset``. An exchanged training split
            (``data.replace(train=...)``) is another training.
        quiet: no progress bar.

    Raises:
        Diverged: the loss became NaN or infinite; names the step and the last good checkpoint.
        UserError: the specification names a backbone, ... that does not exist.
    """
    check_backbone(spec.backbone)
    key = network_key(spec, data)
    folder = store.entry_of(NETWORKS, data.name, key)

    def make(partial: Path) -> _Stored:
        return _train(spec, data, partial, quiet or not processes.is_main())

    if processes.world_size() == 1:
        stored = store.get_or_make(NETWORKS, data.name, key, make)
    else:
        with processes.main_holds(store.locked(folder)):
            with processes.main_first():
                stored = store.look_up(NETWORKS, folder)
            if stored is store.MISSING:
                stored = make(store.partial_of(folder))
                if processes.is_main():
                    store.keep(NETWORKS, folder, key, stored)
    # The weights are about to be replaced, so pretrained ones need not be loaded first.
    model = init_model(spec.replace(pretrained=False), stored.classes)
    model.load_state_dict(stored.weights)
    history = pd.DataFrame(stored.history).set_index("epoch")
    return TrainedNetwork(spec, model.eval().requires_grad_(False), history, folder)


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Compute with so many CPU threads, 0 for all."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(spec: TrainingSpec, data: Splits, folder: Path, quiet: bool) -> _Stored:
    train, title = data.train, f"{data.name} {spec.title}"
    if len(train) < 2:
        raise UserError(f"{data.name} has {len(train)} training images: a training needs two")
    if 0 < len(train) % spec.batch_size < processes.world_size():
        raise UserError(
            f"the last batch, of {len(train) % spec.batch_size}, cannot be shared by "
            f"{processes.world_size()} processes: choose another batch_size than {spec.batch_size}"
        )
    model = speed_up_depthwise(init_model(spec, data.num_classes)).to(device())
    optimizer = make_optimizer(model, spec)
    batches, mine = batch_iterator(train, device()), processes.rank_slice()
    with processes.main_first():
        start, history = resume(folder, model, optimizer)
    loss = processes.wrap_loss(_Loss(model, spec))
    steps = len(_batches(torch.arange(len(train)), spec.batch_size))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)]
    low_precision = spec.precision == "bfloat16"
    bar = tqdm(
        total=spec.epochs * len(train), initial=start * len(train), desc=title, unit="img",
        disable=quiet, leave=False, mininterval=2,
    )  # fmt: skip
    with bar, cpu_threads(spec.threads):
        for epoch in range(start, spec.epochs):
            generator = torch.Generator().manual_seed(spec.seed * 10_007 + epoch)
            torch.manual_seed(spec.seed * 10_007 + epoch)
            order = _batches(torch.randperm(len(train), generator=generator), spec.batch_size)
            means, model = _EpochMeans(), model.train()
            for step, (images, labels) in enumerate(batches([index[mine] for index in order])):
                progress = (epoch * steps + step) / (spec.epochs * steps)
                factor = lr_schedule(progress)
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * factor
                for norm in norms:
                    # Small batches make noisy statistics: as the weights settle, the running means
                    # are taken over ever more batches, from about 10 to 50.
                    norm.momentum = 0.02 + 0.08 * factor
                whole = len(order[step])
                noise = augmentation_noise(whole, generator)[:, mine]
                images = augment(images, spec.augmentation, noise)
                if spec.adversarial_epsilon:
                    images = attacked(model, images, labels, spec.adversarial_epsilon, generator)
                with torch.autocast(device().type, torch.bfloat16, enabled=low_precision):
                    terms, logits, maps = loss(images, labels, progress)
                if not torch.isfinite(terms.total):
                    raise _diverged(title, spec, folder, "the loss is not finite", step, epoch)
                optimizer.zero_grad()
                processes.weigh_loss(terms.total, len(labels), whole).backward()
                optimizer.step()
                means.add(terms, logits, maps, labels)
                bar.update(whole)
                bar.set_postfix_str(str(means), refresh=False)
            if not all(torch.isfinite(p).all() for p in model.parameters()):
                raise _diverged(title, spec, folder, "weights are not finite", steps - 1, epoch)
            history.append({"epoch": epoch + 1, **means.over_processes().values()})
            if processes.is_main():
                save_checkpoint(folder, epoch + 1, model, optimizer, history)
    return _Stored(model.state_dict(), history, data.num_classes, asdict(spec))


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """Return an order of images as batches; batch normalisation cannot learn from one image."""
    batches = list(order.split(size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _diverged(title: str, spec: TrainingSpec, folder: Path, what: str, step: int, epoch: int):
    good = checkpoints_in(folder)
    return Diverged(
        f"{title}: {what} at step {step} of epoch {epoch + 1}; the last good checkpoint is "
        f"{good[-1] if good else 'none'}. Lower lr ({spec.lr}) or sparsity_weight "
        f"({spec.sparsity_weight})"
    )


def loss_of(
    model: MapClassifier, images: Tensor, labels: Tensor, spec: TrainingSpec, progress: float = 1.0
) -> tuple[LossTerms, Tensor, Tensor]:
    """Return the loss terms, the logits and the class maps of a batch, from one forward pass.

    ``spec.sparsity_on`` says what the l1 term is taken on: the class maps (the paper's method), or,
    in its ablations (Tables A5 to A7), the last feature map or all of the backbone's. Networks
    without class maps have their logits in place of them, and no l1 term.

    Args:
        model, spec: a network and how it is trained.
        images: (N, 3, H, W) in [0, 1].
        labels: (N,).
        progress: the share of training that is done, for ``sparsity_ramp``.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    weight, reduction = sparsity_weight_at(spec, progress), spec.sparsity_reduction
    if spec.sparsity_on == "class_maps":
        if model.pool is None:
            logits = model(images)
            maps = logits[..., None, None]
            return top_gap_loss(logits, maps, labels, 0.0), logits, maps
        maps = model.class_maps(images)
        logits = model.pool(maps)
        return top_gap_loss(logits, maps, labels, weight, reduction), logits, maps
    features = model.features(images)
    maps = model.maps_of(features[-1])
    logits = model.pool(maps)
    penalised = features if spec.sparsity_on == "all_features" else features[-1:]
    norm = sum(sparsity_loss(values, reduction) for values in penalised) / len(penalised)
    terms = top_gap_loss(logits, features[-1], labels, weight)
    return terms._replace(sparsity=norm), logits, maps


def sparsity_weight_at(spec: TrainingSpec, progress: float) -> float:
    """Return lambda at a share of training: 0, then up along a line, as ``sparsity_ramp`` says."""
    if progress >= spec.sparsity_ramp:
        return spec.sparsity_weight
    return spec.sparsity_weight * max(0.0, 2 * progress / spec.sparsity_ramp - 1)


class _Loss(nn.Module):
    """``loss_of`` as a module, since only a module's gradients can be shared by processes."""

    def __init__(self, model: MapClassifier, spec: TrainingSpec):
        super().__init__()
        self.model, self.spec = model, spec

    def forward(
        self, images: Tensor, labels: Tensor, progress: float
    ) -> tuple[LossTerms, Tensor, Tensor]:
        return loss_of(self.model, images, labels, self.spec, progress)


def lr_schedule(progress: float) -> float:
    """Return the factor of the peak learning rate at a share of training.

    Up along a line over the first fifth, then down along a cosine to 0.
    """
    if progress < WARM_UP:
        return 0.04 + 0.96 * progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def make_optimizer(model: MapClassifier, spec: TrainingSpec) -> torch.optim.Optimizer:
    """Return the optimizer, with the new classifier, or pyramid head, at its own rate."""
    new = model.head if spec.head == "topgap" else model.net.get_classifier()
    fresh = set(new.parameters())
    groups = [
        {"params": [p for p in model.parameters() if p not in fresh], "peak": spec.lr},
        {"params": [p for p in model.parameters() if p in fresh], "peak": spec.head_lr},
    ]
    decay = {"lr": 0.0, "weight_decay": spec.weight_decay}
    if spec.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True, **decay)
    return torch.optim.AdamW(groups, **decay)


class _EpochMeans:
    """Means over the images of the current epoch, and the throughput."""

    def __init__(self):
        self.images, self.start, self.sums = 0, time.perf_counter(), {}

    @torch.no_grad()
    def add(self, terms: LossTerms, logits: Tensor, maps: Tensor, labels: Tensor) -> None:
        count = len(labels)
        self.images += count
        means = {
            "cross_entropy": terms.cross_entropy,
            "sparsity": terms.sparsity,
            "accuracy": (logits.argmax(1) == labels).float().mean(),
            "mean_abs": maps.abs().mean(),
        }
        true = maps[torch.arange(count, device=maps.device), labels].flatten(1).float()
        low, high = true.aminmax(dim=1, keepdim=True)
        means["map_l1"] = ((true - low) / (high - low).clamp(min=1e-12)).mean()
        empty = true.abs() <= NEAR_ZERO * true.abs().amax(1, keepdim=True)
        means["empty"] = empty.float().mean()
        for name, mean in means.items():
            self.sums[name] = self.sums.get(name, 0.0) + count * mean.item()

    def over_processes(self) -> "_EpochMeans":
        """Return the means over the images of all processes."""
        self.images, *sums = processes.all_reduce_sum([self.images, *self.sums.values()])
        self.sums = dict(zip(self.sums, sums, strict=True))
        return self

    def values(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.start
        means = {name: total / self.images for name, total in self.sums.items()}
        return {**means, "images_per_second": self.images / seconds}

    def __str__(self) -> str:
        loss, l1, accuracy = list(self.values().values())[:3]
        return f"loss {loss:.3f}, l1 {l1:.3f}, accuracy {accuracy:.3f}"
