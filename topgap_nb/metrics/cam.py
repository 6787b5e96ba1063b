"""Class activation maps: the network's own, Grad-CAM, LayerCAM, and Recipro-CAM's variants.

All leave the network's mode and gradients as they were.
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topgap_nb.errors import DegenerateLayer, UserError
from topgap_nb.inputs import as_logits, gated
from topgap_nb.method.model import MapClassifier, StandardNet, TopGapNet, explanation_map, of_class
from topgap_nb.method.pooling import TopKPool2d, is_average
from topgap_nb.metrics.evaluation import eval_on_device
from topgap_nb.store.cached import cached

# The pyramid's sum, which the class convolution reads.
PYRAMID_SUM = "head.dropout"
GAUSSIAN = ((1, 2, 1), (2, 4, 2), (1, 2, 1))
# How many feature maps with one cell go through the rest of a network at once.
CHUNK = 256


@gated
def own_cam(
    model: MapClassifier,
    images: Tensor,
    class_idx: int | Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Return the network's own maps, (N, H, W) in [0, 1], as ``MapClassifier.cam`` makes them.

    Args:
        model, images, class_idx: as in ``own_map``.
        relu: keep only the evidence for the class, as Grad-CAM does: only then are the two
            comparable in sparsity.
    """
    maps = own_map(model, images, class_idx)
    return explanation_map(maps.clamp(min=0) if relu else maps, images.shape[-2:])


@gated
@cached
def own_map(model: MapClassifier, images: Tensor, class_idx: int | Tensor | None = None) -> Tensor:
    """Return the class map of one class per image, (N, h, w), unscaled and of both signs.

    Args:
        model: a network with class maps.
        images: (N, 3, H, W) in [0, 1].
        class_idx: the class to explain: one for all, (N,) one each, or None for the predicted.

    Raises:
        UserError: a network without class maps.

    Source: paper, section 3.1.
    """
    if not isinstance(model, MapClassifier):
        raise UserError(
            f"a {type(model).__name__} has no map of its own: explain it with grad_cam or "
            f"recipro_cam"
        )
    with eval_on_device(model) as place, torch.no_grad():
        maps = model.class_maps(images.to(place))
        return of_class(maps, model.pool(maps), class_idx).to(images.device)


@gated
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


@gated
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
        activations, gradient = _gradient_at(model, pixels, class_idx, layer)
        weights = gradient.mean((2, 3), keepdim=True)
        return F.relu((weights * activations).sum(1)).to(images.device)


@gated
def layer_cam(
    model: MapClassifier,
    images: Tensor,
    class_idx: int | Tensor | None = None,
    layer: str | None = None,
) -> Tensor:
    """Return LayerCAM maps, (N, H, W) in [0, 1]: ``layer_cam_map``, upsampled and scaled."""
    return explanation_map(layer_cam_map(model, images, class_idx, layer), images.shape[-2:])


@gated
@cached
def layer_cam_map(
    model: MapClassifier,
    images: Tensor,
    class_idx: int | Tensor | None = None,
    layer: str | None = None,
) -> Tensor:
    """Return LayerCAM in the size of its layer, (N, h, w) >= 0, unscaled.

    ReLU(sum_d ReLU(g_d) * X_d) with g_d the gradient of the class logit with respect to channel d
    of the feature maps X: Grad-CAM with a weight for each position, made for fine layers.

    Args and errors as in ``grad_cam_map``.

    Source: Jiang et al. 2021, https://doi.org/10.1109/TIP.2021.3089943.
    """
    with eval_on_device(model) as place:
        activations, gradient = _gradient_at(model, images.to(place), class_idx, layer)
        return F.relu((F.relu(gradient) * activations).sum(1)).to(images.device)


@gated
def layer_of_size(model: MapClassifier, images: Tensor, size: tuple[int, int]) -> str:
    """Return the name of the layer that makes the feature map of a size, for ``grad_cam``.

    With the size of a Top-GAP network's class maps, the standard network is explained as finely.

    Args:
        model: a standard or a Top-GAP network.
        images: (N, 3, H, W) in [0, 1]; the first is used.
        size: (h, w) of the wanted map.

    Raises:
        UserError: no feature map of that size; the message lists those that there are.
    """
    if not isinstance(model, MapClassifier):
        raise UserError(f"a {type(model).__name__} does not say what its feature maps are")
    with eval_on_device(model) as place, torch.no_grad():
        sizes = [tuple(maps.shape[-2:]) for maps in model.features(images[:1].to(place))]
    if tuple(size) not in sizes:
        there = ", ".join(f"{height} x {width}" for height, width in sizes)
        raise UserError(f"no feature map of {size[0]} x {size[1]}: this network has {there}")
    # Counted from the end: a network may give fewer maps than its backbone knows.
    return _feature_layer(model, sizes.index(tuple(size)) - len(sizes))


@gated
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


@gated
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
            layer = layer or _feature_layer(model)
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

    def replace(module, inputs, output):
        is_last = _is_channels_last(model, output, image)
        return mosaics.permute(0, 2, 3, 1) if is_last else mosaics

    run = partial(_hooked, model, layer, replace)
    try:
        # One image serves all mosaics where what bypasses the layer is only added to.
        return run(image)
    except RuntimeError:
        return run(image.expand(len(mosaics), -1, -1, -1))


def _gaussian(like: Tensor) -> Tensor:
    return like.new_tensor(GAUSSIAN)[None, None] / 16


def _run_to(model: nn.Module, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Return (the output of ``layer`` as (N, D, h, w), logits), with a graph between the two."""
    outputs = []

    def keep(module, inputs, output):
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise UserError(f"layer {layer!r} does not output one feature map (N, D, h, w)")
        is_last = _is_channels_last(model, output, images)
        output = output.permute(0, 3, 1, 2) if is_last else output
        outputs.append(output.detach().requires_grad_())
        # A copy, because an activation in place may follow and a leaf must not be written to.
        return (outputs[-1].permute(0, 2, 3, 1) if is_last else outputs[-1]).clone()

    with torch.enable_grad():
        logits = as_logits(_hooked(model, layer, keep, images), len(images))
    if not outputs:
        raise UserError(f"layer {layer!r} takes no part in computing this network's logits")
    return outputs[-1], logits


def _gradient_at(model: nn.Module, images: Tensor, class_idx, layer) -> tuple[Tensor, Tensor]:
    """Return (the output of ``layer``, the gradient of the class logits by it), (N, D, h, w)."""
    activations, logits = _run_to(model, images, layer or _feature_layer(model))
    score = of_class(logits, logits, class_idx).sum()
    (gradient,) = torch.autograd.grad(score, activations)
    return activations.detach(), gradient


def _is_channels_last(model: nn.Module, output: Tensor, images: Tensor) -> bool:
    """Return whether a layer's output is (N, h, w, D): the two sides of a map are as the image's.

    Where both or neither pair of dimensions is, timm's ``output_fmt`` decides.
    """
    height, width = images.shape[-2:]
    first, last = (output.shape[i] * width == output.shape[i + 1] * height for i in (1, 2))
    if first != last:
        return first
    formats = (m.output_fmt for m in model.modules() if hasattr(m, "output_fmt"))
    return next(formats, "") == "NHWC"


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


def _feature_layer(model: MapClassifier, index: int = -1) -> str:
    """Return the name of the layer that makes a feature map, by default the last."""
    if isinstance(model, StandardNet):
        return f"net.{model.net.feature_info[index]['module']}"
    if not isinstance(model, TopGapNet):
        raise UserError(
            f"the last feature map of a {type(model).__name__} is not known: name its layer, one "
            f"of `model.named_modules()`"
        )
    names = {name for name, _ in model.backbone.named_modules()}
    module = model.backbone.feature_info.module_name()[index]
    # timm's feature extractors keep the names of some networks, flatten those of others ("stages.3"
    # becomes "stages_3"), and put further ones into a "model".
    possible = (module, module.replace(".", "_"), f"model.{module}")
    return f"backbone.{next(name for name in possible if name in names)}"


def _warn_degenerate(method: str, layer: str, same: str) -> None:
    warnings.warn(
        f"{method} at {layer} is {same}: compare at a backbone layer of the standard network",
        DegenerateLayer,
        # Past this function, the one that warns, and the gate.
        stacklevel=4,
    )
