"""One training over several GPUs, as ``accelerate launch`` or ``torchrun`` starts its processes.

A single process passes through here unchanged.

Each process draws the same random numbers, takes every n-th image of each batch, and the gradients
are averaged so that a step is the one that a single process would take on the whole batch. Batch
normalisation takes its statistics over the images of all processes, which torch does on GPUs only.
What remains is the order in which numbers are added up.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from topgap_nb.errors import UserError


@cache
def accelerator():
    """Return the ``Accelerator`` of the processes that share this run, or None for one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    from accelerate import Accelerator

    return Accelerator()


def world_size() -> int:
    """Return how many processes share this run."""
    return accelerator().num_processes if accelerator() else 1


def is_main() -> bool:
    """Return whether this process writes files and progress."""
    return accelerator() is None or accelerator().is_main_process


def main_first():
    """Return a context that the main process goes through before the others."""
    return accelerator().main_process_first() if accelerator() else nullcontext()


@contextmanager
def main_holds(lock) -> Iterator[None]:
    """Hold a lock in the main process; the others go on when it has it, and until it lets go."""
    with lock if is_main() else nullcontext():
        if accelerator():
            accelerator().wait_for_everyone()
        yield
        if accelerator():
            accelerator().wait_for_everyone()


def rank_slice() -> slice:
    """Return which images of a batch are this process's."""
    return slice(accelerator().process_index, None, world_size()) if accelerator() else slice(None)


def wrap_loss(loss: nn.Module) -> nn.Module:
    """Return a module that computes the loss, its gradients averaged over all processes."""
    if accelerator() is None:
        return loss
    if accelerator().device.type == "cuda":
        loss = convert_sync_batchnorm(loss)
    elif any(isinstance(module, nn.BatchNorm2d) for module in loss.modules()):
        raise UserError(
            "batch normalisation over several processes needs GPUs: train this network in one "
            "process, or several trainings side by side"
        )
    return accelerator().prepare(loss)


def weigh_loss(loss: Tensor, mine: int, whole: int) -> Tensor:
    """Return the mean over this process's images so scaled that the processes' average is right."""
    return loss if accelerator() is None else loss * (mine * world_size() / whole)


def all_reduce_sum(values: list[float]) -> list[float]:
    """Return the sums of numbers over all processes."""
    if accelerator() is None:
        return values
    mine = torch.tensor(values, dtype=torch.float64, device=accelerator().device)
    return accelerator().reduce(mine, "sum").tolist()
