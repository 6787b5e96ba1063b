import pytest
import torch
from torch import nn

from topgap_nb.data.image_set import ImageSet
from topgap_nb.metrics.scores import correct, predict


def image_set(channels=3, count=10) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, channels, 9, 7), generator=generator)
    return ImageSet(
        name="random",
        pixels=pixels.to(torch.uint8),
        labels=torch.arange(count) % 2,
        class_names=("even", "odd"),
        ids=tuple(map(str, range(count))),
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(140, 2)
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_predicting_a_data_set_is_predicting_its_float_images(channels):
    data, net = image_set(channels), network()
    floats = data.pixels.float().expand(-1, 3, -1, -1) / 255
    expected = net.eval()(floats).detach()
    torch.testing.assert_close(predict(net, data), expected)
    torch.testing.assert_close(predict(net, floats), expected)
    torch.testing.assert_close(predict(net, data.pixels), expected)


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_predictions_do_not_depend_on_the_batch_and_keep_the_order(batch_size):
    data, net = image_set(), network()
    torch.testing.assert_close(predict(net, data, batch_size), predict(net, data))


def test_predicting_uses_evaluation_mode_and_leaves_training_mode():
    data, net = image_set(), network().train()
    statistics = net[1].running_mean.clone()
    expected = predict(net, data)
    assert net.training
    assert torch.equal(net[1].running_mean, statistics)
    assert all(parameter.requires_grad for parameter in net.parameters())
    torch.testing.assert_close(net.eval()(data.images), expected.requires_grad_())


def test_correct_by_hand():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 2.0], [1.0, 0.0, 0.0]])
    assert correct(logits, torch.tensor([0, 2, 2, 0])).tolist() == [True, True, False, True]
