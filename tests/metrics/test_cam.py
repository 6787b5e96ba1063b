import warnings

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from topgap_nb.errors import DegenerateLayer, UserError
from topgap_nb.method.model import StandardNet, TopGapNet, explanation_map
from topgap_nb.metrics.cam import (
    PYRAMID_SUM,
    grad_cam,
    grad_cam_map,
    layer_cam,
    layer_cam_map,
    layer_of_size,
    own_cam,
    own_map,
    recipro_cam,
    recipro_cam_map,
)

# Where timm's network makes the map that it pools.
POOLED = {
    "test_resnet": "net.layer4",
    "resnet18": "net.layer4",
    "test_efficientnet": "net.bn2",
    "densenet121": "net.features.norm5",
}
CLASSES = torch.tensor([2, 0])
degenerate = pytest.mark.filterwarnings("ignore::topgap_nb.errors.DegenerateLayer")


def pictures(count=2, size=64) -> torch.Tensor:
    """Return coarse random patterns, on which small random networks differ more than on noise."""
    torch.manual_seed(1)
    return F.interpolate(torch.rand(count, 3, 5, 5), (size, size), mode="nearest")


def lively(net):
    """Undo timm's zeros at the end of residual branches, which hide what goes on inside them."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return net.eval()


def topgap(k=4, num_classes=3, **options) -> TopGapNet:
    torch.manual_seed(0)
    net = TopGapNet("test_resnet", num_classes, k=k, **options)
    nn.init.normal_(net.head.classifier.weight, std=0.1)
    nn.init.normal_(net.head.classifier.bias, std=0.1)
    return lively(net)


def standard(backbone="test_resnet", k=1.0) -> StandardNet:
    torch.manual_seed(0)
    net = StandardNet(backbone, 3, k=k)
    linear = net.net.get_classifier()
    nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
    nn.init.normal_(linear.bias)
    return lively(net)


def evidence(net: TopGapNet, images, classes) -> torch.Tensor:
    """Return W_c f at every position: the class maps without their bias."""
    with torch.no_grad():
        maps = net.head.unfused(net.features(images))
        return maps[range(len(maps)), classes] - net.head.classifier.bias[classes, None, None]


def state(net) -> list:
    modes = [module.training for module in net.modules()]
    wanted = [parameter.requires_grad for parameter in net.parameters()]
    gradients = [parameter.grad is None for parameter in net.parameters()]
    hooks = [len(module._forward_hooks) for module in net.modules()]
    return [modes, wanted, gradients, hooks, [t.clone() for t in net.state_dict().values()]]


def same(one: list, other: list) -> bool:
    tensors = zip(one[-1], other[-1], strict=True)
    return one[:-1] == other[:-1] and all(torch.equal(a, b) for a, b in tensors)


@pytest.mark.parametrize("k", [1, 4, 0.5, 1.0])
def test_grad_cam_at_the_pyramid_sum_is_the_relu_of_the_evidence_whatever_k(k):
    net, images = topgap(k).double(), pictures().double()
    expected = evidence(net, images, CLASSES)
    assert (expected > 0).any()
    assert (expected < 0).any()
    positions = expected[0].numel()
    maps = grad_cam_map(net, images, CLASSES, PYRAMID_SUM)
    torch.testing.assert_close(maps, F.relu(expected) / positions, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [32, 80])
def test_recipro_cam_at_the_pyramid_sum_of_an_averaging_network(size):
    net, images = topgap(1.0), pictures(size=size)
    expected = evidence(net, images, CLASSES)
    bias = net.head.classifier.bias[CLASSES, None, None]
    maps = recipro_cam_map(net, images, CLASSES, PYRAMID_SUM, score="logit")
    assert expected.flatten(1).std(1).min() > 0.01
    torch.testing.assert_close(maps, expected / expected[0].numel() + bias)


@pytest.mark.parametrize("k", [1, 4, 0.5])
def test_recipro_cam_at_the_pyramid_sum_of_a_topgap_network(k):
    net, images = topgap(k), pictures(size=32)
    expected = evidence(net, images, CLASSES)
    assert (expected < 0).any()
    count = round(k * expected[0].numel()) if isinstance(k, float) else k
    bias = net.head.classifier.bias[CLASSES, None, None]
    maps = recipro_cam_map(net, images, CLASSES, PYRAMID_SUM, score="logit")
    torch.testing.assert_close(maps, F.relu(expected) / count + bias)


@pytest.mark.parametrize("score", ["logit", "softmax"])
def test_the_gaussian_copies_a_vector_over_its_neighbours_and_stops_at_the_border(score):
    net, images = topgap(1.0).double(), pictures(1, 32).double()
    bias = net.head.classifier.bias.detach().view(-1, 1, 1)
    maps = net.class_maps(images).detach()[0] - bias
    kept = torch.ones(maps.shape[-1], dtype=torch.float64)
    kept[[0, -1]] = 0.75
    cells = maps * kept[:, None] * kept / kept.numel() ** 2 + bias
    expected = (cells.softmax(0) if score == "softmax" else cells)[1]
    ours = recipro_cam_map(net, images, 1, PYRAMID_SUM, kernel="gaussian", score=score)[0]
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "densenet121"])
def test_grad_cam_at_the_pooled_map_is_the_networks_cam_without_bias(backbone):
    net, images = standard(backbone), pictures()
    bias = net.net.get_classifier().bias.view(1, -1, 1, 1)
    expected = F.relu(net.class_maps(images) - bias).detach()
    ours = torch.stack([grad_cam_map(net, images, c) for c in range(3)], dim=1)
    torch.testing.assert_close(ours, expected)
    assert expected.any()


@pytest.mark.parametrize("backbone", POOLED)
def test_the_fast_grad_cam_is_the_general_one_times_the_positions(backbone):
    net, images = standard(backbone), pictures()
    layer, classes = POOLED[backbone], (0, 1, 2, None)
    fast = torch.stack([grad_cam_map(net, images, c) for c in classes])
    general = torch.stack([grad_cam_map(net, images, c, layer) for c in classes])
    torch.testing.assert_close(fast, general * fast[0, 0].numel(), rtol=1e-4, atol=1e-5)
    assert fast.any()


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "densenet121"])
@pytest.mark.parametrize("kernel", ["plain", "gaussian"])
@pytest.mark.parametrize("score", ["softmax", "logit"])
def test_the_fast_recipro_cam_equals_the_general_one(backbone, kernel, score):
    net, images = standard(backbone), pictures()
    fast = recipro_cam_map(net, images, CLASSES, kernel=kernel, score=score)
    general = recipro_cam_map(net, images, CLASSES, POOLED[backbone], kernel=kernel, score=score)
    assert fast.flatten(1).std(1).min() > 1e-5
    torch.testing.assert_close(fast, general, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (standard, "net.layer3"),
        (topgap, "backbone.layer3"),
        # Concatenation needs as many images as mosaics, where addition is content with one.
        (lambda: standard("densenet121"), "net.features.denseblock4.denselayer3.conv2"),
        (lambda: standard("test_efficientnet"), "net.blocks.1"),
    ],
)
def test_recipro_cam_is_what_is_left_of_the_score_when_all_cells_but_one_are_zero(make, layer):
    net, images = make(), pictures()
    ours = recipro_cam_map(net, images, CLASSES, layer)
    module = net.get_submodule(layer)
    for cell in torch.eye(ours[0].numel()).view(-1, *ours.shape[1:]):
        handle = module.register_forward_hook(lambda m, inputs, output, cell=cell: output * cell)
        score = net(images).softmax(1)[range(2), CLASSES].detach()
        handle.remove()
        torch.testing.assert_close((ours * cell).sum((1, 2)), score, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
@pytest.mark.parametrize("k", [1, 2, 0.5])
def test_a_standard_network_with_top_k_pooling_is_explained_at_the_map_it_pools(backbone, k):
    net, images, layer = standard(backbone, k=k), pictures(), POOLED[backbone]
    fast = grad_cam_map(net, images, CLASSES)
    general = grad_cam_map(net, images, CLASSES, layer)
    torch.testing.assert_close(fast, general * fast[0].numel(), rtol=1e-4, atol=1e-5)
    for kernel in ("plain", "gaussian"):
        fast = recipro_cam_map(net, images, CLASSES, kernel=kernel)
        assert fast.flatten(1).std(1).min() > 1e-5
        general = recipro_cam_map(net, images, CLASSES, layer, kernel=kernel)
        torch.testing.assert_close(fast, general, rtol=1e-5, atol=1e-6)


def test_recipro_cam_scores_of_max_pooling_are_not_those_of_averaging():
    net, images = standard(k=1), pictures()
    bias = net.net.get_classifier().bias[CLASSES, None, None]
    maps = net.class_maps(images)[range(2), CLASSES].detach()
    expected = F.relu(maps - bias) + bias
    torch.testing.assert_close(recipro_cam_map(net, images, CLASSES, score="logit"), expected)


def test_a_swapped_pool_without_a_k_takes_the_general_way():
    net, images = standard(), pictures()
    expected = recipro_cam_map(net, images, CLASSES)
    net.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.testing.assert_close(recipro_cam_map(net, images, CLASSES), expected)


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (standard, "net.layer1"),
        (standard, "net.layer2.0"),
        (standard, "net.layer3"),
        (topgap, "backbone.layer2"),
        (topgap, "backbone.layer4"),
    ],
)
def test_grad_cam_at_an_inner_layer_equals_captums(make, layer):
    net, images = make(), pictures()
    captums = LayerGradCam(net, net.get_submodule(layer))
    maps = [captums.attribute(images, c, relu_attributions=True)[:, 0] for c in range(3)]
    expected = torch.stack([explanation_map(m.detach(), (64, 64)) for m in maps])
    ours = torch.stack([grad_cam(net, images, c, layer) for c in range(3)])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert expected.any()


@pytest.mark.parametrize(("ours", "theirs"), [(grad_cam, GradCAM), (layer_cam, LayerCAM)])
def test_maps_of_any_network_equal_those_of_pytorch_grad_cam(ours, theirs):
    """Map and image have one size, as that package scales before it resizes and we after."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.GELU(), nn.Conv2d(6, 5, 3, padding=1), nn.Tanh()),
        *(nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Linear(80, 3)),
    ).eval()
    images, targets = pictures(2, 32), [ClassifierOutputTarget(int(c)) for c in CLASSES]
    with theirs(net, [net[1]]) as method:
        expected = torch.from_numpy(method(images, targets))
    assert expected.flatten(1).std(1).min() > 0.05
    torch.testing.assert_close(ours(net, images, CLASSES, "1"), expected, rtol=0, atol=1e-4)


def test_layer_cam_at_the_pooled_map_by_hand():
    net, images = standard(), pictures()
    weights = net.net.get_classifier().weight[CLASSES].detach()
    features = net.features(images)[-1].detach()
    positive = weights.clamp(min=0)[:, :, None, None] / features[0, 0].numel()
    expected = F.relu((positive * features).sum(1))
    ours = layer_cam_map(net, images, CLASSES, "net.layer4")
    torch.testing.assert_close(ours, expected)
    assert not torch.allclose(ours, grad_cam_map(net, images, CLASSES, "net.layer4"), rtol=0.1)


@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (standard, {16: "net.layer1", 8: "net.layer2", 2: "net.layer4"}),
        (lambda: standard("test_efficientnet"), {16: "net.blocks.1", 4: "net.blocks.3"}),
        (topgap, {16: "backbone.layer1", 4: "backbone.layer3"}),
    ],
)
def test_the_layer_of_a_size_makes_a_map_of_that_size(make, layers):
    net, images = make(), pictures()
    for side, layer in layers.items():
        assert layer_of_size(net, images, (side, side)) == layer
        assert grad_cam_map(net, images, CLASSES, layer).shape == (2, side, side)


def test_rivals_of_a_topgap_network_can_be_taken_at_the_size_of_its_class_maps():
    images = pictures()
    size = own_map(topgap(), images).shape[-2:]
    for backbone in ("test_resnet", "test_efficientnet", "test_convnext"):
        net = StandardNet(backbone, 3).eval()
        layer = layer_of_size(net, images, size)
        assert layer_cam_map(net, images, CLASSES, layer).shape[-2:] == size


def test_a_size_that_no_layer_has_is_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"no feature map of 7 x 7.*16 x 16, 8 x 8, 4 x 4, 2 x 2"):
        layer_of_size(standard(), pictures(), (7, 7))


@pytest.mark.parametrize("make", [topgap, standard])
def test_own_maps_are_the_class_maps_as_they_are(make):
    net, images = make(), pictures()
    last = net.net.get_classifier() if make is standard else net.head.classifier
    with torch.no_grad():
        last.bias -= net.class_maps(images).mean((0, 2, 3))
        maps = net.class_maps(images)
    assert own_map(net, images, CLASSES).equal(maps[range(2), CLASSES])
    assert own_map(net, images).equal(maps[range(2), net(images).argmax(1)])
    assert own_cam(net, images, CLASSES).equal(net.cam(images, CLASSES))
    assert (maps < 0).any()
    # Below zero is no evidence: the map keeps its peak and loses its lower half.
    relu = own_cam(net, images, CLASSES, relu=True)
    positive = maps[range(2), CLASSES].clamp(min=0)
    torch.testing.assert_close(relu, explanation_map(positive, images.shape[-2:]))
    assert (relu.mean((1, 2)) < own_cam(net, images, CLASSES).mean((1, 2))).all()


@pytest.mark.parametrize("layer", ["net.bn1", "net.layer3.0.bn1"])
def test_a_layer_whose_output_is_overwritten_in_place_can_be_explained(layer):
    net, images = standard("resnet18"), pictures()
    overwriting = [m for m in net.modules() if isinstance(m, nn.ReLU)]
    assert all(module.inplace for module in overwriting)
    ours = grad_cam(net, images, CLASSES, layer)
    for module in overwriting:
        module.inplace = False
    torch.testing.assert_close(grad_cam(net, images, CLASSES, layer), ours)
    assert ours.amax((1, 2)).tolist() == [1, 1]


@pytest.mark.parametrize("method", [grad_cam, recipro_cam])
def test_the_default_layer_of_a_topgap_network_is_the_backbones_last_map(method):
    net, images = topgap(), pictures()
    ours = method(net, images, CLASSES)
    assert ours.any()
    torch.testing.assert_close(method(net, images, CLASSES, "backbone.layer4"), ours)
    assert not torch.allclose(method(net, images, CLASSES, "backbone.layer3"), ours, atol=0.1)


@pytest.mark.parametrize(
    "backbone", ["vgg11_bn", "test_convnext", "test_efficientnet", "preact_resnet18_quarter"]
)
def test_the_default_layer_makes_the_last_feature_map_whatever_timm_calls_it(backbone):
    torch.manual_seed(0)
    net, images = TopGapNet(backbone, 3, k=4).eval(), pictures(1)
    nn.init.normal_(net.head.classifier.weight)
    # With its last lateral alone, the class maps are a function of the last feature map alone.
    for conv in net.head.laterals[:-1]:
        nn.init.zeros_(conv.weight)
    last = net.features(images)[-1].detach().requires_grad_()
    before = [torch.zeros(1, conv.in_channels, 1, 1) for conv in net.head.laterals[:-1]]
    before[0] = net.features(images)[0].detach()
    logits = net.pool(net.head.unfused([*before, last]))
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), last)
    expected = F.relu((gradient.mean((2, 3), keepdim=True) * last).sum(1)).detach()
    assert expected.any()
    torch.testing.assert_close(grad_cam_map(net, images, 1), expected, rtol=1e-4, atol=1e-6)


@degenerate
@pytest.mark.parametrize("layer", ["head.laterals.1", "head.classifier", "head.dropout"])
@pytest.mark.parametrize("method", [grad_cam, recipro_cam])
def test_the_layers_of_the_head_can_be_explained_although_the_fused_head_skips_them(method, layer):
    net, images = topgap(), pictures(size=32)
    assert net.head.is_fused
    expected = method(net, images, CLASSES, layer)
    net.head.forward = net.head.unfused
    torch.testing.assert_close(method(net, images, CLASSES, layer), expected)
    assert expected.amax((1, 2)).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("method", "make", "options"),
    [
        (grad_cam, topgap, {"layer": PYRAMID_SUM}),
        (recipro_cam, topgap, {"layer": PYRAMID_SUM, "score": "logit"}),
        (recipro_cam, standard, {"score": "logit"}),
        (recipro_cam, standard, {"score": "logit", "kernel": "gaussian"}),
    ],
)
def test_a_degenerate_layer_is_warned_of_where_it_was_asked_for(method, make, options):
    with pytest.warns(DegenerateLayer, match="network's own CAM") as caught:
        method(make(), pictures(1, 32), **options)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    ("method", "make", "options"),
    [
        (own_cam, topgap, {}),
        (own_cam, standard, {}),
        (grad_cam, topgap, {}),
        (grad_cam, standard, {}),
        (grad_cam, standard, {"layer": "net.layer3"}),
        (recipro_cam, topgap, {}),
        (recipro_cam, topgap, {"score": "logit"}),
        (recipro_cam, topgap, {"layer": PYRAMID_SUM, "score": "softmax"}),
        (recipro_cam, standard, {}),
        (recipro_cam, standard, {"layer": "net.layer3", "score": "logit"}),
        (recipro_cam, lambda: standard(k=1), {"score": "logit"}),
    ],
)
def test_no_other_layer_is_warned_of(method, make, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DegenerateLayer)
        method(make(), pictures(1, 32), **options)


@pytest.mark.parametrize("make", [topgap, standard])
@pytest.mark.parametrize("method", [own_cam, grad_cam, recipro_cam])
def test_measuring_leaves_modes_gradients_and_statistics_as_they_were(method, make):
    net = make().train()
    next(iter(net.children())).eval()
    next(net.parameters()).requires_grad_(False)
    before = state(net)
    maps = method(net, pictures(), CLASSES)
    assert same(state(net), before)
    assert not maps.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("make", [topgap, standard])
@pytest.mark.parametrize("method", [own_cam, grad_cam, recipro_cam])
def test_so_does_measuring_that_fails(method, make):
    def fail(*_):
        raise RuntimeError("half way")

    net = make()
    *_, last = (m for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    last.register_forward_hook(fail)
    # Batch normalisation before the failing one would count the batch if it ran in training mode.
    net.train()
    list(net.modules())[5].eval()
    list(net.parameters())[1].requires_grad_(False)
    before = state(net)
    with pytest.raises(RuntimeError, match="half way"):
        method(net, pictures(), CLASSES)
    assert same(state(net), before)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("make", [topgap, standard])
@pytest.mark.parametrize("method", [own_cam, grad_cam, recipro_cam])
def test_maps_are_those_of_evaluation_mode(method, make):
    net, images = make(), pictures()
    expected = method(net, images, CLASSES)
    torch.testing.assert_close(method(net.train(), images, CLASSES), expected)


@pytest.mark.parametrize("method", [grad_cam, recipro_cam])
@pytest.mark.parametrize(
    ("make", "layer", "message"),
    [
        (standard, "net.layer9", "no layer 'net.layer9'.*net.layer4"),
        (standard, "net.fc", "'net.fc' takes no part"),
        (topgap, "backbone", "'backbone' does not output one feature map"),
        (topgap, "pool", "'pool' does not output one feature map"),
    ],
)
def test_a_layer_that_cannot_be_explained_is_refused_and_leaves_no_trace(
    method, make, layer, message
):
    net = make().train()
    before = state(net)
    with pytest.raises(UserError, match=message):
        method(net, pictures(), CLASSES, layer)
    assert same(state(net), before)


@pytest.mark.parametrize("options", [{"kernel": "box"}, {"score": "margin"}])
def test_an_unknown_variant_of_recipro_cam_is_refused_with_the_known_ones(options):
    (wrong,) = options.values()
    with pytest.raises(UserError, match=f"'plain' or 'gaussian'.*'softmax' or 'logit'.*'{wrong}'"):
        recipro_cam(standard(), pictures(), **options)


@degenerate
@pytest.mark.parametrize(
    ("method", "make", "layer"),
    [
        (own_cam, topgap, None),
        (own_cam, standard, None),
        (grad_cam, topgap, None),
        (grad_cam, standard, None),
        (grad_cam, standard, "net.layer3"),
        (recipro_cam, topgap, PYRAMID_SUM),
        (recipro_cam, standard, None),
        (recipro_cam, standard, "net.layer3"),
    ],
)
def test_every_image_can_have_its_own_class(method, make, layer):
    net, images = make(), pictures(3, 32 if layer == PYRAMID_SUM else 64)
    at = {} if layer is None else {"layer": layer}
    by_class = torch.stack([method(net, images, c, **at) for c in range(3)], dim=1)
    chosen = torch.tensor([2, 0, 1])
    torch.testing.assert_close(method(net, images, chosen, **at), by_class[range(3), chosen])
    predicted = net(images).argmax(1)
    torch.testing.assert_close(method(net, images, **at), by_class[range(3), predicted])
    assert not torch.allclose(by_class[:, 0], by_class[:, 2], atol=0.05)
