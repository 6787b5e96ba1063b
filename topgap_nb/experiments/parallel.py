"""One run over several processes, as ``accelerate launch`` or ``torchrun`` starts them.

A process alone goes through here untouched.

Each process draws the same random numbers, takes every n-th image of each batch, and the gradients
are averaged so that a step is the one that a single process would take on the whole batch. Batch
normalisation takes its statistics over the images of all processes. What is left is the order in
which numbers are added up.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache

import torch
import torch.distributed.nn.functional as across
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn


@cache
def team():
    """Return the ``Accelerator`` of the processes that share this run, or None for one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    from accelerate import Accelerator

    return Accelerator()


def members() -> int:
    """Return how many processes share this run."""
    return team().num_processes if team() else 1


def is_main() -> bool:
    """Return whether this process writes files and progress."""
    return team() is None or team().is_main_process


def main_first():
    """Return a context that the main process goes through before the others."""
    return team().main_process_first() if team() else nullcontext()


@contextmanager
def main_holds(lock) -> Iterator[None]:
    """Hold a lock in the main process; the others go on when it has it, and until it lets go."""
    with lock if is_main() else nullcontext():
        if team():
            team().wait_for_everyone()
        yield
        if team():
            team().wait_for_everyone()


def my_share() -> slice:
    """Return which images of a batch are this process's."""
    return slice(team().process_index, None, members()) if team() else slice(None)


def shared(loss: nn.Module) -> nn.Module:
    """Return a module that computes the loss, its gradients averaged over all processes."""
    if team() is None:
        return loss
    return team().prepare(_with_shared_norms(loss))


def weighted(loss: Tensor, mine: int, whole: int) -> Tensor:
    """Return the mean over this process's images so scaled that the processes' average is right."""
    return loss if team() is None else loss * (mine * members() / whole)


def summed(values: list[float]) -> list[float]:
    """Return the sums of numbers over all processes."""
    if team() is None:
        return values
    mine = torch.tensor(values, dtype=torch.float64, device=team().device)
    return team().reduce(mine, "sum").tolist()


class _SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the images of all processes, in training, on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        count = across.all_reduce(x.new_tensor(x.numel() / x.shape[1], dtype=torch.float32))
        mean = across.all_reduce(x.float().sum((0, 2, 3))) / count
        centred = x.float() - mean[:, None, None]
        variance = across.all_reduce(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        out = (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)
        # timm's layers have an activation of their own.
        return self.act(self.drop(out)) if hasattr(self, "act") else out


def _with_shared_norms(module: nn.Module) -> nn.Module:
    if team().device.type == "cuda":
        return convert_sync_batchnorm(module)
    # torch's own SyncBatchNorm runs on GPUs only.
    for part in module.modules():
        if type(part) in (nn.BatchNorm2d, BatchNormAct2d):
            part.__class__ = _SharedBatchNorm
    return module
