"""Augmentation of whole batches on the device, from one generator."""

import torch
import torch.nn.functional as F
from torch import Tensor

from topgap_nb.errors import UserError

# Largest flip probability, shift (share of the side) and zoom (factor) per augmentation.
AUGMENTATIONS = {
    "none": (0.0, 0.0, 0.0),
    "shift": (0.0, 0.06, 0.08),
    "flip_shift": (0.5, 0.06, 0.08),
}


def augment(images: Tensor, name: str, generator: torch.Generator) -> Tensor:
    """Return a batch, each image flipped, shifted and zoomed at random by itself.

    One affine resampling does all three; the border repeats the edge pixels.

    Args:
        images: (N, C, H, W) floats.
        name: one of ``AUGMENTATIONS``.
        generator: a CPU generator; the same state gives the same batch on every device.

    Raises:
        UserError: unknown name.
    """
    if name not in AUGMENTATIONS:
        raise UserError(f"augmentation {name!r} is unknown: use {', '.join(AUGMENTATIONS)}")
    flip, shift, zoom = AUGMENTATIONS[name]
    if name == "none":
        return images
    flips, zooms, right, down = torch.rand(4, len(images), generator=generator).to(images.device)
    scale = 1 + zoom * (2 * zooms - 1)
    affine = images.new_zeros(len(images), 2, 3)
    affine[:, 0, 0] = torch.where(flips < flip, -scale, scale)
    affine[:, 1, 1] = scale
    affine[:, 0, 2] = 2 * shift * (2 * right - 1)
    affine[:, 1, 2] = 2 * shift * (2 * down - 1)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
