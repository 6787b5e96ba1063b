"""How far a training is from Equation 1's optimum: exact at the optimum, and on hand-made ones."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from topgap_nb.method.equilibrium import optimum
from topgap_nb.training.gauge import asked_for, gauge, gauge_history
from topgap_nb.training.loop import TrainedNetwork
from topgap_nb.training.spec import TrainingSpec

SPEC = TrainingSpec("test_efficientnet", k=2, sparsity_weight=0.5, pretrained=False)
BEST = optimum(2, (4, 5), 3, 0.5)
# From the loss of empty maps to the optimum's.
WAY = math.log(3) - BEST.loss
AT_BEST = {
    "cross_entropy": -math.log(1 - BEST.residual), "sparsity": BEST.mean_abs, "accuracy": 1.0,
    "mean_abs": BEST.mean_abs, "map_l1": 2 / 20, "empty": 18 / 20,
}  # fmt: skip


def trained(*rows, spec=SPEC) -> TrainedNetwork:
    """Return a training with this history, whose class maps are 4 x 5."""
    history = pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="epoch"))
    model = SimpleNamespace(class_maps=lambda images: torch.zeros(len(images), 3, 4, 5))
    return TrainedNetwork(spec, model, history, None)


@pytest.fixture
def three_classes():
    return SimpleNamespace(train=SimpleNamespace(images=torch.zeros(2, 3, 16, 20)), num_classes=3)


def test_the_gauge_is_1_at_the_optimum(three_classes):
    found = gauge(trained(AT_BEST), three_classes)
    assert (found.loss, found.density, found.mean_abs) == pytest.approx((1, 1, 1))
    assert found.left == pytest.approx(0)
    assert found.empty == pytest.approx(1 - 2 / 20)
    assert found.converged


def test_with_gradient_descent_on_free_maps_the_gauge_comes_down_to_1(three_classes):
    # Equation 1 alone, on maps that nothing ties together.
    maps = (0.1 * torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))).double()
    maps.requires_grad_()
    optimizer, rows = torch.optim.Adam([maps], lr=0.1), []
    for step in range(1600):
        optimizer.param_groups[0]["lr"] = 0.1 * 0.5 ** (step / 200)
        logits = maps.flatten(2).topk(2).values.mean(2)
        entropy, l1 = F.cross_entropy(logits, torch.tensor([1])), maps.abs().mean()
        optimizer.zero_grad()
        (entropy + l1 / 2).backward()
        optimizer.step()
        if step in (0, 1599):
            true = maps[0, 1].detach()
            scaled = (true - true.min()) / (true.max() - true.min())
            empty = (true.abs() <= 0.05 * true.abs().max()).double()
            values = (entropy.item(), l1.item(), 1.0, l1.item(), scaled.mean(), empty.mean())
            rows.append(dict(zip(AT_BEST, map(float, values), strict=True)))
    history = gauge_history(trained(*rows), three_classes)
    assert not history.converged.iloc[0]
    assert history.loss.iloc[0] > 2
    assert history.loss.iloc[-1] == pytest.approx(1, abs=0.01)
    assert history.density.iloc[-1] == pytest.approx(1, abs=0.05)
    assert history.converged.iloc[-1]


@pytest.mark.parametrize(
    ("change", "converged"),
    [
        ({"accuracy": 0.97}, False),
        ({"map_l1": 1.9 * 2 / 20}, True),
        ({"map_l1": 2.1 * 2 / 20}, False),
        ({"cross_entropy": AT_BEST["cross_entropy"] + 0.14 * WAY}, True),
        ({"cross_entropy": AT_BEST["cross_entropy"] + 0.16 * WAY}, False),
    ],
)
def test_the_limits_on_the_way_the_density_and_the_learnt_images(three_classes, change, converged):
    assert gauge(trained({**AT_BEST, **change}), three_classes).converged == converged


def test_the_last_epoch_is_judged(three_classes):
    early = {**AT_BEST, "map_l1": 0.9}
    assert gauge(trained(early, AT_BEST), three_classes).converged
    assert not gauge(trained(AT_BEST, early), three_classes).converged


@pytest.mark.parametrize(("accuracy", "converged"), [(0.99, True), (0.97, False)])
def test_without_an_l1_term_the_training_images_must_have_been_learnt(
    three_classes, accuracy, converged
):
    plain = trained({**AT_BEST, "accuracy": accuracy}, spec=SPEC.replace(sparsity_weight=0.0))
    found = gauge(plain, three_classes)
    assert asked_for(plain, three_classes) is None
    assert found.converged == converged
    assert math.isnan(found.loss)


def test_empty_maps_have_the_whole_way_to_go_also_where_the_optimum_costs_much(three_classes):
    # lambda = 8: the optimum's loss is more than a quarter of that of empty maps.
    spec = SPEC.replace(sparsity_weight=8.0)
    best = optimum(2, (4, 5), 3, 8.0)
    nothing = {"cross_entropy": math.log(3), "sparsity": 0.0, "mean_abs": 0.0, "map_l1": 0.0}
    found = gauge(trained({**AT_BEST, **nothing}, spec=spec), three_classes)
    assert best.loss > math.log(3) / 4
    assert found.left == pytest.approx(1)
    assert not found.converged
