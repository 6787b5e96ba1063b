import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topgap_nb.errors import UserError
from topgap_nb.results.statistics import (
    Estimate,
    bootstrap,
    clean_accuracy,
    group_accuracy,
    paired_difference,
    wilson_interval,
)

relaxed = settings(max_examples=60, deadline=None, database=None)


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (8, 10), (1, 400)])
def test_the_interval_of_a_share_is_wilsons(hits, n):
    z, share = 1.959963984540054, hits / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    ours = wilson_interval(torch.arange(n) < hits)
    assert ours == pytest.approx((share, centre - half, centre + half, n), abs=1e-9)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1
    assert [type(number) for number in ours] == [float, float, float, int]


def test_accuracy_by_hand():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 2.0], [1.0, 0.0, 0.0]])
    labels = torch.tensor([0, 2, 2, 0])
    accuracy = clean_accuracy(logits, labels)
    assert (accuracy.value, accuracy.n) == (0.75, 4)
    assert accuracy == wilson_interval(np.array([True, True, False, True]))


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


def test_the_spread_of_trainings_is_that_of_a_mean_of_so_many():
    # Trainings that differ by constants: the images add nothing.
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


def test_trainings_that_differ_widen_the_interval_and_those_that_agree_do_not():
    images = np.random.default_rng(0).random(200)
    differing = images + np.array([[-0.2], [0.0], [0.2]])
    one_way, two_way = bootstrap(differing.mean(0)), bootstrap(differing)
    assert two_way.value == pytest.approx(one_way.value)
    assert two_way.n == one_way.n == 200
    assert two_way.high - two_way.low > 2 * (one_way.high - one_way.low)
    agreeing = bootstrap(np.stack([images] * 3))
    assert agreeing.high - agreeing.low == pytest.approx(one_way.high - one_way.low)


def test_the_two_way_interval_is_that_of_resampling_trainings_and_images_one_after_the_other():
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
    assert result.average == wilson_interval(hits)
    assert result.adjusted == pytest.approx((0.5 * 3 / 4 + 0.1 * 1 / 3 + 0.2 * 1) / 0.8)
    assert result.worst == wilson_interval(torch.tensor([True, False, False]))
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


def test_hits_that_all_agree_are_not_taken_for_certain():
    none, every = bootstrap(np.zeros((2, 50), dtype=bool)), bootstrap(np.ones(50, dtype=bool))
    assert none == wilson_interval(np.zeros(50, dtype=bool))
    assert every == wilson_interval(np.ones(50, dtype=bool))
    assert none.high > 0.05


def test_a_paired_difference_is_that_of_the_images_and_never_certain():
    first = np.array([True, True, False, False] * 10)
    second = np.array([True, False, False, False] * 10)
    assert paired_difference(first, second) == bootstrap(first * 1.0 - second)
    both = paired_difference(np.zeros((2, 50), bool), np.zeros((2, 50), bool))
    assert (both.value, both.n) == (0.0, 50)
    assert both.high == -both.low == wilson_interval(np.zeros(50, bool)).high > 0.05
    always = paired_difference(np.ones(50, bool), np.zeros(50, bool))
    assert (always.value, always.high) == (1.0, 1.0)
    assert always.low == pytest.approx(1 - both.high)
