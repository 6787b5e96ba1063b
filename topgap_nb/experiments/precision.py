"""Which number format a run uses: chosen by measuring, kept when a run resumes."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock

from topgap_nb.device import device
from topgap_nb.files import write_atomic


def has_avx512() -> bool:
    """Return whether the CPU has AVX-512, and torch uses it."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def faster_dtype(step: Callable[[], None]) -> torch.dtype:
    """Return bfloat16 where it makes ``step`` clearly faster here, else float32.

    A CPU without AVX-512 has no bfloat16 arithmetic and is not measured. Elsewhere both formats
    take turns, since fast on paper is not fast on every network: depthwise ones often lose. A gain
    below a quarter is left: it would change the numbers, and with luck the choice, for little.
    """
    kind = device().type
    if kind == "cpu" and not has_avx512():
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
    best = {dtype: min(times[1:]) for dtype, times in seconds.items()}
    gain = best[torch.float32] / best[torch.bfloat16]
    return torch.bfloat16 if gain > 1.25 else torch.float32


def run_dtype(folder: Path, kind: str, step: Callable[[], None]) -> torch.dtype:
    """Return the number format of a run: the one it was started with, or the faster one.

    Args:
        folder: of the run, inside the folder of all runs.
        kind: what runs must share to share a format. It is measured for the first of them, so that
            networks that are compared differ in nothing but the method.
        step: one forward and backward pass of this run.
    """
    own, shared = folder / "dtype", folder.parent / ".dtypes" / f"{kind}-{device().type}"
    if not own.exists():
        shared.parent.mkdir(parents=True, exist_ok=True)
        # Runs that start together must not each measure, and end up with two formats.
        with FileLock(shared.with_name(f".{shared.name}.lock")):
            if not shared.exists():
                write_atomic(shared, str(faster_dtype(step)).removeprefix("torch."))
        write_atomic(own, shared.read_text())
    return getattr(torch, own.read_text())
