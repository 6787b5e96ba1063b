"""Whatever stops or damages a training, it ends with the bytes of one that ran through."""

import json
import math
import multiprocessing
import shutil
import sys
import time

import pytest
import torch
from helpers.trainings import (
    STEPS,
    TINY,
    Interrupted,
    at_step,
    counted_steps,
    flip_a_byte,
    same_bytes,
    stop,
    weights_of,
)
from safetensors.torch import load_file

from topgap_nb.errors import Diverged
from topgap_nb.store.store import partial_of
from topgap_nb.training.checkpoints import checkpoints_in
from topgap_nb.training.loop import network_folder, train_or_load

# A forked child has everything imported. CUDA and macOS cannot live with a fork.
forks = pytest.mark.skipif(
    sys.platform != "linux" or torch.cuda.is_available(), reason="needs a fork of this process"
)


@pytest.fixture
def copied(finished, runs):
    """The finished network's folder, in a folder of runs of its own."""
    return shutil.copytree(finished.folder, runs / "networks" / finished.folder.name)


def interrupted(data, after, spec=TINY):
    """What is left of a training that was interrupted after so many steps."""
    with at_step(after, stop), pytest.raises(Interrupted):
        train_or_load(spec, data, quiet=True)
    return partial_of(network_folder(spec, data))


@same_bytes
@pytest.mark.parametrize("after", [1, STEPS, STEPS + 1, 3 * STEPS - 1])
def test_an_interrupted_training_ends_with_the_same_bytes(finished, data, runs, after):
    partial = interrupted(data, after)
    assert not network_folder(TINY, data).exists()
    assert len(checkpoints_in(partial)) == after // STEPS
    resumed = train_or_load(TINY, data, quiet=True)
    assert weights_of(resumed) == weights_of(finished)
    assert resumed.history.index.tolist() == [1, 2, 3]
    assert not partial.exists()


@same_bytes
def test_sgd_resumes_with_its_momentum(data, runs):
    spec = TINY.replace(optimizer="sgd", lr=0.01, head_lr=0.01)
    interrupted(data, 2 * STEPS, spec)
    resumed = weights_of(train_or_load(spec, data, quiet=True))
    shutil.rmtree(runs)
    assert weights_of(train_or_load(spec, data, quiet=True)) == resumed


def test_a_resumed_training_does_not_repeat_finished_epochs(data, runs):
    interrupted(data, 2 * STEPS)
    with counted_steps() as steps:
        assert len(train_or_load(TINY, data, quiet=True).history) == 3
    assert len(steps) == STEPS


def train_and_get_stuck_in_the_second_epoch(data):
    # A fork has none of the threads that its parent computes with, and would wait for them.
    torch.set_num_threads(1)
    with at_step(STEPS + 1, lambda optimizer: time.sleep(600)):
        train_or_load(TINY, data, quiet=True)


@forks
def test_a_killed_training_ends_with_the_same_bytes(finished, data, runs):
    start = multiprocessing.get_context("fork")
    child = start.Process(target=train_and_get_stuck_in_the_second_epoch, args=(data,))
    child.start()
    folder = network_folder(TINY, data)
    deadline = time.monotonic() + 60
    try:
        while not checkpoints_in(partial_of(folder)):
            assert child.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        child.kill()
        child.join()
    assert child.exitcode == -9
    assert not folder.exists()
    with counted_steps() as steps:
        assert weights_of(train_or_load(TINY, data, quiet=True)) == weights_of(finished)
    assert len(steps) == 2 * STEPS


def train_and_count(data, results):
    torch.set_num_threads(1)
    with counted_steps() as steps:
        network = train_or_load(TINY, data, quiet=True)
    results.put((len(steps), weights_of(network)))


@forks
def test_two_processes_train_once(finished, data, runs):
    start = multiprocessing.get_context("fork")
    results = start.Queue()
    both = [start.Process(target=train_and_count, args=(data, results)) for _ in range(2)]
    for process in both:
        process.start()
    try:
        found = [results.get(timeout=60) for _ in both]
    finally:
        for process in both:
            process.kill()
            process.join()
    assert sorted(steps for steps, _ in found) == [0, 3 * STEPS]
    assert {weights for _, weights in found} == {weights_of(finished)}


@same_bytes
def test_half_a_checkpoint_does_not_count(finished, data, runs):
    partial = interrupted(data, STEPS)
    half = shutil.copytree(partial / "epoch_0001", partial / ".draft")
    state = (half / "state.safetensors").read_bytes()
    (half / "state.safetensors").write_bytes(state[: len(state) // 2])
    assert weights_of(train_or_load(TINY, data, quiet=True)) == weights_of(finished)


@same_bytes
@pytest.mark.parametrize("part", ["state.safetensors", "history.json", "entry.json"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(finished, data, runs, part):
    damaged = interrupted(data, 2 * STEPS) / "epoch_0002"
    flip_a_byte(damaged / part, where=-40 if part == "state.safetensors" else 0)
    with (
        pytest.warns(UserWarning, match=f"{damaged} is damaged"),
        at_step(STEPS, stop),
        pytest.raises(Interrupted),
    ):
        train_or_load(TINY, data, quiet=True)
    assert damaged.with_name("epoch_0002.damaged").exists()
    assert weights_of(train_or_load(TINY, data, quiet=True)) == weights_of(finished)


@same_bytes
def test_a_training_whose_checkpoints_are_all_damaged_starts_over(finished, data, runs):
    for checkpoint in checkpoints_in(interrupted(data, 2 * STEPS)):
        (checkpoint / "state.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged") as warned, counted_steps() as steps:
        resumed = train_or_load(TINY, data, quiet=True)
    assert len(warned) == 2
    assert len(steps) == 3 * STEPS
    assert weights_of(resumed) == weights_of(finished)


def test_only_the_latest_checkpoints_are_kept(data, runs):
    partial = interrupted(data, 4 * STEPS, TINY.replace(epochs=5))
    assert [path.name for path in checkpoints_in(partial)] == ["epoch_0003", "epoch_0004"]
    assert len(list(partial.iterdir())) == 2


def cut_off(file):
    file.write_bytes(file.read_bytes()[:-1])


@same_bytes
@pytest.mark.parametrize("name", ["model.safetensors", "network.json"])
@pytest.mark.parametrize("damage", [flip_a_byte, cut_off, lambda file: file.unlink()])
def test_a_damaged_network_is_set_aside_and_trained_again(finished, data, copied, name, damage):
    damage(copied / name)
    with pytest.warns(UserWarning, match=f"{copied} is damaged"):
        again = train_or_load(TINY, data, quiet=True)
    assert copied.with_name(f"{copied.name}.damaged").exists()
    assert again.folder == copied
    assert weights_of(again) == weights_of(finished)


def spoil(optimizer):
    optimizer.param_groups[0]["params"][0].grad.fill_(math.nan)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (STEPS, "the loss is not finite at step 1 of epoch 2"),
        (2 * STEPS - 1, "weights are not finite at step 2 of epoch 2"),
    ],
)
def test_a_divergence_names_the_step_and_the_last_good_checkpoint(data, runs, step, words):
    with at_step(step, spoil), pytest.raises(Diverged, match=words) as diverged:
        train_or_load(TINY, data, quiet=True)
    (checkpoint,) = checkpoints_in(partial_of(network_folder(TINY, data)))
    assert checkpoint.name == "epoch_0001"
    assert str(checkpoint) in str(diverged.value)
    state = load_file(checkpoint / "state.safetensors")
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert len(json.loads((checkpoint / "history.json").read_text())) == 1


def test_a_learning_rate_without_measure_diverges_before_any_checkpoint(data, runs):
    with pytest.raises(Diverged, match=r"epoch 1; .* checkpoint is none\. Lower lr"):
        train_or_load(TINY.replace(lr=1e30, head_lr=1e30), data, quiet=True)
