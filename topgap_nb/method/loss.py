"""Cross-entropy with a sparsity term on the class maps: section 3.3 and Equation 1 of the paper."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from topgap_nb.errors import UserError


class LossTerms(NamedTuple):
    """The two terms of Equation 1, scalars: CE in nats, and ||X||_1 >= 0 with its weight lambda."""

    cross_entropy: Tensor
    sparsity: Tensor
    sparsity_weight: float

    @property
    def total(self) -> Tensor:
        """L = lambda * ||X||_1 + CE, which is minimised."""
        if not self.sparsity_weight:
            return self.cross_entropy
        return self.cross_entropy + self.sparsity_weight * self.sparsity


def sparsity_loss(class_maps: Tensor, reduction: str = "mean") -> Tensor:
    """Return the l1 norm of the class maps, averaged over the batch: a scalar >= 0.

    Args:
        class_maps: (N, C, h, w), unnormalised.
        reduction: ``"mean"`` averages |X| over classes and positions too, so that lambda does not
            depend on the size of the map; ``"sum"`` adds |X| over them: ||X||_1 read literally.

    Raises:
        UserError: unknown reduction.

    Source: paper, Equation 1, which does not say which reduction it used. ``mean`` is our choice:
    with lambda = 1, the paper's value, the literal sum drives training to empty maps (notebook 07
    measures it).

    Example:
        >>> import torch
        >>> sparsity_loss(torch.tensor([[[[1.0, -3.0]], [[0.0, 4.0]]]]))
        tensor(2.)
    """
    if reduction == "mean":
        return class_maps.abs().mean()
    if reduction == "sum":
        return class_maps.abs().sum() / class_maps.shape[0]
    raise UserError(f"sparsity reduction {reduction!r} is unknown: use 'mean' or 'sum'")


def top_gap_loss(
    logits: Tensor,
    class_maps: Tensor,
    labels: Tensor,
    sparsity_weight: float = 1.0,
    reduction: str = "mean",
) -> LossTerms:
    """Return L = lambda * ||X||_1 + CE(softmax(logits), y), term by term.

    Args:
        logits: (N, C), the pooled class maps.
        class_maps, reduction: X as in ``sparsity_loss``.
        labels: y, (N,) class indices.
        sparsity_weight: lambda >= 0; the paper uses 1 for most data sets, 0 switches the term off.

    Source: paper, Equation 1.
    """
    cross_entropy = F.cross_entropy(logits, labels)
    return LossTerms(cross_entropy, sparsity_loss(class_maps, reduction), sparsity_weight)
