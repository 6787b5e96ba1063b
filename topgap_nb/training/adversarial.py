"""Adversarial training: the control that has to be robust."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topgap_nb.method.model import frozen

STEPS = 3


def attacked(
    model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, generator: torch.Generator
) -> Tensor:
    """Return a training batch after ``STEPS`` steps of PGD from a random start, (N, 3, H, W).

    The network stands in evaluation mode meanwhile, so that its running statistics are those of the
    batches that it learns. One step alone would teach it to hide its gradient (Wong et al. 2020).

    Args:
        model: the network in training.
        images: (N, 3, H, W) in [0, 1].
        labels: (N,).
        epsilon: budget in [0, 1] pixels; each step is epsilon / 2.
        generator: of the random start, on the CPU.

    Source: Madry et al. 2018, https://arxiv.org/abs/1706.06083; Wong et al. 2020,
    https://arxiv.org/abs/2001.03994.
    """
    noise = torch.rand(images.shape, generator=generator).to(images)
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    tried = low + noise * (high - low)
    with frozen(model):
        for _ in range(STEPS):
            tried.requires_grad_()
            loss = F.cross_entropy(model(tried), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, tried)
            tried = (tried.detach() + epsilon / 2 * gradient.sign()).clamp(low, high)
    return tried
