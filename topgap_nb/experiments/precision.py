"""Which device and number format a run uses: chosen by measuring, kept when a run resumes."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from topgap_nb.experiments.checkpoints import write_atomic


def device() -> torch.device:
    """Return the device that everything runs on: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def faster_dtype(step: Callable[[], None]) -> torch.dtype:
    """Return bfloat16 where it makes ``step`` faster here, else float32.

    A CPU without AVX-512 has no bfloat16 arithmetic and is not measured. Elsewhere both formats
    take turns, since fast on paper is not fast on every network: depthwise ones often lose.
    """
    kind = device().type
    if kind == "cpu" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        return torch.float32
    seconds = {torch.float32: [], torch.bfloat16: []}
    for _ in range(4):
        for dtype, times in seconds.items():
            start = time.perf_counter()
            with torch.autocast(kind, dtype, enabled=dtype is torch.bfloat16):
                step()
            if kind == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    # The first round warms up.
    return min(seconds, key=lambda dtype: min(seconds[dtype][1:]))


def run_dtype(folder: Path, step: Callable[[], None]) -> torch.dtype:
    """Return the number format of a run: the one it was started with, or the faster one."""
    note = folder / "dtype"
    if not note.exists():
        write_atomic(note, str(faster_dtype(step)).removeprefix("torch."))
    return getattr(torch, note.read_text())
