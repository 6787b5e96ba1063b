"""A training: its start, its steps, its end. ``test_checkpoints`` interrupts and damages it."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.trainings import TINY, counted_steps, same_bytes, tiny_data, weights_of
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from topgap_nb.data.image_set import Splits
from topgap_nb.data.reading import LazyImages, class_folders, decoded
from topgap_nb.errors import NoFingerprint, UserError
from topgap_nb.method.model import build_model
from topgap_nb.store.fingerprint import modules_behind
from topgap_nb.training.augment import AUGMENTATIONS, CROP_FLIP_CUTOUT, augment, augmentation_noise
from topgap_nb.training.loop import (
    cpu_threads,
    init_model,
    loss_of,
    lr_schedule,
    make_optimizer,
    sparsity_weight_at,
    train_or_load,
)

# Once


def test_the_same_training_is_done_once(finished):
    with counted_steps() as steps:
        again = train_or_load(TINY.replace(), tiny_data(), quiet=True)
    assert not steps
    assert again.history.equals(finished.history)
    for name, tensor in finished.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name


def test_it_gives_a_frozen_network_in_evaluation_mode_and_a_history(finished):
    assert not finished.model.training
    assert not any(p.requires_grad for p in finished.model.parameters())
    assert finished.spec == TINY
    assert finished.history.index.tolist() == [1, 2, 3]
    columns = ["cross_entropy", "sparsity", "accuracy", "mean_abs", "map_l1", "empty"]
    columns += ["images_per_second"]
    assert finished.history.columns.tolist() == columns


def test_it_leaves_the_network_and_what_it_is_and_nothing_else(data, runs):
    network = train_or_load(TINY, data, quiet=True)
    names = {path.name for path in network.folder.iterdir()}
    assert names == {"model.safetensors", "network.json", "entry.json"}
    assert network.folder.parent == runs / "networks"
    left = [path for path in (runs / "networks").iterdir() if path.suffix != ".lock"]
    assert left == [network.folder]
    about = json.loads((network.folder / "network.json").read_text())
    assert (about["spec"]["k"], about["classes"]) == (3, 4)


def test_a_training_leaves_the_number_of_threads_as_it_was(data, runs):
    before = torch.get_num_threads()
    with cpu_threads(2):
        train_or_load(TINY.replace(epochs=1), data, quiet=True)
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


@same_bytes
def test_training_twice_gives_the_same_bytes_whatever_torchs_seed_and_threads(finished, data, runs):
    torch.manual_seed(4242)
    with cpu_threads(2):
        again = train_or_load(TINY, data, quiet=True)
    assert again.folder.name == finished.folder.name
    assert weights_of(again) == weights_of(finished)


def test_the_seed_and_the_images_change_the_weights(finished, data):
    other = train_or_load(TINY.replace(seed=1), data, quiet=True)
    elsewhere = train_or_load(TINY, tiny_data(seed=1), quiet=True)
    assert len({weights_of(network) for network in (finished, other, elsewhere)}) == 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(10):
            pixels = draw.integers(0, 256, (40, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return class_folders("photos", folder)


@same_bytes
def test_images_read_by_worker_processes_train_the_same_network(photos):
    in_memory = Splits("photos", lambda split: decoded(photos, 32))
    on_disk = Splits("photos", lambda split: LazyImages(photos, 32))
    spec = TINY.replace(epochs=1, batch_size=8)
    one, other = (train_or_load(spec, data, quiet=True) for data in (in_memory, on_disk))
    assert one.folder != other.folder
    assert weights_of(one) == weights_of(other)


def test_images_that_cannot_be_told_apart_are_refused(data):
    class Strange(torch.utils.data.Dataset):
        class_names = ("a", "b")

    with pytest.raises(NoFingerprint, match="a Strange cannot be told"):
        train_or_load(TINY, data.replace(train=Strange()), quiet=True)


def test_the_code_in_the_key_is_what_decides_the_weights_and_no_more():
    behind = {
        name.removeprefix("topgap_nb.") for name in modules_behind(["topgap_nb.training.loop"])
    }
    rooms = ("augment", "batches", "checkpoints", "depthwise", "processes")
    assert behind >= {"method.model", "method.loss", "method.pooling", "data.image_set"}
    assert behind >= {f"training.{name}" for name in rooms}
    assert not [n for n in behind if n.startswith(("results", "workbook", "cluster", "data.sets"))]
    assert not behind & {"data.registry", "training.profile", "training.export", "metrics.attacks"}


# The start


@pytest.mark.parametrize("head", ["topgap", "standard"])
def test_initial_weights_follow_from_the_seed_alone(head):
    spec = TINY.replace(head=head)
    torch.manual_seed(1)
    one = init_model(spec, 4).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = init_model(spec, 4).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    other = init_model(spec.replace(seed=1), 4).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("head", ["topgap", "standard"])
def test_an_untrained_network_prefers_no_class(head):
    model = init_model(TINY.replace(head=head, k=1.0), 4).eval()
    assert not model(torch.rand(2, 3, 32, 32)).any()


def test_training_lowers_the_loss(data, runs):
    spec = TINY.replace(epochs=6, sparsity_weight=0.0, k=1.0, augmentation="none")
    loss = train_or_load(spec, data, quiet=True).history.cross_entropy
    assert loss.index.tolist() == [1, 2, 3, 4, 5, 6]
    assert loss[1] == pytest.approx(math.log(4), abs=0.3)
    assert loss[6] < loss[1] - 0.1


def test_bfloat16_trains_weights_that_stay_float32(data, runs):
    network = train_or_load(TINY.replace(precision="bfloat16", epochs=1), data, quiet=True)
    assert {p.dtype for p in network.model.parameters()} == {torch.float32}
    assert network.history.cross_entropy[1] == pytest.approx(math.log(4), abs=0.5)


# The learning rate


def test_the_rate_starts_small_peaks_after_a_fifth_and_ends_near_zero():
    progress = torch.linspace(0, 1, 501).tolist()
    rates = [lr_schedule(p) for p in progress]
    assert rates[0] == pytest.approx(0.04)
    assert max(rates) == rates[100] == pytest.approx(1.0)
    assert progress[100] == pytest.approx(0.2)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert rates[:101] == sorted(rates[:101])
    assert rates[100:] == sorted(rates[100:], reverse=True)


def test_every_step_has_its_rate_and_an_epoch_is_all_images(data, runs):
    with counted_steps() as steps:
        train_or_load(TINY.replace(batch_size=20), data, quiet=True)
    # 48 images in batches of 20, 20 and 8.
    assert len(steps) == 3 * 3
    peaks = [group["peak"] for group in steps[0].param_groups]
    assert peaks == [TINY.lr, TINY.head_lr]
    assert [g["lr"] for g in steps[0].param_groups] == [p * lr_schedule(8 / 9) for p in peaks]


def test_sgd_takes_nesterov_steps():
    """Against the closed form: v = 0.9 v + g, w = w - lr (g + 0.9 v), with decay in g."""
    model = build_model("standard", "test_resnet", 4)
    optimizer = make_optimizer(model, TINY.replace(head="standard", optimizer="sgd"))
    weight = model.net.get_classifier().weight
    expected, velocity = weight.detach().clone(), 0
    for step in range(2):
        gradient = torch.full_like(weight, step + 1.0)
        weight.grad = gradient.clone()
        for group in optimizer.param_groups:
            group["lr"] = 0.5
        optimizer.step()
        gradient += TINY.weight_decay * expected
        velocity = 0.9 * velocity + gradient
        expected -= 0.5 * (gradient + 0.9 * velocity)
    torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize("head", ["topgap", "standard"])
def test_the_new_head_learns_at_its_own_rate(head):
    model = build_model(head, "test_resnet", 4)
    backbone, new = make_optimizer(model, TINY.replace(head=head)).param_groups
    classifier = model.head if head == "topgap" else model.net.get_classifier()
    assert set(new["params"]) == set(classifier.parameters())
    assert (backbone["peak"], new["peak"]) == (TINY.lr, TINY.head_lr)
    assert len(backbone["params"]) + len(new["params"]) == len(list(model.parameters()))


# The loss


@pytest.fixture(scope="module")
def batch():
    draw = torch.Generator().manual_seed(0)
    return torch.rand(3, 3, 64, 64, generator=draw), torch.tensor([0, 2, 1])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("where", ["last_features", "all_features"])
def test_the_ablations_take_the_norm_of_feature_maps(batch, where, reduction):
    images, labels = batch
    torch.manual_seed(0)
    model = build_model("standard", "test_resnet", 3, k=2).eval()
    spec = TINY.replace(
        head="standard", sparsity_on=where, sparsity_reduction=reduction, sparsity_weight=0.25
    )
    terms, logits, _ = loss_of(model, images, labels, spec)
    features = model.features(images)
    chosen = features if where == "all_features" else [features[-1]]
    per_map = [f.abs().mean() if reduction == "mean" else f.abs().sum() / 3 for f in chosen]
    norm = sum(per_map) / len(chosen)
    torch.testing.assert_close(logits, model(images))
    torch.testing.assert_close(terms.sparsity, norm)
    torch.testing.assert_close(terms.total, F.cross_entropy(logits, labels) + 0.25 * norm)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("head", ["standard", "topgap"])
def test_the_method_takes_the_norm_of_the_class_maps(batch, head, reduction):
    images, labels = batch
    torch.manual_seed(0)
    model = build_model(head, "test_resnet", 3, k=2).eval()
    if head == "topgap":
        nn.init.normal_(model.head.classifier.weight)
    spec = TINY.replace(head=head, sparsity_weight=0.25, sparsity_reduction=reduction)
    terms, logits, _ = loss_of(model, images, labels, spec)
    maps = model.class_maps(images)
    norm = maps.abs().mean() if reduction == "mean" else maps.abs().sum() / 3
    best = maps.flatten(2).sort(descending=True).values[..., :2].mean(-1)
    torch.testing.assert_close(logits, best)
    torch.testing.assert_close(terms.total, F.cross_entropy(best, labels) + 0.25 * norm)


def test_a_network_without_class_maps_has_cross_entropy_only(batch):
    images, labels = batch
    torch.manual_seed(0)
    model = build_model("standard", "test_convnext", 3).eval()
    assert model.pool is None
    spec = TINY.replace(head="standard", sparsity_weight=0.5)
    terms, logits, _ = loss_of(model, images, labels, spec)
    torch.testing.assert_close(terms.total, F.cross_entropy(model(images), labels))
    torch.testing.assert_close(logits, model(images))


@pytest.mark.parametrize("name", [*AUGMENTATIONS, CROP_FLIP_CUTOUT])
def test_a_step_stays_where_its_batch_is(name):
    """Fake tensors refuse to mix devices, as a GPU does; ``lazy`` stands for the GPU."""
    elsewhere = torch.device("lazy")
    with FakeTensorMode(shape_env=ShapeEnv()):
        net = build_model("topgap", "test_resnet", 3, k=4).train()
        # ``to`` cannot swap the parameters of fake tensors.
        for module in net.modules():
            for key, value in module._parameters.items():
                module._parameters[key] = (
                    None if value is None else nn.Parameter(value.detach().to(elsewhere))
                )
            for key, value in module._buffers.items():
                module._buffers[key] = value.to(elsewhere)
        images = torch.rand(4, 3, 96, 96).to(elsewhere)
        labels = torch.tensor([0, 1, 2, 0]).to(elsewhere)
        noise = augmentation_noise(4, torch.Generator().manual_seed(0))
        terms, *_ = loss_of(net, augment(images, name, noise), labels, TINY)
        assert terms.total.device.type == elsewhere.type
        terms.total.backward()


def test_lambda_rises_over_the_second_half_of_the_ramp():
    spec = TINY.replace(sparsity_weight=2.0, sparsity_ramp=0.5)
    weights = [sparsity_weight_at(spec, progress) for progress in (0, 0.2, 0.25, 0.375, 0.5, 1)]
    assert weights == pytest.approx([0, 0, 0, 1, 2, 2])
    assert sparsity_weight_at(TINY, 0) == TINY.sparsity_weight


def test_the_ramp_reaches_the_loss():
    spec = TINY.replace(sparsity_weight=2.0, sparsity_ramp=0.5)
    model = init_model(spec, 4)
    nn.init.normal_(model.head.classifier.weight)
    images, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    early, *_ = loss_of(model, images, labels, spec, 0.1)
    late, *_ = loss_of(model, images, labels, spec, 0.9)
    assert early.total.item() == pytest.approx(early.cross_entropy.item())
    expected = late.cross_entropy.item() + 2 * late.sparsity.item()
    assert late.total.item() == pytest.approx(expected, rel=1e-5)
    assert late.sparsity > 0.01


@pytest.mark.parametrize(("images", "steps"), [(32, 2), (33, 2), (34, 3)])
def test_no_batch_holds_one_image_alone(images, steps):
    # Batch normalisation over a map of 1 x 1 has no spread to learn from in one image.
    network = train_or_load(TINY.replace(epochs=1), tiny_data(images=images), quiet=True)
    states = load_file(network.folder / "model.safetensors")
    counts = [value for name, value in states.items() if name.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {steps}


def test_one_image_is_no_training_set():
    with pytest.raises(UserError, match="has 1 training images: a training needs two"):
        train_or_load(TINY, tiny_data(images=1), quiet=True)


def test_the_history_describes_the_true_class_s_map():
    data, spec = tiny_data(images=16), TINY.replace(epochs=1, batch_size=16, augmentation="none")
    last = train_or_load(spec, data, quiet=True).history.iloc[-1]
    # One step: the maps are still those of the first forward pass, which are all zero.
    assert last[["mean_abs", "map_l1", "empty"]].tolist() == [0.0, 0.0, 1.0]
