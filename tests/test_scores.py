import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score
from torch import nn

from topgap_nb.data.images import ImageSet
from topgap_nb.errors import UserError
from topgap_nb.measures.scores import (
    Estimate,
    bootstrap,
    cam_sparsity,
    clean_accuracy,
    correct,
    group_accuracy,
    highlighted_area,
    mask_iou,
    paired,
    predict,
    proportion,
    pxap,
    shared_threshold,
)

relaxed = settings(max_examples=60, deadline=None, database=None)

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


def image_set(channels=3, count=10) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, channels, 9, 7), generator=generator)
    return ImageSet(
        name="random",
        pixels=pixels.to(torch.uint8),
        labels=torch.arange(count) % 2,
        class_names=("even", "odd"),
        ids=tuple(map(str, range(count))),
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(140, 2)
    )


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


@relaxed
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_share_is_wilsons(case):
    hits, n = case
    interval = binomtest(hits, n).proportion_ci(confidence_level=0.95, method="wilson")
    ours = proportion(torch.arange(n) < hits)
    assert ours == pytest.approx((hits / n, interval.low, interval.high, n), abs=1e-6)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1
    assert [type(number) for number in ours] == [float, float, float, int]


def test_accuracy_by_hand():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 2.0], [1.0, 0.0, 0.0]])
    labels = torch.tensor([0, 2, 2, 0])
    assert correct(logits, labels).tolist() == [True, True, False, True]
    accuracy = clean_accuracy(logits, labels)
    assert (accuracy.value, accuracy.n) == (0.75, 4)
    assert accuracy == proportion(np.array([True, True, False, True]))


@relaxed
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.integers(0, 100))
def test_a_bootstrap_interval_holds_values_between_the_extremes_and_keeps_the_mean(values, seed):
    estimate = bootstrap(np.array(values), resamples=200, seed=seed)
    assert estimate.value == pytest.approx(np.mean(values))
    assert min(values) - 1e-9 <= estimate.low <= estimate.high <= max(values) + 1e-9
    assert estimate.n == len(values)


def test_the_bootstrap_interval_of_a_large_sample_is_the_normal_one():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    half = 1.96 * values.std() / np.sqrt(len(values))
    estimate = bootstrap(values, resamples=20000)
    assert estimate.low < estimate.value < estimate.high
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_spread_of_runs_is_that_of_a_mean_of_so_many():
    # Runs that differ by constants: the images add nothing.
    for runs in (2, 3, 5):
        levels = np.random.default_rng(runs).standard_normal(runs)
        means = [
            bootstrap(np.repeat(levels[:, None], 4, 1), resamples=1, seed=s).low
            for s in range(4000)
        ]
        assert np.var(means) == pytest.approx(levels.var(ddof=1) / runs, rel=0.1)


def test_a_share_stays_a_share():
    hits = np.ones((2, 40), dtype=bool)
    hits[0, :4] = False
    estimate = bootstrap(hits)
    assert estimate.low < 0.9 < 0.95 < estimate.high <= 1


def test_about_95_of_100_bootstrap_intervals_cover_the_truth():
    rng = np.random.default_rng(1)
    estimates = [bootstrap(rng.random(60), resamples=400, seed=i) for i in range(300)]
    covered = np.mean([e.low <= 0.5 <= e.high for e in estimates])
    assert 0.90 <= covered <= 0.98


@pytest.mark.parametrize("shape", [(1,), (30,), (3, 30)])
@pytest.mark.parametrize("value", [0.0, 0.25, 0.7, 1.0])
def test_values_without_spread_have_an_interval_without_width(shape, value):
    estimate = bootstrap(np.full(shape, value))
    assert estimate == pytest.approx(Estimate(value, value, value, shape[-1]), abs=1e-15)
    assert estimate.low == estimate.high


def test_the_same_seed_gives_the_same_interval_and_another_does_not():
    values = np.random.default_rng(0).random((2, 50))
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3) != bootstrap(values, seed=4)
    assert bootstrap(torch.from_numpy(values), seed=3) == bootstrap(values, seed=3)


def test_runs_that_differ_widen_the_interval_and_runs_that_agree_do_not():
    images = np.random.default_rng(0).random(200)
    differing = images + np.array([[-0.2], [0.0], [0.2]])
    one_way, two_way = bootstrap(differing.mean(0)), bootstrap(differing)
    assert two_way.value == pytest.approx(one_way.value)
    assert two_way.n == one_way.n == 200
    assert two_way.high - two_way.low > 2 * (one_way.high - one_way.low)
    agreeing = bootstrap(np.stack([images] * 3))
    assert agreeing.high - agreeing.low == pytest.approx(one_way.high - one_way.low)


def test_the_two_way_interval_is_that_of_resampling_runs_and_images_one_after_the_other():
    rng = np.random.default_rng(0)
    values = rng.random((4, 40)) + rng.normal(0, 0.1, size=(4, 1))
    means = []
    for _ in range(4000):
        seen = values[:, rng.integers(0, 40, size=40)].mean(1)
        run_part = seen[rng.integers(0, 4, size=4)].mean() - seen.mean()
        means.append(seen.mean() + math.sqrt(4 / 3) * run_part)
    estimate = bootstrap(values, resamples=4000)
    assert estimate[1:3] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.012)


def test_group_accuracy_by_hand():
    hits = torch.tensor([1, 1, 1, 0, 1, 0, 0, 1, 1, 1], dtype=torch.bool)
    groups = torch.tensor([0, 0, 0, 0, 1, 1, 1, 3, 3, 3])
    # Groups 0, 1 and 3 are right in 3/4, 1/3 and 3/3; group 2 has no image and takes no weight.
    result = group_accuracy(hits, groups, torch.tensor([0.5, 0.1, 0.2, 0.2]))
    assert result.average == proportion(hits)
    assert result.adjusted == pytest.approx((0.5 * 3 / 4 + 0.1 * 1 / 3 + 0.2 * 1) / 0.8)
    assert result.worst == proportion(torch.tensor([True, False, False]))
    assert result.worst_group == 1


def test_adjusted_accuracy_with_the_shares_of_the_images_is_the_average():
    hits = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.bool)
    groups = torch.tensor([0, 0, 0, 0, 1, 1])
    result = group_accuracy(hits, groups, torch.tensor([4, 2]))
    assert result.adjusted == pytest.approx(result.average.value)


@pytest.mark.parametrize("groups", [[0, 0, 0], [2, 2, 2]])
def test_fewer_than_two_groups_are_refused(groups):
    with pytest.raises(UserError, match=r"at least two groups.*found 1"):
        group_accuracy(torch.ones(3, dtype=torch.bool), torch.tensor(groups), torch.ones(3))


@pytest.mark.parametrize("channels", [1, 3])
def test_predicting_a_data_set_is_predicting_its_float_images(channels):
    data, net = image_set(channels), network()
    floats = data.pixels.float().expand(-1, 3, -1, -1) / 255
    expected = net.eval()(floats).detach()
    torch.testing.assert_close(predict(net, data), expected)
    torch.testing.assert_close(predict(net, floats), expected)
    torch.testing.assert_close(predict(net, data.pixels), expected)


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_predictions_do_not_depend_on_the_batch_and_keep_the_order(batch_size):
    data, net = image_set(), network()
    torch.testing.assert_close(predict(net, data, batch_size), predict(net, data))


def test_predicting_uses_evaluation_mode_and_leaves_training_mode():
    data, net = image_set(), network().train()
    statistics = net[1].running_mean.clone()
    expected = predict(net, data)
    assert net.training
    assert torch.equal(net[1].running_mean, statistics)
    assert all(parameter.requires_grad for parameter in net.parameters())
    torch.testing.assert_close(net.eval()(data.images), expected.requires_grad_())


def test_hits_that_all_agree_are_not_taken_for_certain():
    none, every = bootstrap(np.zeros((2, 50), dtype=bool)), bootstrap(np.ones(50, dtype=bool))
    assert none == proportion(np.zeros(50, dtype=bool))
    assert every == proportion(np.ones(50, dtype=bool))
    assert none.high > 0.05


def test_a_paired_difference_is_that_of_the_images_and_never_certain():
    first = np.array([True, True, False, False] * 10)
    second = np.array([True, False, False, False] * 10)
    assert paired(first, second) == bootstrap(first * 1.0 - second)
    both = paired(np.zeros((2, 50), bool), np.zeros((2, 50), bool))
    assert (both.value, both.n) == (0.0, 50)
    assert both.high == -both.low == proportion(np.zeros(50, bool)).high > 0.05
    always = paired(np.ones(50, bool), np.zeros(50, bool))
    assert (always.value, always.high) == (1.0, 1.0)
    assert always.low == pytest.approx(1 - both.high)
