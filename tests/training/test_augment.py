import pytest
import torch

from topgap_nb.errors import UserError
from topgap_nb.training.augment import AUGMENTATIONS, augment, augmentation_noise


def batch(count=6):
    return torch.rand(count, 3, 24, 24, generator=torch.Generator().manual_seed(1))


def augmented(name, images, seed=0):
    draws = augmentation_noise(len(images), torch.Generator().manual_seed(seed))
    return augment(images, name, draws)


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
    monkeypatch.setitem(AUGMENTATIONS, "mirror", (1.0, 0.0, 0.0))
    images = batch()
    torch.testing.assert_close(augmented("mirror", images), images.flip(-1), rtol=0, atol=1e-5)


def test_about_half_of_the_images_are_flipped(monkeypatch):
    monkeypatch.setitem(AUGMENTATIONS, "flip", (0.5, 0.0, 0.0))
    images = batch(1).expand(400, -1, -1, -1)
    flipped = (augmented("flip", images) - images[0].flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    kept = (augmented("flip", images) - images[0]).abs().amax((1, 2, 3)) < 1e-5
    assert (flipped ^ kept).all()
    assert abs(flipped.float().mean() - 0.5) < 0.1


def test_a_shift_moves_the_picture_by_at_most_its_share(monkeypatch):
    monkeypatch.setitem(AUGMENTATIONS, "move", (0.0, 0.25, 0.0))
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
    images, draws = batch(), augmentation_noise(6, torch.Generator().manual_seed(0))
    part = augment(images[1::2], name, draws[:, 1::2])
    assert torch.equal(part, augment(images, name, draws)[1::2])


# 16 pixels: 2 of padding, so 5 x 5 crops; the crop that changes nothing is the middle one.
IN_PLACE = 2.5 / 5


def cut(images, flip=0.9, place=0.5, right=IN_PLACE, down=IN_PLACE):
    draws = torch.tensor([flip, place, right, down])[:, None].expand(-1, len(images))
    return augment(images, "crop_flip_cutout", draws)


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
