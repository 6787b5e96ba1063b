"""Where things are computed."""

import os

import torch


def device() -> torch.device:
    """Return the device to train and to measure on: the GPU where there is one.

    ``accelerate launch --cpu`` keeps its processes off the GPU.
    """
    off = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return torch.device("cuda" if torch.cuda.is_available() and not off else "cpu")
