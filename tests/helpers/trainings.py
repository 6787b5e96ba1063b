"""A tiny training, and ways to interrupt it, for the tests of training and of grids."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from topgap_nb.data.image_set import Splits
from topgap_nb.data.registry import open_dataset
from topgap_nb.training.loop import TrainedNetwork
from topgap_nb.training.spec import TrainingSpec

TINY = TrainingSpec(
    backbone="test_efficientnet",
    k=3,
    sparsity_weight=0.5,
    epochs=3,
    batch_size=16,
    pretrained=False,
)
# Steps of one epoch: 48 images in batches of 16.
STEPS = 3
same_bytes = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the same bytes are promised on a CPU: hide the GPU"
)


class Interrupted(Exception):
    pass


def tiny_data(**changes) -> Splits:
    return open_dataset("planted", 32, **{"images": 48, "classes": 4, **changes})


def weights_of(network: TrainedNetwork | Path) -> bytes:
    folder = network.folder if isinstance(network, TrainedNetwork) else network
    return (folder / "model.safetensors").read_bytes()


@contextmanager
def at_step(count: int, act: Callable) -> Iterator[list]:
    """Let ``count`` optimizer steps pass and call ``act(optimizer)`` before the next one.

    Yields a list that grows by one with each step.
    """
    steps = []

    def before_step(optimizer, args, kwargs):
        if len(steps) == count:
            act(optimizer)
        steps.append(optimizer)

    handle = register_optimizer_step_pre_hook(before_step)
    try:
        yield steps
    finally:
        handle.remove()


def counted_steps():
    """Yield a list that grows by one with each optimizer step."""
    return at_step(-1, lambda optimizer: None)


def stop(optimizer):
    raise Interrupted


def flip_a_byte(path: Path, where: int = -40) -> None:
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
