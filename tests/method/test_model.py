import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from topgap_nb.errors import UserError
from topgap_nb.method.model import (
    PYRAMID_WIDTH,
    MapClassifier,
    PyramidHead,
    StandardNet,
    TopGapNet,
    build_model,
    explanation_map,
)
from topgap_nb.method.pooling import TopKPool2d, top_k_pool

FULLY_CONVOLUTIONAL = ["resnet18", "tf_efficientnet_lite0", "densenet121"]
SWIN = "swin_tiny_patch4_window7_224"
NOT_FULLY_CONVOLUTIONAL = ["convnext_atto", "mobilenetv3_small_050", "test_convnext"]


def parameters(*arguments) -> float:
    with torch.device("meta"):
        net = build_model(*arguments)
    return round(sum(p.numel() for p in net.parameters()) / 1e6, 2)


def topgap(num_classes=5, **options) -> TopGapNet:
    """Return a small network whose maps are not all zero, as they are before training."""
    torch.manual_seed(0)
    net = TopGapNet("test_resnet", num_classes, **options)
    nn.init.normal_(net.head.classifier.weight)
    nn.init.normal_(net.head.classifier.bias)
    return net.eval()


def standard(backbone="test_resnet", num_classes=5, **options) -> StandardNet:
    torch.manual_seed(0)
    net = StandardNet(backbone, num_classes, **options).eval()
    linear = net.net.get_classifier()
    nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
    nn.init.normal_(linear.bias)
    return net


def pictures(count=2, size=64) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


class FixedMaps(MapClassifier):
    """A classifier whose class maps are given, so that what becomes of them can be worked out."""

    def __init__(self, maps, k=1.0):
        super().__init__((0.0,) * 3, (1.0,) * 3)
        self.maps, self.pool = maps, TopKPool2d(k)

    def class_maps(self, images):
        return self.maps


@pytest.mark.parametrize(
    ("head", "backbone", "num_classes", "millions"),
    [
        ("standard", "efficientnet_b0", 53, 4.08),
        ("topgap", "efficientnet_b0", 53, 4.75),
        ("standard", "vgg11_bn", 1000, 132.87),
        ("topgap", "vgg11_bn", 1000, 12.43),
        ("standard", "densenet121", 1000, 7.98),
    ],
)
def test_parameter_counts_are_those_of_table_1(head, backbone, num_classes, millions):
    assert parameters(head, backbone, num_classes) == millions


def test_densenet_does_not_reach_the_count_that_table_1_prints():
    assert parameters("topgap", "densenet121", 1000) == 13.70


def test_the_pyramid_reads_the_last_four_maps_and_of_vgg_three():
    with torch.device("meta"):
        channels = {
            name: [conv.in_channels for conv in TopGapNet(name, 2).head.laterals]
            for name in ("resnet18", "efficientnet_b0", "vgg11_bn")
        }
    assert channels == {
        "resnet18": [64, 128, 256, 512],
        "efficientnet_b0": [24, 40, 112, 320],
        "vgg11_bn": [256, 512, 512],
    }


@pytest.mark.parametrize(("maps", "channels"), [(1, [96]), (3, [48, 192, 96]), ((1, 3), [32, 192])])
def test_the_maps_that_feed_the_pyramid_can_be_chosen(maps, channels):
    net = topgap(maps=maps)
    assert [conv.in_channels for conv in net.head.laterals] == channels
    assert net.class_maps(pictures()).shape[-2:] == net.features(pictures())[0].shape[-2:]


def test_a_pyramid_of_no_maps_is_refused():
    with pytest.raises(UserError, match="maps = 0"):
        TopGapNet("test_resnet", 2, maps=0)


def test_class_maps_are_the_formula_of_figure_2():
    net, images = topgap().double(), pictures().double()
    features = net.backbone((images - net.mean) / net.std)
    size = features[0].shape[-2:]
    pyramid = 0
    for conv, feature in zip(net.head.laterals, features, strict=True):
        lateral = F.conv2d(feature, conv.weight, conv.bias, padding=1)
        pyramid = pyramid + F.interpolate(lateral, size, mode="bilinear")
    weight, bias = net.head.classifier.weight[:, :, 0, 0], net.head.classifier.bias
    expected = torch.einsum("cd,ndhw->nchw", weight, pyramid) + bias.view(1, -1, 1, 1)
    torch.testing.assert_close(net.class_maps(images), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [[7], [5, 9], [4, 6, 8], [3, 5, 7, 9]])
def test_the_fused_head_agrees_with_the_unfused_in_maps_and_gradients(channels):
    torch.manual_seed(0)
    head = PyramidHead(channels, num_classes=4).double()
    nn.init.normal_(head.classifier.weight)
    nn.init.normal_(head.classifier.bias)
    features = [
        torch.randn(2, d, 12 >> i, 16 >> i, dtype=torch.float64, requires_grad=True)
        for i, d in enumerate(channels)
    ]

    def maps_and_gradients(forward):
        maps = forward(features)
        loss = (maps * maps.detach().cos()).sum()
        return maps, *torch.autograd.grad(loss, [*features, *head.parameters()])

    assert head.is_fused
    pairs = zip(maps_and_gradients(head), maps_and_gradients(head.unfused), strict=True)
    for fused, unfused in pairs:
        torch.testing.assert_close(fused, unfused, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("num_classes", "dropout", "training", "fused"),
    [
        (PYRAMID_WIDTH - 1, 0.0, True, True),
        (PYRAMID_WIDTH, 0.0, True, False),
        (PYRAMID_WIDTH, 0.0, False, False),
        (4, 0.5, True, False),
        (4, 0.5, False, True),
    ],
)
def test_the_head_is_fused_where_that_is_cheaper_and_exact(num_classes, dropout, training, fused):
    head = PyramidHead([3, 5], num_classes, dropout).train(training)
    ran = []
    head.classifier.register_forward_hook(lambda *_: ran.append("unfused"))
    head([torch.rand(1, 3, 4, 4), torch.rand(1, 5, 2, 2)])
    assert head.is_fused is fused
    assert ran == ([] if fused else ["unfused"])


def test_dropout_drops_whole_channels_of_the_pyramid_in_training_only():
    net, images = topgap(dropout=0.5), pictures()
    kept = net.class_maps(images)
    torch.testing.assert_close(net.class_maps(images), kept)
    seen = []
    net.head.dropout.register_forward_hook(lambda module, inputs, output: seen.append(output))
    net.head.train()
    assert not torch.allclose(net.class_maps(images), kept)
    empty = (seen[0] == 0).flatten(2)
    assert torch.equal(empty.all(-1), empty.any(-1))
    assert 0.3 < empty.all(-1).float().mean() < 0.7


def test_an_untrained_topgap_network_starts_at_empty_maps_and_still_learns():
    net = TopGapNet("test_resnet", 5, k=8)
    maps = net.class_maps(pictures())
    assert not maps.any()
    net.pool(maps)[:, 0].sum().backward()
    assert net.head.classifier.weight.grad.any()


@pytest.mark.parametrize("backbone", FULLY_CONVOLUTIONAL)
def test_a_standard_network_is_timms_and_averages_its_class_maps(backbone):
    net, images = standard(backbone), pictures()
    with torch.no_grad():
        theirs = net.net((images - net.mean) / net.std)
        logits, maps = net(images), net.class_maps(images)
    assert theirs.std() > 0.1
    assert maps.shape == (2, 5, 2, 2)
    torch.testing.assert_close(logits, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(maps.mean((2, 3)), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backbone", FULLY_CONVOLUTIONAL)
def test_the_last_feature_map_is_the_one_whose_average_is_classified(backbone):
    net, images = standard(backbone), pictures()
    with torch.no_grad():
        features = net.features(images)
        logits = net.net.get_classifier()(features[-1].mean((2, 3)))
        torch.testing.assert_close(logits, net(images), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(net.maps_of(features[-1]), net.class_maps(images))
    sizes = [feature.shape[-1] for feature in features]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("backbone", NOT_FULLY_CONVOLUTIONAL)
def test_other_networks_have_logits_but_no_class_maps(backbone):
    net, images = standard(backbone), pictures()
    theirs = net.net((images - net.mean) / net.std)
    assert theirs.std() > 0.1
    assert net.pool is None
    torch.testing.assert_close(net(images), theirs)
    with pytest.raises(UserError, match="not fully convolutional"):
        net.class_maps(images)


@pytest.mark.parametrize("k", [1, 4, 0.5])
def test_a_pixel_constraint_is_refused_where_there_are_no_class_maps(k):
    with pytest.raises(UserError, match=f"k = {k} needs TopGapNet"):
        StandardNet("test_convnext", 2, k=k)


def test_average_of_a_1x1_convolution_is_the_linear_layer_of_the_average():
    torch.manual_seed(0)
    conv, features = nn.Conv2d(6, 4, 1).double(), torch.randn(3, 6, 5, 7, dtype=torch.float64)
    linear = F.linear(features.mean((2, 3)), conv.weight.flatten(1), conv.bias)
    torch.testing.assert_close(top_k_pool(conv(features), 1.0), linear)
    torch.testing.assert_close(top_k_pool(conv(features), 35), linear)


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0"])
def test_normalisation_is_inside_and_is_the_backbones_own(backbone):
    config = timm.get_pretrained_cfg(backbone)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (config.mean, config.std))
    images = pictures()
    normalised = (images - mean) / std
    net = standard(backbone)
    with torch.no_grad():
        torch.testing.assert_close(net(images), net.net(normalised), rtol=1e-5, atol=1e-5)
        pyramid = TopGapNet(backbone, 2).eval()
        torch.testing.assert_close(pyramid.features(images), pyramid.backbone(normalised))


@pytest.mark.parametrize("make", [standard, topgap])
def test_the_pool_can_be_swapped_on_a_finished_network(make):
    net, images = make(), pictures()
    maps = net.class_maps(images)
    for k in (1, 2, 0.5, 1.0):
        net.pool = TopKPool2d(k)
        torch.testing.assert_close(net(images), top_k_pool(maps, k), rtol=1e-5, atol=1e-5)
    net.pool.k = 1
    torch.testing.assert_close(net(images), maps.amax((2, 3)), rtol=1e-5, atol=1e-5)
    net.pool = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())
    torch.testing.assert_close(net(images), maps.amax((2, 3)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [standard, topgap])
def test_cam_is_one_scaled_map_per_image_in_the_size_of_the_image(make):
    net, images = make(), pictures(3)
    cams = net.cam(images)
    assert cams.shape == (3, 64, 64)
    torch.testing.assert_close(cams.amin((1, 2)), torch.zeros(3))
    torch.testing.assert_close(cams.amax((1, 2)), torch.ones(3))


@pytest.mark.parametrize("make", [standard, topgap])
def test_cam_explains_one_class_for_all_or_one_each_or_the_predicted(make):
    net, images = make(), pictures(3)
    by_class = torch.stack([net.cam(images, c) for c in range(5)], dim=1)
    assert not torch.allclose(by_class[:, 0], by_class[:, 3])
    chosen = torch.tensor([3, 0, 4])
    torch.testing.assert_close(net.cam(images, chosen), by_class[range(3), chosen])
    predicted = net(images).argmax(1)
    torch.testing.assert_close(net.cam(images), by_class[range(3), predicted])


def test_cam_takes_the_predicted_class_through_the_pool():
    maps = torch.zeros(1, 2, 3, 3)
    maps[0, 0, 0, 0], maps[0, 1, 1:] = 5.0, 3.0
    images = torch.zeros(1, 3, 3, 3)
    assert FixedMaps(maps, k=1).cam(images).argmax() == 0
    torch.testing.assert_close(FixedMaps(maps, k=1.0).cam(images)[0], maps[0, 1] / 3)


def test_cam_is_upsampled_before_it_is_scaled():
    maps = torch.zeros(1, 1, 3, 3)
    maps[0, 0, 1, 1] = 8.0
    # No output pixel lies on the centre of the peak, so that scaling first would end at 0.5625.
    cam = FixedMaps(maps).cam(torch.zeros(1, 3, 6, 6))[0]
    assert cam.max() == 1
    torch.testing.assert_close(cam[2, 1], torch.tensor(1 / 3))
    torch.testing.assert_close(cam, cam.flip(0))


def test_explanation_map_by_hand():
    maps = torch.tensor([[[-1.0, 3.0]], [[10.0, 20.0]]])
    expected = torch.tensor([[[0, 0.25, 0.75, 1.0]]]).expand(2, 1, 4)
    torch.testing.assert_close(explanation_map(maps, (1, 4)), expected)


def test_a_map_that_says_nothing_comes_back_as_zeros_and_leaves_the_others_alone():
    ramp = torch.arange(9.0).view(3, 3)
    silent = [torch.full((3, 3), 2.5), ramp * math.nan, ramp.where(ramp > 0, math.inf)]
    one_nan = ramp.clone()
    one_nan[1, 1] = math.nan
    cams = explanation_map(torch.stack([*silent, one_nan, ramp]), (6, 6))
    assert not cams[:-1].any()
    torch.testing.assert_close(cams[-1:], explanation_map(ramp[None], (6, 6)))
    assert cams[-1].max() == 1


@pytest.mark.parametrize("positions", [1, 2, 3, 7, 24])
@pytest.mark.parametrize("size", [50, 64, 96])
def test_rounding_does_not_give_a_constant_map_a_shape(positions, size):
    values = torch.linspace(-10, 10, 41)[:, None, None]
    assert not explanation_map(values.expand(-1, positions, positions), (size, size)).any()


@pytest.mark.parametrize(("head", "kind"), [("standard", StandardNet), ("topgap", TopGapNet)])
def test_a_network_is_built_by_the_name_of_its_head(head, kind):
    net = build_model(head, "test_resnet", 3, k=2)
    assert type(net) is kind
    assert net.pool.k == 2
    assert net.eval()(pictures()).shape == (2, 3)


def test_an_unknown_head_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"'mlp'.*standard or topgap"):
        build_model("mlp", "test_resnet", 3)


@pytest.mark.parametrize("make", [topgap, standard])
def test_features_are_channels_first_where_timm_makes_them_last(make):
    net = {topgap: TopGapNet, standard: StandardNet}[make](SWIN, 3).eval()
    maps = net.features(pictures(1, 224))
    assert [tuple(f.shape[1:]) for f in maps[-2:]] == [(384, 14, 14), (768, 7, 7)]
    whole = timm.create_model(SWIN, num_classes=3).eval()
    whole.load_state_dict((net.net if make is standard else net.backbone).state_dict(), False)
    if make is standard:
        theirs = whole.forward_features(net.normalised(pictures(1, 224)))
        torch.testing.assert_close(maps[-1], theirs.permute(0, 3, 1, 2))


@pytest.mark.parametrize("backbone", [SWIN, "levit_128s", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("head", [lambda b: TopGapNet(b, 3, maps=3), lambda b: StandardNet(b, 3)])
def test_a_backbone_of_one_image_size_says_which(head, backbone):
    with pytest.raises(UserError, match=r"of 224 x 224 pixels only, not 64 x 64: set image_size"):
        head(backbone)(pictures(1, 64))


@pytest.mark.parametrize(("backbone", "maps"), [("levit_128s", None), ("resnet18", 9)])
def test_more_feature_maps_than_there_are_is_refused(backbone, maps):
    with pytest.raises(UserError, match=f"{backbone} has no feature maps"):
        TopGapNet(backbone, 3, maps=maps)


def test_features_that_are_tokens_are_refused():
    with pytest.raises(UserError, match="ends in tokens"):
        StandardNet("vit_tiny_patch16_224", 3).features(pictures(1, 224))


def test_cam_leaves_batch_normalisation_and_the_mode_as_they_were():
    net = topgap().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.cam(pictures())
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("class_idx", [torch.tensor([4, 0], dtype=torch.uint8), [4, 0]])
def test_cam_takes_class_indices_of_any_whole_type(class_idx):
    net = topgap()
    expected = net.cam(pictures(), torch.tensor([4, 0]))
    assert torch.equal(net.cam(pictures(), class_idx), expected)


@pytest.mark.parametrize(
    "class_idx", [-1, 5, torch.tensor([True, False]), torch.tensor([0, 1, 2]), 0.5, "cat"]
)
def test_a_class_that_does_not_exist_is_refused(class_idx):
    with pytest.raises(UserError, match="class_idx"):
        topgap().cam(pictures(), class_idx)
