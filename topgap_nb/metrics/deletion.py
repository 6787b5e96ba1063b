"""What the decision rests on: pixels are deleted, and the class is asked for again.

k positions of a class map are not k pixels, because every position sees a large part of the image.
Keeping only a region, ``~region`` deleted, shows whether it is enough; deleting it, whether it is
needed. Both mean something only beside the same with ``moved_masks``, of the same shape.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from topgap_nb.errors import UserError
from topgap_nb.inputs import gated
from topgap_nb.method.model import MapClassifier
from topgap_nb.method.pooling import TopKPool2d, pixel_constraint
from topgap_nb.metrics.cam import own_map
from topgap_nb.metrics.scores import predict
from topgap_nb.store.cached import cached


def _mean(images: Tensor) -> Tensor:
    return images.mean((2, 3), keepdim=True).expand_as(images)


def _blur(images: Tensor) -> Tensor:
    width, height = images.shape[-1], images.shape[-2]
    kernel = [2 * (side // 4) + 1 for side in (width, height)]
    return gaussian_blur(images, kernel, [side / 8 for side in (width, height)])


FILLS = {"mean": _mean, "blur": _blur}


@gated
@cached
def survives(model: nn.Module, images: Tensor, masks: Tensor, fill: str = "mean") -> Tensor:
    """Return whether the predicted class stays when pixels are deleted: (N,) bool.

    Args:
        model: any classifier of images in [0, 1].
        images: (N, 3, H, W) in [0, 1].
        masks: (N, H, W) bool, True where pixels are deleted: ``top_pixels(cams, 0.1)`` deletes a
            tenth, ``~top_pixels(cams, 0.1)`` keeps nothing else.
        fill: what stands there instead: each image's ``mean`` colour, or the image under a Gaussian
            ``blur`` with a standard deviation of an eighth of its sides.

    Raises:
        UserError: another ``fill``.

    Source: Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421, who follow the probability of
    the class instead.
    """
    if fill not in FILLS:
        raise UserError(f"fill {fill!r} is unknown: use {', '.join(FILLS)}")
    deleted = torch.where(masks[:, None], FILLS[fill](images), images)
    return predict(model, images).argmax(1) == predict(model, deleted).argmax(1)


@gated
def top_pixels(cams: Tensor, share: float, seed: int = 0) -> Tensor:
    """Return the pixels with the highest values of each map, (N, H, W) bool.

    Args:
        cams: (N, H, W) in [0, 1].
        share: of the pixels, in [0, 1]; rounded to the nearest count.
        seed: of the order among equal values, so that an empty map is a random choice.

    Raises:
        UserError: ``share`` out of range.
    """
    if not 0 <= share <= 1:
        raise UserError(f"share = {share!r} is not a number in [0, 1]")
    values = cams.flatten(1)
    draw = torch.rand(values.shape, generator=torch.Generator().manual_seed(seed))
    shuffled = draw.argsort(1).to(values.device)
    ranked = values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    first = shuffled.gather(1, ranked[:, : round(share * values.shape[1])])
    return torch.zeros_like(values, dtype=torch.bool).scatter(1, first, True).view_as(cams)


@gated
def winning_cells(
    model: MapClassifier, images: Tensor, class_idx: int | Tensor | None = None
) -> Tensor:
    """Return the pixels under the k positions that top-k pooling averages, (N, H, W) bool.

    Args:
        model: a network that pools its class maps by top-k.
        images, class_idx: as in ``own_map``.

    Raises:
        UserError: another network.

    Source: paper, Definition 5, whose k positions are read as pixels there.
    """
    pool = getattr(model, "pool", None)
    if not isinstance(pool, TopKPool2d):
        raise UserError(f"a {type(model).__name__} does not pool k positions of class maps")
    maps = own_map(model, images, class_idx)
    values = maps.flatten(1)
    winners = values.topk(pixel_constraint(pool.k, values.shape[1])).indices
    cells = torch.zeros_like(values).scatter(1, winners, 1.0).view_as(maps)
    return F.interpolate(cells[:, None], images.shape[-2:], mode="nearest-exact")[:, 0] > 0
