"""Class activation maps: the network's own, Grad-CAM, and Recipro-CAM in its named variants.

All return (N, H, W) in [0, 1], upsampled first and min-max scaled second, and leave the network's
mode and gradients as they were.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topgap_nb.errors import UserError
from topgap_nb.measures.frozen import measured
from topgap_nb.method.model import MapClassifier, StandardNet, TopGapNet, explanation_map
from topgap_nb.method.pooling import TopKPool2d, is_average

# The pyramid's sum, which the class convolution reads.
PYRAMID_SUM = "head.dropout"
GAUSSIAN = ((1, 2, 1), (2, 4, 2), (1, 2, 1))


class DegenerateLayer(UserWarning):
    """At this layer two methods are the same map by construction; a gap between them is noise."""


def own_cam(model: MapClassifier, images: Tensor, class_idx: int | Tensor | None = None) -> Tensor:
    """Return the network's own explanation maps, (N, H, W) in [0, 1].

    Source: paper, section 3.1, mode "CAM"; for a standard network Definition 3.
    """
    with measured(model) as place:
        return model.cam(images.to(place), class_idx).to(images.device)


def grad_cam(
    model: MapClassifier,
    images: Tensor,
    class_idx: int | Tensor | None = None,
    layer: str | None = None,
) -> Tensor:
    """Return Grad-CAM maps, (N, H, W) in [0, 1].

    ReLU(sum_d a_d X_d) with a_d the mean over positions of the gradient of the class logit with
    respect to channel d of the feature maps X.

    Args:
        model: a network; any module that takes images and returns logits if ``layer`` is given.
        images: (N, 3, H, W) in [0, 1].
        class_idx: the class to explain: one for all, (N,) one each, or None for the predicted.
        layer: name of the module whose output is X, as in ``model.named_modules()``. None is the
            last feature map: the one a standard network pools, or the backbone's. On a standard
            network with class maps this is their map up to ReLU and bias (its gradient has the
            same sign and mean whichever positions are pooled), and is computed so: one forward
            pass.

    Source: paper, Definition 4.
    """
    if layer == PYRAMID_SUM and isinstance(model, TopGapNet):
        _warn_degenerate("Grad-CAM", layer, "the network's own CAM up to ReLU, scale and bias")
    home = images.device
    with measured(model) as place:
        images = images.to(place)
        if layer is None and _pools_class_maps(model):
            with torch.no_grad():
                maps = model.class_maps(images)
                chosen = _chosen(model.pool(maps), class_idx)
                evidence = _pick(maps, chosen) - model.net.get_classifier().bias[chosen, None, None]
            return explanation_map(F.relu(evidence), images.shape[-2:]).to(home)
        activations, logits = _run_to(model, images, layer or _last_layer(model))
        chosen = _chosen(logits, class_idx)
        (gradient,) = torch.autograd.grad(_pick(logits, chosen).sum(), activations)
        with torch.no_grad():
            weights = gradient.mean((2, 3), keepdim=True)
            maps = F.relu((weights * activations).sum(1))
    return explanation_map(maps.detach(), images.shape[-2:]).to(home)


def recipro_cam(
    model: MapClassifier,
    images: Tensor,
    class_idx: int | Tensor | None = None,
    layer: str | None = None,
    mask: str = "plain",
    score: str = "softmax",
    chunk: int = 256,
) -> Tensor:
    """Return Recipro-CAM maps, (N, H, W) in [0, 1].

    For each cell (i, j) of a feature map, everything but that cell is set to zero; the map's value
    there is what the rest of the network then says of the class.

    Args:
        model, images, class_idx, layer: as in ``grad_cam``.
        mask: ``plain`` keeps one cell; ``gaussian`` copies its vector over the 3x3 neighbourhood,
            weighted 1-2-1 by 1-2-1 over 16 and clipped at the border.
        score: ``softmax`` probability of the class (the authors' code) or its ``logit``.
        chunk: how many masked feature maps go through the rest of the network at once.

    Source: paper, Table 7, which does not say which variant it used; name yours beside the numbers.

    Raises:
        UserError: unknown ``mask`` or ``score``.
    """
    if mask not in ("plain", "gaussian") or score not in ("softmax", "logit"):
        raise UserError(
            f"recipro_cam has mask 'plain' or 'gaussian' and score 'softmax' or 'logit', "
            f"not {mask!r} and {score!r}"
        )
    pooled = layer is None and _pools_class_maps(model)
    averaged = pooled and is_average(model.pool.k)
    if score == "logit" and (averaged or layer == PYRAMID_SUM):
        _warn_degenerate(
            "Recipro-CAM", layer or "the last feature map", "the network's own CAM up to a constant"
        )
    home = images.device
    with measured(model) as place, torch.no_grad():
        images = images.to(place)
        if averaged:
            logits, cells = _closed_cells(model, images, mask)
        elif pooled:
            final = model.net.forward_features(model.normalised(images))
            logits = model.pool(model.maps_of(final))
            rest = _PooledRest(model)
            cells = _masked_cells(final, rest, mask, chunk)
        else:
            layer = layer or _last_layer(model)
            final, logits = _run_to(model, images, layer)
            cells = _masked_cells(final, _Rest(model, images, layer), mask, chunk)
        if score == "softmax":
            cells = cells.softmax(1)
    maps = _pick(cells, _chosen(logits, class_idx))
    return explanation_map(maps, images.shape[-2:]).to(home)


def _closed_cells(model: StandardNet, images: Tensor, mask: str) -> tuple[Tensor, Tensor]:
    """Return (logits, cell scores (N, C, h, w)) without a mosaic: averaging is linear."""
    maps = model.class_maps(images)
    bias = model.net.get_classifier().bias.view(1, -1, 1, 1)
    positions = maps.shape[-2] * maps.shape[-1]
    share = maps.new_ones(1, 1, *maps.shape[-2:])
    if mask == "gaussian":
        share = F.conv2d(share, _kernel(maps), padding=1)
    return model.pool(maps), (maps - bias) * share / positions + bias


def _masked_cells(final: Tensor, rest, mask: str, chunk: int) -> Tensor:
    """Return cell scores (N, C, h, w): ``rest(image, mosaics)``, a logit row per mosaic."""
    count, _, height, width = final.shape
    cells = torch.eye(height * width, device=final.device).view(-1, 1, height, width)
    if mask == "gaussian":
        cells = F.conv2d(cells, _kernel(cells), padding=1)
    scores = []
    for index in range(count):
        for part in range(0, len(cells), chunk):
            # The kept vector is the cell's own, also where the Gaussian spreads it.
            rows = final[index].flatten(1).T[part : part + chunk, :, None, None]
            scores.append(rest(index, rows * cells[part : part + chunk]))
    return torch.cat(scores).view(count, height, width, -1).permute(0, 3, 1, 2)


class _PooledRest:
    """What a standard network makes of its last feature map."""

    def __init__(self, model: StandardNet):
        self.model = model

    def __call__(self, index: int, mosaics: Tensor) -> Tensor:
        return self.model.pool(self.model.maps_of(mosaics))


class _Rest:
    """What a network makes of the output of ``layer``, with an image's own output replaced."""

    def __init__(self, model: nn.Module, images: Tensor, layer: str):
        self.model, self.images, self.layer = model, images, layer
        self.expand = False

    def __call__(self, index: int, mosaics: Tensor) -> Tensor:
        image = self.images[index : index + 1]
        if not self.expand:
            # One image serves all mosaics as long as what goes around the layer is only added to.
            try:
                return self._run(image, mosaics)
            except RuntimeError:
                self.expand = True
        return self._run(image.expand(len(mosaics), -1, -1, -1), mosaics)

    def _run(self, images: Tensor, mosaics: Tensor) -> Tensor:
        return _hooked(self.model, self.layer, lambda module, inputs, output: mosaics, images)


def _kernel(like: Tensor) -> Tensor:
    return like.new_tensor(GAUSSIAN)[None, None] / 16


def _run_to(model: nn.Module, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Return (the output of ``layer``, logits), with a graph from the one to the other."""
    kept = []

    def keep(module, inputs, output):
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise UserError(f"layer {layer!r} does not put out one feature map (N, D, h, w)")
        kept.append(output.detach().requires_grad_())
        # A copy, because an activation in place may follow and a leaf must not be written to.
        return kept[-1].clone()

    with torch.enable_grad():
        logits = _hooked(model, layer, keep, images)
    if not kept:
        raise UserError(f"layer {layer!r} takes no part in computing this network's logits")
    return kept[-1], logits


def _hooked(model: nn.Module, layer: str, hook, images: Tensor) -> Tensor:
    modules = dict(model.named_modules())
    if layer not in modules:
        near = ", ".join(name for name in modules if name.count(".") == 1) or ", ".join(modules)
        raise UserError(f"the network has no layer {layer!r}; some that it has: {near}")
    handle = modules[layer].register_forward_hook(hook)
    try:
        if isinstance(model, TopGapNet) and layer.startswith("head."):
            # The folded head runs none of its layers.
            return model.pool(model.head.unfolded(model.features(images)))
        return model(images)
    finally:
        handle.remove()


def _pools_class_maps(model: nn.Module) -> bool:
    return isinstance(model, StandardNet) and isinstance(model.pool, TopKPool2d)


def _last_layer(model: MapClassifier) -> str:
    """Return the name of the module that makes the backbone's last feature map."""
    net, prefix = (model.net, "net.") if isinstance(model, StandardNet) else (model.backbone, "")
    info = net.feature_info
    if prefix:
        return prefix + info[-1]["module"]
    names = [name for name, _ in net.named_modules()]
    module = info.module_name()[-1]
    # timm's feature extractors flatten some networks: "layer4" stays, "stages.3" is "stages_3".
    flat = module if module in names else module.replace(".", "_")
    return f"backbone.{flat}"


def _chosen(logits: Tensor, class_idx: int | Tensor | None) -> Tensor:
    if class_idx is None:
        return logits.argmax(1)
    return torch.as_tensor(class_idx, device=logits.device).expand(len(logits))


def _pick(values: Tensor, chosen: Tensor) -> Tensor:
    return values[torch.arange(len(values), device=values.device), chosen]


def _warn_degenerate(method: str, layer: str, same: str) -> None:
    warnings.warn(
        f"{method} at {layer} is {same}: compare at a backbone layer of the standard network",
        DegenerateLayer,
        stacklevel=3,
    )
