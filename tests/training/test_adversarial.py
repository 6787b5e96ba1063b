"""Adversarial training: a batch that is attacked, and a network that comes out robust."""

import torch
import torch.nn.functional as F
from helpers.trainings import TINY, tiny_data
from torch import nn

from topgap_nb.training.adversarial import STEPS, attacked
from topgap_nb.training.loop import init_model, train_or_load

EPSILON = 8 / 255


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(4, 3, 32, 32, generator=generator), torch.arange(4)


def test_it_stays_within_the_budget_and_the_range_and_raises_the_loss():
    torch.manual_seed(0)
    model = init_model(TINY.replace(head="standard", k=1.0), 4)
    nn.init.normal_(model.net.get_classifier().weight)
    images, labels = batch()
    tried = attacked(model, images, labels, EPSILON, torch.Generator().manual_seed(1))
    assert (tried - images).abs().max() <= EPSILON + 1e-6
    assert tried.min() >= 0
    assert tried.max() <= 1
    model.eval()
    losses = [F.cross_entropy(model(x), labels).item() for x in (images, tried)]
    assert losses[1] > losses[0]


def test_on_a_linear_network_it_ends_in_the_corner_of_the_budget():
    # The gradient of class 0 against class 1 has the sign of the weights everywhere.
    weight = torch.tensor([1.0, -2.0, 3.0]).repeat_interleave(4)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    linear[1].weight = nn.Parameter(torch.stack([weight, -weight]))
    images, labels = torch.full((2, 3, 2, 2), 0.5), torch.tensor([0, 1])
    tried = attacked(linear, images, labels, 0.1, torch.Generator().manual_seed(0))
    # From anywhere in the budget, whose width is 2 epsilon, STEPS steps of half of it do not reach
    # the far corner of every pixel, and move each by as much as they can.
    start = 0.1 * (2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) - 1)
    signs = torch.sign(weight).view(3, 2, 2) * torch.tensor([-1.0, 1.0])[:, None, None, None]
    expected = 0.5 + (start + STEPS * 0.05 * signs).clamp(-0.1, 0.1)
    torch.testing.assert_close(tried, expected)


def test_it_leaves_mode_gradients_and_running_statistics_alone():
    model = init_model(TINY, 4).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attacked(model, *batch(), EPSILON, torch.Generator().manual_seed(1))
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_sees_the_attacked_batches():
    data, spec = tiny_data(), TINY.replace(head="standard", k=1.0, sparsity_weight=0.0)
    plain, hardened = (
        train_or_load(spec.replace(adversarial_epsilon=epsilon), data, quiet=True).history
        for epsilon in (0.0, 64 / 255)
    )
    # From the second epoch on, the network has learnt something that an attack can undo.
    assert (hardened.cross_entropy > plain.cross_entropy)[1:].all()
