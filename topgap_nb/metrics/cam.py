"""Class activation maps: the network's own, Grad-CAM, and Recipro-CAM in its named variants.

All leave the network's mode and gradients as they were.
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topgap_nb.errors import DegenerateLayer, UserError
from topgap_nb.method.model import MapClassifier, StandardNet, TopGapNet, explanation_map, of_class
from topgap_nb.method.pooling import TopKPool2d, is_average
from topgap_nb.metrics.evaluation import eval_on_device
from topgap_nb.store.cached import cached

# The pyramid's sum, which the class convolution reads.
PYRAMID_SUM = "head.dropout"
GAUSSIAN = ((1, 2, 1), (2, 4, 2), (1, 2, 1))
# How many feature maps with one cell go through the rest of a network at once.
CHUNK = 256


@cached
def own_cam(model: MapClassifier, images: Tensor, class_idx: int | Tensor | None = None) -> Tensor:
    """Return the network's own maps, (N, H, W) in [0, 1], as ``MapClassifier.cam`` makes them."""
    with eval_on_device(model) as place:
        return model.cam(images.to(place), class_idx).to(images.device)


def grad_cam(
    model: MapClassifier,
    images: Tensor,
    class_idx: int | Tensor | None = None,
    layer: str | None = None,
) -> Tensor:
    """Return Grad-CAM maps, (N, H, W) in [0, 1]: ``grad_cam_map``, upsampled and scaled.

    Warns of a ``DegenerateLayer`` where this is the network's own CAM by construction.
    """
    if layer == PYRAMID_SUM and isinstance(model, TopGapNet):
        _warn_degenerate("Grad-CAM", layer, "the network's own CAM up to ReLU, scale and bias")
    return explanation_map(grad_cam_map(model, images, class_idx, layer), images.shape[-2:])


@cached
def grad_cam_map(
    model: MapClassifier,
    images: Tensor,
    class_idx: int | Tensor | None = None,
    layer: str | None = None,
) -> Tensor:
    """Return Grad-CAM in the size of its layer, (N, h, w) >= 0, unscaled.

    ReLU(sum_d a_d X_d) with a_d the mean over positions of the gradient of the class logit with
    respect to channel d of the feature maps X.

    Args:
        model: a network; any module that takes images and returns logits if ``layer`` is given.
        images: (N, 3, H, W) in [0, 1].
        class_idx: the class to explain: one for all, (N,) one each, or None for the predicted.
        layer: name of the module whose output is X, as in ``model.named_modules()``. None is the
            last feature map: the one a standard network pools, or the backbone's.

    Raises:
        UserError: no such layer, or one that does not make one feature map on the way to the
            logits.

    Source: paper, Definition 4; Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391. At the map
    that a standard network pools, ours is h*w times as large.
    """
    with eval_on_device(model) as place:
        pixels = images.to(place)
        if layer is None and _pools_class_maps(model):
            # Whichever positions are pooled, a_d has the sign and the ratios of the class's
            # weights: the map is the class map up to ReLU and bias, from one forward pass.
            with torch.no_grad():
                maps = model.class_maps(pixels)
                evidence = maps - model.net.get_classifier().bias.view(1, -1, 1, 1)
                return F.relu(of_class(evidence, model.pool(maps), class_idx)).to(images.device)
        activations, logits = _run_to(model, pixels, layer or _last_layer(model))
        score = of_class(logits, logits, class_idx).sum()
        (gradient,) = torch.autograd.grad(score, activations)
        with torch.no_grad():
            weights = gradient.mean((2, 3), keepdim=True)
            return F.relu((weights * activations).sum(1)).to(images.device)


def recipro_cam(
    model: MapClassifier,
    images: Tensor,
    class_idx: int | Tensor | None = None,
    layer: str | None = None,
    kernel: str = "plain",
    score: str = "softmax",
) -> Tensor:
    """Return Recipro-CAM maps, (N, H, W) in [0, 1]: ``recipro_cam_map``, upsampled and scaled.

    Warns of a ``DegenerateLayer`` where this is the network's own CAM by construction.
    """
    pooled = layer is None and _pools_class_maps(model) and is_average(model.pool.k)
    if score == "logit" and (pooled or layer == PYRAMID_SUM):
        _warn_degenerate(
            "Recipro-CAM", layer or "the last feature map", "the network's own CAM up to a constant"
        )
    maps = recipro_cam_map(model, images, class_idx, layer, kernel, score)
    return explanation_map(maps, images.shape[-2:])


@cached
def recipro_cam_map(
    model: MapClassifier,
    images: Tensor,
    class_idx: int | Tensor | None = None,
    layer: str | None = None,
    kernel: str = "plain",
    score: str = "softmax",
) -> Tensor:
    """Return Recipro-CAM in the size of its layer, (N, h, w), unscaled.

    For each cell (i, j) of a feature map, everything but that cell is set to zero; the map's value
    there is the score that the rest of the network then gives to the class.

    Args:
        model, images, class_idx, layer: as in ``grad_cam_map``.
        kernel: ``plain`` keeps one cell; ``gaussian`` copies its vector over the 3x3 neighbourhood,
            weighted 1-2-1 by 1-2-1 over 16 and clipped at the border.
        score: ``softmax`` probability of the class (the authors' code) or its ``logit``.

    Raises:
        UserError: unknown ``kernel`` or ``score``, or a layer as in ``grad_cam_map``.

    Source: paper, Table 7, which does not say which variant it used; Byun and Lee 2022,
    https://arxiv.org/abs/2209.14074.
    """
    if kernel not in ("plain", "gaussian") or score not in ("softmax", "logit"):
        raise UserError(
            f"recipro_cam has kernel 'plain' or 'gaussian' and score 'softmax' or 'logit', "
            f"not {kernel!r} and {score!r}"
        )
    with eval_on_device(model) as place, torch.no_grad():
        pixels = images.to(place)
        if layer is None and _pools_class_maps(model):
            final = model.net.forward_features(model.normalised(pixels))
            maps = model.maps_of(final)
            logits = model.pool(maps)
            if is_average(model.pool.k):
                cells = _averaged_cells(model, maps, kernel)
            else:
                cells = _single_cells(final, lambda _, row: model.pool(model.maps_of(row)), kernel)
        else:
            layer = layer or _last_layer(model)
            final, logits = _run_to(model, pixels, layer)
            cells = _single_cells(final, partial(_run_from, model, pixels, layer), kernel)
        if score == "softmax":
            cells = cells.softmax(1)
        return of_class(cells, logits, class_idx).to(images.device)


def _averaged_cells(model: StandardNet, maps: Tensor, kernel: str) -> Tensor:
    """Return cell scores (N, C, h, w) from class maps alone: averaging is linear."""
    bias = model.net.get_classifier().bias.view(1, -1, 1, 1)
    positions = maps.shape[-2] * maps.shape[-1]
    share = maps.new_ones(1, 1, *maps.shape[-2:])
    if kernel == "gaussian":
        share = F.conv2d(share, _gaussian(maps), padding=1)
    return (maps - bias) * share / positions + bias


def _single_cells(final: Tensor, rest: Callable, kernel: str) -> Tensor:
    """Return cell scores (N, C, h, w): ``rest(image, mosaics)``, a logit row per mosaic."""
    count, _, height, width = final.shape
    cells = torch.eye(height * width, device=final.device).view(-1, 1, height, width)
    if kernel == "gaussian":
        cells = F.conv2d(cells, _gaussian(cells), padding=1)
    scores = []
    for index in range(count):
        # The vector is the cell's own, also where the Gaussian spreads it.
        vectors = final[index].flatten(1).T[:, :, None, None]
        for vector, cell in zip(vectors.split(CHUNK), cells.split(CHUNK), strict=True):
            scores.append(rest(index, vector * cell))
    return torch.cat(scores).view(count, height, width, -1).permute(0, 3, 1, 2)


def _run_from(model: nn.Module, images: Tensor, layer: str, index: int, mosaics: Tensor) -> Tensor:
    """Return the logits of an image with the output of ``layer`` replaced, a row per mosaic."""
    image = images[index : index + 1]
    run = partial(_hooked, model, layer, lambda module, inputs, output: mosaics)
    try:
        # One image serves all mosaics where what bypasses the layer is only added to.
        return run(image)
    except RuntimeError:
        return run(image.expand(len(mosaics), -1, -1, -1))


def _gaussian(like: Tensor) -> Tensor:
    return like.new_tensor(GAUSSIAN)[None, None] / 16


def _run_to(model: nn.Module, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Return (the output of ``layer``, logits), with a graph from the one to the other."""
    outputs = []

    def keep(module, inputs, output):
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise UserError(f"layer {layer!r} does not output one feature map (N, D, h, w)")
        outputs.append(output.detach().requires_grad_())
        # A copy, because an activation in place may follow and a leaf must not be written to.
        return outputs[-1].clone()

    with torch.enable_grad():
        logits = _hooked(model, layer, keep, images)
    if not outputs:
        raise UserError(f"layer {layer!r} takes no part in computing this network's logits")
    return outputs[-1], logits


def _hooked(model: nn.Module, layer: str, hook, images: Tensor) -> Tensor:
    modules = dict(model.named_modules())
    if layer not in modules:
        some = ", ".join(name for name in modules if name.count(".") == 1) or ", ".join(modules)
        raise UserError(f"the network has no layer {layer!r}; some that it has: {some}")
    handle = modules[layer].register_forward_hook(hook)
    try:
        if isinstance(model, TopGapNet) and layer.startswith("head."):
            # The fused head runs none of its layers.
            return model.pool(model.head.unfused(model.features(images)))
        return model(images)
    finally:
        handle.remove()


def _pools_class_maps(model: nn.Module) -> bool:
    return isinstance(model, StandardNet) and isinstance(model.pool, TopKPool2d)


def _last_layer(model: MapClassifier) -> str:
    if isinstance(model, StandardNet):
        return f"net.{model.net.feature_info[-1]['module']}"
    names = {name for name, _ in model.backbone.named_modules()}
    module = model.backbone.feature_info.module_name()[-1]
    # timm's feature extractors keep the names of some networks, flatten those of others ("stages.3"
    # becomes "stages_3"), and put further ones into a "model".
    possible = (module, module.replace(".", "_"), f"model.{module}")
    return f"backbone.{next(name for name in possible if name in names)}"


def _warn_degenerate(method: str, layer: str, same: str) -> None:
    warnings.warn(
        f"{method} at {layer} is {same}: compare at a backbone layer of the standard network",
        DegenerateLayer,
        stacklevel=3,
    )
