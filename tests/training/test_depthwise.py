import itertools

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from topgap_nb.training.depthwise import image_gradient, speed_up_depthwise, weight_gradient

SIZES = itertools.product([1, 2, 3, 4, 7, 11], [3, 5], [1, 2], [0, 1, 2])
FITTING = [case for case in SIZES if case[0] + 2 * case[3] >= case[1]]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), FITTING)
def test_the_sums_over_offsets_equal_the_librarys_gradients(size, kernel, stride, padding):
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(3, 6, size, size + 1, dtype=torch.float64, generator=draw).requires_grad_()
    weight = torch.randn(6, 1, kernel, kernel, dtype=torch.float64, generator=draw).requires_grad_()
    maps = F.conv2d(images, weight, stride=stride, padding=padding, groups=6)
    gradient = maps.detach().cos()
    expected = torch.autograd.grad((maps * gradient).sum(), [images, weight])
    call = (gradient, images.detach(), weight.detach(), stride, padding)
    for ours, theirs in zip((image_gradient(*call), weight_gradient(*call)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


# Small maps, where the sums are taken on every CPU, and large ones, where they may not be.
@pytest.mark.parametrize("size", [32, 96])
def test_a_whole_network_has_the_same_outputs_and_learns_the_same(size):
    torch.manual_seed(0)
    net = timm.create_model("tf_efficientnet_lite0", num_classes=3).eval()
    images = torch.rand(2, 3, size, size, requires_grad=True)

    def step():
        logits = net(images)
        gradients = torch.autograd.grad(logits.square().sum(), [images, *net.parameters()])
        return logits, gradients

    logits, expected = step()
    names = [name for name, _ in net.named_parameters()]
    speed_up_depthwise(net)
    assert [name for name, _ in net.named_parameters()] == names
    changed = [m for m in net.modules() if type(m).__module__.startswith("topgap_nb")]
    assert len(changed) == 16
    ours, gradients = step()
    assert torch.equal(ours, logits)
    assert any(not torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))
    for found, wanted in zip(gradients, expected, strict=True):
        largest = wanted.abs().max().item()
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5 * largest)


def test_gradients_that_nobody_asks_for_are_not_taken():
    conv = speed_up_depthwise(nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False))
    images = torch.rand(1, 4, 6, 6, requires_grad=True)
    conv.requires_grad_(False)
    conv(images).sum().backward()
    assert conv.weight.grad is None
    assert images.grad.isfinite().all()


def test_other_convolutions_are_left_alone():
    layers = nn.Sequential(
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, groups=2, bias=False),
        nn.Conv2d(4, 8, 3, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, groups=4, bias=False, dilation=2),
        nn.Conv2d(4, 4, 3, groups=4, bias=False, padding="same"),
    )
    kinds = [type(layer) for layer in layers]
    assert [type(layer) for layer in speed_up_depthwise(layers)] == kinds
