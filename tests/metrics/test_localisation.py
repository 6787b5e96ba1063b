import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from topgap_nb.errors import UserError
from topgap_nb.metrics.localisation import (
    cam_sparsity,
    centre_map,
    highlighted_area,
    hoyer,
    is_empty,
    mask_iou,
    moved_masks,
    pxap,
    shared_threshold,
)

CAMS = torch.tensor([[[1.0, 0.5, 0.0], [0.2, 0.8, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
MASKS = torch.tensor(
    [
        [[True, True, True], [False, False, False]],
        [[True, False, False], [False, False, False]],
    ]
)


def scenes(count=4, size=8, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random maps and masks of which neither covers everything or nothing."""
    generator = torch.Generator().manual_seed(seed)
    cams = torch.rand(count, size, size, generator=generator)
    return cams, torch.rand(count, size, size, generator=generator) < 0.3


def test_mask_iou_by_hand():
    # The first map shows three pixels of which two are on the mask of three; the second misses.
    torch.testing.assert_close(mask_iou(CAMS, MASKS), torch.tensor([2 / 4, 0.0]))
    torch.testing.assert_close(mask_iou(CAMS, MASKS, 0.1), torch.tensor([2 / 5, 0.0]))
    torch.testing.assert_close(mask_iou(CAMS, MASKS, 0.9), torch.tensor([1 / 3, 0.0]))


def test_a_pixel_exactly_at_the_threshold_is_shown():
    torch.testing.assert_close(mask_iou(CAMS, MASKS, 0.5)[0], torch.tensor(2 / 4))
    torch.testing.assert_close(mask_iou(CAMS, MASKS, 0.51)[0], torch.tensor(1 / 4))


def test_a_map_that_is_the_mask_has_iou_one_and_its_complement_zero():
    _, masks = scenes()
    torch.testing.assert_close(mask_iou(masks.float(), masks), torch.ones(4))
    torch.testing.assert_close(mask_iou((~masks).float(), masks), torch.zeros(4))


def test_an_empty_map_has_iou_zero_even_on_an_empty_mask():
    empty = torch.zeros(2, 3, 3)
    masks = torch.stack([empty[0] > 0, torch.eye(3) > 0])
    assert mask_iou(empty, masks).tolist() == [0, 0]


def test_pxap_by_hand():
    # Ranked 1.0 (on the object), 1.0 (not), 0.8 (not), 0.5 (on), 0.2 (not), the rest 0 (two on).
    expected = 1 / 4 * 1 / 2 + 1 / 4 * 2 / 4 + 2 / 4 * 4 / 12
    assert pxap(CAMS, MASKS) == pytest.approx(expected)


def test_pxap_of_perfect_maps_is_one_and_of_silent_maps_the_share_of_the_object():
    _, masks = scenes()
    assert pxap(masks * 0.3 + 0.1, masks) == 1
    assert pxap(torch.zeros(masks.shape), masks) == pytest.approx(masks.float().mean().item())


@pytest.mark.parametrize("seed", range(3))
def test_pxap_pools_the_pixels_of_all_images(seed):
    cams, masks = scenes(seed=seed)
    pooled = average_precision_score(masks.numpy().ravel(), cams.numpy().ravel())
    assert pxap(cams, masks) == pytest.approx(pooled)
    each = [pxap(cams[i : i + 1], masks[i : i + 1]) for i in range(4)]
    assert pxap(cams, masks) != pytest.approx(np.mean(each), abs=1e-6)


def test_sparsity_and_area_by_hand():
    torch.testing.assert_close(cam_sparsity(CAMS), torch.tensor([2.5 / 6, 1 / 6]))
    torch.testing.assert_close(highlighted_area(CAMS), torch.tensor([3 / 6, 1 / 6]))
    torch.testing.assert_close(highlighted_area(CAMS, 0.1), torch.tensor([4 / 6, 1 / 6]))


@pytest.mark.parametrize("level", [0.3, 0.62, 0.9])
def test_the_shared_threshold_is_the_one_that_separates_object_from_background(level):
    _, masks = scenes()
    cams = torch.where(masks, level + 0.011, level - 0.011)
    chosen = shared_threshold(cams, masks)
    assert chosen == pytest.approx(level)
    torch.testing.assert_close(mask_iou(cams, masks, chosen), torch.ones(4))


def test_the_shared_threshold_serves_the_mean_and_not_each_image():
    masks = torch.tensor([[[True, True, False, False]]]).expand(5, 1, 4)
    low = torch.tensor([[[0.30, 0.30, 0.25, 0.25]]])
    high = torch.tensor([[[0.80, 0.80, 0.70, 0.70]]])
    mostly_low = torch.cat([low, low, low, low, high])
    # At 0.26 the four low maps fit and the high one is half right; at 0.8 it is the reverse.
    assert shared_threshold(mostly_low, masks) == pytest.approx(0.26)
    mostly_high = torch.cat([high, high, high, high, low])
    assert shared_threshold(mostly_high, masks) == pytest.approx(0.72)


def test_hoyer_by_hand():
    # n = 4: (2 - 7 / 5) / (2 - 1) for 3 and 4.
    maps = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[0.0, 9.0], [0.0, 0.0]], [[5.0] * 2] * 2])
    torch.testing.assert_close(hoyer(maps), torch.tensor([0.6, 1.0, 0.0]))


@given(scale=st.floats(1e-25, 1e25), seed=st.integers(0, 99), active=st.integers(1, 30))
def test_hoyer_has_no_scale_and_knows_k_equal_positions(scale, seed, active):
    values = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(hoyer(scale * values), hoyer(values), rtol=1e-4, atol=1e-5)
    equal = (torch.arange(30) < active).float().view(1, 5, 6)
    # Of k equal positions the sum is sqrt(k) times the root of the sum of squares.
    expected = (30**0.5 - active**0.5) / (30**0.5 - 1)
    assert hoyer(scale * equal).item() == pytest.approx(expected, abs=1e-5)


def test_a_map_with_nothing_above_zero_has_no_sparsity():
    maps = torch.stack([torch.zeros(2, 2), torch.eye(2)])
    assert hoyer(maps).isnan().tolist() == [True, False]
    with pytest.raises(UserError, match="is a ReLU"):
        hoyer(-maps)


def test_empty_maps_are_those_of_one_value():
    cams = torch.stack([torch.zeros(2, 2), torch.full((2, 2), 0.4), torch.eye(2), CAMS[0, :, :2]])
    assert is_empty(cams).tolist() == [True, True, False, False]


@pytest.mark.parametrize("half", [0.2, 0.55, 0.9])
def test_the_centre_map_finds_a_centred_object_of_any_size_and_shape_of_image(half):
    height, width = 40, 60
    down, across = torch.linspace(-1, 1, height).abs(), torch.linspace(-1, 1, width).abs()
    masks = ((down[:, None] <= half) & (across <= half))[None]
    cams = centre_map(height, width)[None]
    assert mask_iou(cams, masks, 1 - half - 1e-5).item() == 1
    assert (cams.min(), cams[0, 0].max()) == (0, 0)


def boxes(count=6, side=12, size=4):
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    for index in range(count):
        masks[index, index : index + size, 2 : 2 + size] = True
    return masks


@pytest.mark.parametrize("seed", range(4))
def test_moved_regions_keep_their_shape_and_leave_their_place(seed):
    masks = boxes()
    moved = moved_masks(masks, seed)
    assert not (moved & masks).any()
    for before, after in zip(masks, moved, strict=True):
        shifts = ((down, across) for down in range(12) for across in range(12))
        assert any(before.roll(shift, (0, 1)).equal(after) for shift in shifts)


def test_places_are_drawn_for_each_image_and_come_back_with_the_seed():
    masks = boxes(1).repeat(8, 1, 1)
    moved = moved_masks(masks, 3)
    assert moved.equal(moved_masks(masks, 3))
    assert not moved.equal(moved_masks(masks, 4))
    assert len({tuple(m.flatten().tolist()) for m in moved}) > 4


def test_what_fits_nowhere_moves_to_where_it_overlaps_least():
    # Rows 0 to 6 of 10: at a shift of 3 to 7 they overlap by 4 rows, otherwise by more.
    masks = (torch.arange(10) < 7)[:, None].expand(1, 10, 10)
    for seed in range(5):
        assert (moved_masks(masks, seed) & masks).sum() == 4 * 10
    assert moved_masks(torch.ones(1, 4, 4, dtype=torch.bool)).all()
