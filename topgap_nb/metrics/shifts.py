"""Distribution shifts of test images: other backgrounds, and corruptions of graded severity."""

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from topgap_nb.data.image_set import ImageSet
from topgap_nb.errors import UserError
from topgap_nb.inputs import gated

BACKGROUNDS = ("other", "grey", "noise")
# Five severities each, mild to severe, in the units of the transforms' parameters.
CORRUPTIONS = {
    "noise": (0.04, 0.06, 0.09, 0.13, 0.18),
    "blur": (0.6, 0.9, 1.3, 1.8, 2.5),
    "contrast": (0.7, 0.5, 0.35, 0.22, 0.12),
    "jpeg": (40, 25, 15, 10, 6),
}


@gated
def replace_background(images: ImageSet, kind: str, seed: int = 0) -> Tensor:
    """Return the images with everything outside their masks replaced, (N, 3, H, W) in [0, 1].

    Args:
        images: a data set with masks.
        kind: ``other`` takes the pixels of another image of the set, ``grey`` is 0.5 everywhere,
            ``noise`` is a grey level uniform in [0, 1], drawn for each pixel.
        seed: of the noise, and of which image is combined with which.

    Raises:
        UserError: unknown kind, images without masks, or a single image for ``other``.
    """
    if kind not in BACKGROUNDS:
        raise UserError(f"background {kind!r} is unknown: use {', '.join(BACKGROUNDS)}")
    if not images.has_masks:
        raise UserError(f"not every image of {images.name!r} has a mask: pass `.with_masks()`")
    clean = images.images
    generator = torch.Generator().manual_seed(seed)
    if kind == "other":
        if len(images) < 2:
            raise UserError("background 'other' needs at least two images")
        order = torch.randperm(len(images), generator=generator)
        partner = torch.empty_like(order)
        # Each image takes from its neighbour in a random circle, never from itself.
        partner[order] = order.roll(1)
        background = clean[partner]
    elif kind == "grey":
        background = torch.full_like(clean, 0.5)
    else:
        background = torch.rand(len(images), 1, *clean.shape[-2:], generator=generator)
    return torch.where(images.masks[:, None], clean, background)


@gated
def corrupted(images: Tensor, kind: str, severity: int, seed: int = 0) -> Tensor:
    """Return corrupted images, (N, 3, H, W) in [0, 1], by torchvision's transforms and Pillow.

    Args:
        images: (N, 3, H, W) in [0, 1].
        kind: one of ``CORRUPTIONS``: Gaussian noise, Gaussian blur, lower contrast, JPEG.
        severity: 1 (mild) to 5 (severe).
        seed: of the noise.

    Raises:
        UserError: unknown kind or severity.

    Source: after ImageNet-C (Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261); the
    strengths are ours.
    """
    if kind not in CORRUPTIONS or severity not in range(1, 6):
        raise UserError(
            f"corruption {kind!r} at severity {severity} is unknown: use "
            f"{', '.join(CORRUPTIONS)} at 1 to 5"
        )
    strength = CORRUPTIONS[kind][severity - 1]
    if kind == "noise":
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
        return (images + strength * noise).clamp(0, 1)
    if kind == "blur":
        size = 2 * round(3 * strength) + 1
        return v2.functional.gaussian_blur(images, [size, size], [strength, strength])
    if kind == "contrast":
        return v2.functional.adjust_contrast(images, strength)
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return torch.stack([_through_jpeg(image, strength) for image in pixels])


def _through_jpeg(image: np.ndarray, quality: int) -> Tensor:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return v2.functional.to_dtype(v2.functional.pil_to_tensor(Image.open(buffer)), scale=True)
