"""Networks and images start on the CPU; where there is a GPU, both have to meet there.

No GPU is needed: fake tensors have a device and a shape and no values, and refuse to mix devices
as a GPU does. ``lazy`` stands for the GPU: torch can follow its gradients without having one.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from topgap_nb.method.model import StandardNet, TopGapNet, frozen
from topgap_nb.metrics.attacks import attack
from topgap_nb.metrics.cam import grad_cam, own_cam, recipro_cam
from topgap_nb.metrics.erf import erf_map
from topgap_nb.metrics.evaluation import device, eval_on_device
from topgap_nb.metrics.scores import predict

ELSEWHERE = torch.device("lazy")


class MovedByHand:
    """A network that lies elsewhere, and whose fake parameters can be moved.

    As a class of these tests its measurements are computed, never read.
    """

    def to(self, place):
        for module in self.modules():
            for name, value in module._parameters.items():
                if value is not None:
                    new = nn.Parameter(value.detach().to(place), requires_grad=value.requires_grad)
                    module._parameters[name] = new
            for name, value in module._buffers.items():
                if value is not None:
                    module._buffers[name] = value.to(place)
        return self


class TopGapElsewhere(MovedByHand, TopGapNet):
    pass


class StandardElsewhere(MovedByHand, StandardNet):
    pass


def network(head):
    if head == "topgap":
        return TopGapElsewhere("test_resnet", num_classes=3, k=4).to(ELSEWHERE)
    return StandardElsewhere("test_resnet", num_classes=3).to(ELSEWHERE)


def first_stage(net):
    names = [name for name, _ in net.named_modules()]
    return next(n for n in names if n.endswith(("stages.0", "stages_0", "layer1")))


METRICS = {
    "predict": lambda net, images: predict(net, images),
    "own CAM": own_cam,
    "Grad-CAM": grad_cam,
    "Grad-CAM of one class each": lambda net, images: grad_cam(net, images, torch.tensor([0, 1])),
    "Grad-CAM at a layer": lambda net, images: grad_cam(net, images, layer=first_stage(net)),
    "Recipro-CAM": recipro_cam,
    "Recipro-CAM, Gaussian": lambda net, images: recipro_cam(net, images, kernel="gaussian"),
    "ERF": lambda net, images: erf_map(net, images, [(0, 0), (1, 1)]),
}


@pytest.fixture
def two_devices(monkeypatch):
    # The gate would read values, and these tensors have none.
    monkeypatch.setattr("topgap_nb.inputs._extremes", lambda values: (0.0, 1.0))
    with FakeTensorMode(shape_env=ShapeEnv()):
        yield


@pytest.mark.parametrize("head", ["topgap", "standard"])
@pytest.mark.parametrize("name", METRICS)
def test_metrics_take_images_to_the_network_and_bring_the_result_back(two_devices, head, name):
    net, images = network(head), torch.rand(2, 3, 96, 96)
    assert METRICS[name](net, images).device.type == "cpu"
    assert {value.device.type for value in net.state_dict().values()} == {ELSEWHERE.type}


def test_a_network_on_the_cpu_joins_the_other_and_goes_home(two_devices):
    here, there = network("standard").to(torch.device("cpu")), network("topgap")
    with eval_on_device(here, there) as place:
        assert place.type == ELSEWHERE.type
        assert next(here.parameters()).device.type == ELSEWHERE.type
    assert next(here.parameters()).device.type == "cpu"
    assert next(there.parameters()).device.type == ELSEWHERE.type


def test_the_stand_in_refuses_to_mix_devices(two_devices):
    with pytest.raises(RuntimeError, match="same device"):
        network("topgap")(torch.rand(2, 3, 96, 96))


@pytest.mark.gpu
@pytest.mark.parametrize("options", ["plain", "masked", "followed"])
def test_attacks_take_masks_and_surrogates_along(options):
    net, images, labels = TopGapNet("test_resnet", 3, k=4), torch.rand(2, 3, 96, 96), [0, 1]
    options = {
        "plain": {},
        "masked": {"mask": torch.ones(2, 96, 96, dtype=torch.bool)},
        "followed": {"follow": StandardNet("test_resnet", 3)},
    }[options]
    assert device().type == "cuda"
    result = attack(net, images, torch.tensor(labels), "pgd", 0.1, 2, **options)
    assert [tensor.device.type for tensor in result] == ["cpu", "cpu"]
    assert next(net.parameters()).device.type == "cpu"


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_accelerates_switch_keeps_off_the_gpu(monkeypatch, value):
    monkeypatch.setenv("ACCELERATE_USE_CPU", value)
    assert device() == torch.device("cpu")


@pytest.mark.parametrize("hold", [frozen, eval_on_device])
def test_modes_and_gradients_are_put_back_also_after_a_failure(hold):
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2)).train()
    net[1].eval()
    net[0].weight.requires_grad_(False)

    def state():
        return [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]

    def fail():
        with hold(net):
            assert state() == ([False] * 4, [False] * 4)
            raise RuntimeError("half way")

    before = state()
    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert state() == before
