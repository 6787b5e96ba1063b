"""What a grid is said to cost."""

import pytest
from helpers import layouts

from topgap_nb.cluster.cost import Cost, cost_report, predict_cost
from topgap_nb.cluster.grid import grid_of, run_grid
from topgap_nb.method.model import build_model
from topgap_nb.training.profile import Profile

TINY = {
    "backbone": "test_efficientnet", "image_size": 32, "k": 4, "sparsity_weight": 1.0, "epochs": 2,
    "batch_size": 8, "pretrained": False,
}  # fmt: skip
RECIPES = {"default": TINY, "planted": {**TINY, "options": {"images": 24, "classes": 4}}}
METHODS = [{"head": "standard"}, {"head": "topgap", "k": [2, 4]}]
PUBLISHED = {"cub": {"images": 6000, "classes": 8}, "pets": {"images": 3680, "classes": 37}}


def costs(*grid, sets=PUBLISHED):
    profile = Profile("mine", RECIPES, {}, grid=grid, sets=sets)
    return predict_cost(profile, grid_of(profile))


def hours(images, cost):
    return pytest.approx(images / cost.speed / 3600)


def test_the_hours_are_images_over_measured_throughput_less_what_is_stored(root):
    block = {"dataset": "planted", "seed": [0, 1], "methods": METHODS}
    runs = grid_of(Profile("mine", RECIPES, {}, grid=(block,)))
    run_grid(runs[:1], echo=[].append)
    standard, topgap = costs(block)
    assert standard[:5] == ("planted", "test_efficientnet", "standard", 2, 1)
    assert topgap[:5] == ("planted", "test_efficientnet", "topgap", 4, 0)
    assert standard.hours == hours(2 * 24, standard)
    assert topgap.hours == hours(4 * 2 * 24, topgap)
    network = build_model("topgap", "test_efficientnet", 4)
    parameters = sum(p.numel() for p in network.parameters())
    assert topgap.disk == 4 * 4 * parameters
    # Weights and two moments, in the two that are kept and the one that is being written.
    assert topgap.peak == 3 * 3 * 4 * parameters


def test_folds_and_parts_have_fewer_images(root):
    block = {"dataset": "planted", "fold": [0, 1, 2], "folds": 3}
    (cost,) = costs(block)
    assert cost.hours == hours(3 * 2 * 16, cost)
    (cost,) = costs({"dataset": "planted", "train_images": 10})
    assert cost.hours == hours(2 * 10, cost)


def test_what_is_absent_is_estimated_from_what_is_published(root):
    (cost,) = costs({"dataset": "cub", "fold": [0, 1, 2, 3, 4]})
    assert (cost.note, cost.runs, cost.stored) == ("data absent", 5, 0)
    assert cost.hours == hours(5 * 2 * 4800, cost)
    (cost,) = costs({"dataset": "cub"}, sets={"cub": {"classes": 8}})
    assert cost.hours is None


def test_an_incomplete_set_is_named_and_the_others_are_estimated(root):
    home = layouts.pets(root)
    (home / "images" / "beagle_1.jpg").unlink()
    pets, planted = costs({"dataset": ["pets", "planted"]})
    assert "beagle_1.jpg is missing" in pets.note
    assert pets.hours == hours(2 * 3680, pets)
    assert (planted.note, planted.hours) == ("", hours(2 * 24, planted))


@pytest.mark.parametrize(
    ("make", "file", "content"),
    [
        ("cub", "image_class_labels.txt", "1 1\n"),
        ("cub", "bounding_boxes.txt", "1 10.0"),
        ("pets", "annotations/trainval.txt", "Bengal_1"),
        ("wbc", "labels.csv", ""),
    ],
)
def test_a_damaged_list_is_named_and_the_others_are_estimated(root, make, file, content):
    (getattr(layouts, make)(root) / file).write_text(content)
    damaged, planted = costs({"dataset": [make, "planted"]})
    assert damaged.note
    assert "\n" not in damaged.note
    assert (planted.note, planted.hours) == ("", hours(2 * 24, planted))


def test_the_report_adds_up_and_says_what_is_unknown():
    rows = [
        Cost("planted", "resnet18", "standard", 2, 1, 48.0, 2.5, 10**9, 6 * 10**9, ""),
        Cost(
            "cub", "resnet18", "topgap", 5, 0, 1200.0, 1000.0, 2 * 10**9, 9 * 10**9, "data absent"
        ),
        Cost("coco", "resnet18", "topgap", 3, 0, 1200.0, None, 10**9, 9 * 10**9, "data absent"),
    ]
    head, planted, cub, coco, total, disk = cost_report(rows, "an abacus")
    names = "data set network method runs stored images/s hours GB"
    assert head.split() == names.split()
    assert planted.split() == ["planted", "resnet18", "standard", "2", "1", "48.0", "2.5", "1.00"]
    assert cub.split()[-4:] == ["1,000.0", "2.00", "data", "absent"]
    assert coco.split()[-4:] == ["?", "1.00", "data", "absent"]
    assert total == (
        "10 runs, 1 stored; 1,002.5 hours without coco, one after another on an abacus"
    )
    assert disk == "4.00 GB in the end, and up to 9.00 GB of checkpoints for each run in training"
