"""A measurement is made once, and never taken for another."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from helpers.oracles import Sees
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from topgap_nb.data.registry import open_dataset
from topgap_nb.errors import UserError
from topgap_nb.method.model import TopGapNet
from topgap_nb.metrics.attacks import attack, attack_distance, is_robust
from topgap_nb.metrics.cam import grad_cam, own_cam, recipro_cam
from topgap_nb.metrics.erf import erf_distance, erf_map
from topgap_nb.metrics.gradient_masking import gradient_masking_report
from topgap_nb.metrics.scores import predict
from topgap_nb.store import store
from topgap_nb.store.cached import cached

SMALL = 1 / 255


@pytest.fixture(scope="module")
def few():
    return open_dataset("planted", image_size=32).test.subset(range(4))


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = TopGapNet("test_resnet", num_classes=8, k=1)
    nn.init.normal_(net.head.classifier.weight, std=0.05)
    return net


@pytest.fixture
def computed(runs):
    """A function that tells whether a call made any network compute, or only read."""
    passes = []
    handle = register_module_forward_pre_hook(lambda module, inputs: passes.append(module))

    def computed(call):
        passes.clear()
        call()
        return bool(passes)

    yield computed
    handle.remove()


def entries(runs):
    return sorted(path for path in (runs / "measurements").glob("[!.]*"))


def damage_contents(entry):
    file = entry / "outcome.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def lose_contents(entry):
    (entry / "outcome.safetensors").unlink()


def damage_key(entry):
    (entry / "entry.json").write_text("{")


def other_weight(net):
    with torch.no_grad():
        next(net.parameters()).view(-1)[0].mul_(1 + 1e-6)


def other_statistics(net):
    next(net.buffers()).view(-1)[0].add_(1e-6)


def other_pool(net):
    net.pool.k = 5


def other_kind_of_k(net):
    net.pool.k = 1.0


CALLS = {
    "predict": lambda net, data: predict(net, data),
    "own CAM": lambda net, data: own_cam(net, data.images),
    "Grad-CAM": lambda net, data: grad_cam(net, data.images, data.labels),
    "Recipro-CAM": lambda net, data: recipro_cam(net, data.images[:1], 0),
    "ERF": lambda net, data: erf_map(net, data.images, [(0, 0), (3, 3)]),
    "ERF distance": lambda net, data: erf_distance(net, data.images, "each"),
    "robust": lambda net, data: is_robust(net, data.images, data.labels, "pgd", SMALL, 3),
    "attack distance": lambda net, data: attack_distance(net, data),
    "gradient masking": lambda net, data: gradient_masking_report(
        net, data.images, data.labels, SMALL, steps=2, queries=5, longest=5
    ),
}


def as_lists(value):
    """Return an outcome as nested lists that can be compared."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, tuple):
        return [as_lists(part) for part in value]
    return [as_lists(part) for part in vars(value).values()] if hasattr(value, "rows") else value


@pytest.mark.parametrize("name", CALLS)
def test_the_same_call_is_made_once_and_read_as_it_was(net, few, computed, name):
    results = []
    assert computed(lambda: results.append(CALLS[name](net, few)))
    # Another object with the same weights: the same measurement.
    assert not computed(lambda: results.append(CALLS[name](copy.deepcopy(net), few)))
    first, again = results
    assert type(first) is type(again)
    assert as_lists(first) == as_lists(again)
    assert str(first) == str(again)


def test_what_is_read_is_what_is_computed(net, few, runs):
    options = {"epsilon": SMALL, "steps": 3}
    expected = attack(net, few.images, few.labels, "pgd", **options).robust
    for _ in range(2):
        assert is_robust(net, few.images, few.labels, "pgd", **options).equal(expected)


@pytest.mark.parametrize("change", [other_weight, other_statistics, other_pool, other_kind_of_k])
def test_another_network_is_measured(net, few, computed, change):
    call = lambda: predict(net, few)  # noqa: E731
    assert computed(call)
    assert not computed(call)
    change(net)
    assert computed(call)


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 2 / 255}, {"steps": 4}, {"seed": 1}, {"batch_size": 3}, {"loss": "margin"},
        {"images": torch.zeros(4, 3, 32, 32)}, {"labels": torch.zeros(4, dtype=torch.long)},
        {"mask": torch.ones(4, 32, 32, dtype=torch.bool)},
    ],
)  # fmt: skip
def test_another_argument_is_another_measurement(net, few, computed, change):
    options = {"images": few.images, "labels": few.labels, "name": "pgd", "epsilon": SMALL}
    options |= {"steps": 3}
    assert computed(lambda: is_robust(net, **options))
    assert computed(lambda: is_robust(net, **options | change))


def test_silent_arguments_and_defaults_that_are_spelt_out_change_nothing(net, few, computed):
    assert computed(lambda: is_robust(net, few.images, few.labels, "pgd", SMALL, 3))
    spelt = {"steps": 3, "seed": 0, "mask": None, "progress": True}
    assert not computed(lambda: is_robust(net, few.images, few.labels, "pgd", SMALL, **spelt))
    assert computed(lambda: attack_distance(net, few, SMALL))
    assert not computed(lambda: attack_distance(net, few, SMALL, progress=True))


def test_a_data_set_counts_with_its_pixels_labels_and_masks(net, few, computed):
    assert computed(lambda: attack_distance(net, few))
    assert not computed(lambda: attack_distance(net, replace(few, ids=("a", "b", "c", "d"))))
    assert computed(lambda: attack_distance(net, replace(few, masks=few.masks.roll(1, 2))))
    assert computed(lambda: attack_distance(net, replace(few, labels=few.labels.flip(0))))
    assert computed(lambda: attack_distance(net, replace(few, pixels=few.pixels.flip(0))))


def test_the_threads_decide_and_machine_versions_and_code_are_in_the_key(net, few, runs, computed):
    assert computed(lambda: predict(net, few))
    key = json.loads((entries(runs)[0] / store.ABOUT).read_text())["key"]
    assert {"code", "machine", "versions", "threads"} <= set(key)
    assert "torch" in key["versions"]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert computed(lambda: predict(net, few))
    finally:
        torch.set_num_threads(threads)
    assert not computed(lambda: predict(net, few))


def test_what_a_metric_calls_is_kept_with_it_and_not_by_itself(net, few, runs):
    attack_distance(net, few)
    erf_distance(net, few.images)
    names = [path.name.split("-")[0] for path in entries(runs)]
    assert names == ["attack_distance", "erf_distance"]


def test_nothing_that_can_run_code_is_kept(net, few, runs):
    gradient_masking_report(net, few.images, few.labels, SMALL, steps=2, queries=5, longest=5)
    (entry,) = entries(runs)
    assert {file.name for file in entry.iterdir()} == {"entry.json", "outcome.safetensors"}
    # The images are in the key as a hash.
    assert (entry / "outcome.safetensors").stat().st_size < few.images.numel()


@pytest.mark.parametrize("damage", [damage_contents, lose_contents, damage_key])
def test_a_damaged_measurement_is_made_again(net, few, runs, computed, damage):
    expected = predict(net, few)
    (entry,) = entries(runs)
    damage(entry)
    with pytest.warns(UserWarning, match=r"is damaged .* made again"):
        assert predict(net, few).equal(expected)
    assert {path.name for path in entries(runs)} == {entry.name, f"{entry.name}.damaged"}
    assert not computed(lambda: predict(net, few))


class Own(TopGapNet):
    """A class outside the package, whose code no key can hold."""


def replace_method(net):
    net.class_maps = lambda images: torch.ones(len(images), 8, 2, 2)


def replace_forward(net):
    net.head.forward = net.head.unfused


def add_hook(net):
    net.head.register_forward_hook(lambda module, inputs, output: 2 * output)


def add_pre_hook(net):
    net.backbone.register_forward_pre_hook(lambda module, inputs: inputs)


def swap_pool_for_foreign(net):
    net.pool = Pool()


def hide_a_layer(net):
    net.hidden = [nn.Linear(2, 2)]


class Pool(nn.Module):
    def forward(self, maps):
        return maps.amax((2, 3))


@pytest.mark.parametrize(
    "change",
    [replace_method, replace_forward, add_hook, add_pre_hook, swap_pool_for_foreign, hide_a_layer],
)
def test_a_network_that_its_weights_do_not_decide_is_computed_each_time(
    net, few, runs, computed, change
):
    change(net)
    for _ in range(2):
        assert computed(lambda: predict(net, few))
    assert not entries(runs)


def test_a_network_of_a_foreign_class_is_computed_each_time(few, runs, computed):
    for model in (Sees(few.images, few.masks), Own("test_resnet", num_classes=8, k=1)):
        for _ in range(2):
            assert computed(lambda model=model: predict(model, few))
    assert not entries(runs)


def test_a_foreign_function_is_refused():
    with pytest.raises(UserError, match="as_lists is not the package's"):
        cached(as_lists)


def of_the_package(function):
    """Return a function of these tests as if the package's metrics defined it."""
    function.__module__ = "topgap_nb.metrics.scores"
    return cached(function)


def test_tensors_that_share_memory_numbers_and_nested_outcomes_come_back(runs):
    def several(count):
        values = torch.arange(6.0)
        parts = {"a": values, "again": values, "view": values[2:4], "one": values[1]}
        return [parts, (None, True, count, 0.5, "words"), torch.zeros(0)]

    several = of_the_package(several)
    for _ in range(2):
        parts, rest, empty = several(3)
        assert parts["a"].equal(parts["again"])
        assert parts["view"].tolist() == [2.0, 3.0]
        assert parts["one"] == 1
        assert rest == (None, True, 3, 0.5, "words")
        assert empty.shape == (0,)


def outcome_of(make):
    return lambda: make()


def test_an_outcome_that_would_come_back_changed_is_refused(runs):
    for make in (lambda: {1: "a number as a name"}, lambda: {1, 2}, object):
        with pytest.raises(TypeError, match="cannot be kept"):
            of_the_package(outcome_of(make))()
