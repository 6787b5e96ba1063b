"""Cross-entropy with a sparsity term on the class maps: section 3.3 and Equation 1 of the paper."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from topgap_nb.errors import UserError

READINGS = ("mean", "positions", "sum")


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
        class_maps: X, (N, C, h, w), unnormalised.
        reduction: how ||X||_1 is read. ``"mean"`` averages |X| over classes and positions;
            ``"positions"`` adds over the classes and averages over the positions, so that one
            lambda means the same for any number of classes; ``"sum"`` adds over both.

    Raises:
        UserError: unknown reduction.

    Source: paper, Equation 1, which does not say which reading it used; what each asks for is in
    ``method.equilibrium``.

    Example:
        >>> import torch
        >>> maps = torch.tensor([[[[1.0, -3.0]], [[0.0, 4.0]]]])
        >>> [sparsity_loss(maps, reading).item() for reading in READINGS]
        [2.0, 4.0, 8.0]
    """
    if reduction not in READINGS:
        raise UserError(f"sparsity reduction {reduction!r} is unknown: use {', '.join(READINGS)}")
    return class_maps.abs().mean() * l1_factor(reduction, *class_maps.shape[1:])


def l1_factor(reduction: str, classes: int, height: int, width: int) -> int:
    """Return by how much a reading of ||X||_1 is larger than the mean of |X|."""
    return {"mean": 1, "positions": classes, "sum": classes * height * width}[reduction]


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
