"""The machine and the versions that a number was made with."""

import os
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("torch", "timm", "torchattacks", "numpy")


@cache
def hardware() -> str:
    """Return a short name of the machine: its GPU, or its processor and core count."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [li for li in cpuinfo.read_text().splitlines() if li.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return f"CPU, {name}, {os.cpu_count()} cores"


@cache
def versions() -> dict[str, str]:
    """Return the versions of the packages that numbers depend on."""
    return {name: version(name) for name in PACKAGES}
