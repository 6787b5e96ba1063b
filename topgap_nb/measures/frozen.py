"""Measuring must not change what is measured."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from topgap_nb.device import device


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model in evaluation mode without parameter gradients; put everything back after.

    Leaving out parameter gradients also makes an input gradient cost about half.
    """
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield model.eval().requires_grad_(False)
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, want in wanted:
            parameter.requires_grad_(want)


@contextmanager
def measured(*models: nn.Module) -> Iterator[torch.device]:
    """``frozen``, and moved to the GPU where there is one; yields the device to move images to.

    A model that lies on some GPU already stays there.
    """
    homes = [next(model.parameters(), torch.empty(0)).device for model in models]
    place = next((home for home in homes if home.type != "cpu"), device())
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(frozen(model))
        try:
            for model in models:
                model.to(place)
            yield place
        finally:
            # Networks that share weights were all where the first one was.
            for model, home in zip(models, homes, strict=True):
                model.to(home)
