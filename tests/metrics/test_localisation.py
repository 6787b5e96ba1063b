import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from topgap_nb.metrics.localisation import (
    cam_sparsity,
    highlighted_area,
    mask_iou,
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
