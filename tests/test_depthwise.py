import pytest
import timm
import torch
from torch import nn

from topgap_nb.experiments import depthwise
from topgap_nb.experiments.depthwise import speed_up_depthwise


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 11])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("by_hand", [(True, True), (False, True), (True, False)])
def test_gradients_equal_the_librarys(monkeypatch, size, kernel, stride, padding, by_hand):
    # Which of them is faster depends on the CPU; both must be right on all.
    monkeypatch.setattr(depthwise, "_by_hand", lambda *shape: by_hand)
    if size + 2 * padding < kernel:
        pytest.skip("the kernel does not fit")
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, kernel, stride, padding, groups=6, bias=False).double()
    images = torch.randn(3, 6, size, size + 1, dtype=torch.float64, requires_grad=True)

    def gradients():
        maps = conv(images)
        return maps, *torch.autograd.grad((maps * maps.detach().cos()).sum(), [images, conv.weight])

    expected = gradients()
    speed_up_depthwise(conv)
    for ours, theirs in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_whole_network_learns_the_same(monkeypatch):
    monkeypatch.setattr(depthwise, "_by_hand", lambda *shape: (True, True))
    torch.manual_seed(0)
    net = timm.create_model("tf_efficientnet_lite0", num_classes=3).eval()
    images = torch.rand(2, 3, 64, 64, requires_grad=True)

    def gradients():
        loss = net(images).square().sum()
        return torch.autograd.grad(loss, [images, *net.parameters()])

    expected = gradients()
    names = [name for name, _ in net.named_parameters()]
    speed_up_depthwise(net)
    assert [name for name, _ in net.named_parameters()] == names
    changed = [m for m in net.modules() if type(m).__module__.startswith("topgap_nb")]
    assert len(changed) == 16
    for ours, theirs in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * theirs.abs().max().item())


def test_other_convolutions_are_left_alone():
    layers = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 8, 1))
    kinds = [type(layer) for layer in layers]
    assert [type(layer) for layer in speed_up_depthwise(layers)] == kinds
