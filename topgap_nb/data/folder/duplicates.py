"""Near duplicates: pictures that must not stand on both sides of a split.

Two pictures are near duplicates when small grey copies of them, mirrored or cropped by a few
percent where that brings them closer, are the same but for what compression changes; or when they
are several times closer to each other than to the other pictures that resemble them. So the parts
of a production line, the cells of a panel or the lanes of gels, which all resemble each other, are
no copies, and a photograph cropped anew is.

Measured on made-up parts, panels, gels, weaves and trays of wells, 240 of each: none of the 1,200
is joined to another. Of true copies (compressed anew, at half the size, brighter, of less contrast,
mirrored) all are found, among them and among pets, birds, blood cells and radiographs alike; crops
by up to 6 %, mirrored and compressed too, are found in at least 29 of 30 photographs. Not found:
most crops of such regular scenes, larger crops, turned pictures, other views of the same thing,
and some crops of a picture of which there are more than eight copies.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from topgap_nb.store.cached import cached

THUMBNAIL = 24
# What is left of the correlation, 1 - r: always a copy below SAME; above FAR never one; between
# them a copy where it is at most SHARE of that to the picture's eighth nearest.
SAME, FAR, SHARE, NEIGHBOUR = 0.0005, 0.2, 0.25, 8
CROPS, CORNERS = (0.02, 0.04), (0.0, 0.5, 1.0)
# Crops are tried on so many of the most similar pictures of each.
CANDIDATES, CHUNK = 256, 64


@cached
def near_duplicates(pixels: Tensor) -> list[tuple[int, int]]:
    """Return the pairs (i, j), i < j, of exact and near duplicates, in ascending order.

    Args:
        pixels: uint8 (N, 1 or 3, H, W).
    """
    whole = _unit_vectors(_thumbnails(pixels))
    count = min(CANDIDATES, len(pixels) - 1)
    pairs = set()
    for rows in torch.arange(len(pixels)).split(CHUNK) if count > 0 else ():
        plain, mirrored = pixels[rows], pixels[rows].flip(-1)
        views = torch.stack([*_views(plain), *_views(mirrored)], 1)
        similar = torch.maximum(views[:, 0] @ whole.T, views[:, views.shape[1] // 2] @ whole.T)
        similar[torch.arange(len(rows)), rows] = -torch.inf
        nearest = similar.topk(count).indices
        apart = 1 - (whole[nearest] @ views.mT).amax(2)
        usual = apart.kthvalue(min(NEIGHBOUR, count), dim=1, keepdim=True).values
        copies = (apart <= SAME) | ((apart <= FAR) & (apart <= SHARE * usual))
        for row, column in copies.nonzero().tolist():
            pairs.add(tuple(sorted((int(rows[row]), int(nearest[row, column])))))
    return sorted(pairs)


def _views(pixels: Tensor) -> list[Tensor]:
    """Return unit vectors, (N, 576) each, of the pictures as they are, then of their crops."""
    side, views = pixels.shape[-1], [pixels]
    for share, down, across in product(CROPS, CORNERS, CORNERS):
        cut = round(share * side)
        top, left = round(down * cut), round(across * cut)
        views.append(pixels[..., top : top + side - cut, left : left + side - cut])
    return [_unit_vectors(_thumbnails(view)) for view in views]


def _thumbnails(pixels: Tensor) -> Tensor:
    """Return grey copies, (N, 24, 24)."""
    shape = {"size": (THUMBNAIL, THUMBNAIL), "mode": "bilinear", "antialias": True}
    parts = [F.interpolate(p.float().mean(1, keepdim=True), **shape) for p in pixels.split(1024)]
    return torch.cat(parts)[:, 0]


def _unit_vectors(thumbnails: Tensor) -> Tensor:
    """Return (N, 576): the copies such that their dot product is their correlation."""
    small = thumbnails.flatten(1)
    small = small - small.mean(1, keepdim=True)
    length = small.norm(dim=1, keepdim=True)
    # A flat image correlates with nothing; the same constant makes flat ones alike.
    flat = torch.full_like(small, small.shape[1] ** -0.5)
    return torch.where(length > 1e-3, small / length.clamp(min=1e-3), flat)


def joined(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    """Return a number per image, the same for all images that a chain of pairs joins.

    Example:
        >>> joined(5, [(0, 3), (3, 4)])
        [0, 1, 2, 0, 0]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not pairs:
        return list(range(count))
    first, second = zip(*pairs, strict=True)
    graph = coo_array(([True] * len(pairs), (first, second)), shape=(count, count))
    return connected_components(graph, directed=False)[1].tolist()
