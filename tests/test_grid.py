"""Grids of runs: what they hold, what they cost, and that every engine trains the same networks."""

import contextlib
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from click.testing import CliRunner

from topgap_nb.cli import main
from topgap_nb.data import planted
from topgap_nb.errors import UserError
from topgap_nb.experiments import checkpoints, estimate, recipes, training
from topgap_nb.experiments.checkpoints import run_folder
from topgap_nb.experiments.grid import grid_of, is_absent, is_finished, run_grid
from topgap_nb.experiments.recipes import baseline, recipe

RECIPE = """
recipes:
  planted: &tiny
    backbone: test_efficientnet
    image_size: 32
    k: 4
    sparsity_weight: 1.0
    epochs: 1
    batch_size: 8
    pretrained: false
    options: {images: 24, classes: 4}
    standard: {learning_rate: 0.0001}
  birds:
    <<: *tiny
"""
EIGHT = """
grid:
  - dataset: planted
    seed: [0, 1]
    methods:
      - {head: standard}
      - {head: topgap, k: [2, 4, 8]}
"""
# Long enough to be killed in the middle.
LONG = 60


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """Write a profile ``mine`` with this grid; return the grid."""
    monkeypatch.setattr(recipes, "PROFILES", tmp_path)

    def written(text):
        (tmp_path / "mine.yaml").write_text(RECIPE + text)
        return grid_of("mine")

    return written


@pytest.fixture(autouse=True)
def _one_cpu_thread(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(training, "device", lambda: torch.device("cpu"))
    yield
    torch.set_num_threads(threads)


def in_float32(folder):
    """A folder of runs in which no number format is measured, and so none by chance another."""
    (folder / ".dtypes").mkdir(parents=True)
    (folder / ".dtypes" / "test_efficientnet-32-cpu").write_text("float32")
    return folder


def weights(specs, runs):
    return [(run_folder(spec, runs) / "model.safetensors").read_bytes() for spec in specs]


# What a grid holds


def test_a_grid_is_the_product_of_its_fields_with_k_for_the_method_that_has_one(profile):
    specs = profile(EIGHT)
    assert [(s.seed, s.head, s.k, s.sparsity_weight) for s in specs] == [
        (seed, *method)
        for seed in (0, 1)
        for method in [
            ("standard", 1.0, 0.0), ("topgap", 2, 1.0), ("topgap", 4, 1.0), ("topgap", 8, 1.0),
        ]
    ]  # fmt: skip


def test_a_run_of_the_grid_is_the_one_that_a_notebook_asks_for(profile):
    standard, *_, topgap = profile(EIGHT)
    ours = recipe("mine", "planted", k=8, seed=1)
    assert topgap == ours
    assert standard == baseline(recipe("mine", "planted"), "mine")
    assert standard.learning_rate == 1e-4


def test_an_ablation_keeps_its_sparsity_term_on_the_standard_network(profile):
    (spec,) = profile(
        "grid:\n- dataset: planted\n  methods: [{head: standard, sparsity_on: last_features, "
        "sparsity_weight: 0.1}]"
    )
    assert (spec.head, spec.k, spec.sparsity_on) == ("standard", 1.0, "last_features")
    assert spec.sparsity_weight == 0.1


def test_what_two_blocks_share_is_there_once(profile):
    blocks = "grid:\n- {dataset: planted, k: [2, 4]}\n- {dataset: planted, k: [4, 8]}"
    assert [spec.k for spec in profile(blocks)] == [2, 4, 8]


def test_a_grid_can_be_cut_to_one_data_set(profile):
    profile("grid:\n- {dataset: [planted, birds], k: [2, 4]}")
    assert [spec.dataset for spec in grid_of("mine", "birds")] == ["birds", "birds"]
    with pytest.raises(UserError, match="no runs on 'fish': birds, planted"):
        grid_of("mine", "fish")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no `grid:`"),
        ("grid: {dataset: planted}", "a list of blocks"),
        ("grid: [{k: 4}]", "names no dataset"),
        ("grid: [{dataset: planted, wings: 2}]", "wings"),
        ("grid: [{dataset: fish}]", "no recipe for 'fish'"),
        ("grid: [{dataset: planted, methods: [{head: standard, wings: 2}]}]", "wings"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(profile, text, words):
    with pytest.raises(UserError, match=words):
        profile(text)


# What it costs


def test_the_estimate_is_images_over_measured_throughput(profile, tmp_path, monkeypatch):
    specs = profile(EIGHT + "  - {dataset: birds, fold: [0, 1, 2, 3, 4], epochs: 6}\nsets:\n"
                    "  birds: {images: 6000, classes: 8}")  # fmt: skip
    monkeypatch.setattr(estimate, "timed", lambda spec, classes: 2.0)
    monkeypatch.setenv("TOPGAP_RUNS", str(tmp_path / "runs"))
    folder = run_folder(specs[0])
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    about = {"spec": {"backbone": "test_efficientnet", "head": "standard", "image_size": 32}}
    about |= {"device": "cpu", "history": [{"images_per_second": 48.0}]}
    (folder / "spec.json").write_text(json.dumps(about))
    monkeypatch.setattr(estimate, "device", lambda: torch.device("cpu"))
    standard, topgap, birds = estimate.estimate("mine", specs)
    assert (standard.runs, standard.finished, standard.speed) == (2, 1, 48.0)
    assert standard.hours == pytest.approx(24 / 48 / 3600)
    assert (topgap.runs, topgap.finished, topgap.speed) == (6, 0, 2.0)
    assert topgap.hours == pytest.approx(6 * 24 / 2 / 3600)
    # Five runs of 6 epochs, each on four of five folds.
    assert birds.hours == pytest.approx(5 * 6 * 4800 / 2 / 3600)
    parameters = sum(p.numel() for p in training.untrained(specs[1], 4).parameters())
    assert topgap.disk == 6 * 4 * parameters
    lines = estimate.report([standard, topgap, birds], "an abacus")
    assert lines[3].endswith("a few steps; data absent")
    assert lines[4].startswith("13 runs, 1 finished; 20.0 hours, one after another on an abacus")


def test_without_the_number_of_images_the_hours_are_unknown(profile, tmp_path, monkeypatch):
    specs = profile("grid:\n- {dataset: birds}\nsets: {birds: {classes: 8}}")
    monkeypatch.setattr(estimate, "timed", lambda spec, classes: 2.0)
    monkeypatch.setenv("TOPGAP_RUNS", str(tmp_path / "runs"))
    rows = estimate.estimate("mine", specs)
    assert rows[0].hours is None
    assert "0.0 hours without birds" in estimate.report(rows, "an abacus")[-2]


def test_a_few_steps_give_a_throughput(profile):
    assert estimate.timed(profile(EIGHT)[0], 4) > 1


# Engines


def test_the_command_trains_a_grid_and_then_finds_it_trained(profile, runs):
    profile("grid:\n- {dataset: [planted, birds], k: [2, 99]}")
    in_float32(runs / "models")
    first = CliRunner().invoke(main, ["train", "--profile", "mine"])
    assert first.exit_code == 1
    lines = first.stdout.splitlines()
    assert lines[:2] == [
        "4 runs, 0 of them finished", "birds: data absent, its runs are left out",
    ]  # fmt: skip
    assert lines[2].startswith("[1/2] test_efficientnet planted topgap k=2 lambda=1 seed 0: done")
    assert "k = 99 does not fit" in lines[3]
    again = CliRunner().invoke(main, ["train", "--profile", "mine"])
    assert again.stdout.splitlines()[0] == "4 runs, 1 of them finished"


@pytest.mark.parametrize(("place", "absent"), [(None, True), (Path("downloads"), False)])
def test_data_are_absent_where_their_source_does_not_find_them(monkeypatch, place, absent):
    assert is_absent("birds")
    assert not is_absent("planted")
    monkeypatch.setattr(planted, "SOURCE", SimpleNamespace(where=lambda: place), raising=False)
    assert is_absent("planted") == absent


def test_a_profile_takes_from_the_one_it_extends_what_it_does_not_say_itself():
    whole, part = recipes.read_profile("paper"), recipes.read_profile("paper/cifar10")
    assert part["recipes"] == whole["recipes"]
    assert part["sets"] == whole["sets"]
    assert list(part["notebooks"]) == ["04_adversarial_attacks"]
    # Table 3 attacks every network that its grid trains, and the grid is a part of the paper's.
    specs, attacked = grid_of("paper/cifar10"), part["notebooks"]["04_adversarial_attacks"]
    assert set(specs) <= set(grid_of("paper"))
    ours = recipe("paper/cifar10", "cifar10")
    pairs = [(ours.k, ours.sparsity_weight), *map(tuple, attacked["ALSO"])]
    trained = {(s.k, s.sparsity_weight) for s in specs if s.head == "topgap"}
    assert set(pairs) == trained
    assert len(pairs) == len(trained)


def test_an_engine_that_does_not_exist_is_refused(profile):
    with pytest.raises(UserError, match="use local or ray"):
        run_grid(profile(EIGHT), engine="slurm")


@pytest.fixture
def two_workers():
    ray = pytest.importorskip("ray")
    try:
        ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, logging_level="ERROR")
    except Exception as error:
        pytest.skip(f"ray does not start here: {error}")
    yield
    ray.shutdown()


def kill_the_worker_of(spec, runs, found):
    """Kill the process that holds a run's lock, once the run has a checkpoint; note the latter."""
    folder = run_folder(spec, runs)
    deadline = time.time() + 120
    while "killed" not in found and time.time() < deadline:
        time.sleep(0.01)
        if not (notes := sorted(folder.glob("epoch_*.json"))):
            continue
        # Busy machines list processes slowly, and a process may end while it is listed.
        with contextlib.suppress(psutil.Error, FileNotFoundError):
            found["history"] = json.loads(notes[-1].read_text())["history"]
            for process in psutil.process_iter(["name"]):
                held = process.open_files() if process.info["name"].startswith("ray::") else []
                if any(file.path == str(folder / "lock") for file in held):
                    process.kill()
                    found["killed"] = process.pid


def test_ray_trains_the_same_networks_and_a_killed_worker_loses_nothing(
    profile, tmp_path, two_workers
):
    specs = profile(EIGHT)
    specs[5] = specs[5].but(epochs=LONG)
    alone, together = in_float32(tmp_path / "alone"), in_float32(tmp_path / "together")
    assert run_grid(specs, runs=alone, echo=[].append) == {}

    found = {}
    killer = threading.Thread(target=kill_the_worker_of, args=(specs[5], together, found))
    killer.start()
    assert run_grid(specs, "ray", together, echo=[].append) == {}
    killer.join()
    assert found["killed"]
    assert weights(specs, together) == weights(specs, alone)
    history = checkpoints.read_finished(run_folder(specs[5], together))[1]
    # Images per second are never the same twice: these epochs were not trained again.
    assert history[: len(found["history"])] == found["history"]
    assert 0 < len(found["history"]) < len(history) == LONG

    times = [(run_folder(s, together) / "model.safetensors").stat().st_mtime_ns for s in specs]
    lines = []
    assert run_grid(specs, "ray", together, echo=lines.append) == {}
    assert lines == ["8 runs, 8 of them finished"]
    assert times == [
        (run_folder(s, together) / "model.safetensors").stat().st_mtime_ns for s in specs
    ]
    assert all(is_finished(spec, together) for spec in specs)
