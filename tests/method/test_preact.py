"""PreAct ResNet-18: its maps, its size, and that both our networks can be built on it."""

import timm
import torch
import torch.nn.functional as F

from topgap_nb.method.model import StandardNet, TopGapNet
from topgap_nb.method.preact import PreActBlock

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_pyramid_reads_maps_of_32_16_8_and_4():
    net = TopGapNet("preact_resnet18_quarter", num_classes=10, k=64)
    sizes = [tuple(f.shape[1:]) for f in net.features(IMAGES)]
    assert sizes == [(16, 32, 32), (32, 16, 16), (64, 8, 8), (128, 4, 4)]
    assert net.class_maps(IMAGES).shape == (2, 10, 32, 32)


def test_the_parameters_are_those_of_the_network_in_the_field():
    # By hand: each convolution and linear layer, and two numbers a channel of each normalisation.
    convolutions = 3 * 64 * 9 + 4 * 64 * 64 * 9
    norms = 2 * 4 * 64
    for width in (128, 256, 512):
        convolutions += width // 2 * width * (9 + 1) + 3 * width * width * 9
        norms += 2 * (width // 2 + 3 * width)
    expected = convolutions + norms + 2 * 512 + 512 * 10 + 10
    assert expected == 11_172_170
    assert sum(p.numel() for p in timm.create_model("preact_resnet18").parameters()) == expected


def test_a_block_normalises_before_it_convolves():
    torch.manual_seed(0)
    block = PreActBlock(4, 6, stride=2).eval()
    torch.nn.init.uniform_(block.bn1.running_mean)
    torch.nn.init.uniform_(block.bn2.weight)
    x = torch.randn(2, 4, 8, 8)
    scale = (1 + block.bn1.eps) ** -0.5
    active = ((x - block.bn1.running_mean[:, None, None]) * scale).clamp(min=0)
    inner = F.conv2d(active, block.conv1.weight, stride=2, padding=1)
    inner = (inner * scale * block.bn2.weight[:, None, None]).clamp(min=0)
    straight = F.conv2d(active, block.shortcut.weight, stride=2)
    expected = F.conv2d(inner, block.conv2.weight, padding=1) + straight
    torch.testing.assert_close(block(x), expected)


def test_the_standard_network_pools_class_maps():
    net = StandardNet("preact_resnet18_quarter", num_classes=10).eval()
    assert net.class_maps(IMAGES).shape == (2, 10, 4, 4)
    torch.testing.assert_close(net(IMAGES), net.net(net.normalised(IMAGES)))
    assert torch.equal(net.features(IMAGES)[-1], net.net.forward_features(net.normalised(IMAGES)))
    assert [f.shape[-1] for f in net.features(IMAGES)] == [32, 16, 8, 4]


def test_features_and_classifier_read_the_same_maps():
    net = timm.create_model("preact_resnet18_quarter").eval()
    features = timm.create_model(
        "preact_resnet18_quarter", features_only=True, out_indices=(-2, -1)
    )
    assert features.feature_info.channels() == [64, 128]
    features.load_state_dict(
        {f"model.{n}": t for n, t in net.state_dict().items() if "fc" not in n}
    )
    maps = features.eval()(IMAGES)
    assert torch.equal(maps[-1], net.forward_features(IMAGES))
    assert torch.equal(maps[0], net.forward_intermediates(IMAGES)[1][2])
