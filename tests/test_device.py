"""Networks and images start on the CPU; where there is a GPU, both have to meet there.

No GPU is needed: fake tensors have a device and a shape and no values, and refuse to mix devices
as a GPU does. ``lazy`` stands for the GPU: torch can follow its gradients without having one.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from topgap_nb import StandardNet, TopGapNet, attack, erf_map, grad_cam, own_cam, recipro_cam
from topgap_nb.data.augment import AUGMENTATIONS, CROP_FLIP_CUTOUT, augment, draws_for
from topgap_nb.experiments.spec import RunSpec
from topgap_nb.experiments.training import loss_of
from topgap_nb.measures import attacks, frozen
from topgap_nb.measures.scores import predict

ELSEWHERE = torch.device("lazy")


def moved(self, place, **_):
    """``nn.Module.to``, which cannot swap the parameters of fake tensors."""
    for module in self.modules():
        for name, value in module._parameters.items():
            if value is not None:
                new = nn.Parameter(value.detach().to(place), requires_grad=value.requires_grad)
                module._parameters[name] = new
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = value.to(place)
    return self


@pytest.fixture
def two_devices(monkeypatch):
    monkeypatch.setattr(frozen, "device", lambda: ELSEWHERE)
    monkeypatch.setattr(nn.Module, "to", moved)
    # It looks at values, and fake tensors have none.
    monkeypatch.setattr(attacks, "check_budget", lambda images, epsilon: None)
    with FakeTensorMode(shape_env=ShapeEnv()):
        yield


def network(head):
    kind = {"topgap": TopGapNet, "standard": StandardNet}[head]
    return kind("test_resnet", num_classes=3, k=4 if head == "topgap" else 1.0)


MEASURES = {
    "predict": lambda net, images: predict(net, images),
    "own CAM": own_cam,
    "Grad-CAM": grad_cam,
    "Grad-CAM of one class each": lambda net, images: grad_cam(net, images, torch.tensor([0, 1])),
    "Grad-CAM at a layer": lambda net, images: grad_cam(net, images, layer=first_stage(net)),
    "Recipro-CAM": recipro_cam,
    "Recipro-CAM, Gaussian": lambda net, images: recipro_cam(net, images, mask="gaussian"),
    "ERF": lambda net, images: erf_map(net, images, [(0, 0), (1, 1)]),
}


def first_stage(net):
    names = [name for name, _ in net.named_modules()]
    return next(n for n in names if n.endswith(("stages.0", "stages_0", "layer1")))


@pytest.mark.parametrize("head", ["topgap", "standard"])
@pytest.mark.parametrize("name", MEASURES)
def test_measures_take_networks_and_images_to_the_gpu_and_bring_both_back(two_devices, head, name):
    net, images = network(head), torch.rand(2, 3, 96, 96)
    assert MEASURES[name](net, images).device.type == "cpu"
    assert {value.device.type for value in net.state_dict().values()} == {"cpu"}


@pytest.mark.parametrize("head", ["topgap", "standard"])
@pytest.mark.parametrize("options", ["plain", "masked", "followed"])
def test_attacks_take_masks_and_surrogates_along(two_devices, head, options):
    net, images, labels = network(head), torch.rand(2, 3, 96, 96), torch.tensor([0, 1])
    given = {
        "plain": {},
        "masked": {"mask": torch.ones(2, 96, 96, dtype=torch.bool)},
        "followed": {"follow": network("standard")},
    }[options]
    outcome = attack(net, images, labels, "pgd", 0.1, 2, early_stop=False, **given)
    assert [found.device.type for found in outcome] == ["cpu", "cpu"]
    assert next(net.parameters()).device.type == "cpu"


def test_the_stand_in_refuses_to_mix_devices(two_devices):
    with pytest.raises(RuntimeError, match="same device"):
        network("topgap")(torch.rand(2, 3, 96, 96).to(ELSEWHERE))


@pytest.mark.parametrize("name", [*AUGMENTATIONS, CROP_FLIP_CUTOUT])
def test_a_training_step_stays_where_its_batch_is(two_devices, name):
    net = network("topgap").to(ELSEWHERE).train()
    images, labels = torch.rand(4, 3, 96, 96).to(ELSEWHERE), torch.tensor([0, 1, 2, 0])
    images = augment(images, name, draws_for(4, torch.Generator().manual_seed(0)))
    spec = RunSpec("planted", "test_resnet", k=4, sparsity_weight=1.0)
    terms, _ = loss_of(net, images, labels.to(ELSEWHERE), spec)
    assert terms.total.device.type == ELSEWHERE.type
    terms.total.backward()
