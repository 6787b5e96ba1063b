import shutil
from dataclasses import replace

import pytest
import torch
from helpers.layouts import open_split

from topgap_nb import ImageSet, Splits, UserError, as_float, open_dataset, write_folder


@pytest.fixture(scope="module")
def small():
    return ImageSet(
        name="small",
        pixels=torch.arange(5 * 4, dtype=torch.uint8).view(5, 1, 2, 2),
        labels=torch.tensor([0, 1, 0, 1, 1]),
        class_names=("no", "yes"),
        ids=tuple("abcde"),
        masks=torch.eye(2, dtype=torch.bool).repeat(5, 1, 1),
        masked=torch.tensor([False, True, False, True, False]),
        group=torch.tensor([0, 1, 0, 0, 1]),
        subject_ids=("u", "u", "v", "w", "w"),
    )


@pytest.mark.parametrize("name", ["planted", "pneumonia"])
def test_items_follow_the_interface(name):
    images = open_split(name, "test", 32)
    item = images.with_masks()[0]
    assert item["image"].shape == (3, 32, 32)
    assert item["image"].dtype == torch.float32
    assert 0 <= item["image"].min() < item["image"].max() <= 1
    assert type(item["label"]) is int
    assert item["mask"].shape == (32, 32)
    assert item["mask"].dtype == torch.bool
    assert ("group" in item) == (images.group is not None)
    assert len(set(images.ids)) == len(images)
    assert set(images.labels.tolist()) == set(range(len(images.class_names)))


def test_only_masked_images_give_a_mask(small):
    assert ["mask" in item for item in small] == [False, True, False, True, False]


def test_an_index_beyond_the_end_raises_and_a_negative_one_counts_back(small):
    assert small[-1]["label"] == small[4]["label"]
    assert torch.equal(small[-1]["image"], small[4]["image"])
    with pytest.raises(IndexError):
        small[5]


def test_a_subset_takes_every_field_in_the_order_asked_for(small):
    part = small.subset([3, 0])
    assert part.ids == ("d", "a")
    assert part.subject_ids == ("w", "u")
    assert part.labels.tolist() == [1, 0]
    assert part.group.tolist() == [0, 0]
    assert part.masked.tolist() == [True, False]
    assert torch.equal(part.pixels, small.pixels[[3, 0]])
    assert part.class_names == small.class_names


def test_with_masks_keeps_the_masked_images_only(small):
    part = small.with_masks()
    assert part.ids == ("b", "d")
    assert part.has_masks
    assert not small.has_masks
    assert part.with_masks() is part


def test_a_boolean_tensor_selects(small):
    assert small.subset(small.labels == 1).ids == ("b", "d", "e")


def test_masks_are_counted(small):
    assert small.mask_count == 2
    assert small.with_masks().mask_count == 2
    assert replace(small, masks=None, masked=None).mask_count == 0


def test_with_masks_of_a_set_without_any_is_refused(small):
    with pytest.raises(UserError, match="'small' has no masks"):
        replace(small, masks=None, masked=None).with_masks()


def test_a_sample_is_the_same_every_time_and_holds_no_image_twice():
    images = open_split("planted", "train", 16, images=1000)
    sample = images.sample(50)
    assert sample.ids == images.sample(50).ids
    assert len(set(sample.ids)) == 50
    assert sample.ids != images.ids[:50]
    assert set(sample.ids) <= set(images.ids)
    assert images.sample(2000) is images


def test_pixels_become_three_channels_between_0_and_1():
    grey = torch.tensor([[[0, 51], [102, 255]]], dtype=torch.uint8)
    expected = torch.tensor([[0.0, 0.2], [0.4, 1.0]]).expand(3, 2, 2)
    torch.testing.assert_close(as_float(grey), expected)
    torch.testing.assert_close(as_float(grey.expand(3, 2, 2)), expected)
    assert grey.tolist() == [[[0, 51], [102, 255]]]


# Splits


@pytest.fixture
def splits(small):
    return Splits("small", lambda split: small)


def test_a_split_is_read_when_it_is_first_asked_for_and_once(small):
    asked = []
    splits = Splits("small", lambda split: asked.append(split) or small)
    assert asked == []
    assert repr(splits) == "small: not opened yet"
    assert splits.val is splits.val
    assert asked == ["val"]
    assert repr(splits) == "small: val 5"


def test_the_fingerprint_is_that_of_pixels_labels_and_classes(small, splits):
    def of(**fields):
        return splits.replace(train=replace(small, **fields)).fingerprint

    same = [{}, {"masks": None, "masked": None}, {"ids": tuple("vwxyz")}, {"group": None}]
    assert {of(**fields) for fields in same} == {splits.fingerprint}
    other = [
        {"pixels": small.pixels + 1},
        {"labels": 1 - small.labels},
        {"class_names": ("no", "yes", "perhaps")},
    ]
    assert len({of(**fields) for fields in other} | {splits.fingerprint}) == 4
    assert splits.replace(train=small.subset([0, 1, 2])).fingerprint != splits.fingerprint
    assert splits.replace(test=small.subset([0])).fingerprint == splits.fingerprint


def test_replacing_a_split_leaves_the_others_and_the_original(small, splits):
    fewer = splits.replace(train=small.subset([1, 2]))
    assert (len(fewer.train), len(fewer.val), len(splits.train)) == (2, 5, 5)
    with pytest.raises(UserError, match="trian: the splits are train, val, test"):
        splits.replace(trian=small)


def test_the_fingerprint_does_not_depend_on_a_folders_place_or_masks(tmp_path):
    planted = open_split("planted", "train", 16, images=48, classes=2, object_size=0.15)
    place = write_folder(planted, tmp_path / "first")
    first = open_dataset("folder", 16, path=str(place))
    assert first.train.has_masks
    place = place.rename(tmp_path / "second")
    moved = open_dataset("folder", 16, path=str(place))
    shutil.rmtree(place / "masks")
    bare = open_dataset("folder", 16, path=str(place))
    assert bare.train.masks is None
    assert first.fingerprint == moved.fingerprint == bare.fingerprint
    dropped = first.replace(train=first.train.subset(range(1, len(first.train))))
    assert dropped.fingerprint != first.fingerprint
