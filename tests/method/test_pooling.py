import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from topgap_nb.method.pooling import TopKPool2d, is_average, pixel_constraint, top_k_pool

# Two images, two classes, 2x3 positions; no class has its largest values where the other has.
MAPS = torch.tensor(
    [
        [[[1.0, 5.0, 2.0], [4.0, 0.0, 3.0]], [[-1.0, -5.0, -2.0], [-4.0, 0.0, -3.0]]],
        [[[7.0, 7.0, 7.0], [1.0, 1.0, 1.0]], [[0.5, 0.0, 0.0], [0.0, 0.0, -6.0]]],
    ],
    dtype=torch.float64,
)
BY_HAND = {
    1: [[5.0, 0.0], [7.0, 0.5]],
    2: [[4.5, -0.5], [7.0, 0.25]],
    3: [[4.0, -1.0], [7.0, 0.5 / 3]],
    4: [[3.5, -1.5], [5.5, 0.125]],
    6: [[2.5, -2.5], [4.0, -5.5 / 6]],
}
relaxed = settings(max_examples=60, deadline=None, database=None)


@st.composite
def maps_and_k(draw):
    shape = draw(st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 5)] * 2))
    values = draw(
        arrays.arrays(np.float64, shape, elements=st.floats(-100, 100, allow_subnormal=False))
    )
    return torch.from_numpy(values), draw(st.integers(1, shape[2] * shape[3]))


@pytest.mark.parametrize("k", BY_HAND)
def test_definition_5_by_hand(k):
    expected = torch.tensor(BY_HAND[k], dtype=torch.float64)
    torch.testing.assert_close(top_k_pool(MAPS, k), expected)
    torch.testing.assert_close(TopKPool2d(k)(MAPS), expected)


@relaxed
@given(maps_and_k())
def test_it_is_the_mean_of_the_first_k_sorted_values(case):
    maps, k = case
    ordered = maps.flatten(2).sort(dim=-1, descending=True).values
    torch.testing.assert_close(top_k_pool(maps, k), ordered[..., :k].sum(-1) / k)


@relaxed
@given(maps_and_k())
def test_all_positions_are_global_average_pooling(case):
    maps, _ = case
    expected = nn.functional.adaptive_avg_pool2d(maps, 1).flatten(1)
    torch.testing.assert_close(top_k_pool(maps, maps[0, 0].numel()), expected)
    torch.testing.assert_close(top_k_pool(maps, 1.0), expected)


@relaxed
@given(maps_and_k())
def test_one_position_is_global_max_pooling(case):
    maps, _ = case
    torch.testing.assert_close(top_k_pool(maps, 1), maps.amax((2, 3)), rtol=0, atol=0)


@relaxed
@given(maps_and_k())
def test_more_positions_never_raise_the_score(case):
    maps, _ = case
    scores = torch.stack([top_k_pool(maps, i) for i in range(1, maps[0, 0].numel() + 1)])
    assert (scores.diff(dim=0) <= 1e-12 * (1 + maps.abs().max())).all()


@relaxed
@given(maps_and_k(), st.randoms(use_true_random=False))
def test_where_the_values_lie_does_not_matter(case, random):
    maps, k = case
    order = list(range(maps[0, 0].numel()))
    random.shuffle(order)
    moved = maps.flatten(2)[..., order].view_as(maps)
    torch.testing.assert_close(top_k_pool(moved, k), top_k_pool(maps, k))


@relaxed
@given(maps_and_k(), st.integers(0, 2**31 - 1))
def test_the_gradient_is_one_over_k_at_the_chosen_positions_and_zero_elsewhere(case, seed):
    maps, k = case
    ranks = torch.rand(maps.shape, generator=torch.Generator().manual_seed(seed)).flatten(2)
    distinct = ranks.argsort(-1).double().view_as(maps).requires_grad_()
    (gradient,) = torch.autograd.grad(top_k_pool(distinct, k).sum(), distinct)
    chosen = distinct >= distinct[0, 0].numel() - k
    torch.testing.assert_close(gradient, chosen.double() / k)


@pytest.mark.parametrize(
    ("share", "count"), [(1.0, 6), (0.5, 3), (0.6, 4), (0.34, 2), (1 / 6, 1), (0.01, 1), (0.7, 4)]
)
def test_a_float_is_a_share_of_the_positions(share, count):
    assert pixel_constraint(share, 6) == count
    torch.testing.assert_close(top_k_pool(MAPS, share), top_k_pool(MAPS, count))


def test_a_share_follows_the_size_of_the_map_and_a_count_does_not():
    assert [pixel_constraint(0.25, positions) for positions in (16, 64, 3136)] == [4, 16, 784]
    assert [pixel_constraint(8, positions) for positions in (16, 64, 3136)] == [8, 8, 8]


def test_the_count_one_and_the_share_one_are_opposites():
    torch.testing.assert_close(top_k_pool(MAPS, 1), MAPS.amax((2, 3)))
    torch.testing.assert_close(top_k_pool(MAPS, 1.0), MAPS.mean((2, 3)))
    assert (is_average(1), is_average(1.0), is_average(0.5)) == (False, True, False)


@pytest.mark.parametrize("k", [0, -3, 7, 2.5, 0.0, -0.5, float("nan"), True, False, "3", None])
def test_a_k_that_does_not_fit_is_a_value_error_that_names_k_and_the_positions(k):
    with pytest.raises(ValueError, match="1 to 6") as error:
        top_k_pool(MAPS, k)
    assert f"k = {k!r}" in str(error.value)


@pytest.mark.parametrize("k", [0, -3, 2.5, 0.0, True, "3", None])
def test_a_k_that_can_never_fit_is_refused_when_the_layer_is_made(k):
    with pytest.raises(ValueError, match=f"k = {k!r} "):
        TopKPool2d(k)


def test_a_layer_that_has_seen_no_map_does_not_invent_its_size():
    with pytest.raises(ValueError, match=r"from 1 to h\*w"):
        TopKPool2d(2.5)


@pytest.mark.parametrize("k", [np.int64(4), np.float64(4 / 6)])
def test_numbers_from_an_array_or_a_table_are_as_good_as_pythons(k):
    torch.testing.assert_close(TopKPool2d(k)(MAPS), top_k_pool(MAPS, 4))


def test_k_can_be_assigned_on_a_finished_layer():
    pool = TopKPool2d(1)
    pool.k = 4
    torch.testing.assert_close(pool(MAPS), top_k_pool(MAPS, 4))
    assert "k=4" in repr(pool)
