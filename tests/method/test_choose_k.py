import pytest
import torch

from topgap_nb.errors import UserError
from topgap_nb.method.choose_k import (
    DrawnTopK,
    LearntTopK,
    evidence_share,
    k_from_masks,
    k_on_val,
    k_per_image,
    make_pool,
    suggested_k,
)
from topgap_nb.method.model import TopGapNet
from topgap_nb.method.pooling import TopKPool2d, top_k_pool

# From masks


def test_k_from_masks_is_the_mean_share_of_the_objects():
    masks = torch.zeros(2, 4, 5, dtype=torch.bool)
    masks[0, :2], masks[1, 0, :3] = True, True
    assert k_from_masks(masks) == pytest.approx((10 + 3) / 40)


@pytest.mark.parametrize("masks", [torch.zeros(2, 4, 4, dtype=torch.bool), torch.zeros(0, 4, 4)])
def test_masks_without_an_object_are_refused(masks):
    with pytest.raises(UserError, match="cover nothing"):
        k_from_masks(masks)


def test_the_suggested_k_is_the_mean_share_of_the_masks_and_says_so():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[1, :1] = True, True
    k, why = suggested_k(masks)
    assert k == 0.375
    assert "37.5%" in why
    assert "in 2 masks" in why
    k, why = suggested_k(None)
    assert k == 0.2
    assert "default" in why


# From maps


def test_evidence_share_by_hand():
    maps = torch.tensor([[[4.0, 3.0], [2.0, 1.0]], [[5.0, -9.0], [-9.0, -9.0]]])
    assert evidence_share(maps, 0.4).tolist() == [0.25, 0.25]
    assert evidence_share(maps, 0.7).tolist() == [0.5, 0.25]
    assert evidence_share(maps, 1.0).tolist() == [1.0, 0.25]
    assert k_per_image(maps, 0.71).tolist() == [3, 1]


def test_evidence_share_follows_the_size_of_an_object_that_is_all_there_is():
    side = torch.arange(1, 9)
    maps = torch.full((8, 8, 8), -1.0)
    for size in side:
        maps[size - 1, :size, :size] = 2.0
    assert (evidence_share(maps, 1.0) * 64).long().tolist() == (side**2).tolist()


def test_a_map_without_evidence_needs_no_position():
    maps = -torch.ones(1, 3, 3)
    assert evidence_share(maps).tolist() == [0.0]
    assert k_per_image(maps).tolist() == [1]
    with pytest.raises(UserError, match=r"part = 1\.5 must lie in"):
        evidence_share(maps, 1.5)


# From a network trained for every k


def test_k_on_val_finds_the_only_share_that_separates():
    # Class 0 has one high position, class 1 has four that are less high: a k of 4 of 16 separates
    # them in both kinds of image; small k prefers class 0, large k what is decided elsewhere.
    maps = torch.zeros(20, 2, 4, 4)
    labels = torch.arange(20) % 2
    for image, label in enumerate(labels):
        maps[image, 0, 0, 0] = 4.0
        maps[image, 1, 0, :] = 2.0 if label else 0.5
        maps[image, 1 - label, 1:, :] -= 1.0
    choice = k_on_val(maps, labels, (1 / 16, 4 / 16, 1.0))
    assert choice.accuracy == {1 / 16: 0.5, 4 / 16: 1.0, 1.0: 1.0}
    assert (choice.low, choice.high) == (4 / 16, 1.0)
    assert choice.k == pytest.approx(0.5)


def test_equal_shares_give_their_geometric_middle():
    maps, labels = torch.zeros(10, 2, 4, 4), torch.zeros(10, dtype=torch.long)
    choice = k_on_val(maps, labels, (0.01, 0.1, 1.0))
    assert choice.k == pytest.approx(0.1)


# Pools that need no k


def test_auto_draws_every_k_in_training_and_keeps_one_in_evaluation():
    torch.manual_seed(0)
    maps, pool = torch.randn(1, 1, 4, 4), DrawnTopK()
    possible = {round(top_k_pool(maps, k).item(), 5): k for k in range(1, 17)}
    drawn = [possible[round(pool(maps).item(), 5)] for _ in range(3000)]
    # Log-uniform: half of the draws lie at or below sqrt(16), but for rounding to whole k.
    assert set(drawn) == set(range(1, 17))
    expected = torch.rand(200_000).mul(torch.tensor(16.0).log()).exp().round()
    for k in (1, 2, 4, 8):
        share = torch.tensor(drawn).le(k).float().mean()
        torch.testing.assert_close(share, expected.le(k).float().mean(), rtol=0, atol=0.04)
    pool.eval()
    torch.testing.assert_close(pool(maps), top_k_pool(maps, 2))
    pool.k = 5
    torch.testing.assert_close(pool(maps), top_k_pool(maps, 5))


def test_learnt_shares_pool_each_class_by_its_own_k():
    maps, pool = torch.randn(2, 3, 4, 4), LearntTopK(3).eval()
    with torch.no_grad():
        pool.parameter.copy_(torch.logit(torch.tensor([1, 4, 15]) / 16) / 30)
    expected = torch.stack([top_k_pool(maps, k)[:, c] for c, k in enumerate((1, 4, 15))], dim=1)
    torch.testing.assert_close(pool(maps), expected)


def test_a_learnt_k_shrinks_to_raise_a_score_and_grows_to_lower_it():
    maps, pool = torch.randn(2, 2, 6, 6), LearntTopK(2)
    (gradient,) = torch.autograd.grad(pool(maps).sum(0)[0], pool.parameter)
    assert gradient[0] < 0
    assert gradient[1] == 0


def test_pools_by_name():
    assert type(make_pool(4, 2)) is TopKPool2d
    assert make_pool("learnt", 5).k_fraction.tolist() == pytest.approx([0.25] * 5)
    with pytest.raises(UserError, match="k = 'best' is unknown: give a count, a share, \"auto\""):
        make_pool("best", 2)
    net = TopGapNet("test_resnet", 2, k="auto").eval()
    net.pool.k = 1
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(net(images), net.class_maps(images).amax((2, 3)))


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.int64])
def test_masks_of_0_and_255_are_the_masks_that_they_look_like(kind):
    masks = torch.zeros(2, 2, 2, dtype=torch.bool)
    masks[0, 0] = True
    assert k_from_masks(255 * masks.to(kind)) == k_from_masks(masks) == 0.25
    assert suggested_k(255 * masks.to(kind)) == suggested_k(masks)


@pytest.mark.parametrize("masks", [torch.rand(2, 3, 3), torch.ones(3, 3), torch.tensor(1)])
def test_what_is_no_mask_is_refused(masks):
    with pytest.raises(UserError, match="masks"):
        k_from_masks(masks)
