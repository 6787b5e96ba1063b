import math

import pytest
import torch

from topgap_nb.errors import UserError
from topgap_nb.method.loss import LossTerms, sparsity_loss, top_gap_loss

# |X| sums to 12 in the first image and 36 in the second.
MAPS = torch.tensor(
    [
        [[[1.0, -2.0, 0.0]], [[4.0, -5.0, 0.0]]],
        [[[3.0, 6.0, -9.0]], [[-3.0, 6.0, 9.0]]],
    ]
)
LOGITS = torch.tensor([[0.0, math.log(3.0)], [2.0, 2.0]])
LABELS = torch.tensor([1, 0])
# Class probabilities of the labels: 3/4 and 1/2.
CROSS_ENTROPY = (math.log(4 / 3) + math.log(2)) / 2


@pytest.mark.parametrize(("reduction", "expected"), [("mean", 4.0), ("sum", 24.0)])
def test_sparsity_by_hand(reduction, expected):
    assert sparsity_loss(MAPS, reduction).item() == pytest.approx(expected)


def test_the_mean_is_what_is_meant_when_nothing_is_said():
    assert torch.equal(sparsity_loss(MAPS), sparsity_loss(MAPS, "mean"))
    assert top_gap_loss(LOGITS, MAPS, LABELS).sparsity.item() == pytest.approx(4.0)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 5, 4, 7), (2, 10, 1, 6)])
def test_the_sum_is_the_mean_times_classes_and_positions(shape):
    torch.manual_seed(0)
    maps = torch.randn(shape, dtype=torch.float64)
    expected = sparsity_loss(maps, "mean") * math.prod(shape[1:])
    torch.testing.assert_close(sparsity_loss(maps, "sum"), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_batch_is_averaged_so_repeating_it_changes_nothing(reduction):
    repeated = sparsity_loss(MAPS.repeat(3, 1, 1, 1), reduction)
    torch.testing.assert_close(repeated, sparsity_loss(MAPS, reduction))


def test_empty_maps_cost_nothing():
    assert sparsity_loss(torch.zeros(2, 3, 4, 4)) == 0


def test_the_sparsity_gradient_is_the_sign_of_the_map():
    maps = MAPS.clone().requires_grad_()
    sparsity_loss(maps, "sum").backward()
    torch.testing.assert_close(maps.grad, MAPS.sign() / len(MAPS))


def test_the_terms_come_back_separately():
    terms = top_gap_loss(LOGITS, MAPS, LABELS, sparsity_weight=0.5)
    assert terms.cross_entropy.item() == pytest.approx(CROSS_ENTROPY)
    assert terms.sparsity.item() == pytest.approx(4.0)
    assert terms.sparsity_weight == 0.5


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0, 30.0])
def test_the_total_is_cross_entropy_plus_weighted_sparsity(weight):
    total = top_gap_loss(LOGITS, MAPS, LABELS, sparsity_weight=weight).total
    assert total.item() == pytest.approx(CROSS_ENTROPY + weight * 4.0)


def test_the_paper_s_weight_of_one_is_the_default():
    assert top_gap_loss(LOGITS, MAPS, LABELS).total.item() == pytest.approx(CROSS_ENTROPY + 4.0)


def test_a_weight_of_zero_switches_the_term_off_even_where_it_is_not_finite():
    terms = LossTerms(torch.tensor(0.25), torch.tensor(float("inf")), 0.0)
    assert terms.total == 0.25


def test_the_reduction_reaches_the_total():
    total = top_gap_loss(LOGITS, MAPS, LABELS, reduction="sum").total
    assert total.item() == pytest.approx(CROSS_ENTROPY + 24.0)


def test_an_unknown_reduction_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"'median'.*mean, positions, sum"):
        sparsity_loss(MAPS, "median")
