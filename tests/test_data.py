import io
from math import sqrt

import numpy as np
import pytest
import torch
from PIL import Image

from topgap_nb.data import DATASETS, augment, open_dataset, planted
from topgap_nb.data.images import SPLITS, ImageSet, as_float, read_image
from topgap_nb.data.pneumonia import shared_patients
from topgap_nb.errors import UserError

TEN_SIZES = (0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.18, 0.11, 0.09, 0.14)


@pytest.fixture
def uncached():
    planted._planted.cache_clear()
    yield
    planted._planted.cache_clear()


def open_ten(agreement=0.95, **options):
    options = {"images": 20, "classes": 10, "agreement": agreement, **options}
    return open_dataset("planted", "test", options.pop("image_size", 32), **options)


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
        groups=torch.tensor([0, 1, 0, 0, 1]),
        units=("u", "u", "v", "w", "w"),
    )


@pytest.fixture(scope="module")
def radiographs():
    return {split: open_dataset("pneumonia", split, 32) for split in SPLITS}


# planted


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("count", [1, 2, 11])
def test_an_item_does_not_depend_on_how_many_are_drawn(split, count):
    many = open_dataset("planted", split, 32, images=24)
    few = open_dataset("planted", split, 32, images=count)
    assert len(few) == count
    for values in ("pixels", "masks", "labels", "groups"):
        assert torch.equal(getattr(few, values), getattr(many, values)[:count])
    assert few.ids == many.ids[:count]


def test_each_split_can_have_its_own_number_of_images():
    sizes = {"train": 12, "test": 8}
    found = [len(open_dataset("planted", split, 16, images=sizes)) for split in SPLITS]
    assert found == [12, 400, 8]
    with pytest.raises(UserError, match="trian is no split"):
        open_dataset("planted", "test", 16, images={"trian": 12})


def test_the_same_controls_draw_the_same_bytes_again(uncached):
    first = open_ten()
    planted._planted.cache_clear()
    second = open_ten()
    assert first.pixels is not second.pixels
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.masks, second.masks)


@pytest.mark.parametrize("size", [0.1, 0.2, TEN_SIZES], ids=["a tenth", "a fifth", "per class"])
def test_an_object_covers_the_share_that_was_asked_for(size):
    images = open_ten(image_size=256, object_size=size)
    covered = images.masks.float().mean((1, 2))
    asked = torch.tensor(size if isinstance(size, tuple) else [size] * 10)[images.labels]
    torch.testing.assert_close(covered, asked, rtol=0.015, atol=0)


def test_a_range_of_sizes_is_drawn_from_end_to_end():
    images = open_dataset("planted", "test", 128, images=90, classes=3, object_size=[0.05, 0.2])
    covered = images.masks.float().mean((1, 2))
    assert covered.min() > 0.05 * 0.97
    assert covered.max() < 0.2 * 1.03
    assert covered.min() < 0.06
    assert covered.max() > 0.19
    assert abs(covered.mean() - 0.125) < 0.02


def test_two_sizes_for_two_classes_are_one_per_class():
    images = open_dataset("planted", "test", 128, images=6, classes=2, object_size=(0.05, 0.2))
    covered = images.masks.float().mean((1, 2))
    asked = torch.tensor([0.05, 0.2])[images.labels]
    torch.testing.assert_close(covered, asked, rtol=0.03, atol=0)


def test_an_object_lies_wholly_inside_wherever_jitter_puts_it():
    images = open_ten(image_size=256, object_size=0.2, jitter=1.0)
    torch.testing.assert_close(
        images.masks.float().mean((1, 2)), torch.full((20,), 0.2), rtol=0.015, atol=0
    )


def test_jitter_moves_the_object_off_the_centre():
    axis = torch.arange(32) - 15.5

    def centres(jitter):
        masks = open_ten(images=40, jitter=jitter, object_size=0.05).masks.float()
        masks /= masks.sum((1, 2), keepdim=True)
        return torch.stack([(masks * axis).sum((1, 2)), (masks.mT * axis).sum((1, 2))], 1)

    still, moved = centres(0.0), centres(1.0)
    disks = slice(0, None, 10)
    assert still[disks].abs().max() < 0.5
    assert moved.abs().amax(0).min() > 8
    assert moved.mean(0).abs().max() < 3


def test_the_mask_is_exactly_where_no_background_shows(monkeypatch, uncached):
    def on(weight):
        flat = dict.fromkeys(planted.TEXTURES, lambda x, y, phase, noise: 0 * x + weight)
        monkeypatch.setattr(planted, "TEXTURES", flat)
        planted._planted.cache_clear()
        return open_ten(image_size=64, clutter=0)

    dark, light = on(-9), on(9)
    untouched = (dark.pixels == light.pixels).all(1)
    assert torch.equal(untouched, dark.masks)
    assert torch.equal(dark.masks, light.masks)


@pytest.mark.parametrize("agreement", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("clutter", [0, 9])
def test_the_background_leaves_objects_masks_and_labels_alone(agreement, clutter):
    one, other = open_ten(), open_ten(agreement, clutter=clutter)
    assert torch.equal(one.masks, other.masks)
    assert torch.equal(one.labels, other.labels)
    inside = one.masks[:, None].expand_as(one.pixels)
    assert torch.equal(one.pixels[inside], other.pixels[inside])


def test_agreement_changes_only_the_images_that_it_gives_another_background():
    one, other = open_ten(0.95, images=60), open_ten(0.5, images=60)
    unchanged = one.groups == other.groups
    equal = (one.pixels == other.pixels).flatten(1).all(1)
    assert torch.equal(equal, unchanged)
    assert 10 < unchanged.sum() < 50


def test_another_size_leaves_the_background_alone():
    one, other = open_ten(object_size=0.05), open_ten(object_size=0.1)
    outside = ~(one.masks | other.masks)[:, None].expand_as(one.pixels)
    assert torch.equal(one.pixels[outside], other.pixels[outside])
    assert torch.equal(one.groups, other.groups)


@pytest.mark.parametrize("agreement", [0.05, 0.5, 0.8, 0.95])
def test_backgrounds_agree_as_often_as_was_asked(agreement):
    images = open_dataset("planted", "train", 16, images=1000, agreement=agreement)
    agreeing = (images.groups == 0).float().mean().item()
    assert abs(agreeing - agreement) < 4 * sqrt(agreement * (1 - agreement) / 1000)


@pytest.mark.parametrize(("agreement", "group"), [(1.0, 0), (0.0, 1)])
def test_group_zero_is_a_background_that_agrees(agreement, group):
    images = open_ten(agreement)
    assert images.groups.tolist() == [group] * 20
    assert images.group_names[group].endswith("disagrees" if group else "agrees")


def test_the_group_says_whether_the_texture_is_that_of_the_class(monkeypatch, uncached):
    drawn = []

    def recorder(number):
        return lambda x, y, phase, noise: drawn.append(number) or 0 * x

    recorders = {name: recorder(number) for number, name in enumerate(planted.TEXTURES)}
    monkeypatch.setattr(planted, "TEXTURES", recorders)
    images = open_ten(0.5, images=400, image_size=16)
    agrees = torch.tensor(drawn) == images.labels
    assert torch.equal(agrees, images.groups == 0)
    assert set(drawn) == set(range(10))


def test_splits_and_seeds_share_no_image():
    sets = [open_dataset("planted", split, 32, images=40) for split in SPLITS]
    sets.append(open_dataset("planted", "train", 32, images=40, seed=1))
    contents = [pixels.numpy().tobytes() for images in sets for pixels in images.pixels]
    ids = [name for images in sets for name in images.ids]
    assert len(set(contents)) == len(set(ids)) == 160


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": 11}, "2 to 10 classes"),
        ({"classes": 1}, "2 to 10 classes"),
        ({"agreement": 1.2}, "agreement = 1.2"),
        ({"agreement": -0.1}, "agreement = -0.1"),
        ({"jitter": 1.5}, "jitter = 1.5"),
        ({"images": 0}, "images = 0 must be at least 1"),
        ({"seed": -1}, "seed = -1 at least 0"),
        ({"clutter": -1}, r"clutter = -1 in 0\.\.32"),
        ({"clutter": 33}, r"clutter = 33 in 0\.\.32"),
        ({"object_size": 0.9}, "fits the image whole up to"),
        ({"object_size": 0.0}, "must be above 0"),
        ({"object_size": [0.2, 0.1]}, "object_size"),
        ({"object_size": [0.1, 0.1, 0.1]}, r"8 \(per class\)"),
    ],
)
def test_planted_refuses_a_control_out_of_range(options, words):
    with pytest.raises(UserError, match=words):
        open_dataset("planted", "test", 32, **{"images": 4, **options})


def test_the_largest_share_that_the_message_names_does_fit():
    with pytest.raises(UserError, match="a bar fits") as refused:
        open_dataset("planted", "test", 32, images=8, object_size=0.31)
    most = float(str(refused.value).split("up to ")[1].split()[0])
    assert len(open_dataset("planted", "test", 32, images=8, object_size=most - 0.01)) == 8


# pneumonia


def test_the_test_split_is_the_publishers(radiographs):
    test = radiographs["test"]
    assert test.labels.bincount().tolist() == [319, 315]
    assert test.class_names == ("NORMAL", "PNEUMONIA")
    assert test.pixels.shape == (634, 1, 32, 32)


def test_299_normal_test_images_have_a_lung_mask(radiographs):
    masked = radiographs["test"].with_masks()
    assert len(masked) == 299
    assert masked.has_masks
    assert not masked.labels.any()
    assert masked.masks.float().mean((1, 2)).min() > 0.02
    assert masked.masks.float().mean((1, 2)).max() < 0.7


def test_train_and_select_share_no_patient_and_leave_none_out(radiographs):
    train, select = radiographs["train"], radiographs["select"]
    assert not set(train.units) & set(select.units)
    assert not set(train.ids) & set(select.ids)
    assert len(train) + len(select) == 2532
    assert abs(len(select) / 2532 - 1 / 8) < 0.01
    assert abs(train.labels.float().mean() - select.labels.float().mean()) < 0.03


def patient(stem):
    """person100_bacteria_482 -> person100; NORMAL2-IM-0035-0001-0002 -> NORMAL2-IM-0035."""
    if stem.startswith("person"):
        return stem.split("_")[0]
    publisher, series = stem.split("IM-")
    return f"{publisher}IM-{series.split('-')[0]}"


def test_shared_patients_are_those_whose_number_train_has_too(radiographs):
    trained_on = {patient(s) for split in ("train", "select") for s in radiographs[split].ids}
    expected = [patient(stem) in trained_on for stem in radiographs["test"].ids]
    assert shared_patients(radiographs["test"]).tolist() == expected
    assert sum(expected) == 205


# open_dataset


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_a_wrong_option_is_named(name):
    with pytest.raises(UserError, match=rf"'{name}'.*'colour'"):
        open_dataset(name, "test", 32, colour="red")


def test_unknown_names_come_with_the_known_ones():
    with pytest.raises(UserError, match=r"'plantd' is unknown: .*planted, pneumonia"):
        open_dataset("plantd")
    with pytest.raises(UserError, match="'valid' is unknown: use train, select, test"):
        open_dataset("planted", "valid")


@pytest.mark.parametrize("size", [0, 15, -64])
def test_images_too_small_for_a_backbone_are_refused(size):
    with pytest.raises(UserError, match=f"image_size = {size}"):
        open_dataset("planted", "test", size)


# ImageSet


@pytest.mark.parametrize("name", ["planted", "pneumonia"])
def test_items_follow_the_interface(name):
    images = open_dataset(name, "test", 32)
    item = images.with_masks()[0]
    assert item["image"].shape == (3, 32, 32)
    assert item["image"].dtype == torch.float32
    assert 0 <= item["image"].min() < item["image"].max() <= 1
    assert type(item["label"]) is int
    assert item["mask"].shape == (32, 32)
    assert item["mask"].dtype == torch.bool
    assert ("group" in item) == (images.groups is not None)
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
    assert part.units == ("w", "u")
    assert part.labels.tolist() == [1, 0]
    assert part.groups.tolist() == [0, 0]
    assert part.masked.tolist() == [True, False]
    assert torch.equal(part.pixels, small.pixels[[3, 0]])
    assert part.class_names == small.class_names


def test_with_masks_keeps_the_masked_images_only(small):
    part = small.with_masks()
    assert part.ids == ("b", "d")
    assert part.has_masks
    assert not small.has_masks
    assert part.with_masks() is part


def test_with_masks_of_a_set_without_any_is_refused(radiographs):
    with pytest.raises(UserError, match="'pneumonia' has no masks"):
        radiographs["train"].with_masks()


def test_a_sample_is_the_same_every_time_and_holds_no_image_twice():
    images = open_dataset("planted", "train", 16, images=1000)
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


# read_image


def jpeg_bytes():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [jpeg_bytes()[:-1500], jpeg_bytes()[:100], b"no image at all\n", b""],
    ids=["half a picture", "half a header", "text", "nothing"],
)
def test_an_unreadable_image_is_named(tmp_path, content):
    path = tmp_path / "scan 7.jpeg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"scan 7\.jpeg is not a readable image") as refused:
        read_image(path, 32)
    assert str(path) in str(refused.value)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png is not a readable image"):
        read_image(tmp_path / "gone.png", 32)


@pytest.mark.parametrize(("mode", "shape"), [("RGB", (16, 16, 3)), ("L", (16, 16))])
def test_an_image_is_resized_and_converted(tmp_path, mode, shape):
    path = tmp_path / "whole.jpeg"
    path.write_bytes(jpeg_bytes())
    image = read_image(path, 16, mode)
    assert image.shape == shape
    assert image.dtype == np.uint8


# augment


def batch(count=6):
    return torch.rand(count, 3, 24, 24, generator=torch.Generator().manual_seed(1))


def augmented(name, images, seed=0):
    draws = augment.draws_for(len(images), torch.Generator().manual_seed(seed))
    return augment.augment(images, name, draws)


def test_no_augmentation_is_the_identity():
    images = batch()
    assert torch.equal(augmented("none", images), images)


@pytest.mark.parametrize("name", ["shift", "flip_shift", "crop_flip_cutout"])
def test_augmentation_depends_on_the_generator_alone(name):
    images = batch()
    torch.manual_seed(1)
    one = augmented(name, images)
    torch.manual_seed(2)
    assert torch.equal(one, augmented(name, images))
    assert not torch.equal(one, augmented(name, images, seed=1))
    assert not torch.equal(one, images)


def test_the_given_images_are_left_as_they_were():
    images = batch()
    augmented("flip_shift", images)
    assert torch.equal(images, batch())


def test_a_sure_flip_is_an_exact_mirror(monkeypatch):
    monkeypatch.setitem(augment.AUGMENTATIONS, "mirror", (1.0, 0.0, 0.0))
    images = batch()
    torch.testing.assert_close(augmented("mirror", images), images.flip(-1), rtol=0, atol=1e-5)


def test_about_half_of_the_images_are_flipped(monkeypatch):
    monkeypatch.setitem(augment.AUGMENTATIONS, "flip", (0.5, 0.0, 0.0))
    images = batch(1).expand(400, -1, -1, -1)
    flipped = (augmented("flip", images) - images[0].flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    kept = (augmented("flip", images) - images[0]).abs().amax((1, 2, 3)) < 1e-5
    assert (flipped ^ kept).all()
    assert abs(flipped.float().mean() - 0.5) < 0.1


def test_a_shift_moves_the_picture_by_at_most_its_share(monkeypatch):
    monkeypatch.setitem(augment.AUGMENTATIONS, "move", (0.0, 0.25, 0.0))
    images = torch.zeros(200, 3, 24, 24)
    images[:, :, 11:13, 11:13] = 1.0
    axis = torch.arange(24) - 11.5
    moved = augmented("move", images)[:, 0]
    moved = moved / moved.sum((1, 2), keepdim=True)
    right, down = (moved * axis).sum((1, 2)), (moved.mT * axis).sum((1, 2))
    for offsets in (right, down):
        assert offsets.abs().max() <= 0.25 * 24 + 0.01
        assert offsets.min() < -4
        assert offsets.max() > 4
    assert abs(torch.corrcoef(torch.stack([right, down]))[0, 1]) < 0.3


def test_what_a_shift_uncovers_repeats_the_edge():
    flat = torch.full((20, 3, 24, 24), 0.7)
    torch.testing.assert_close(augmented("flip_shift", flat), flat)


def test_an_unknown_augmentation_comes_with_the_known_ones():
    with pytest.raises(UserError, match="'cutout' is unknown: use none, shift, flip_shift, crop_"):
        augmented("cutout", batch())


@pytest.mark.parametrize("name", ["flip_shift", "crop_flip_cutout"])
def test_a_part_of_a_batch_is_augmented_as_in_the_whole(name):
    images, draws = batch(), augment.draws_for(6, torch.Generator().manual_seed(0))
    part = augment.augment(images[1::2], name, draws[:, 1::2])
    assert torch.equal(part, augment.augment(images, name, draws)[1::2])


# 16 pixels: 2 of padding, so 5 x 5 crops; the crop that changes nothing is the middle one.
IN_PLACE = 2.5 / 5


def cut(images, flip=0.9, place=0.5, right=IN_PLACE, down=IN_PLACE):
    draws = torch.tensor([flip, place, right, down])[:, None].expand(-1, len(images))
    return augment.augment(images, "crop_flip_cutout", draws)


def test_a_square_of_the_mean_colour_is_cut_out():
    images = torch.rand(1, 3, 16, 16)
    # flip = 0.9: not flipped, and 0.8 of the width, column 12; place 0.5: row 8. Side 4.
    expected = images.clone()
    expected[:, :, 6:10, 10:14] = images.mean((2, 3), keepdim=True)
    assert torch.equal(cut(images), expected)


def test_a_crop_moves_whole_pixels_and_pads_with_black():
    images = torch.rand(1, 3, 16, 16)
    # The last of 5 crops to the right and the first downwards; the square lies at the top right.
    moved = cut(images, flip=0.999, place=0.0, right=0.99, down=0.0)
    assert torch.equal(moved[:, :, 4:, :14], images[:, :, 2:14, 2:])
    assert not moved[:, :, :, 14:][:, :, 4:].any()
    assert not moved[:, :, :2, :13].any()


def test_a_flip_mirrors_exactly():
    images = torch.rand(1, 3, 16, 16)
    # flip = 0.4: flipped, and the square at column 12 as before.
    expected = images.flip(-1)
    expected[:, :, 6:10, 10:14] = images.mean((2, 3), keepdim=True)
    assert torch.equal(cut(images, flip=0.4), expected)
