import ast
import importlib.util
import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from topgap_nb.data.images import ImageSet
from topgap_nb.errors import UserError
from topgap_nb.experiments import checkpoints, precision, training
from topgap_nb.experiments import spec as spec_module
from topgap_nb.experiments.spec import RunSpec, code_digest
from topgap_nb.experiments.training import Diverged, fold_of, loss_of, rate, run_sets, trained
from topgap_nb.files import code_hash
from topgap_nb.method.model import build_model

TINY = RunSpec(
    dataset="planted",
    backbone="test_efficientnet",
    k=3,
    sparsity_weight=0.5,
    image_size=32,
    epochs=3,
    batch_size=16,
    pretrained=False,
    options={"images": 48, "classes": 4},
)
STEPS = 3
CHANGES = {
    "dataset": "pneumonia",
    "backbone": "test_resnet",
    "head": "standard",
    "k": 4,
    "sparsity_weight": 0.25,
    "sparsity_on": "last_features",
    "sparsity_reduction": "sum",
    "image_size": 48,
    "epochs": 4,
    "batch_size": 8,
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "head_rate": 1e-3,
    "weight_decay": 0.1,
    "augmentation": "none",
    "pretrained": True,
    "fold": 1,
    "folds": 4,
    "train_images": 40,
    "seed": 1,
    "options": {"images": 48, "classes": 5},
}


class Interrupted(Exception):
    pass


def on_one_cpu_thread():
    torch.set_num_threads(1)
    training.device = lambda: torch.device("cpu")
    # Measured, two runs on a busy machine may get two number formats.
    precision.faster_dtype = lambda step: torch.float32


@pytest.fixture(scope="module", autouse=True)
def _one_cpu_thread():
    threads, device, measured = torch.get_num_threads(), training.device, precision.faster_dtype
    on_one_cpu_thread()
    yield
    torch.set_num_threads(threads)
    training.device, precision.faster_dtype = device, measured


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trained(TINY, tmp_path_factory.mktemp("finished"), quiet=True)


@pytest.fixture
def copied(finished, tmp_path):
    """The finished run's folder, in a folder of runs of its own."""
    return Path(shutil.copytree(finished.folder, tmp_path / finished.folder.name))


def weights_of(run):
    return (run.folder / "model.safetensors").read_bytes()


def never_train(*args):
    raise AssertionError("it trains again")


def interrupt(monkeypatch, after):
    """Let ``after`` training steps pass, then interrupt."""
    left = [after]

    def counted(*args):
        if not left[0]:
            raise Interrupted
        left[0] -= 1
        return augment(*args)

    augment = training.augment
    monkeypatch.setattr(training, "augment", counted)


def unfinished(tmp_path, after, spec=TINY):
    """The folder of a run that was interrupted after so many steps."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, after)
        with pytest.raises(Interrupted):
            trained(spec, tmp_path, quiet=True)
    return checkpoints.run_folder(spec, tmp_path)


def flip_a_byte(path, where=-40):
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)


# One specification, one training


def test_the_same_specification_is_trained_once(finished, monkeypatch):
    monkeypatch.setattr(training, "_train", never_train)
    again = trained(TINY.but(), finished.folder.parent, quiet=True)
    assert again.history == finished.history
    for name, tensor in finished.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name


def test_a_trained_network_is_frozen_and_in_evaluation_mode(finished):
    assert not finished.model.training
    assert not any(p.requires_grad for p in finished.model.parameters())


def test_training_leaves_the_network_and_its_specification_and_nothing_else(finished):
    left = {path.name for path in finished.folder.iterdir()} - {"dtype", "lock"}
    assert left == {"model.safetensors", "spec.json"}


def test_training_twice_gives_the_same_bytes(finished, tmp_path):
    assert weights_of(trained(TINY, tmp_path, quiet=True)) == weights_of(finished)


def test_training_does_not_depend_on_torchs_global_seed(finished, tmp_path):
    torch.manual_seed(4242)
    assert weights_of(trained(TINY, tmp_path, quiet=True)) == weights_of(finished)


class OnDisk(torch.utils.data.Dataset):
    """A set that gives its images one by one, as one too large for memory does."""

    def __init__(self, images):
        self.images, self.class_names = images, images.class_names

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def test_images_read_by_worker_processes_train_the_same_network(finished, tmp_path, monkeypatch):
    def on_disk(spec):
        return {name: OnDisk(images) for name, images in run_sets(spec).items()}

    monkeypatch.setattr(training, "run_sets", on_disk)
    assert weights_of(trained(TINY, tmp_path, quiet=True)) == weights_of(finished)


def test_the_seed_changes_the_weights(finished, tmp_path):
    other = trained(TINY.but(seed=1), tmp_path, quiet=True)
    assert other.folder.name != finished.folder.name
    assert weights_of(other) != weights_of(finished)


@pytest.mark.parametrize("head", ["topgap", "standard"])
def test_initial_weights_follow_from_the_seed_alone(head):
    spec = TINY.but(head=head)
    torch.manual_seed(1)
    one = training.untrained(spec, 4).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = training.untrained(spec, 4).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    other = training.untrained(spec.but(seed=1), 4).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("head", ["topgap", "standard"])
def test_an_untrained_network_prefers_no_class(head):
    model = training.untrained(TINY.but(head=head, k=1.0), 4).eval()
    assert not model(torch.rand(2, 3, 32, 32)).any()


def test_training_lowers_the_loss(tmp_path):
    spec = TINY.but(epochs=6, sparsity_weight=0.0, k=1.0, augmentation="none")
    history = trained(spec, tmp_path, quiet=True).history
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4, 5, 6]
    assert history[0]["cross_entropy"] == pytest.approx(math.log(4), abs=0.3)
    assert history[-1]["cross_entropy"] < history[0]["cross_entropy"] - 0.1


def test_runs_go_below_topgap_runs_by_default(runs):
    assert checkpoints.run_folder(TINY).parent == runs / "models"


def test_two_at_once_train_once(tmp_path, monkeypatch):
    trainings, results = [], []

    def counted(*args):
        trainings.append(threading.get_ident())
        return real(*args)

    real = training._train
    monkeypatch.setattr(training, "_train", counted)
    both = threading.Barrier(2)

    def ask():
        both.wait()
        results.append(trained(TINY, tmp_path, quiet=True))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trainings) == 1
    assert len(results) == 2
    assert results[0].history == results[1].history


def test_a_specification_comes_back_from_its_file(finished):
    about = json.loads((finished.folder / "spec.json").read_text())
    assert training.spec_of(finished.folder) == TINY
    assert training.spec_of(finished.folder).digest == TINY.digest
    assert about["classes"] == 4
    assert about["torch"] == torch.__version__


def test_a_specification_equals_its_json_whatever_its_options_hold():
    spec = TINY.but(options={"object_size": (0.1, 0.2)})
    assert TINY.but(options={"object_size": [0.1, 0.2]}) == spec
    assert spec != TINY
    assert spec != "a string"


def test_a_title_tells_the_runs_of_the_ablations_apart():
    plain = TINY.but(head="standard", k=1.0)
    assert plain.but(sparsity_weight=0.0).title == "planted standard seed 0"
    others = [TINY, TINY.but(sparsity_reduction="sum"), TINY.but(k=0.5), TINY.but(fold=1)]
    others += [plain.but(sparsity_on=place) for place in ("last_features", "all_features")]
    assert others[1].title == "planted topgap k=3 lambda=0.5 as a sum seed 0"
    assert others[-1].title == "planted standard k=1 lambda=0.5 on all_features seed 0"
    assert len({spec.title for spec in others}) == len(others)


def test_history_is_a_table_with_one_row_per_epoch(finished):
    table = training.history_table(finished)
    assert table.index.tolist() == [1, 2, 3]
    columns = {"cross_entropy", "sparsity", "accuracy", "images_per_second"}
    assert set(table.columns) == columns


# The digest


def test_every_field_has_a_change_to_test():
    assert set(CHANGES) == {field.name for field in fields(RunSpec)}


@pytest.mark.parametrize("name", CHANGES)
def test_the_digest_changes_with_every_field(name):
    start = TINY.but(head="standard") if name == "sparsity_on" else TINY
    changed = start.but(**{name: CHANGES[name]})
    assert changed.digest != start.digest
    assert changed != start
    assert hash(start) == hash(start.but())


def test_a_count_of_one_and_a_share_of_one_are_two_runs():
    assert TINY.but(k=1).digest != TINY.but(k=1.0).digest
    assert len({TINY.but(k=1), TINY.but(k=1.0)}) == 2
    assert TINY.but(k=1) != TINY.but(k=1.0)


def test_the_order_of_options_does_not_matter():
    assert TINY.but(options={"classes": 4, "images": 48}).digest == TINY.digest


def test_the_digest_is_the_same_in_every_process():
    script = (
        "from topgap_nb.experiments.spec import RunSpec\n"
        "import sys; print(RunSpec(**eval(sys.argv[1])).digest)"
    )
    choices = {field.name: getattr(TINY, field.name) for field in fields(RunSpec)}
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script, repr(choices)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == TINY.digest


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A copy of the package that ``code_digest`` reads in place of the real one."""
    for dataset in ("planted", "pneumonia"):
        code_digest(dataset)  # kept from the real package, whichever test comes first
    real = Path(importlib.util.find_spec("topgap_nb").origin).parent
    copy = shutil.copytree(real, tmp_path / "topgap_nb")
    monkeypatch.setattr(
        spec_module, "find_spec", lambda name: SimpleNamespace(origin=str(copy / "__init__.py"))
    )
    return copy


def digest_after(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return code_digest.__wrapped__("planted")


def test_comments_docstrings_and_layout_do_not_change_the_code_digest(source):
    path, before = source / "experiments" / "training.py", code_digest("planted")
    assert digest_after(path, "    warm = 0.2\n", "    warm = 0.2  # a fifth\n\n") == before
    assert digest_after(path, "then down a cosine.", "then down.") == before
    assert digest_after(path, '"""One run: from', '"""From') == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("experiments/training.py", "warm = 0.2", "warm = 0.3"),
        ("data/augment.py", "0.06", "0.07"),
        ("data/planted.py", "0.03 * noise[0]", "0.04 * noise[0]"),
        ("method/model.py", "PYRAMID_WIDTH = 256", "PYRAMID_WIDTH = 128"),
    ],
)
def test_code_that_decides_the_weights_changes_the_code_digest(source, file, old, new):
    assert digest_after(source / file, old, new) != code_digest("planted")


def test_another_data_sets_code_does_not_change_the_code_digest(source):
    path = source / "data" / "pneumonia.py"
    path.write_text(path.read_text() + "\nCHANGED = True\n")
    assert code_digest.__wrapped__("planted") == code_digest("planted")
    assert code_digest.__wrapped__("pneumonia") != code_digest("pneumonia")


def test_code_that_only_shows_results_does_not_change_the_code_digest(source):
    path = source / "workbook" / "figures.py"
    assert digest_after(path, "fontsize=9", "fontsize=8") == code_digest("planted")


def test_every_version_of_python_finds_what_another_has_trained(tmp_path, monkeypatch):
    path = tmp_path / "code.py"
    path.write_text("def f(x: int = 0, *, y=None):\n    return [x, None, 1.5, f'{y}']\n")
    before = code_hash([path])
    assert before == "43e4b5344ec738a9"
    # Since 3.12 functions have type parameters: a new field, empty where there are none.
    fields = dict.fromkeys((*ast.FunctionDef._fields, "type_params"))
    monkeypatch.setattr(ast.FunctionDef, "_fields", tuple(fields))
    monkeypatch.setattr(ast.FunctionDef, "type_params", [], raising=False)
    assert code_hash([path]) == before
    path.write_text(path.read_text().replace("None, 1.5", "1.5, None"))
    assert code_hash([path]) != before


# Interruption and damage


@pytest.mark.parametrize("after", [1, STEPS, STEPS + 1, 3 * STEPS - 1])
def test_an_interrupted_run_ends_with_the_same_bytes(finished, tmp_path, after):
    folder = unfinished(tmp_path, after)
    assert not (folder / "model.safetensors").exists()
    assert len(list(folder.glob("epoch_*.json"))) == after // STEPS
    resumed = trained(TINY, tmp_path, quiet=True)
    assert weights_of(resumed) == weights_of(finished)
    assert [e["epoch"] for e in resumed.history] == [1, 2, 3]


def test_a_resumed_run_does_not_repeat_finished_epochs(tmp_path, monkeypatch):
    unfinished(tmp_path, 2 * STEPS)
    interrupt(monkeypatch, STEPS)
    assert len(trained(TINY, tmp_path, quiet=True).history) == 3


def train_until_killed(runs):
    on_one_cpu_thread()
    augment, left = training.augment, [STEPS + 1]

    def stuck_in_the_second_epoch(*args):
        if not left[0]:
            time.sleep(600)
        left[0] -= 1
        return augment(*args)

    training.augment = stuck_in_the_second_epoch
    trained(TINY, runs, quiet=True)


def test_a_killed_run_ends_with_the_same_bytes(finished, tmp_path):
    # A forked child has everything imported. CUDA and macOS cannot live with a fork.
    forks = sys.platform == "linux" and not torch.cuda.is_available()
    start = multiprocessing.get_context("fork" if forks else "spawn")
    child = start.Process(target=train_until_killed, args=(tmp_path,))
    child.start()
    note = checkpoints.run_folder(TINY, tmp_path) / "epoch_0001.json"
    try:
        while not note.exists():
            assert child.is_alive()
            time.sleep(0.005)
    finally:
        child.kill()
        child.join()
    assert child.exitcode == -9
    assert not (note.parent / "model.safetensors").exists()
    assert weights_of(trained(TINY, tmp_path, quiet=True)) == weights_of(finished)


def test_half_a_checkpoint_does_not_count(finished, tmp_path):
    folder = unfinished(tmp_path, STEPS)
    content = (folder / "epoch_0001.safetensors").read_bytes()
    (folder / "epoch_0002.safetensors").write_bytes(content[: len(content) // 2])
    (folder / ".epoch_0002.json.99").write_text('{"epoch"')
    assert weights_of(trained(TINY, tmp_path, quiet=True)) == weights_of(finished)


@pytest.mark.parametrize("part", ["safetensors", "json"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(finished, tmp_path, part):
    folder = unfinished(tmp_path, 2 * STEPS)
    damaged = folder / "epoch_0002.safetensors"
    flip_a_byte(damaged.with_suffix(f".{part}"), where=-40 if part == "safetensors" else 0)
    before = damaged.read_bytes()
    with pytest.warns(UserWarning, match=f"{damaged} is damaged"):
        resumed = trained(TINY, tmp_path, quiet=True)
    assert damaged.with_name("epoch_0002.safetensors.damaged").read_bytes() == before
    assert weights_of(resumed) == weights_of(finished)


def test_a_run_whose_checkpoints_are_all_damaged_starts_over(finished, tmp_path):
    folder = unfinished(tmp_path, 2 * STEPS)
    for file in folder.glob("epoch_*.safetensors"):
        file.write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged") as warned:
        resumed = trained(TINY, tmp_path, quiet=True)
    assert len(warned) == 2
    assert weights_of(resumed) == weights_of(finished)


def test_only_the_latest_checkpoints_are_kept(tmp_path):
    folder = unfinished(tmp_path, 4 * STEPS, TINY.but(epochs=5))
    for suffix in ("json", "safetensors"):
        left = sorted(path.stem for path in folder.glob(f"*.{suffix}"))
        assert left == ["epoch_0003", "epoch_0004"]


def test_a_damaged_network_is_set_aside_and_trained_again(finished, copied):
    file = copied / "model.safetensors"
    flip_a_byte(file)
    with pytest.warns(UserWarning, match=f"{file} is damaged"):
        again = trained(TINY, copied.parent, quiet=True)
    assert (copied / "model.safetensors.damaged").exists()
    assert weights_of(again) == weights_of(finished)


def test_a_lost_network_is_trained_again(finished, copied):
    (copied / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match=r"model\.safetensors is damaged"):
        again = trained(TINY, copied.parent, quiet=True)
    assert weights_of(again) == weights_of(finished)


def test_a_nan_loss_stops_the_run_and_names_the_last_good_checkpoint(tmp_path, monkeypatch):
    steps = [0]

    def poisoned(*args):
        terms, logits = loss_of(*args)
        steps[0] += 1
        if steps[0] == STEPS + 2:
            terms = terms._replace(cross_entropy=terms.cross_entropy * math.nan)
        return terms, logits

    monkeypatch.setattr(training, "loss_of", poisoned)
    with pytest.raises(Diverged, match="the loss is nan at step 1 of epoch 2") as diverged:
        trained(TINY, tmp_path, quiet=True)
    checkpoint = checkpoints.run_folder(TINY, tmp_path) / "epoch_0001.safetensors"
    assert str(checkpoint) in str(diverged.value)
    assert all(tensor.isfinite().all() for tensor in load_file(checkpoint).values())


def test_a_learning_rate_without_measure_diverges_before_any_checkpoint(tmp_path):
    with pytest.raises(Diverged, match=r"epoch 1; .* checkpoint is none\. Lower learning_rate"):
        trained(TINY.but(learning_rate=1e30, head_rate=1e30), tmp_path, quiet=True)


# The learning rate


def test_the_rate_starts_small_peaks_after_a_fifth_and_ends_near_zero():
    progress = torch.linspace(0, 1, 501).tolist()
    rates = [rate(p) for p in progress]
    assert rates[0] == pytest.approx(0.04)
    assert max(rates) == rates[100] == pytest.approx(1.0)
    assert progress[100] == pytest.approx(0.2)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert rates[:101] == sorted(rates[:101])
    assert rates[100:] == sorted(rates[100:], reverse=True)


def test_sgd_takes_nesterov_steps():
    """Against the closed form: v = 0.9 v + g, w = w - rate (g + 0.9 v), with decay in g."""
    model = build_model("standard", "test_resnet", 4)
    optimizer = training._optimizer(model, TINY.but(head="standard", optimizer="sgd"))
    weight = model.net.get_classifier().weight
    expected, velocity = weight.detach().clone(), 0
    for step in range(2):
        gradient = torch.full_like(weight, step + 1.0)
        weight.grad = gradient.clone()
        for group in optimizer.param_groups:
            group["lr"] = 0.5
        optimizer.step()
        gradient += TINY.weight_decay * expected
        velocity = 0.9 * velocity + gradient
        expected -= 0.5 * (gradient + 0.9 * velocity)
    torch.testing.assert_close(weight.detach(), expected)


def test_the_new_head_learns_at_its_own_rate():
    for head in ("topgap", "standard"):
        model = build_model(head, "test_resnet", 4)
        optimizer = training._optimizer(model, TINY.but(head=head))
        backbone, new = optimizer.param_groups
        classifier = model.head if head == "topgap" else model.net.get_classifier()
        assert set(new["params"]) == set(classifier.parameters())
        assert (backbone["peak"], new["peak"]) == (TINY.learning_rate, TINY.head_rate)
        assert len(backbone["params"]) + len(new["params"]) == len(list(model.parameters()))


# Specifications


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"epochs": 0}, "epochs = 0 must be at least 1"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"image_size": -1}, "image_size = -1"),
        ({"learning_rate": -1e-3}, "learning_rate = -0.001"),
        ({"head_rate": math.nan}, "head_rate = nan"),
        ({"weight_decay": math.inf}, "weight_decay = inf"),
        ({"sparsity_weight": -1.0}, "sparsity_weight = -1.0"),
        ({"optimizer": "adam"}, "'adam': use adamw or sgd"),
        ({"sparsity_on": "logits"}, "'logits': use class_maps, last_features, all_features"),
        ({"sparsity_on": "last_features"}, "an ablation of head 'standard'"),
        ({"fold": 5}, r"fold = 5 must lie in 0\.\.4"),
        ({"fold": -1}, r"fold = -1 must lie in 0\.\.4"),
        ({"fold": 0, "folds": 1}, "folds = 1 must be at least 2"),
        ({"train_images": 0}, "train_images = 0"),
        ({"train_images": -5}, "train_images = -5"),
        ({"options": {"split": "test"}}, "options cannot set split"),
    ],
)
def test_a_specification_out_of_range_is_refused(choices, words):
    with pytest.raises(UserError, match=words):
        TINY.but(**choices)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"dataset": "nowhere"}, "'nowhere' is unknown"),
        ({"backbone": "resnet19"}, "'resnet19' is not a timm architecture"),
        ({"head": "tail"}, "'tail' is unknown"),
        ({"k": 0}, "k = 0"),
        ({"k": 9999}, "k = 9999 does not fit"),
        ({"augmentation": "cutout"}, "'cutout' is unknown"),
        ({"sparsity_reduction": "max"}, "'max' is unknown"),
        ({"options": {"colour": "red"}}, "'colour'"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused_when_training_starts(tmp_path, choices, words):
    with pytest.raises(UserError, match=words):
        trained(TINY.but(**choices), tmp_path, quiet=True)


@pytest.mark.parametrize("choices", [{"dataset": "nowhere"}, {"backbone": "resnet19"}])
def test_a_mistyped_name_leaves_no_run_behind(tmp_path, choices):
    with pytest.raises(UserError):
        trained(TINY.but(**choices), tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


# Sets and folds


@pytest.fixture(scope="module")
def patients():
    draw = torch.Generator().manual_seed(0)
    owner = torch.randint(60, (300,), generator=draw)
    labels = (torch.rand(300, generator=draw) < 0.3).long()
    return ImageSet(
        name="patients",
        pixels=torch.zeros(300, 1, 1, 1, dtype=torch.uint8),
        labels=labels,
        class_names=("ill", "well"),
        ids=tuple(map(str, range(300))),
        units=tuple(f"patient {number}" for number in owner.tolist()),
    )


def test_folds_hold_out_every_image_once(patients):
    held_out = [name for fold in range(5) for name in fold_of(patients, fold, 5)[1].ids]
    assert sorted(held_out) == sorted(patients.ids)


@pytest.mark.parametrize("fold", range(5))
def test_a_fold_and_the_rest_share_no_patient_and_have_the_same_balance(patients, fold):
    rest, held_out = fold_of(patients, fold, 5)
    assert set(rest.ids) | set(held_out.ids) == set(patients.ids)
    assert not set(rest.units) & set(held_out.units)
    assert abs(len(held_out) - 60) <= 10
    share = patients.labels.float().mean()
    assert abs(held_out.labels.float().mean() - share) < 0.08


def test_a_set_without_units_is_split_image_by_image():
    rest, held_out = training.run_sets(TINY.but(fold=2, folds=4)).values()
    assert (len(rest), len(held_out)) == (36, 12)
    assert not set(rest.ids) & set(held_out.ids)
    assert held_out.labels.bincount().tolist() == [3, 3, 3, 3]
    assert all(name.startswith("train-") for name in (*rest.ids, *held_out.ids))


def test_a_run_learns_from_train_and_selects_on_select():
    sets = run_sets(TINY.but(train_images=20))
    assert len(sets["train"]) == 20
    assert len(sets["select"]) == 48
    assert all(name.startswith("select-") for name in sets["select"].ids)


# The loss


@pytest.fixture(scope="module")
def batch():
    draw = torch.Generator().manual_seed(0)
    return torch.rand(3, 3, 64, 64, generator=draw), torch.tensor([0, 2, 1])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("where", ["last_features", "all_features"])
def test_the_ablations_take_the_norm_of_feature_maps(batch, where, reduction):
    images, labels = batch
    torch.manual_seed(0)
    model = build_model("standard", "test_resnet", 3, k=2).eval()
    spec = TINY.but(
        head="standard", sparsity_on=where, sparsity_reduction=reduction, sparsity_weight=0.25
    )
    terms, logits = loss_of(model, images, labels, spec)
    features = model.features(images)
    chosen = features if where == "all_features" else [features[-1]]
    per_map = [f.abs().mean() if reduction == "mean" else f.abs().sum() / 3 for f in chosen]
    norm = sum(per_map) / len(chosen)
    torch.testing.assert_close(logits, model(images))
    torch.testing.assert_close(terms.sparsity, norm)
    torch.testing.assert_close(terms.total, F.cross_entropy(logits, labels) + 0.25 * norm)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("head", ["standard", "topgap"])
def test_the_method_takes_the_norm_of_the_class_maps(batch, head, reduction):
    images, labels = batch
    torch.manual_seed(0)
    model = build_model(head, "test_resnet", 3, k=2).eval()
    if head == "topgap":
        torch.nn.init.normal_(model.head.classifier.weight)
    spec = TINY.but(head=head, sparsity_weight=0.25, sparsity_reduction=reduction)
    terms, logits = loss_of(model, images, labels, spec)
    maps = model.class_maps(images)
    norm = maps.abs().mean() if reduction == "mean" else maps.abs().sum() / 3
    best = maps.flatten(2).sort(descending=True).values[..., :2].mean(-1)
    torch.testing.assert_close(logits, best)
    torch.testing.assert_close(terms.total, F.cross_entropy(best, labels) + 0.25 * norm)


def test_a_network_without_class_maps_has_cross_entropy_only(batch):
    images, labels = batch
    torch.manual_seed(0)
    model = build_model("standard", "test_convnext", 3).eval()
    assert model.pool is None
    terms, logits = loss_of(model, images, labels, TINY.but(head="standard", sparsity_weight=0.5))
    torch.testing.assert_close(terms.total, F.cross_entropy(model(images), labels))
    torch.testing.assert_close(logits, model(images))
