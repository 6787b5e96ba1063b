"""The real images of $TOPGAP_DATA, where there are some: published sets, or parts of them."""

import pytest

from topgap_nb import (
    TrainingSpec,
    clean_accuracy,
    data_sets,
    open_dataset,
    predict,
    train_or_load,
)
from topgap_nb.data.image_set import SPLITS

OPTIONS = {"coco": {"min_samples": 1}}


def opened(name, size=32):
    if data_sets()[name].source.where() is None:
        pytest.skip(f"{name} is not in $TOPGAP_DATA: `topgap data prepare {name}`")
    return open_dataset(name, size, **OPTIONS.get(name, {}))


def sets_of(name):
    data = opened(name)
    return {split: getattr(data, split) for split in SPLITS}


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
    if data_sets()["coco"].source.where().name == "coco-tiny":
        # Counted by hand in the annotation files: images with one annotation, none a crowd.
        assert total == 8
        assert names == ("sink", "stop sign", "toilet", "train")
    else:
        assert len(open_dataset("coco", 32).test.class_names) == 53


@pytest.mark.parametrize("name", ["wbc", "coco"])
def test_one_epoch_on_microscopy_and_on_coco(name, runs):
    data = opened(name)
    spec = TrainingSpec("test_efficientnet", k=8, sparsity_weight=1.0, epochs=1, pretrained=False)
    run = train_or_load(spec, data, quiet=True)
    assert (run.history["cross_entropy"] > 0).all()
    assert 0 <= clean_accuracy(predict(run.model, data.val), data.val.labels).value <= 1


def test_the_pixels_of_cifar_are_the_published_ones():
    train, val, _ = sets_of("cifar10").values()
    total = sum(s.pixels.double().sum((0, 2, 3)) for s in (train, val))
    means = total / (50_000 * 32 * 32 * 255)
    assert [round(m, 4) for m in means.tolist()] == [0.4914, 0.4822, 0.4465]
