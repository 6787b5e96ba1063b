"""What a network costs: seconds and memory of a training step and of inference, measured here."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from topgap_nb.metrics.evaluation import device
from topgap_nb.store.cached import cached
from topgap_nb.training.depthwise import speed_up_depthwise
from topgap_nb.training.loop import cpu_threads, init_model, loss_of, make_optimizer
from topgap_nb.training.spec import TrainingSpec

# Few pixels give nearly the throughput of a whole batch on a CPU, in a fraction of the time.
CPU_PIXELS = 4 * 224**2
REPEATS = 3


class StepCost(NamedTuple):
    """What one training step and one inference cost.

    Attributes:
        step: seconds of a training step per image, the shortest of three.
        inference: seconds per image without gradients, the shortest of three.
        kept: bytes per image that the forward pass keeps for the backward pass, parameters aside.
            It depends on the network alone, not on the machine.
        parameters: how many.
    """

    step: float
    inference: float
    kept: int
    parameters: int


def step_cost(spec: TrainingSpec, image_size: int, classes: int) -> StepCost:
    """Return what a network costs on random images; measured once a machine.

    Args:
        spec: the training; its batch is cut to what a CPU needs to show its throughput. Seed,
            epochs and initial weights cost nothing.
        image_size: pixels per side.
        classes: number of classes.
    """
    return _measured(spec.replace(seed=0, epochs=1, pretrained=False), image_size, classes)


@cached(outcome=StepCost)
def _measured(spec: TrainingSpec, image_size: int, classes: int) -> StepCost:
    model = speed_up_depthwise(init_model(spec, classes)).to(device()).train()
    enough = CPU_PIXELS // image_size**2 if device().type == "cpu" else spec.batch_size
    count = min(spec.batch_size, max(2, enough))
    images = torch.rand(count, 3, image_size, image_size).to(device())
    labels = (torch.arange(count) % classes).to(device())
    optimizer = make_optimizer(model, spec)

    def step():
        with torch.autocast(device().type, torch.bfloat16, enabled=spec.precision == "bfloat16"):
            terms, *_ = loss_of(model, images, labels, spec)
        terms.total.backward()
        optimizer.step()

    with cpu_threads(spec.threads):
        # Before anything is timed: the first step also sets the optimizer up.
        kept = _kept_for_backward(model, step)
        in_training = _seconds(step)
        with torch.no_grad():
            model.eval()
            inference = _seconds(lambda: model(images))
    parameters = sum(p.numel() for p in model.parameters())
    return StepCost(in_training / count, inference / count, kept // count, parameters)


def _seconds(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        if device().type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _kept_for_backward(model: nn.Module, work: Callable[[], object]) -> int:
    """Return the bytes of all tensors that autograd saves, each once, without the parameters."""
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    # The storages themselves: an address alone may be used again by a later tensor.
    found = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return sum(storage.nbytes() for storage in found.values())
