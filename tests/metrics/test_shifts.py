from dataclasses import replace

import pytest
import torch

from topgap_nb.data.registry import open_dataset
from topgap_nb.errors import UserError
from topgap_nb.metrics.shifts import BACKGROUNDS, CORRUPTIONS, corrupted, replace_background


@pytest.fixture
def images():
    return open_dataset("planted", image_size=32).test.subset(range(9))


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_only_the_background_is_replaced(images, kind):
    shifted = replace_background(images, kind)
    inside = images.masks[:, None].expand_as(shifted)
    assert torch.equal(shifted[inside], images.images[inside])
    changed = (shifted != images.images).flatten(1).float().mean(1)
    assert (changed > 0.7).all()
    assert torch.equal(shifted, replace_background(images, kind))


def test_no_image_keeps_its_own_background(images):
    shifted = replace_background(images, "other")
    outside = ~images.masks
    for index in range(len(images)):
        sources = [
            other
            for other in range(len(images))
            if torch.equal(
                shifted[index][:, outside[index]], images.images[other][:, outside[index]]
            )
        ]
        assert len(sources) == 1
        assert sources != [index]


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_grow_with_severity_and_stay_in_range(images, kind):
    clean = images.images
    distances = []
    for severity in range(1, 6):
        found = corrupted(clean, kind, severity)
        assert found.shape == clean.shape
        assert found.min() >= 0
        assert found.max() <= 1
        distances.append((found - clean).square().mean().item())
    assert distances == sorted(distances)
    assert distances[0] > 0


def test_lower_contrast_by_hand():
    image = torch.zeros(1, 3, 1, 2)
    image[..., 1] = 1.0
    found = corrupted(image, "contrast", 2)
    assert found[0, 0, 0].tolist() == pytest.approx([0.25, 0.75], abs=2e-3)


def test_bad_shifts_are_refused(images):
    with pytest.raises(UserError, match="unknown"):
        replace_background(images, "sea")
    with pytest.raises(UserError, match="mask"):
        replace_background(replace(images, masks=None), "grey")
    with pytest.raises(UserError, match="two images"):
        replace_background(images.subset([0]), "other")
    with pytest.raises(UserError, match="1 to 5"):
        corrupted(images.images, "blur", 6)
