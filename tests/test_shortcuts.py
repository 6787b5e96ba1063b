"""Blanked parts, what a test set cannot tell, and the size prior, by hand."""

import pytest
import torch

from topgap_nb import blanked, blanked_hits, cannot_conclude, judgeable, suggested_k, suspicion
from topgap_nb.data.images import ImageSet
from topgap_nb.errors import UserError
from topgap_nb.measures.limits import half_width, images_needed
from topgap_nb.measures.scores import Estimate, proportion
from topgap_nb.measures.shortcuts import bounding_boxes


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


def test_blanking_takes_the_mean_of_what_stays():
    pixels = torch.tensor([[[[255, 0], [51, 102]]]], dtype=torch.uint8)
    masks = torch.tensor([[[True, False], [False, False]]])
    images = some(pixels, masks=masks)
    mean = (0 + 0.2 + 0.4) / 3
    assert torch.allclose(blanked(images, "object")[0, 0], torch.tensor([[mean, 0], [0.2, 0.4]]))
    assert torch.equal(blanked(images, "background"), torch.ones(1, 3, 2, 2))
    full = some(pixels, masks=torch.ones_like(masks))
    assert torch.equal(blanked(full, "object"), torch.full((1, 3, 2, 2), 0.5))


def test_centre_and_border_hide_complementary_halves():
    pixels = torch.full((1, 3, 100, 100), 255, dtype=torch.uint8)
    pixels[:, :, 15:85, 15:85] = 0
    images = some(pixels)
    assert torch.equal(blanked(images, "centre"), torch.ones(1, 3, 100, 100))
    assert torch.equal(blanked(images, "border"), torch.zeros(1, 3, 100, 100))


def test_blanking_needs_masks_and_a_known_part():
    images = some(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(UserError, match="not every image"):
        blanked(images, "object")
    with pytest.raises(UserError, match="'sky' is unknown"):
        blanked(images, "sky")


class Corner(torch.nn.Module):
    """Says class 1 where the corner pixel is bright: a network that lives by the background."""

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
    assert blanked_hits(Corner(), images, "object").all()
    assert blanked_hits(Corner(), images, "background").float().mean() == 0.5
    assert suspicion(proportion(blanked_hits(Corner(), images, "object")), 0.5) == "suspected"


def test_suspicion_needs_the_whole_interval_above_chance():
    assert suspicion(Estimate(0.7, 0.51, 0.9, 20), 0.5) == "suspected"
    assert suspicion(Estimate(0.7, 0.49, 0.9, 20), 0.5) == "not shown"


def test_images_are_judged_by_their_masks_where_there_are_any():
    pixels = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    assert judgeable(some(pixels))[1] == ("centre", "border")
    assert judgeable(some(pixels, masks=masks, masked=masks.any((1, 2))))[1] == ("centre", "border")
    masks[1, 0] = True
    images, parts = judgeable(some(pixels, masks=masks, masked=masks.any((1, 2))))
    assert images.ids == ("1",)
    assert parts == ("object", "background")


def test_the_suggested_k_is_the_mean_share_of_the_masks():
    pixels = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    assert suggested_k(some(pixels))[0] == 0.2
    assert "default" in suggested_k(some(pixels))[1]
    masks[0, :2], masks[1, :1] = True, True
    k, why = suggested_k(some(pixels, masks=masks, masked=masks.any((1, 2))))
    assert k == 0.375
    assert "37.5%" in why
    assert "in 2 masks" in why


def test_widths_and_needed_images_follow_the_square_root():
    assert half_width(10) == pytest.approx(0.22655, abs=1e-4)  # Wilson, 8 of 10: [0.4902, 0.9433]
    assert images_needed(Estimate(0.0, -0.1, 0.1, 100)) == 400
    assert images_needed(Estimate(0.0, -0.025, 0.025, 100)) == 25


def test_limits_name_what_is_missing_and_nothing_else():
    labels = torch.tensor([0] * 12 + [1] * 3)
    pixels = torch.zeros(15, 3, 4, 4, dtype=torch.uint8)
    told = " ".join(cannot_conclude(some(pixels, labels), Estimate(0.1, -0.1, 0.3, 15)))
    for words in (
        "15 test images",
        "do not quote",
        "is open",
        "b (3)",
        "no masks",
        "trained once",
        "UNIT_PATTERN",
    ):
        assert words in told
    assert "a (12)" not in told
    # 12 of 15 are of one class: 0.9 is half of the way from 0.8 to 1.
    for accuracy, weak in ((0.89, True), (0.91, False)):
        scores = [Estimate(0.5, 0.4, 0.6, 15), Estimate(accuracy, 0.7, 1.0, 15)]
        told = cannot_conclude(some(pixels, labels), Estimate(0.1, -0.1, 0.3, 15), scores)
        assert any("trained longer" in line for line in told) == weak
    masks = torch.ones(15, 4, 4, dtype=torch.bool)
    clear = Estimate(0.1, 0.09, 0.11, 15)
    rest = cannot_conclude(some(pixels, labels, masks), clear, trainings=3, units_given=True)
    assert len(rest) == 3
