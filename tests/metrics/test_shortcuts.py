import pytest
import torch

from topgap_nb.data.image_set import ImageSet
from topgap_nb.errors import UserError
from topgap_nb.metrics.shortcuts import (
    bounding_boxes,
    majority_baseline,
    occluded,
    occluded_hits,
    with_known_object,
)


def some(pixels, labels=None, masks=None, masked=None):
    labels = torch.zeros(len(pixels), dtype=torch.long) if labels is None else labels
    names = tuple("abc"[: int(labels.max()) + 1])
    ids = tuple(map(str, range(len(pixels))))
    return ImageSet("some", pixels, labels, names, ids, masks, masked)


def test_bounding_boxes_by_hand():
    masks = torch.zeros(2, 4, 5, dtype=torch.bool)
    masks[0, 1, 3] = masks[0, 3, 1] = True
    boxes = bounding_boxes(masks)
    wanted = torch.zeros(4, 5, dtype=torch.bool)
    wanted[1:4, 1:4] = True
    assert torch.equal(boxes[0], wanted)
    assert not boxes[1].any()


def test_occluding_takes_the_mean_of_what_stays():
    pixels = torch.tensor([[[[255, 0], [51, 102]]]], dtype=torch.uint8)
    masks = torch.tensor([[[True, False], [False, False]]])
    images = some(pixels, masks=masks)
    mean = (0 + 0.2 + 0.4) / 3
    assert torch.allclose(occluded(images, "object")[0, 0], torch.tensor([[mean, 0], [0.2, 0.4]]))
    assert torch.equal(occluded(images, "background"), torch.ones(1, 3, 2, 2))
    full = some(pixels, masks=torch.ones_like(masks))
    assert torch.equal(occluded(full, "object"), torch.full((1, 3, 2, 2), 0.5))


def test_centre_and_border_hide_complementary_halves():
    pixels = torch.full((1, 3, 100, 100), 255, dtype=torch.uint8)
    pixels[:, :, 15:85, 15:85] = 0
    images = some(pixels)
    assert torch.equal(occluded(images, "centre"), torch.ones(1, 3, 100, 100))
    assert torch.equal(occluded(images, "border"), torch.zeros(1, 3, 100, 100))


def test_occluding_needs_masks_and_a_known_part():
    images = some(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(UserError, match="not every image"):
        occluded(images, "object")
    with pytest.raises(UserError, match="'sky' is unknown"):
        occluded(images, "sky")


class Corner(torch.nn.Module):
    """Says class 1 where the corner pixel is bright: a network that depends on the background."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, images):
        bright = images[:, 0, 0, 0] - 0.5
        return self.scale * torch.stack([-bright, bright], 1)


def test_a_network_that_reads_the_background_is_caught():
    labels = torch.arange(40) % 2
    pixels = torch.full((40, 3, 8, 8), 128, dtype=torch.uint8)
    pixels[:, :, 0, 0] = (255 * labels)[:, None].to(torch.uint8)
    masks = torch.zeros(40, 8, 8, dtype=torch.bool)
    masks[:, 4:6, 4:6] = True
    images = some(pixels, labels, masks)
    assert occluded_hits(Corner(), images, "object").all()
    assert occluded_hits(Corner(), images, "background").float().mean() == 0.5


def test_images_are_judged_by_their_masks_where_there_are_any():
    pixels = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    assert with_known_object(some(pixels))[1] == ("centre", "border")
    assert with_known_object(some(pixels, masks=masks, masked=masks.any((1, 2))))[1] == (
        "centre",
        "border",
    )
    masks[1, 0] = True
    images, parts = with_known_object(some(pixels, masks=masks, masked=masks.any((1, 2))))
    assert images.ids == ("1",)
    assert parts == ("object", "background")


def test_the_baseline_is_the_share_of_the_most_frequent_class():
    assert majority_baseline(torch.tensor([2, 2, 0, 2, 1])) == pytest.approx(0.6)
