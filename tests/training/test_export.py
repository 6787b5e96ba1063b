"""Saved networks come back to the bit, ONNX agrees with torch, and damage is noticed."""

import hashlib
import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from safetensors.torch import load, save

from topgap_nb.errors import UserError
from topgap_nb.method.model import StandardNet, TopGapNet
from topgap_nb.training.export import USAGE, export_onnx, load_model, save_model
from topgap_nb.training.loop import TrainedNetwork
from topgap_nb.training.spec import TrainingSpec

NAMES = ("cat", "dog", "emu")


def random_network(make, **options):
    torch.manual_seed(0)
    net = make(num_classes=3, **options).eval()
    if hasattr(net, "head"):
        torch.nn.init.normal_(net.head.classifier.weight)
        torch.nn.init.normal_(net.head.classifier.bias)
    return net.to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def net():
    return random_network(TopGapNet, backbone="resnet18", k=0.3, maps=(2, 4), dropout=0.1)


@pytest.fixture(scope="module")
def images():
    return torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def _saved(net, tmp_path_factory):
    return save_model(net, tmp_path_factory.mktemp("saved") / "model", NAMES, 64)


@pytest.fixture
def saved(_saved, tmp_path):
    return shutil.copytree(_saved, tmp_path / "model")


def logits(model, images):
    return model(images.to(next(model.parameters()).device)).cpu()


def test_reloaded_logits_and_settings_are_the_same(net, images, saved):
    back = load_model(saved)
    assert torch.equal(logits(back.model, images), logits(net, images))
    assert (back.class_names, back.image_size) == (NAMES, 64)
    assert back.model.pool.k == 0.3
    assert back.model.head.dropout.p == 0.1
    assert not back.model.training


def test_the_lines_on_its_use_run(images, saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    names = {"images": images}
    exec(USAGE, names)
    assert names["logits"].shape == (5, 3)
    assert names["maps"].shape[:2] == (5, 3)


def test_a_standard_network_comes_back_too(images, tmp_path):
    net = random_network(StandardNet, backbone="tf_efficientnet_lite0")
    back = load_model(save_model(net, tmp_path, NAMES, 64)).model
    assert isinstance(back, StandardNet)
    assert torch.equal(logits(back, images), logits(net, images))


@pytest.mark.parametrize("k", ["auto", "learnt"])
def test_a_k_that_was_not_given_is_kept(images, tmp_path, k):
    net = random_network(TopGapNet, backbone="resnet18", k=k)
    if k == "auto":
        net.pool.k = 11
    else:
        net.pool.parameter.data = torch.tensor([-0.1, 0.0, 0.05])
    back = load_model(save_model(net, tmp_path, NAMES, 64)).model
    assert torch.equal(logits(back, images), logits(net, images))


def test_a_normalisation_that_was_set_by_hand_is_kept(images, tmp_path):
    net = random_network(TopGapNet, backbone="resnet18", k=4)
    others = logits(net, images)
    net.mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    net.std.fill_(0.7)
    back = load_model(save_model(net, tmp_path, NAMES, 64)).model
    assert back.mean.flatten().tolist() == net.mean.flatten().tolist()
    assert torch.equal(logits(back, images), logits(net, images))
    assert not torch.equal(logits(back, images), others)


def test_a_network_that_was_saved_without_its_normalisation_has_its_backbones(net, tmp_path):
    folder = save_model(net, tmp_path, NAMES, 64)
    tensors = load((folder / "model.safetensors").read_bytes())
    content = save({name: t for name, t in tensors.items() if name not in ("mean", "std")})
    (folder / "model.safetensors").write_bytes(content)
    about = json.loads((folder / "model.json").read_text())
    about["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "model.json").write_text(json.dumps(about))
    assert torch.equal(load_model(folder).model.mean, net.mean)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_stays_one_and_is_exported_in_float32(images, tmp_path, kind):
    net = random_network(TopGapNet, backbone="test_efficientnet", k=4).to(kind)
    back = load_model(save_model(net, tmp_path, NAMES, 64)).model
    assert {t.dtype for t in back.parameters()} == {kind}
    assert torch.equal(logits(back, images.to(kind)), logits(net, images.to(kind)))
    assert export_onnx(net, tmp_path / "half.onnx", 64) < 1e-3
    assert next(net.parameters()).dtype == kind
    session = onnxruntime.InferenceSession(str(tmp_path / "half.onnx"))
    (found,) = session.run(["logits"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), logits(net.float(), images))


def test_a_training_brings_its_specification(net, tmp_path):
    network = TrainedNetwork(TrainingSpec(k=7, lr=0.25), net, pd.DataFrame(), tmp_path)
    about = load_model(save_model(network, tmp_path / "m", NAMES, 64)).about
    assert (about["spec"]["k"], about["spec"]["lr"], about["image_size"]) == (7, 0.25, 64)


def test_what_cannot_be_saved_is_refused(net, tmp_path):
    with pytest.raises(UserError, match="2 class names for a network of 3 classes"):
        save_model(net, tmp_path, NAMES[:2], 64)
    with pytest.raises(UserError, match="Linear cannot be saved"):
        save_model(torch.nn.Linear(1, 1), tmp_path, NAMES, 64)
    assert list(tmp_path.iterdir()) == []


def flip_a_byte(folder):
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def without_names(folder):
    about = json.loads((folder / "model.json").read_text())
    del about["class_names"]
    (folder / "model.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip_a_byte, "model.safetensors is damaged"),
        (without_names, "model.json is damaged: 'class_names'"),
        (lambda f: (f / "model.json").write_text("{"), "holds no saved network"),
        (lambda f: (f / "model.json").write_text("[1]"), "was not written by save_model"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no saved network"),
        (lambda f: shutil.rmtree(f), "holds no saved network"),
    ],
)
def test_damage_is_one_clear_line(saved, damage, words):
    damage(saved)
    with pytest.raises(UserError, match=words) as error:
        load_model(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("k", [0.3, 5, 1, 1.0])
def test_onnx_gives_logits_and_class_maps_for_any_batch(net, images, tmp_path, k):
    net.pool.k, before = k, net.pool.k
    try:
        apart = export_onnx(net, tmp_path / "net.onnx", 64, NAMES)
        wanted, maps = net(images), net.class_maps(images)
    finally:
        net.pool.k = before
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    for count in (1, 5):
        found = session.run(["logits", "class_maps"], {"images": images[:count].numpy()})
        np.testing.assert_allclose(found[0], wanted[:count].detach(), atol=1e-4)
        np.testing.assert_allclose(found[1], maps[:count].detach(), atol=1e-4)
    assert apart < 1e-4
    props = {p.key: p.value for p in onnx.load(str(tmp_path / "net.onnx")).metadata_props}
    assert json.loads(props["class_names"]) == list(NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


class BrighterInBright(TopGapNet):
    """Scales its maps by a number that tracing fixes."""

    def class_maps(self, images):
        return super().class_maps(images) * float(images.sum())


def test_an_export_that_differs_is_not_left_behind(tmp_path):
    net = random_network(BrighterInBright, backbone="test_resnet", k=2)
    with pytest.raises(ArithmeticError, match="differs from torch's"):
        export_onnx(net, tmp_path / "net.onnx", 64)
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_class_maps_cannot_be_exported(tmp_path):
    net = random_network(StandardNet, backbone="convnext_tiny")
    with pytest.raises(UserError, match="no class maps"):
        export_onnx(net, tmp_path / "net.onnx", 64)
