"""What a person hands to a metric: the right number, or one clear line."""

import importlib
import inspect
import pkgutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from helpers.oracles import Filter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from topgap_nb import inputs, metrics
from topgap_nb.data.registry import open_dataset
from topgap_nb.errors import UserError
from topgap_nb.method.model import StandardNet
from topgap_nb.metrics.attacks import (
    attack,
    attack_distance,
    is_robust,
    pgd,
    smallest_epsilon,
    worst_case,
)
from topgap_nb.metrics.cam import (
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
from topgap_nb.metrics.erf import (
    corner_and_centre,
    erf_distance,
    erf_gradients,
    erf_map,
    erf_value,
    logit_gradient_share,
    object_share,
    output_maps,
)
from topgap_nb.metrics.gradient_masking import adaptive_networks, gradient_masking_report
from topgap_nb.metrics.localisation import (
    cam_sparsity,
    centre_map,
    highlighted_area,
    hoyer,
    is_empty,
    mask_iou,
    moved_masks,
    pxap,
    shared_threshold,
)
from topgap_nb.metrics.scores import correct, predict
from topgap_nb.metrics.shifts import corrupted, replace_background
from topgap_nb.metrics.shortcuts import (
    bounding_boxes,
    majority_baseline,
    occluded,
    occluded_hits,
    with_known_object,
)

EPSILON = 8 / 255
LAYER = "head.0"
# Called thousands of times inside attacks, on what has been through the gate.
INNER = {"cross_entropy", "margin", "dlr", "rescaled"}
KNOWN = {
    *inputs.SETTINGS, *inputs.NETWORKS, *inputs.WORDS, *inputs.ALONE, "images", "labels",
    "class_idx", "mask", "masks",
}  # fmt: skip


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Filter(torch.randn(4, 3, 3, 3), torch.randn(3, 4, 1, 1)).eval()


@pytest.fixture(scope="module")
def pixels():
    return (torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 255).byte()


@pytest.fixture(scope="module")
def images(pixels):
    return pixels.float() / 255


@pytest.fixture(scope="module")
def labels(net, images):
    return net(images).argmax(1)


@pytest.fixture(scope="module")
def masks():
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[:, 2:6, 1:5] = True
    return masks


@pytest.fixture(scope="module")
def planted():
    return open_dataset("planted", 16, images=6, classes=3).test.subset(range(4))


def refused(words, function, *args, **options):
    with pytest.raises(UserError, match=words) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)


def public_functions():
    for module in pkgutil.iter_modules(metrics.__path__, f"{metrics.__name__}."):
        for name, value in vars(importlib.import_module(module.name)).items():
            own = getattr(value, "__module__", "") == module.name and inspect.isfunction(value)
            if own and not name.startswith("_"):
                yield name, value


def test_every_public_metric_stands_behind_the_gate():
    behind = {
        name: function.__code__.co_name == "through_the_gate"
        for name, function in public_functions()
        if KNOWN & set(inspect.signature(function).parameters)
    }
    assert len(behind) > 20
    assert {name for name, is_behind in behind.items() if not is_behind} == INNER


# One meaning, however it is written


@pytest.mark.parametrize(
    "measure",
    [
        lambda net, images: predict(net, images),
        lambda net, images: own_cam(net, images, 1),
        lambda net, images: grad_cam(net, images, 1, LAYER),
        lambda net, images: recipro_cam(net, images, 1, LAYER),
        lambda net, images: erf_map(net, images, [(1, 2)]),
        lambda net, images: erf_distance(net, images)[0],
        lambda net, images: pgd(net, images, [0, 1, 2, 0], EPSILON, 2).images,
        lambda net, images: attack(net, images, [0, 1, 2, 0], "square", EPSILON, 5).images,
        lambda net, images: corrupted(images, "contrast", 2),
    ],
)
def test_uint8_arrays_and_float64_images_give_what_float32_gives(measure, net, pixels, images):
    expected = measure(net, images)
    assert expected.abs().sum() > 0
    for same in (pixels, pixels.numpy(), images.double(), images.clone().requires_grad_()):
        torch.testing.assert_close(measure(net, same).float(), expected, rtol=1e-4, atol=1e-5)


def test_grey_levels_as_floats_are_not_taken_for_pixels(net, pixels, labels):
    for function in (predict, own_cam, erf_distance, output_maps):
        refused("divide by 255", function, net, pixels.float())
    refused("divide by 255", attack, net, pixels.float(), labels, "fgsm", EPSILON)
    refused("divide by 255", corrupted, pixels.float(), "noise", 1)


def test_a_data_set_gives_what_its_pixels_give(net, planted):
    torch.testing.assert_close(predict(net, planted), predict(net, planted.images))
    torch.testing.assert_close(own_cam(net, planted, 0), own_cam(net, planted.images, 0))


@pytest.mark.parametrize("spoil", [torch.nan, torch.inf, -torch.inf])
def test_images_that_are_not_finite_are_refused(net, images, labels, spoil):
    images = images.clone()
    images[3, 2, 1, 0] = spoil
    for function in (predict, own_cam, erf_distance):
        refused("not finite", function, net, images)
    for name in ("pgd", "square", "autoattack"):
        refused("not finite", is_robust, net, images, labels, name, EPSILON)
    refused("not finite", gradient_masking_report, net, images, labels, EPSILON)


@pytest.mark.parametrize("scale", [1, 255])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.int64])
def test_masks_of_two_values_are_masks(net, images, labels, masks, scale, kind):
    numbers = masks.to(kind) * scale
    cams, fields = images.mean(1), images.mean(1)[None]
    assert mask_iou(cams, numbers).equal(mask_iou(cams, masks))
    assert shared_threshold(cams, numbers) == shared_threshold(cams, masks)
    assert pxap(cams, numbers) == pxap(cams, masks)
    assert object_share(fields, numbers).equal(object_share(fields, masks))
    assert bounding_boxes(numbers).equal(masks)
    found = attack(net, images, labels, "pgd", EPSILON, 3, mask=numbers, early_stop=False)
    change = (found.images - images).abs()
    assert 0 < change.max() <= EPSILON + 1e-6
    assert change.masked_select(~masks[:, None].expand_as(change)).max() == 0


def test_one_mask_serves_all_images_of_every_batch(net, images, labels, masks):
    options = {"name": "pgd", "epsilon": EPSILON, "steps": 2, "batch_size": 3, "early_stop": False}
    one = attack(net, images, labels, mask=masks[:1], **options).images
    torch.testing.assert_close(one, attack(net, images, labels, mask=masks, **options).images)
    assert mask_iou(images.mean(1), masks[:1]).equal(mask_iou(images.mean(1), masks))


def test_masks_of_other_images_are_refused(net, images, labels, masks):
    refused("masks hold", mask_iou, images.mean(1), masks * 0.5)
    refused(r"shape \(3, 8, 8\): give \(4, 8, 8\)", pxap, images.mean(1), masks[:3])
    refused(r"give \(4, 8, 8\)", object_share, images.mean(1)[None], masks[:, :4])
    refused(r"give \(4, 8, 8\)", pgd, net, images, labels, EPSILON, 1, mask=masks[:, 1:])


@pytest.mark.parametrize(
    "write", [lambda t: t.int(), lambda t: t.byte(), lambda t: t.numpy(), lambda t: t.tolist()]
)
def test_labels_of_any_whole_type_are_labels(net, images, labels, write):
    logits = predict(net, images)
    assert correct(logits, write(labels)).all()
    assert is_robust(net, images, write(labels), "fgsm", 0.0).all()
    assert majority_baseline(write(labels)) == majority_baseline(labels)


def test_other_labels_are_refused(net, images, labels):
    logits = predict(net, images)
    for wrong in (labels[:, None], labels[:3], labels.float(), labels == 0, labels - 5, labels + 9):
        refused("labels", correct, logits, wrong)
        refused("labels", attack, net, images, wrong, "pgd", EPSILON)
        refused("labels", attack, net, images, wrong, "square", EPSILON)
        refused("labels", gradient_masking_report, net, images, wrong, EPSILON)


@pytest.mark.parametrize("method", [own_cam, grad_cam, recipro_cam])
def test_a_class_index_of_any_whole_type_is_an_index(method, net, images):
    at = {} if method is own_cam else {"layer": LAYER}
    each = torch.tensor([2, 0, 1, 2])
    expected = method(net, images, each, **at)
    for same in (each.byte(), each.short(), each.numpy(), each.tolist()):
        assert method(net, images, same, **at).equal(expected)
    one = method(net, images, torch.tensor(2, dtype=torch.uint8), **at)
    assert one.equal(method(net, images, 2, **at))
    for wrong in (-1, 3, 99, 1.0, True, each.bool(), each[:2], torch.tensor([0, 0, 0, -1])):
        refused("class_idx", method, net, images, wrong, **at)


# Numbers that leave nothing to measure


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0}, {"steps": -1}, {"steps": 2.5}, {"restarts": 0}, {"batch_size": 0},
        {"step_size": 0.0}, {"step_size": -0.1}, {"step_size": torch.nan}, {"epsilon": torch.nan},
        {"epsilon": -0.1}, {"epsilon": 8}, {"seed": -1}, {"seed": 0.5}, {"loss": ["margin"]},
        {"follow": "itself"}, {"name": 3}, {"mood": 1},
    ],
    ids=str,
)  # fmt: skip
def test_an_attack_that_would_attack_nothing_is_refused(net, images, labels, options):
    options = {"name": "pgd", "epsilon": EPSILON, **options}
    refused(
        next(iter(options.keys() - {"name", "epsilon"}), "="),
        attack,
        net,
        images,
        labels,
        **options,
    )
    refused(".", is_robust, net, images, labels, **options)


@pytest.mark.parametrize("name", ["square", "fgsm", "autoattack"])
def test_an_option_that_an_attack_does_not_have_is_refused(net, images, labels, name):
    refused("has no option mood", attack, net, images, labels, name, EPSILON, mood=1)


@pytest.mark.parametrize("option", ["steps", "longest", "restarts", "queries"])
def test_a_report_that_would_try_nothing_is_refused(net, images, labels, option):
    for value in (0, -3, 1.5):
        refused(
            f"{option} = ", gradient_masking_report, net, images, labels, EPSILON, **{option: value}
        )


# Networks


class Dropping(nn.Module):
    """A classifier that answers at random: dropout is on at test time."""

    def __init__(self, classes):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, classes))

    def forward(self, images):
        return self.net(F.dropout(images, 0.5, training=True))


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "square", "autoattack"])
def test_attacks_on_random_answers_end_within_their_budget(images, classes, name):
    for seed in range(3):
        torch.manual_seed(seed)
        net = Dropping(classes)
        options = {"queries": 20} if name == "autoattack" else {}
        found = attack(net, images, predict(net, images).argmax(1), name, EPSILON, 4, **options)
        assert (found.images - images).abs().max() <= EPSILON + 1e-6
        assert found.robust.dtype == torch.bool


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "measure",
    [
        lambda net, images, labels: grad_cam(net, images, labels, LAYER),
        lambda net, images, labels: recipro_cam(net, images, labels, LAYER),
        lambda net, images, labels: erf_map(net, images, [(0, 0)]),
        lambda net, images, labels: pgd(net, images, labels, EPSILON, 2).images,
        lambda net, images, labels: is_robust(
            net, images, labels, "autoattack", EPSILON, 2, queries=5
        ),
        lambda net, images, labels: predict(net, images),
        lambda net, images, labels: gradient_masking_report(
            net, images, labels, 1 / 255, steps=2, longest=2, queries=5
        ).worst_case,
    ],
)  # fmt: skip
def test_gradients_are_there_where_the_caller_has_turned_them_off(
    off, measure, net, images, labels
):
    expected = measure(net, images, labels)
    with off():
        torch.testing.assert_close(measure(net, images.clone(), labels.clone()), expected)
        assert not torch.is_grad_enabled()


def test_wrapped_networks_are_measured_as_what_they_wrap(net, images, labels):
    for wrapped in (nn.DataParallel(net), torch.compile(net, backend="eager")):
        assert own_cam(wrapped, images, 1).equal(own_cam(net, images, 1))
        assert grad_cam(wrapped, images, 1, LAYER).equal(grad_cam(net, images, 1, LAYER))
        assert erf_map(wrapped, images, [(0, 0)]).equal(erf_map(net, images, [(0, 0)]))
        attacked = attack(wrapped, images, labels, "pgd", EPSILON, 2)
        assert attacked.images.equal(attack(net, images, labels, "pgd", EPSILON, 2).images)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        lambda: torchvision.models.squeezenet1_1(num_classes=4),
        # Its `features` are a layer, not what a network of the package calls so.
        lambda: torchvision.models.mobilenet_v3_small(num_classes=4),
    ],
    ids=["sequential", "squeezenet", "mobilenet"],
)
def test_a_network_of_another_package_needs_a_layer_and_has_no_map_of_its_own(make):
    net, images = make(), torch.rand(1, 3, 32, 32)
    refused("name its layer", grad_cam, net, images)
    refused("name its layer", recipro_cam, net, images)
    refused("no map of its own: explain it with grad_cam", own_cam, net, images)
    refused("has no output maps", erf_map, net, images, [(0, 0)])
    refused("has no output maps", erf_distance, net, images)
    assert adaptive_networks(net) == {}


def test_what_is_no_network_or_no_classifier_is_refused(net, images, labels):
    for function in (predict, own_cam, grad_cam, erf_distance, output_maps):
        refused("model is a dict, not a network", function, {}, images)
    refused("surrogate is a list", gradient_masking_report, net, images, labels, 0.1, surrogate=[])
    single = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    refused(r"\(4, 1\).*at least two classes", predict, single, images)
    refused("at least two classes", attack, single, images, labels * 0, "pgd", EPSILON)
    refused(r"\(4, 3, 8, 8\)", predict, nn.Conv2d(3, 3, 1), images)
    diverged = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    diverged[1].bias.data[:] = torch.nan
    refused("NaN", predict, diverged, images)
    refused("NaN", attack, diverged, images, labels, "pgd", EPSILON)


def test_a_network_in_half_precision_is_measured_as_it_is(planted):
    torch.manual_seed(0)
    net = StandardNet("test_resnet", 3).eval()
    half = StandardNet("test_resnet", 3).eval()
    half.load_state_dict(net.state_dict())
    half.half()
    labels = planted.labels
    torch.testing.assert_close(predict(half, planted), predict(net, planted), rtol=0.05, atol=0.02)
    torch.testing.assert_close(
        own_cam(half, planted, 1), own_cam(net, planted, 1), rtol=0, atol=0.1
    )
    assert grad_cam_map(half, planted, 1, "net.layer1").dtype == torch.float16
    assert is_robust(half, planted.images, labels, "pgd", EPSILON, 2).shape == (4,)
    for name in ("square", "autoattack"):
        refused("pass `model.float", attack, half, planted.images, labels, name, EPSILON, 2)
    assert attack_distance(half, planted, EPSILON).per_image.shape == (4,)


# Maps whose channels come last


def channels_last_network(package):
    torch.manual_seed(0)
    if package == "timm":
        net = timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=32, patch_size=2, window_size=4, embed_dim=12,
            depths=(1, 1), num_heads=(1, 1), num_classes=3,
        )  # fmt: skip
        return net.eval(), "layers.1", "patch_embed.proj"
    net = torchvision.models.swin_transformer.SwinTransformer(
        [2, 2], 12, [1, 1], [1, 1], [4, 4], num_classes=3
    )
    return net.eval(), "features.3", "features.0.0"


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_grad_cam_reads_channels_where_they_are(package):
    net, layer, conv = channels_last_network(package)
    images = torch.rand(2, 3, 32, 32)
    for name, order in ((layer, (0, 3, 1, 2)), (conv, (0, 1, 2, 3))):
        kept = []
        handle = net.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, kept=kept: kept.append(output)
        )
        score = net(images)[:, 1].sum()
        handle.remove()
        (gradient,) = torch.autograd.grad(score, kept[0])
        maps, slope = kept[0].permute(order).detach(), gradient.permute(order)
        expected = F.relu((slope.mean((2, 3), keepdim=True) * maps).sum(1))
        assert expected.any()
        ours = grad_cam_map(net, images, 1, name)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_recipro_cam_keeps_one_cell_of_maps_whose_channels_come_last(package):
    net, layer, _ = channels_last_network(package)
    images = torch.rand(1, 3, 32, 32)
    ours = recipro_cam_map(net, images, 1, layer)
    assert ours.shape == (1, 8, 8)
    for row, column in ((0, 0), (3, 5), (7, 7)):
        cell = torch.zeros(8, 8, 1)
        cell[row, column] = 1
        handle = net.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output, cell=cell: output * cell
        )
        expected = net(images).softmax(1)[0, 1].item()
        handle.remove()
        assert ours[0, row, column].item() == pytest.approx(expected, rel=1e-4)


def test_a_map_as_deep_as_wide_is_read_as_the_network_says():
    class Says(nn.Module):
        """8 channels on 8 x 8 positions, whose order no shape tells."""

        def __init__(self, output_fmt):
            super().__init__()
            self.output_fmt = output_fmt
            self.conv, self.last = nn.Conv2d(3, 8, 1), nn.Identity()

        def forward(self, images):
            maps = self.conv(images)
            if self.output_fmt == "NHWC":
                maps = self.last(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            else:
                maps = self.last(maps)
            return maps.square().mean((2, 3))[:, :3]

    torch.manual_seed(0)
    first, last = Says("NCHW"), Says("NHWC")
    last.load_state_dict(first.state_dict())
    images = torch.rand(1, 3, 8, 8)
    expected = grad_cam_map(first, images, 1, "last")
    assert expected.any()
    torch.testing.assert_close(grad_cam_map(last, images, 1, "last"), expected)


# Anything at all


def odd_values():
    """Values that some caller hands in somewhere."""
    sizes = st.sampled_from([(), (1,), (4,), (4, 1), (4, 3), (4, 8, 8), (1, 8, 8), (4, 3, 8, 8),
                             (4, 8, 8, 3), (0, 3, 8, 8), (1, 4, 8, 8)])  # fmt: skip
    kinds = st.sampled_from([torch.float32, torch.float16, torch.uint8, torch.int64, torch.bool,
                             torch.complex64, torch.float64])  # fmt: skip
    scales = st.sampled_from([0.0, 1.0, 255.0, -3.0, torch.nan, torch.inf])

    def tensor(size, kind, scale):
        values = torch.rand(size, generator=torch.Generator().manual_seed(0)) * scale
        return values.to(kind) if kind.is_floating_point else values.nan_to_num(0, 1, 0).to(kind)

    tensors = st.builds(tensor, sizes, kinds, scales)
    things = [
        None,
        0,
        1,
        -1,
        2.5,
        True,
        "pgd",
        "plain",
        "1",
        [],
        [0, 1],
        [(0, 0)],
        {},
        object(),
        1j,
    ]
    things += [np.float32(0.1), np.array(["a"]), nn.Flatten()]
    others = st.sampled_from(things)
    return tensors | tensors.map(lambda t: t.to("meta")) | others | st.floats()


@pytest.fixture(scope="module")
def calls(net, images, labels, masks, planted):
    """How every public metric is called with arguments that are in order."""
    cams = images.mean(1)
    quick = {"steps": 1, "longest": 1, "restarts": 1, "queries": 2}
    calls = [
        (pgd, (net, images, labels, EPSILON, 1), {"mask": masks, "step_size": 0.01, "restarts": 1}),
        (attack, (net, images, labels, "pgd", EPSILON, 1), {"mask": masks, "batch_size": 3}),
        (is_robust, (net, images, labels, "fgsm", EPSILON), {"mask": masks, "step_size": 0.01}),
        (smallest_epsilon, (net, images, labels, "pgd", [0.01, 0.1], 1), {"batch_size": 3}),
        (worst_case, (labels == 0, labels == 1), {}),
        (attack_distance, (net, planted, EPSILON, "whole", 1), {}),
        (own_cam, (net, images, 1), {}),
        (own_map, (net, images, 1), {}),
        (layer_cam, (net, images, 1, LAYER), {}),
        (layer_cam_map, (net, images, 1, LAYER), {}),
        (layer_of_size, (StandardNet("test_resnet", 3).eval(), planted.images, (8, 8)), {}),
        (grad_cam, (net, images, 1, LAYER), {}),
        (grad_cam_map, (net, images, 1, LAYER), {}),
        (recipro_cam, (net, images, 1, LAYER, "plain", "logit"), {}),
        (recipro_cam_map, (net, images, 1, LAYER, "plain", "softmax"), {}),
        (corner_and_centre, (5, 5, 0.1), {}),
        (output_maps, (net, images), {}),
        (erf_map, (net, images, [(0, 0)]), {}),
        (erf_gradients, (net, images, [(0, 0)]), {}),
        (erf_value, (images[None] - 0.5, "each"), {}),
        (erf_distance, (net, images, "none", 0.1), {}),
        (logit_gradient_share, (net, planted), {}),
        (object_share, (cams[None], masks), {}),
        (gradient_masking_report, (net, images, labels, EPSILON), {"surrogate": net, **quick}),
        (adaptive_networks, (net,), {}),
        (cam_sparsity, (cams,), {}),
        (is_empty, (cams,), {}),
        (hoyer, (cams,), {}),
        (centre_map, (5, 4), {}),
        (moved_masks, (masks, 1), {}),
        (highlighted_area, (cams, 0.5), {}),
        (mask_iou, (cams, masks, 0.5), {}),
        (shared_threshold, (cams, masks), {}),
        (pxap, (cams, masks), {}),
        (predict, (net, images, 2), {}),
        (correct, (predict(net, images), labels), {}),
        (replace_background, (planted, "grey", 0), {}),
        (corrupted, (images, "blur", 3, 0), {}),
        (with_known_object, (planted,), {}),
        (occluded, (planted, "object"), {}),
        (bounding_boxes, (masks,), {}),
        (occluded_hits, (net, planted, "centre"), {}),
        (majority_baseline, (labels,), {}),
    ]  # fmt: skip
    # A function, because a failing property shows its fixtures.
    return lambda: calls


def test_what_is_in_order_is_measured(calls):
    for function, args, options in calls():
        function(*args, **options)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_one_argument_of_any_kind_is_understood_or_refused_in_a_line(calls, data):
    by_name = {call[0].__name__: call for call in calls()}
    function, args, options = by_name[data.draw(st.sampled_from(sorted(by_name)))]
    places = [*range(len(args)), *options]
    place = data.draw(st.sampled_from(places))
    given = {**dict(enumerate(args)), **options, place: data.draw(odd_values())}
    args, options = [given[i] for i in range(len(args))], {name: given[name] for name in options}
    refusal = ""
    try:
        function(*args, **options)
    except UserError as error:
        refusal = str(error)
    assert "\n" not in refusal


def test_a_set_without_masks_or_images_is_refused(net, planted):
    bare = replace(planted, masks=None)
    for function in (lambda s: occluded(s, "object"), lambda s: replace_background(s, "grey")):
        refused("mask", function, bare)
    refused("no image", predict, net, planted.subset([]))
    refused("no image", occluded, planted.subset([]), "centre")
    refused("give a data set", occluded, planted.images, "centre")
