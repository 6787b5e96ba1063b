"""Measuring must not change what is measured."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


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
