"""The real images of $TOPGAP_DATA, where there are some: published sets, or parts of them."""

import pytest

from topgap_nb import RunSpec, clean_accuracy, open_dataset, predict, run_sets, trained
from topgap_nb.data import source_of
from topgap_nb.data.images import SPLITS

OPTIONS = {"coco": {"min_samples": 1}}


def here(name):
    if source_of(name).where() is None:
        pytest.skip(f"{name} is not in $TOPGAP_DATA: `topgap data prepare {name}`")


def sets_of(name, size=32):
    here(name)
    return {split: open_dataset(name, split, size, **OPTIONS.get(name, {})) for split in SPLITS}


# Per data set: images in all splits of the whole set and of the part that is at hand here, and the
# published number of classes.
SIZES = {
    "pets": ((7349, 693), 37),
    "cub": ((11788, 2889), 200),
    "wbc": ((300,), 5),
    "waterbirds": ((11788,), 2),
    "cifar10": ((60000,), 10),
}


@pytest.mark.parametrize("name", SIZES)
def test_every_image_is_in_one_split(name):
    sets = sets_of(name)
    ids = [i for images in sets.values() for i in images.ids]
    whole, classes = SIZES[name]
    assert len(set(ids)) == len(ids)
    assert len(ids) in whole
    assert len(sets["test"].class_names) <= classes
    if len(ids) == whole[0]:
        assert len(sets["test"].class_names) == classes


@pytest.mark.parametrize(
    ("name", "low", "high"), [("pets", 0.3, 0.6), ("wbc", 0.2, 0.45), ("cub", 0.1, 0.5)]
)
def test_objects_cover_a_plausible_share_mostly_in_the_middle(name, low, high):
    test = sets_of(name)["test"]
    assert test.has_masks
    share = test.masks.float().mean(0)
    assert low < share.mean() < high
    assert share[12:20, 12:20].mean() > 0.6
    assert share[:4, :4].mean() < 0.3
    assert share[-4:, -4:].mean() < 0.3


def test_coco_as_the_paper_cuts_it():
    sets = sets_of("coco")
    total = sum(map(len, sets.values()))
    names = sets["test"].class_names
    if source_of("coco").where().name == "coco-tiny":
        # Counted by hand in the annotation files: images with one annotation, none a crowd.
        assert total == 8
        assert names == ("sink", "stop sign", "toilet", "train")
    else:
        assert len(open_dataset("coco", "test", 32).class_names) == 53


@pytest.mark.parametrize("name", ["wbc", "coco"])
def test_one_epoch_on_microscopy_and_on_coco(name, runs):
    here(name)
    spec = RunSpec(
        name, "test_efficientnet", k=8, sparsity_weight=1.0, image_size=32, epochs=1,
        pretrained=False, options=OPTIONS.get(name, {}),
    )  # fmt: skip
    run = trained(spec, quiet=True)
    select = run_sets(spec)["select"]
    assert run.history[0]["cross_entropy"] > 0
    assert 0 <= clean_accuracy(predict(run.model, select), select.labels).value <= 1


def test_the_pixels_of_cifar_are_the_published_ones():
    train, select, _ = sets_of("cifar10").values()
    total = sum(s.pixels.double().sum((0, 2, 3)) for s in (train, select))
    means = total / (50_000 * 32 * 32 * 255)
    assert [round(m, 4) for m in means.tolist()] == [0.4914, 0.4822, 0.4465]
