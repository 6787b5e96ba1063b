import hashlib
from math import sqrt

import pytest
import torch
from helpers.layouts import open_split

from topgap_nb import UserError
from topgap_nb.data.image_set import SPLITS
from topgap_nb.data.sets.planted import TEXTURES

TEN_SIZES = (0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.18, 0.11, 0.09, 0.14)


def open_ten(agreement=0.95, **options):
    options = {"images": 20, "classes": 10, "agreement": agreement, **options}
    return open_split("planted", "test", options.pop("image_size", 32), **options)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("count", [1, 2, 11])
def test_an_item_does_not_depend_on_how_many_are_drawn(split, count):
    many = open_split("planted", split, 32, images=24)
    few = open_split("planted", split, 32, images=count)
    assert len(few) == count
    for values in ("pixels", "masks", "labels", "group"):
        assert torch.equal(getattr(few, values), getattr(many, values)[:count])
    assert few.ids == many.ids[:count]


def test_each_split_can_have_its_own_number_of_images():
    sizes = {"train": 12, "test": 8}
    counts = [len(open_split("planted", split, 16, images=sizes)) for split in SPLITS]
    assert counts == [12, 400, 8]
    with pytest.raises(UserError, match="trian is no split"):
        open_split("planted", "test", 16, images={"trian": 12})


def test_the_same_controls_draw_the_same_bytes_again():
    first, second = open_ten(images=23), open_ten(images=24).subset(range(23))
    assert first.pixels.data_ptr() != second.pixels.data_ptr()
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.masks, second.masks)


def test_the_draws_are_those_of_the_first_edition():
    controls = {"agreement": 0.5, "jitter": 0.7, "object_size": (0.05, 0.2)}
    images = open_split("planted", "train", 32, images=8, **controls)
    digest = hashlib.sha256(images.pixels.numpy().tobytes() + images.masks.numpy().tobytes())
    assert digest.hexdigest()[:16] == "75270851f09b40f7"


@pytest.mark.parametrize("size", [0.1, 0.2, TEN_SIZES], ids=["a tenth", "a fifth", "per class"])
def test_an_object_covers_the_share_that_was_asked_for(size):
    images = open_ten(image_size=256, object_size=size)
    covered = images.masks.float().mean((1, 2))
    asked = torch.tensor(size if isinstance(size, tuple) else [size] * 10)[images.labels]
    torch.testing.assert_close(covered, asked, rtol=0.015, atol=0)


def test_a_range_of_sizes_is_drawn_from_end_to_end():
    images = open_split("planted", "test", 128, images=90, classes=3, object_size=[0.05, 0.2])
    covered = images.masks.float().mean((1, 2))
    assert covered.min() > 0.05 * 0.97
    assert covered.max() < 0.2 * 1.03
    assert covered.min() < 0.06
    assert covered.max() > 0.19
    assert abs(covered.mean() - 0.125) < 0.02


def test_two_sizes_for_two_classes_are_one_per_class():
    images = open_split("planted", "test", 128, images=6, classes=2, object_size=(0.05, 0.2))
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


def test_the_mask_is_exactly_where_no_background_shows(monkeypatch):
    def on(weight, images):
        for name in TEXTURES:
            monkeypatch.setitem(TEXTURES, name, lambda x, y, phase, noise: 0 * x + weight)
        # Numbers of images that no other test asks for: what was drawn is not drawn again.
        return open_ten(image_size=64, clutter=0, images=images).subset(range(20))

    dark, light = on(-9, 21), on(9, 22)
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
    unchanged = one.group == other.group
    equal = (one.pixels == other.pixels).flatten(1).all(1)
    assert torch.equal(equal, unchanged)
    assert 10 < unchanged.sum() < 50


def test_another_size_leaves_the_background_alone():
    one, other = open_ten(object_size=0.05), open_ten(object_size=0.1)
    outside = ~(one.masks | other.masks)[:, None].expand_as(one.pixels)
    assert torch.equal(one.pixels[outside], other.pixels[outside])
    assert torch.equal(one.group, other.group)


@pytest.mark.parametrize("agreement", [0.05, 0.5, 0.8, 0.95])
def test_backgrounds_agree_as_often_as_was_asked(agreement):
    images = open_split("planted", "train", 16, images=1000, agreement=agreement)
    agreeing = (images.group == 0).float().mean().item()
    assert abs(agreeing - agreement) < 4 * sqrt(agreement * (1 - agreement) / 1000)


def test_in_the_fair_world_the_background_is_independent_of_the_class():
    images = open_split("planted", "train", 16, images=2000, classes=4)
    agreeing = (images.group == 0).float().mean().item()
    assert abs(agreeing - 1 / 4) < 4 * sqrt(1 / 4 * 3 / 4 / 2000)
    one = open_split("planted", "train", 16, images=8, classes=4, agreement=0.25)
    assert torch.equal(one.pixels, images.pixels[:8])


def test_contrast_scales_the_texture_and_nothing_else():
    # The textures of these classes stay within [-1, 1], so that none is clipped.
    sets = [open_ten(texture_contrast=c, clutter=0, classes=5) for c in (0, 0.5, 1)]
    faint, half, full = (images.pixels.float() for images in sets)
    masks = sets[0].masks[:, None].expand_as(full)
    # Up to rounding to whole grey levels, and where a pixel is clipped at black or white.
    inside = ~masks & (full > 0) & (full < 255)
    assert ((full - faint)[inside] - 2 * (half - faint)[inside]).abs().max() <= 2
    assert (full - faint)[inside].abs().max() > 20
    assert torch.equal(full[masks], faint[masks])


def test_without_contrast_no_background_tells_a_class():
    one, other = (open_ten(agreement, texture_contrast=0, clutter=0) for agreement in (0.0, 1.0))
    plain = one.group.bool() & (other.group == 0)
    assert plain.any()
    # All that is left of the textures is the noise on each pixel.
    assert torch.equal(one.pixels, other.pixels)


@pytest.mark.parametrize(("agreement", "group"), [(1.0, 0), (0.0, 1)])
def test_group_zero_is_a_background_that_agrees(agreement, group):
    images = open_ten(agreement)
    assert images.group.tolist() == [group] * 20
    assert images.group_names[group].endswith("disagrees" if group else "agrees")


def test_the_group_says_whether_the_texture_is_that_of_the_class(monkeypatch):
    drawn = []

    def recorder(number):
        return lambda x, y, phase, noise: drawn.append(number) or 0 * x

    for number, name in enumerate(TEXTURES):
        monkeypatch.setitem(TEXTURES, name, recorder(number))
    images = open_ten(0.5, images=401, image_size=16)
    agrees = torch.tensor(drawn) == images.labels
    assert torch.equal(agrees, images.group == 0)
    assert set(drawn) == set(range(10))


def test_splits_and_seeds_share_no_image():
    sets = [open_split("planted", split, 32, images=40) for split in SPLITS]
    sets.append(open_split("planted", "train", 32, images=40, seed=1))
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
        ({"texture_contrast": 1.5}, "texture_contrast = 1.5 must lie in"),
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
        open_split("planted", "test", 32, **{"images": 4, **options})


def test_the_largest_share_that_the_message_names_does_fit():
    with pytest.raises(UserError, match="a bar fits") as refused:
        open_split("planted", "test", 32, images=8, object_size=0.31)
    most = float(str(refused.value).split("up to ")[1].split()[0])
    assert len(open_split("planted", "test", 32, images=8, object_size=most - 0.01)) == 8
