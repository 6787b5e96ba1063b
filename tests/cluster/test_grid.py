"""Grids of runs: what they hold, and that every engine trains the same networks."""

import contextlib
import json
import threading
import time

import psutil
import pytest
from helpers import layouts
from helpers.trainings import counted_steps, same_bytes, weights_of

from topgap_nb.cluster.grid import grid_of, is_stored, run_grid
from topgap_nb.errors import UserError
from topgap_nb.store.store import partial_of
from topgap_nb.training.checkpoints import checkpoints_in
from topgap_nb.training.loop import network_folder, train_or_load
from topgap_nb.training.profile import Profile

TINY = {
    "backbone": "test_efficientnet", "image_size": 32, "k": 4, "sparsity_weight": 1.0, "epochs": 1,
    "batch_size": 8, "pretrained": False, "standard": {"lr": 0.0001},
}  # fmt: skip
RECIPES = {"planted": {**TINY, "options": {"images": 24, "classes": 4}}, "pets": TINY}
EIGHT = {
    "dataset": "planted",
    "seed": [0, 1],
    "methods": [{"head": "standard"}, {"head": "topgap", "k": [2, 4, 8]}],
}
# Long enough to be killed in the middle.
LONG = 60


def profile(*grid, **more) -> Profile:
    return Profile("mine", RECIPES, {}, grid=grid, **more)


def runs_of(*grid):
    return grid_of(profile(*grid))


def folder_of(run):
    return network_folder(run.spec, run.open())


# What a grid holds


def test_a_grid_is_the_product_of_its_fields_with_k_for_the_method_that_has_one():
    runs = runs_of(EIGHT)
    assert [(r.spec.seed, r.spec.head, r.spec.k, r.spec.sparsity_weight) for r in runs] == [
        (seed, *method)
        for seed in (0, 1)
        for method in [
            ("standard", 1.0, 0.0), ("topgap", 2, 1.0), ("topgap", 4, 1.0), ("topgap", 8, 1.0),
        ]
    ]  # fmt: skip


def test_a_run_of_the_grid_is_the_one_that_a_notebook_asks_for():
    standard, *_, topgap = runs_of(EIGHT)
    recipe = profile().recipe("planted")
    assert (topgap.spec, topgap.data) == (recipe.replace(k=8, seed=1).spec, recipe.data)
    assert standard.spec == recipe.standard
    assert standard.spec.lr == 1e-4
    assert folder_of(standard) == network_folder(recipe.standard, recipe.open())


def test_fields_of_the_images_make_runs_too():
    runs = runs_of({"dataset": "planted", "fold": [0, 1], "folds": 3, "methods": [{"seed": [4]}]})
    assert [(run.data["fold"], run.data["folds"], run.spec.seed) for run in runs] == [
        (0, 3, 4), (1, 3, 4),
    ]  # fmt: skip
    assert runs[1].title == "planted test_efficientnet topgap k=4 lambda=1 seed 4 fold 1"
    assert len(runs[0].open().train) == 16


def test_a_method_goes_before_its_block_and_both_before_the_recipe():
    methods = [{"head": "standard"}, {"head": "topgap", "lr": 0.3}]
    block = {"dataset": "planted", "lr": [0.01, 0.02], "methods": methods}
    rates = [(run.spec.head, run.spec.lr) for run in runs_of(block)]
    assert rates == [("standard", 0.01), ("topgap", 0.3), ("standard", 0.02)]


def test_an_ablation_keeps_its_sparsity_term_on_the_standard_network():
    method = {"head": "standard", "sparsity_on": "last_features", "sparsity_weight": 0.1}
    (run,) = runs_of({"dataset": "planted", "methods": [method]})
    assert (run.spec.head, run.spec.k, run.spec.lr) == ("standard", 1.0, 1e-4)
    assert (run.spec.sparsity_on, run.spec.sparsity_weight) == ("last_features", 0.1)


def test_what_two_blocks_share_is_there_once():
    runs = runs_of({"dataset": "planted", "k": [2, 4]}, {"dataset": "planted", "k": [4, 8]})
    assert [run.spec.k for run in runs] == [2, 4, 8]
    assert len(runs_of({"dataset": "planted", "k": [1, 1.0]})) == 2


def test_a_grid_can_be_cut_to_one_data_set():
    two = profile({"dataset": ["planted", "pets"], "k": [2, 4]})
    assert [run.dataset for run in grid_of(two, "pets")] == ["pets", "pets"]
    with pytest.raises(UserError, match="no runs on 'fish': pets, planted"):
        grid_of(two, "fish")


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ((), "has no `grid:`"),
        (("planted",), "names no dataset: planted"),
        (({"k": 4},), "names no dataset"),
        (({"dataset": "planted", "wings": 2},), "wings"),
        (({"dataset": "fish"},), "'fish' is unknown"),
        (({"dataset": "cub"},), "no recipe for 'cub'"),
        (({"dataset": "planted", "methods": [{"head": "standard", "wings": 2}]},), "wings"),
        (({"dataset": "planted", "head": "tail"},), "head 'tail': use topgap or standard"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(grid, words):
    with pytest.raises(UserError, match=words):
        runs_of(*grid)


# Engines


def test_a_grid_is_trained_once_and_a_fault_or_absent_data_stop_nothing(root):
    runs = runs_of({"dataset": ["pets", "planted"], "k": [99, 2]})
    lines = []
    ((failed, fault),) = run_grid(runs, echo=lines.append)
    assert failed.spec.k == 99
    assert "k = 99 does not fit" in fault
    assert lines[:2] == ["4 runs, 0 of them stored", "pets: data absent, its runs are left out"]
    assert lines[2].startswith(
        "[1/2] planted test_efficientnet topgap k=99 lambda=1 seed 0: k = 99"
    )
    assert lines[3] == "[2/2] planted test_efficientnet topgap k=2 lambda=1 seed 0: done"
    lines.clear()
    with counted_steps() as steps:
        run_grid(runs, echo=lines.append)
    assert not steps
    assert lines[0] == "4 runs, 1 of them stored"
    assert [is_stored(run) for run in runs] == [False, False, False, True]


def test_an_incomplete_data_set_fails_alone(root):
    home = layouts.pets(root)
    (home / "images" / "beagle_1.jpg").unlink()
    lines = []
    ((failed, fault),) = run_grid(
        runs_of({"dataset": ["pets", "planted"], "k": 2}), echo=lines.append
    )
    assert failed.dataset == "pets"
    assert "beagle_1.jpg is missing" in fault
    assert lines == [
        "2 runs, 0 of them stored",
        f"{failed.title}: {fault}",
        "[1/1] planted test_efficientnet topgap k=2 lambda=1 seed 0: done",
    ]


def test_a_damaged_list_fails_alone_too(root):
    home = layouts.pets(root)
    (home / "annotations" / "trainval.txt").write_text("Bengal_1")
    ((failed, fault),) = run_grid(runs_of({"dataset": ["pets", "planted"], "k": 2}), echo=[].append)
    assert failed.dataset == "pets"
    assert fault.startswith("ValueError: ")


def test_an_engine_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="use local or ray"):
        run_grid(runs_of(EIGHT), engine="slurm")
    with pytest.raises(UserError, match="`cores` is for the engine ray"):
        run_grid(runs_of(EIGHT), cores=2)


@pytest.fixture
def two_workers():
    ray = pytest.importorskip("ray")
    try:
        ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, logging_level="ERROR")
    except Exception as error:
        pytest.skip(f"ray does not start here: {error}")
    yield
    ray.shutdown()


def kill_the_worker_of(folder, found):
    """Kill the process that makes a network, once it has a checkpoint; note what that holds."""
    lock = str(folder.with_name(f".{folder.name}.lock"))
    deadline = time.time() + 120
    while "killed" not in found and time.time() < deadline:
        time.sleep(0.01)
        # Busy machines list processes slowly, and a process may end while it is listed.
        with contextlib.suppress(psutil.Error, FileNotFoundError, IndexError):
            checkpoint = checkpoints_in(partial_of(folder))[-1]
            found["history"] = json.loads((checkpoint / "history.json").read_text())
            for process in psutil.process_iter(["name"]):
                held = process.open_files() if process.info["name"].startswith("ray::") else []
                if any(file.path == lock for file in held):
                    process.kill()
                    found["killed"] = process.pid


@same_bytes
@pytest.mark.slow
@pytest.mark.cluster
def test_ray_trains_the_same_networks_and_a_killed_worker_loses_nothing(
    tmp_path, monkeypatch, two_workers
):
    runs = runs_of(EIGHT)
    runs[5] = runs[5]._replace(spec=runs[5].spec.replace(epochs=LONG))
    monkeypatch.setenv("TOPGAP_RUNS", str(tmp_path / "alone"))
    assert run_grid(runs, echo=[].append) == []
    alone = [weights_of(folder_of(run)) for run in runs]

    monkeypatch.setenv("TOPGAP_RUNS", str(tmp_path / "together"))
    folders, found = [folder_of(run) for run in runs], {}
    killer = threading.Thread(target=kill_the_worker_of, args=(folders[5], found))
    killer.start()
    assert run_grid(runs, "ray", echo=[].append) == []
    killer.join()
    assert found["killed"]
    assert [weights_of(folder) for folder in folders] == alone
    history = train_or_load(runs[5].spec, runs[5].open()).history.reset_index().to_dict("records")
    # Images per second are never the same twice: these epochs were not trained again.
    assert history[: len(found["history"])] == found["history"]
    assert 0 < len(found["history"]) < len(history) == LONG

    times = [(folder / "model.safetensors").stat().st_mtime_ns for folder in folders]
    lines = []
    assert run_grid(runs, "ray", echo=lines.append) == []
    assert lines == ["8 runs, 8 of them stored"]
    assert times == [(folder / "model.safetensors").stat().st_mtime_ns for folder in folders]
