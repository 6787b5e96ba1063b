"""What a training step is said to cost."""

import pytest
import torch
from helpers.trainings import TINY
from torch import nn

from topgap_nb.method.model import build_model
from topgap_nb.training.cost import _kept_for_backward, step_cost

STANDARD = TINY.replace(head="standard", k=1.0, sparsity_weight=0.0)


def test_what_is_kept_is_what_the_backward_pass_needs_each_once():
    net = nn.Linear(3, 4)
    x = torch.rand(2, 3)
    # The input, for the weight's gradient, and what the ReLU returns: floats of 4 bytes.
    assert _kept_for_backward(net, lambda: net(x).relu().sum().backward()) == 4 * (2 * 3 + 2 * 4)
    # A view of the same memory costs nothing more.

    def twice():
        return (net(x) + net(x.view(2, 3))).relu().sum().backward()

    assert _kept_for_backward(net, twice) == 4 * (2 * 3 + 2 * 4)
    with torch.no_grad():
        assert _kept_for_backward(net, lambda: net(x).relu()) == 0


def test_a_cost_is_measured_once_for_each_kind_of_training(runs):
    first = step_cost(TINY, 32, 4)
    assert step_cost(TINY.replace(seed=7, epochs=9), 32, 4) == first
    assert step_cost(STANDARD, 32, 4) != first


def test_memory_grows_with_the_pixels_and_with_the_classes_of_the_map(runs):
    topgap = {n: step_cost(TINY, 64, n) for n in (4, 104)}
    at_32, at_96 = (step_cost(TINY, side, 4).kept for side in (32, 96))
    steps = at_96 - topgap[4].kept, topgap[4].kept - at_32
    assert steps[0] / steps[1] == pytest.approx((96**2 - 64**2) / (64**2 - 32**2), rel=1e-4)
    # 100 maps of 16 x 16 more, kept at least once; without a class map 100 numbers.
    assert topgap[104].kept - topgap[4].kept >= 4 * 100 * 16 * 16
    standard = {n: step_cost(STANDARD, 64, n) for n in (4, 104)}
    assert 0 <= standard[104].kept - standard[4].kept < 4 * 100 * 16
    network = build_model("topgap", TINY.backbone, 4)
    assert topgap[4].parameters == sum(p.numel() for p in network.parameters())
