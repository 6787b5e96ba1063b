"""Logits of any number of images, and which images are classified correctly."""

import torch
from torch import Tensor, nn

from topgap_nb.data.image_set import ImageSet, as_float
from topgap_nb.inputs import as_logits, gated, in_format_of
from topgap_nb.metrics.evaluation import eval_on_device
from topgap_nb.store.cached import cached


@gated
@cached
@torch.no_grad()
def predict(model: nn.Module, images: ImageSet | Tensor, batch_size: int = 128) -> Tensor:
    """Return logits, (N, C), on the CPU.

    Args:
        model: any classifier of (N, 3, H, W) images in [0, 1].
        images: a data set; or (N, 3, H, W), float in [0, 1] or uint8.
        batch_size: images per forward pass.

    Raises:
        UserError: images that the gate refuses (``inputs``), a data set that stays on disk and does
            not fit into memory, or a network that does not return logits.
    """
    pixels = images if isinstance(images, Tensor) else images.pixels
    logits = []
    with eval_on_device(model) as place:
        for part in pixels.split(batch_size):
            part = as_float(part.to(place)) if part.dtype == torch.uint8 else part.to(place)
            part = in_format_of(model, part).contiguous(memory_format=torch.channels_last)
            logits.append(as_logits(model(part), len(part)).float().cpu())
    return torch.cat(logits)


@gated
def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether each image is classified correctly: (N,) bool, on the CPU."""
    return logits.argmax(1).cpu() == labels.cpu()
