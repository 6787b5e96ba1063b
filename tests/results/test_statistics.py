import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from topgap_nb.errors import UserError
from topgap_nb.results.statistics import (
    Estimate,
    clean_accuracy,
    group_accuracy,
    holm,
    mean_interval,
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
    assert ours[:4] == pytest.approx((share, centre - half, centre + half, n), abs=1e-9)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1
    assert [type(number) for number in ours[:4]] == [float, float, float, int]


def test_accuracy_by_hand():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 2.0], [1.0, 0.0, 0.0]])
    labels = torch.tensor([0, 2, 2, 0])
    accuracy = clean_accuracy(logits, labels)
    assert (accuracy.value, accuracy.n) == (0.75, 4)
    assert accuracy == wilson_interval(np.array([True, True, False, True]))


def test_the_interval_over_images_is_the_t_interval():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=12)
    ours = mean_interval(values)
    theirs = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert ours[:4] == pytest.approx((values.mean(), theirs.low, theirs.high, 12))
    assert mean_interval(torch.from_numpy(values)[None]) == ours
    for bound in (2.0, 3.5, 9.0):
        p = stats.ttest_1samp(values, bound, alternative="greater").pvalue
        assert ours.p_above(bound) == pytest.approx(p, abs=1e-9)


def test_the_interval_of_two_ways_by_hand():
    values = np.array([[1.0, 2.0, 6.0], [3.0, 4.0, 8.0], [2.0, 6.0, 4.0], [2.0, 4.0, 6.0]])
    # Trainings: 3, 5, 4, 4; mean square 3 (1 + 1) / 3 = 2. Images: 2, 4, 6; 4 (4 + 4) / 2 = 16.
    # The rest: 50 in all, less 6 and 32, over 6 degrees of freedom: 2. So the variance of the mean
    # is 2 / 12 from trainings, and (16 - 2) / 12 from images.
    quantiles = stats.t.ppf(0.975, [3, 2])
    half = math.sqrt(quantiles[0] ** 2 * 2 / 12 + quantiles[1] ** 2 * 14 / 12)
    assert mean_interval(values) == pytest.approx((4.0, 4 - half, 4 + half, 3, 4, 1 / 8))


@relaxed
@given(st.integers(2, 6), st.integers(6, 30), st.integers(0, 10_000), st.floats(0, 2))
def test_no_interval_is_narrower_than_that_of_trainings_or_of_images_alone(runs, n, seed, spread):
    rng = np.random.default_rng(seed)
    values = rng.random((runs, n)) + spread * rng.random((runs, 1))
    ours = mean_interval(values)
    for axis in (0, 1):
        alone = mean_interval(values.mean(axis))
        assert ours.high - ours.value >= (alone.high - alone.value) * (1 - 1e-9)
    assert ours.value == pytest.approx(values.mean())
    # Neither order nor unit of what is measured matters.
    shuffled = mean_interval(3 * rng.permutation(rng.permutation(values), axis=1) + 1)
    assert shuffled[:3] == pytest.approx(3 * np.array(ours[:3]) + 1)


def test_trainings_that_agree_leave_the_interval_of_the_images():
    images = np.random.default_rng(0).random(200)
    one, three = mean_interval(images), mean_interval(np.stack([images] * 3))
    assert three == pytest.approx(one._replace(n_trainings=3))


def test_images_that_agree_leave_the_interval_of_the_trainings():
    levels = np.array([0.2, 0.3, 0.7])
    theirs = stats.ttest_1samp(levels, 0.0).confidence_interval(0.95)
    ours = mean_interval(np.repeat(levels[:, None], 50, 1))
    assert ours == pytest.approx((0.4, theirs.low, theirs.high, 50, 3, 1.0))
    assert mean_interval(levels[:, None])[1:3] == pytest.approx(ours[1:3])


def test_images_and_trainings_that_trade_places_are_no_certainty():
    # Each training and each image has the same mean.
    assert mean_interval(np.array([[0.0, 1.0], [1.0, 0.0]])).high > 1


def made(rng, kind, runs, n):
    """Values of so many trainings and images, and the true mean."""
    run, image, rest = (rng.standard_normal(size) for size in ((runs, 1), (1, n), (runs, n)))
    if kind == "hits":
        # Images differ in difficulty and trainings in skill; the logistic is near a probit.
        chance = stats.norm.cdf(0.6 + 0.2 * run + 0.9 * image)
        truth = stats.norm.cdf(0.6 / math.sqrt(1 + 0.2**2 + 0.9**2))
        return rng.random((runs, n)) < chance, truth
    of_run, of_image, of_rest = {
        "trainings": (0.05, 0.01, 0.05),
        "images": (0.002, 0.1, 0.05),
        "equal parts": (0.05, 0.05 * math.sqrt(n / runs), 0.05),
        "mixed": (0.05, 0.1, 0.05),
        "the rest": (0.0, 0.0, 0.1),
    }[kind]
    return of_run * run + of_image * image + of_rest * rest, 0.0


KINDS = ["trainings", "images", "equal parts", "mixed", "the rest", "hits"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("runs", [2, 3, 5, 10])
def test_intervals_cover_the_truth(kind, runs):
    rng, covered = np.random.default_rng(runs), []
    for _ in range(2000):
        values, truth = made(rng, kind, runs, 64)
        found = mean_interval(values)
        covered.append(found.low <= truth <= found.high)
    print(f"{kind}, {runs} trainings: {np.mean(covered):.3f}")
    assert np.mean(covered) >= 0.93


def test_too_narrow_an_interval_would_be_found():
    # The spread over images alone, which takes the trainings for one another.
    rng = np.random.default_rng(3)
    means = [mean_interval(made(rng, "mixed", 3, 64)[0].mean(0)) for _ in range(300)]
    assert np.mean([e.low <= 0 <= e.high for e in means]) < 0.75


@pytest.mark.parametrize("kind", KINDS)
def test_a_p_value_is_small_as_often_as_it_says(kind):
    rng = np.random.default_rng(5)
    worlds = (made(rng, kind, 3, 64) for _ in range(4000))
    p = np.array([mean_interval(values).p_above(truth) for values, truth in worlds])
    for level in (0.025, 0.05):
        assert (p < level).mean() <= level + 0.01
        assert (p > 1 - level).mean() <= level + 0.01


@relaxed
@given(
    st.floats(-1, 1), st.floats(0.01, 1), st.integers(1, 9), st.integers(2, 300), st.floats(0, 1)
)  # fmt: skip
def test_a_p_value_says_where_the_interval_ends(value, half, runs, n, share):
    share = share if runs > 1 else 0.0
    found = Estimate(value, value - half, value + half, n, runs, share)
    assert found.p_above(value) == pytest.approx(0.5)
    assert found.p_above(found.low) == pytest.approx(0.025)
    assert found.p_above(found.high) == pytest.approx(0.975)
    below, above = found.p_above(found.low - half), found.p_above(found.low + 0.1 * half)
    assert 0 < below < 0.025 < above
    # An end that was cut off, as at 1, changes nothing.
    assert found._replace(high=value).p_above(value - half / 2) == pytest.approx(
        found.p_above(value - half / 2)
    )


def test_without_spread_a_p_value_is_all_or_nothing():
    found = mean_interval(np.full((3, 20), 0.25))
    assert [found.p_above(bound) for bound in (0.2, 0.25, 0.3)] == [0.0, 1.0, 1.0]


def test_holms_correction_by_hand():
    # In order: 4 x 0.005, 3 x 0.01, 2 x 0.03, 1 x 0.04, none below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]).tolist() == [1.0, 1.0]
    assert holm([0.02]).tolist() == [0.02]
    assert len(holm([])) == 0


def test_a_share_stays_a_share():
    hits = np.ones((2, 40), dtype=bool)
    hits[0, :4] = False
    estimate = mean_interval(hits)
    assert (estimate.value, estimate.high) == (0.95, 1.0)
    assert estimate.low < 0.9


@pytest.mark.parametrize("shape", [(1,), (30,), (3, 30)])
@pytest.mark.parametrize("value", [0.0, 0.25, 0.7, 1.0])
def test_values_without_spread_have_an_interval_without_width(shape, value):
    estimate = mean_interval(np.full(shape, value))
    assert estimate[:4] == (value, value, value, shape[-1])


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


def test_hits_of_one_training_and_hits_that_all_agree_get_wilsons_interval():
    none, every = mean_interval(np.zeros((2, 50), dtype=bool)), mean_interval(np.ones(50) > 0)
    assert none == wilson_interval(np.zeros(50))._replace(n_trainings=2)
    assert every == wilson_interval(np.ones(50))
    assert none.high > 0.05
    some = torch.arange(50) < 47
    assert mean_interval(some) == mean_interval(some[None]) == wilson_interval(some)


def test_a_paired_difference_is_that_of_the_images_and_never_certain():
    first = np.array([[True, True, False, False] * 10, [True, True, True, False] * 10])
    second = np.array([[True, False, False, False] * 10] * 2)
    assert paired_difference(first[0], second[0]) == mean_interval(first[0] * 1.0 - second[0])
    three = [np.concatenate([hits, hits[:1]]) for hits in (first, second)]
    assert paired_difference(*three) == mean_interval(three[0] * 1.0 - three[1])
    both = paired_difference(np.zeros((2, 50), bool), np.zeros((2, 50), bool))
    assert (both.value, both.n, both.n_trainings) == (0.0, 50, 2)
    assert both.high == -both.low == wilson_interval(np.zeros(50, bool)).high > 0.05
    always = paired_difference(np.ones(50, bool), np.zeros(50, bool))
    assert (always.value, always.high) == (1.0, 1.0)
    assert always.low == pytest.approx(1 - both.high)


def test_a_difference_of_shares_is_at_most_1():
    first, second = np.array([[True] * 9 + [False], [True, False] * 5]), np.zeros((2, 10), bool)
    found = paired_difference(first, second)
    assert (found.value, found.low, found.high) == (0.7, -1.0, 1.0)
