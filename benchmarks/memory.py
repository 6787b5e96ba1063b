"""A training step, an attack step and inference, with and without the runner's memory settings.

python benchmarks/memory.py [--rounds 12]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import torch

from topgap_nb import init_model, load_profile
from topgap_nb.training.depthwise import speed_up_depthwise
from topgap_nb.training.loop import loss_of
from topgap_nb.workbook.runner import ALLOCATION


def measure(rounds):
    """Print the median milliseconds of each kind of work in this process."""
    torch.set_num_threads(1)
    spec = load_profile("demo").recipe("planted").spec
    learner = speed_up_depthwise(init_model(spec, 8)).train()
    model = init_model(spec, 8).eval().requires_grad_(False)
    batch, labels = torch.rand(16, 3, 96, 96), torch.randint(0, 8, (16,))
    images = torch.rand(48, 3, 96, 96).contiguous(memory_format=torch.channels_last)

    def attack_step():
        pixels = images.clone(memory_format=torch.channels_last).requires_grad_()
        torch.autograd.grad(model(pixels).sum(), pixels)

    def inference():
        with torch.no_grad():
            model(images)

    for work in (
        lambda: loss_of(learner, batch, labels, spec)[0].total.backward(),
        attack_step,
        inference,
    ):
        work()
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        print(1000 * statistics.median(times))


def compare(rounds):
    """Print both medians of each kind of work, side by side."""
    times = {}
    for name, settings in {"as it is": "", "as the runner sets it": ALLOCATION}.items():
        command = [sys.executable, __file__, "--alone", "--rounds", str(rounds)]
        environment = {**os.environ, "GLIBC_TUNABLES": settings}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        times[name] = [float(line) for line in done.stdout.split()]
    before, after = times.values()
    names = ("training step", "attack step", "inference")
    for work, old, new in zip(names, before, after, strict=True):
        print(f"  {work:<14} {old:7.0f} ms, {new:7.0f} ms with large pages   {new / old:.2f} x")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        measure(options.rounds)
    else:
        compare(options.rounds)


if __name__ == "__main__":
    main()
