"""One training over two processes takes the steps that a single process takes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.trainings import TINY, counted_steps, tiny_data
from torch import nn

from topgap_nb.training.loop import train_or_load
from topgap_nb.training.processes import (
    all_reduce_sum,
    is_main,
    rank_slice,
    weigh_loss,
    world_size,
    wrap_loss,
)

# Two processes share the last batch, of 5 of 53 images, as 3 and 2. No batch normalisation, whose
# statistics over several processes need GPUs.
SPEC = TINY.replace(backbone="test_convnext", augmentation="crop_flip_cutout")
IMAGES = 53
SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from training.test_processes import IMAGES, SPEC, TINY, tiny_data
from topgap_nb.errors import UserError
from topgap_nb.training.loop import train_or_load
from topgap_nb.training.processes import is_main
for spec, images in [(TINY, IMAGES), (SPEC, 49)]:
    try:
        train_or_load(spec, tiny_data(images=images), quiet=True)
    except UserError as error:
        print(f"refused: {{error}}\\n", end="", flush=True)
for again in range(2):
    network = train_or_load(SPEC, tiny_data(images=IMAGES), quiet=True)
    if is_main():
        print(f"trained: {{network.folder}}\\n", end="", flush=True)
"""
# `accelerate launch --cpu --num_processes 2` starts one process where there is no MPI.
LAUNCH = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1"]


@pytest.mark.slow
@pytest.mark.cluster
def test_two_processes_have_the_loss_curve_of_one_and_refuse_what_they_cannot_do(
    tmp_path, monkeypatch
):
    """At the same global batch, with an uneven last batch and augmentation.

    Sums over images are taken in another order. That is an error of about 1e-7 in a gradient, and
    AdamW, which divides by a gradient's size, passes it on to the weights of small gradients
    undiminished. A share that is lost, or gradients that are added, show in the first digits.
    """
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    alone = train_or_load(SPEC, tiny_data(images=IMAGES), quiet=True)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[1])))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("TOPGAP_RUNS", str(tmp_path / "together"))
    done = subprocess.run(
        [sys.executable, *LAUNCH, "--master_port", str(port), str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("refused: batch normalisation over several processes needs GPUs") == 2
    assert done.stdout.count("refused: the last batch, of 1, cannot be shared by 2 processes") == 2
    with counted_steps() as steps:
        together = train_or_load(SPEC, tiny_data(images=IMAGES), quiet=True)
    assert not steps
    assert done.stdout.count(f"trained: {together.folder}") == 2
    curves = ["cross_entropy", "sparsity", "accuracy"]
    apart = (together.history[curves] - alone.history[curves]).abs().max().max()
    assert apart < 2e-6
    for name, tensor in alone.model.state_dict().items():
        found = together.model.state_dict()[name]
        torch.testing.assert_close(found, tensor, rtol=1e-4, atol=5e-5)


def test_a_process_alone_does_what_it_did():
    loss, module = torch.tensor(2.0), nn.BatchNorm2d(3)
    assert weigh_loss(loss, 3, 5) is loss
    assert wrap_loss(module) is module
    assert torch.arange(5)[rank_slice()].tolist() == [0, 1, 2, 3, 4]
    assert all_reduce_sum([1.0, 0.1]) == [1.0, 0.1]
    assert world_size() == 1
    assert is_main()
