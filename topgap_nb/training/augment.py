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
# Padding, and the side of the square that is cut out, as shares of the image's: 4 and 8 of 32.
CROP, CUTOUT = 1 / 8, 1 / 4
CROP_FLIP_CUTOUT = "crop_flip_cutout"


def augmentation_noise(count: int, generator: torch.Generator) -> Tensor:
    """Return the random numbers of a batch, (4, count): four in [0, 1) for each image."""
    return torch.rand(4, count, generator=generator)


def augment(images: Tensor, name: str, draws: Tensor) -> Tensor:
    """Return a batch, each image changed at random by itself.

    ``shift`` and ``flip_shift`` flip, shift and zoom in one affine resampling, in which the border
    repeats the edge pixels. ``crop_flip_cutout`` keeps the pixels exact, as is usual on CIFAR-10:
    an image padded with black is cropped and flipped, and a square is filled with its mean colour.

    Args:
        images: (N, C, H, W) floats.
        name: one of ``AUGMENTATIONS``, or ``crop_flip_cutout``.
        draws: (4, N), from ``augmentation_noise``; the same draws give the same batch on every
            device, and a part of the batch with its part of the draws gives the same images.

    Raises:
        UserError: unknown name.
    """
    if name not in (*AUGMENTATIONS, CROP_FLIP_CUTOUT):
        names = ", ".join((*AUGMENTATIONS, CROP_FLIP_CUTOUT))
        raise UserError(f"augmentation {name!r} is unknown: use {names}")
    if name == "none":
        return images
    draws = draws.to(images.device)
    if name == CROP_FLIP_CUTOUT:
        return _crop_flip_cutout(images, draws)
    flip, shift, zoom = AUGMENTATIONS[name]
    flips, zooms, right, down = draws
    scale = 1 + zoom * (2 * zooms - 1)
    affine = images.new_zeros(len(images), 2, 3)
    affine[:, 0, 0] = torch.where(flips < flip, -scale, scale)
    affine[:, 1, 1] = scale
    affine[:, 0, 2] = 2 * shift * (2 * right - 1)
    affine[:, 1, 2] = 2 * shift * (2 * down - 1)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _crop_flip_cutout(images: Tensor, draws: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    pad, side = round(CROP * height), round(CUTOUT * height)
    flips, places, right, down = draws
    # Four draws for five choices: the second half of the first one's digits places the square.
    left = flips < 0.5
    # Clamped, since a draw just below 1 may round up.
    rows = (down * (2 * pad + 1)).long().clamp(max=2 * pad)
    columns = (right * (2 * pad + 1)).long().clamp(max=2 * pad)
    middle_row = (places * height).long()
    middle_column = (flips * 2 % 1 * width).long()
    y = torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    from_x = torch.where(left[:, None], width - 1 - x, x) + columns[:, None]
    from_y = y + rows[:, None]
    padded = F.pad(images, (pad,) * 4)
    which = torch.arange(len(images), device=images.device)[:, None, None]
    cropped = padded.permute(0, 2, 3, 1)[which, from_y[:, :, None], from_x[:, None, :]]
    cropped = cropped.permute(0, 3, 1, 2)
    first = side // 2
    in_rows = (y - middle_row[:, None] + first).div(side, rounding_mode="floor") == 0
    in_columns = (x - middle_column[:, None] + first).div(side, rounding_mode="floor") == 0
    hole = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
    return torch.where(hole, images.mean((2, 3), keepdim=True), cropped)
