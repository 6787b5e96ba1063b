"""What tells trainings apart, and what is refused before one starts."""

import math
import os
import subprocess
import sys
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from helpers.trainings import TINY, tiny_data

from topgap_nb.errors import UserError
from topgap_nb.training.loop import network_folder, train_or_load
from topgap_nb.training.spec import TrainingSpec

CHANGES = {
    "backbone": "test_resnet",
    "head": "standard",
    "k": 4,
    "sparsity_weight": 0.25,
    "sparsity_on": "last_features",
    "sparsity_reduction": "positions",
    "sparsity_ramp": 0.5,
    "epochs": 4,
    "batch_size": 8,
    "optimizer": "sgd",
    "lr": 1e-3,
    "head_lr": 1e-3,
    "weight_decay": 0.1,
    "augmentation": "none",
    "adversarial_epsilon": 4 / 255,
    "pretrained": True,
    "precision": "bfloat16",
    "threads": 2,
    "seed": 1,
}


@pytest.fixture(scope="module")
def data():
    return tiny_data()


# The key


def test_every_field_has_a_change_to_test():
    assert set(CHANGES) == {field.name for field in fields(TrainingSpec)}


@pytest.mark.parametrize("name", CHANGES)
def test_the_key_changes_with_every_field(data, name):
    start = TINY.replace(head="standard") if name == "sparsity_on" else TINY
    changed = start.replace(**{name: CHANGES[name]})
    assert network_folder(changed, data) != network_folder(start, data)
    assert changed != start
    assert len({start, start.replace(), changed}) == 2


def test_a_count_of_one_and_a_share_of_one_are_two_trainings(data):
    count, share = TINY.replace(k=1), TINY.replace(k=1.0)
    assert network_folder(count, data) != network_folder(share, data)
    assert count != share
    assert len({count, share}) == 2


def test_numbers_that_are_the_same_are_the_same_training(data):
    same = TINY.replace(k=np.int64(3), sparsity_weight=np.float32(0.5), seed=np.int32(0))
    assert same == TINY
    assert network_folder(same, data) == network_folder(TINY, data)
    assert {type(value) for value in asdict(same).values()} <= {int, float, str, bool}
    assert TINY.replace(lr=1) == TINY.replace(lr=1.0)


def test_other_training_images_are_another_key(data):
    folder = network_folder(TINY, data)
    fewer = data.replace(train=data.train.subset(range(40)))
    mixed = data.replace(train=data.train.subset(range(47, -1, -1)))
    assert len({folder, *(network_folder(TINY, other) for other in (fewer, mixed))}) == 3
    assert network_folder(TINY, tiny_data(seed=1)) != folder
    assert network_folder(TINY, tiny_data(fold=0)) != folder
    # Nothing is learnt from the others.
    assert network_folder(TINY, data.replace(val=fewer.train, test=fewer.train)) == folder


def test_masks_are_no_part_of_the_key(data):
    bare = data.replace(train=replace(data.train, masks=None))
    assert network_folder(TINY, bare) == network_folder(TINY, data)


@pytest.mark.slow
def test_the_key_is_the_same_in_every_process(data):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from helpers.trainings import TINY, tiny_data\n"
        "from topgap_nb.training.loop import network_folder\n"
        "print(network_folder(TINY, tiny_data()))"
    )
    tests = os.path.dirname(os.path.dirname(__file__))
    done = subprocess.run(
        [sys.executable, "-c", script, tests],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(network_folder(TINY, data))


# What is refused


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"epochs": 0}, "epochs = 0 must be at least 1"),
        ({"epochs": 2.5}, "epochs = 2.5 is no whole number"),
        ({"seed": "0"}, "seed = '0' is no whole number"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"threads": -1}, "threads = -1 must be a count"),
        ({"lr": -1e-3}, "lr = -0.001"),
        ({"lr": "fast"}, "lr = 'fast' is no number"),
        ({"head_lr": math.nan}, "head_lr = nan"),
        ({"weight_decay": math.inf}, "weight_decay = inf"),
        ({"sparsity_weight": -1.0}, "sparsity_weight = -1.0"),
        ({"head": "tail"}, "head 'tail': use topgap or standard"),
        ({"optimizer": "adam"}, "'adam': use adamw or sgd"),
        ({"precision": "float16"}, "'float16': use float32 or bfloat16"),
        ({"sparsity_on": "logits"}, "'logits': use class_maps"),
        ({"sparsity_reduction": "max"}, "'max': use mean or positions or sum"),
        ({"sparsity_ramp": 1.0}, r"sparsity_ramp = 1.0 must lie in \[0, 1\)"),
        ({"adversarial_epsilon": 8}, r"adversarial_epsilon = 8.0 must lie in \[0, 1\)"),
        ({"sparsity_on": "last_features"}, "an ablation of head 'standard'"),
        ({"wings": 2, "dataset": "cub"}, "a training has no dataset, wings; it has backbone"),
    ],
)
def test_a_specification_out_of_range_is_refused(choices, words):
    with pytest.raises(UserError, match=words):
        TINY.replace(**choices)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"backbone": "resnet19"}, "'resnet19' is not a timm architecture"),
        ({"k": 0}, "k = 0"),
        ({"k": 9999}, "k = 9999 does not fit"),
        ({"augmentation": "cutout"}, "'cutout' is unknown"),
    ],
)
def test_a_choice_that_does_not_exist_leaves_no_training_behind(data, runs, choices, words):
    with pytest.raises(UserError, match=words):
        train_or_load(TINY.replace(**choices), data, quiet=True)
    # A lock may be left.
    assert not [path for path in runs.rglob("*") if path.is_file() and path.suffix != ".lock"]


# How it shows itself


def test_a_title_tells_the_ablations_apart():
    plain = TINY.replace(head="standard", k=1.0)
    assert plain.replace(sparsity_weight=0.0).title == "standard seed 0"
    others = [TINY, TINY.replace(sparsity_reduction="sum"), TINY.replace(k=0.5)]
    others += [plain.replace(sparsity_on=place) for place in ("last_features", "all_features")]
    assert others[1].title == "topgap k=3 lambda=0.5 (sum) seed 0"
    assert others[-1].title == "standard k=1 lambda=0.5 on all_features seed 0"
    assert len({spec.title for spec in others}) == len(others)


def test_the_table_sets_the_paper_beside_every_field():
    table = TINY.replace(backbone="<b>")._repr_html_()
    assert "<td>lr</td><td>0.0005</td><td>not stated</td>" in table
    assert "<td>k</td><td>3</td><td>64 to 2048" in table
    assert "&lt;b&gt;" in table
    assert table.count("<tr>") == 1 + len(fields(TrainingSpec))
