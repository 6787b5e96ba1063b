"""What counts as a copy: both error rates, on regular scenes and on diverse ones."""

import numpy as np
import pytest
import torch
from helpers import pictures
from helpers.pictures import cropped, drawn, edited

from topgap_nb.data.folder.duplicates import joined, near_duplicates

REGULAR = (pictures.parts, pictures.panels, pictures.gels, pictures.wells)
EDITS = ("copy", "jpeg", "half", "bright", "contrast", "mirror")


def stacked(images):
    same = [np.asarray(image.resize((96, 96))) for image in images]
    return torch.from_numpy(np.stack(same))[:, None]


@pytest.mark.parametrize("kind", [*REGULAR, pictures.scenes])
@pytest.mark.parametrize("count", [240, 24])
def test_distinct_pictures_of_one_scene_are_no_copies(kind, count):
    pairs = near_duplicates(stacked(drawn(kind, count, seed=count)))
    assert len({image for pair in pairs for image in pair}) <= 0.02 * count


def test_four_scenes_in_one_folder_are_told_from_copies_too():
    images = [image for kind in REGULAR for image in drawn(kind, 30)]
    assert len(set(joined(120, near_duplicates(stacked(images))))) >= 116


def found(originals, copies_of):
    """The share of copies that are paired with their original, by the kind of copy."""
    images, owners = list(originals), {}
    for name, copies in copies_of.items():
        owners[name] = [(index, len(images) + index) for index in range(len(copies))]
        images += copies
    pairs = set(near_duplicates(stacked(images)))
    return {name: len(pairs & set(wanted)) / len(wanted) for name, wanted in owners.items()}


@pytest.mark.parametrize("kind", [*REGULAR, pictures.scenes])
def test_true_copies_are_found_in_every_scene(kind):
    images = drawn(kind, 100)
    copies = {how: [edited(image, how) for image in images[:20]] for how in EDITS}
    assert found(images, copies) == dict.fromkeys(EDITS, 1.0)


@pytest.mark.parametrize("then", ["copy", "mirror", "jpeg"])
def test_small_crops_are_found_among_diverse_pictures(then):
    images, rng = drawn(pictures.scenes, 100), np.random.default_rng(0)
    copies = {
        share: [edited(cropped(image, share, rng), then) for image in images[:20]]
        for share in (0.02, 0.04, 0.06)
    }
    assert found(images, copies) == dict.fromkeys(copies, 1.0)


def test_seven_copies_of_each_picture_are_one_group():
    rng = np.random.default_rng(0)
    copies = [
        version
        for image in drawn(pictures.scenes, 20)
        for version in (*(edited(image, how) for how in EDITS), cropped(image, 0.04, rng))
    ]
    groups = joined(140, near_duplicates(stacked(copies)))
    assert [len(set(groups[start : start + 7])) for start in range(0, 140, 7)] == [1] * 20
    assert len(set(groups)) == 20


def test_flat_images_are_duplicates_of_each_other_only():
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    pixels[1], pixels[3] = 20, 200
    assert near_duplicates(pixels) == [(1, 3)]


def test_one_image_and_none_have_no_duplicates():
    assert near_duplicates(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)) == []
    assert near_duplicates(torch.zeros(0, 3, 32, 32, dtype=torch.uint8)) == []


def test_chains_are_joined():
    assert joined(6, [(0, 1), (1, 4), (2, 5)]) == [0, 0, 1, 2, 0, 1]
