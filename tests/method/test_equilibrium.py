"""The closed form of Equation 1's optimum, against gradient descent on free maps and by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topgap_nb.errors import UserError
from topgap_nb.method.equilibrium import optimum
from topgap_nb.method.loss import READINGS, top_gap_loss
from topgap_nb.method.pooling import top_k_pool


def descended(k, size, classes, weight, reduction):
    """Return the free maps that Adam finds, from a small random start."""
    generator = torch.Generator().manual_seed(0)
    maps = 0.1 * torch.rand(1, classes, *size, generator=generator, dtype=torch.float64)
    maps.requires_grad_()
    optimizer = torch.optim.Adam([maps], lr=0.1)
    for step in range(1000):
        optimizer.param_groups[0]["lr"] = 0.1 * 0.5 ** (step / 100)
        loss = top_gap_loss(top_k_pool(maps, k), maps, torch.tensor([0]), weight, reduction).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return maps.detach(), loss.item()


@pytest.mark.parametrize(
    ("k", "size", "classes", "weight", "reduction"),
    [
        (3, (4, 4), 4, 1.0, "mean"),
        (5, (6, 6), 2, 2.0, "mean"),
        (3, (4, 4), 4, 1.0, "positions"),
        (2, (3, 5), 3, 0.1, "sum"),
        (16, (4, 4), 3, 1.0, "mean"),
    ],
)
def test_gradient_descent_on_free_maps_ends_at_the_closed_form(k, size, classes, weight, reduction):
    best = optimum(k, size, classes, weight, reduction)
    maps, loss = descended(k, size, classes, weight, reduction)
    assert loss == pytest.approx(best.loss, rel=1e-3)
    residual = 1 - top_k_pool(maps, k).softmax(1)[0, 0].item()
    assert residual == pytest.approx(best.residual, rel=0.05)
    assert maps.abs().mean().item() == pytest.approx(best.mean_abs, rel=0.05)
    if k == size[0] * size[1]:
        # Averaging over all positions, only their sum is determined.
        return
    true = maps[0, 0]
    assert (true > best.value / 2).sum() == k
    assert true.mean().item() / true.max().item() == pytest.approx(best.map_l1, rel=0.03)


def test_the_force_balance_by_hand():
    # 47 of 576 positions, 8 classes: 1 - p = 47 / (8 * 576), a = ln(7 p / (1 - p)).
    best = optimum(47, (24, 24), 8, 1.0)
    assert best.residual == pytest.approx(47 / 4608)
    assert best.value == pytest.approx(math.log(7 * (1 - 47 / 4608) / (47 / 4608)))
    assert best.mean_abs == pytest.approx(47 * best.value / 4608)
    assert best.map_l1 == pytest.approx(47 / 576)


def test_summed_over_classes_the_residual_does_not_depend_on_their_number():
    residuals = [optimum(47, (24, 24), c, 1.0, "positions").residual for c in (9, 200, 1000)]
    assert residuals == pytest.approx([47 / 576] * 3)


@pytest.mark.parametrize(("k", "size"), [(47, (24, 24)), (256, (56, 56))])
def test_the_plain_sum_asks_for_empty_maps(k, size):
    assert optimum(k, size, 8, 1.0, "sum") == (0.0, 7 / 8, 0.0, 0.0, pytest.approx(math.log(8)))


@settings(max_examples=50)
@given(
    k=st.integers(1, 16), classes=st.integers(2, 30), weight=st.floats(1e-3, 100),
    reduction=st.sampled_from(READINGS), other=st.floats(0, 20),
)  # fmt: skip
def test_no_other_height_of_the_same_positions_is_cheaper(k, classes, weight, reduction, other):
    best = optimum(k, (4, 4), classes, weight, reduction)
    maps = torch.zeros(1, classes, 4, 4, dtype=torch.float64)
    for value, compare in ((best.value, "same"), (other, "dearer")):
        maps[0, 0].view(-1)[:k] = value
        loss = top_gap_loss(top_k_pool(maps, k), maps, torch.tensor([0]), weight, reduction).total
        if compare == "same":
            assert loss.item() == pytest.approx(best.loss, rel=1e-9)
        else:
            assert loss.item() >= best.loss * (1 - 1e-9)


@pytest.mark.parametrize(
    "arguments",
    [(17, (4, 4), 3, 1.0), (3, (4, 4), 1, 1.0), (3, (4, 4), 3, 0.0), (3, (4, 4), 3, math.nan)],
)
def test_what_has_no_optimum_is_refused(arguments):
    with pytest.raises(UserError):
        optimum(*arguments)


def test_only_the_sum_of_the_winners_is_determined():
    # One position that does the work of six costs the same, and is denser by nothing.
    best, maps = optimum(6, (4, 4), 3, 1.0), torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    maps[0, 0, 0, 0] = 6 * best.value
    loss = top_gap_loss(top_k_pool(maps, 6), maps, torch.tensor([0])).total
    assert loss.item() == pytest.approx(best.loss, rel=1e-12)
