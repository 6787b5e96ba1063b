"""Where networks are measured, and in which state: evaluation mode, on the GPU where there is one.

Everything is put back afterwards, so that measuring changes no network.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from topgap_nb.method.model import frozen


def device() -> torch.device:
    """Return the device to train and to measure on: the GPU, if not ``accelerate launch --cpu``."""
    off = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return torch.device("cuda" if torch.cuda.is_available() and not off else "cpu")


@contextmanager
def eval_on_device(*models: nn.Module) -> Iterator[torch.device]:
    """Hold models ``frozen`` and on one device; yield the device, to move images to.

    The device is a GPU that one of the models is on already, or else ``device()``.
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
