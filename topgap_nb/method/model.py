"""Networks that classify through class maps: section 3.1 of the paper, and its baseline.

Both networks take images in [0, 1], (N, 3, H, W), and have the same methods:
``features`` -> ``class_maps`` -> ``pool`` -> logits, and ``cam``.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topgap_nb.errors import UserError
from topgap_nb.inputs import as_class_idx
from topgap_nb.method.backbones import create_backbone
from topgap_nb.method.choose_k import make_pool
from topgap_nb.method.pooling import is_average

PYRAMID_WIDTH = 256
# Which of timm's feature maps feed the pyramid; every other backbone gives its last four.
PYRAMID_MAPS = {"vgg11_bn": (2, 3, 4)}


def explanation_map(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps, (N, h, w), upsampled to ``size`` and then each min-max scaled to [0, 1].

    1 is where the evidence is largest. A constant map, or one that is not finite, says nothing
    about position and comes back as zeros.

    Source: paper, section 3.1 (mode "CAM"): bilinear upsampling first, scaling second.
    """
    # Upsampling a constant leaves rounding errors, which scaling would turn into a full map.
    constant = maps.amin((1, 2), keepdim=True) == maps.amax((1, 2), keepdim=True)
    maps = F.interpolate(maps[:, None].float(), size, mode="bilinear")[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    scaled = (maps - low) / (high - low)
    usable = torch.isfinite(scaled).all(dim=(1, 2), keepdim=True) & ~constant
    return torch.where(usable, scaled, 0.0)


def of_class(values: Tensor, logits: Tensor, class_idx: int | Tensor | None) -> Tensor:
    """Return the values, (N, ...) of (N, C, ...), of one class per image; None: the predicted."""
    if class_idx is None:
        class_idx = logits.argmax(1)
    class_idx = as_class_idx(class_idx, len(values), values.shape[1]).to(values.device)
    return values[torch.arange(len(values), device=values.device), class_idx]


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Hold a model in evaluation mode, without parameter gradients; restore both after."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield model.eval().requires_grad_(False)
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, want in wanted:
            parameter.requires_grad_(want)


class MapClassifier(nn.Module):
    """What standard and Top-GAP networks share: logits = pool(class_maps(images)).

    ``pool``, (N, C, h, w) to (N, C), can be swapped on a finished network.

    Args:
        mean, std: of the pixels that the backbone was trained on, per channel.
        only_size: (H, W), where the backbone takes no other; None where it takes any.
    """

    pool: nn.Module

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        only_size: tuple[int, int] | None = None,
    ):
        super().__init__()
        # Attack budgets are stated in [0, 1] pixels, so normalisation belongs to the network.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.only_size = only_size

    def normalised(self, images: Tensor) -> Tensor:
        """Return images in [0, 1] in the units that the backbone was trained in.

        Raises:
            UserError: the backbone takes images of one size only, and not of this one.
        """
        if self.only_size and images.shape[-2:] != self.only_size:
            height, width = self.only_size
            raise UserError(
                f"this backbone takes images of {height} x {width} pixels only, not "
                f"{images.shape[-2]} x {images.shape[-1]}: set image_size, or take another backbone"
            )
        return (images - self.mean) / self.std

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the backbone's feature maps, (N, D, h, w) each, largest first."""
        raise UserError(f"{type(self).__name__} does not say what its feature maps are")

    def class_maps(self, images: Tensor) -> Tensor:
        """Return X^(n+1): one unnormalised map per class, (N, C, h, w), before pooling."""
        raise UserError(f"{type(self).__name__} does not say what its class maps are")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (N, C)."""
        return self.pool(self.class_maps(images))

    @torch.no_grad()
    def cam(self, images: Tensor, class_idx: int | Tensor | None = None) -> Tensor:
        """Return one explanation map per image, (N, H, W) in [0, 1].

        Args:
            images: (N, 3, H, W) in [0, 1].
            class_idx: the class to explain: one for all, (N,) one each, or None for the predicted.

        Source: paper, section 3.1: without pooling, the class map upsampled and min-max scaled.
        For a standard network this is CAM, Definition 3 (Zhou et al. 2016,
        https://arxiv.org/abs/1512.04150).
        """
        with frozen(self):
            maps = self.class_maps(images)
            logits = self.pool(maps)
        return explanation_map(of_class(maps, logits, class_idx), images.shape[-2:])


class PyramidHead(nn.Module):
    """The simplified feature pyramid: feature maps in, class maps out.

    X = W * (sum_i up(K_i * f_i + b_i)) + b with 3x3 kernels K_i (D_i to 256 channels), bilinear
    upsampling to the largest map, and a 1x1 class convolution W. Nothing in it is non-linear, so
    each W K_i can be fused into one 3x3 convolution from D_i to C channels that runs before the
    upsampling: the same maps for less work while C < 256.

    Args:
        channels: D_i of each feature map, largest map first.
        num_classes: C.
        dropout: channel dropout before W, in [0, 1).

    Source: paper, section 3.1 and Figure 2, after feature pyramids (Lin et al. 2017,
    https://arxiv.org/abs/1612.03144). Ours: the fused computation, and a W that starts at zero.
    """

    def __init__(self, channels: list[int], num_classes: int, dropout: float = 0.0):
        super().__init__()
        self.laterals = nn.ModuleList(
            nn.Conv2d(c, PYRAMID_WIDTH, kernel_size=3, padding=1) for c in channels
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(PYRAMID_WIDTH, num_classes, kernel_size=1)
        # On random maps the l1 term would shrink the head before it has learnt.
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    @property
    def is_fused(self) -> bool:
        """Whether ``forward`` takes the fused computation: where it is exact and cheaper."""
        dropping = self.training and self.dropout.p > 0
        return self.classifier.out_channels < PYRAMID_WIDTH and not dropping

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return the class maps, (N, C, h, w), in the size of the largest feature map."""
        return self._fused(features) if self.is_fused else self.unfused(features)

    def unfused(self, features: list[Tensor]) -> Tensor:
        """Return the class maps as the paper draws them, layer by layer."""
        size = features[0].shape[-2:]
        total = sum(
            _upsampled(conv(f), size) for conv, f in zip(self.laterals, features, strict=True)
        )
        return self.classifier(self.dropout(total))

    def _fused(self, features: list[Tensor]) -> Tensor:
        size = features[0].shape[-2:]
        weight = self.classifier.weight.flatten(1)
        bias = self.classifier.bias + weight @ sum(conv.bias for conv in self.laterals)
        total = 0
        for conv, feature in zip(self.laterals, features, strict=True):
            kernel = (weight @ conv.weight.flatten(1)).view(-1, *conv.weight.shape[1:])
            total = total + _upsampled(F.conv2d(feature, kernel, padding=1), size)
        return total + bias.view(1, -1, 1, 1)


def _input_of(net: nn.Module) -> tuple:
    """Return (mean, std, only size) of the images that a timm network takes."""
    config = net.pretrained_cfg
    only_size = tuple(config["input_size"][-2:]) if config.get("fixed_input_size") else None
    return config["mean"], config["std"], only_size


def _channels_first(maps: Tensor, net: nn.Module) -> Tensor:
    """Return feature maps as (N, D, h, w): some of timm's transformers make (N, h, w, D)."""
    return maps.permute(0, 3, 1, 2) if getattr(net, "output_fmt", "") == "NHWC" else maps


def _upsampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if maps.shape[-2:] == size else F.interpolate(maps, size, mode="bilinear")


class TopGapNet(MapClassifier):
    """The paper's network: backbone, simplified pyramid, class maps, top-k pooling.

    Args:
        backbone: a timm architecture with ``features_only`` support.
        num_classes: C.
        k: pixel constraint of the pooling, a count or a float share of the map; ``"auto"`` to
            choose it after training, ``"learnt"`` to learn one per class (see ``choose_k``).
        pretrained: ImageNet weights in the backbone (see ``create_backbone``).
        maps: how many of the backbone's last feature maps feed the pyramid, or timm's indices of
            them; None takes the last four (VGG11-BN: ``PYRAMID_MAPS``).
        dropout: channel dropout before the class convolution, in [0, 1); optional in the paper.

    Raises:
        UserError: an unknown backbone, a ``k`` that fits no map, or no feature map for the pyramid.

    Source: paper, section 3.1, Figure 2, Table 1. Ours: the class convolution starts at zero.

    Example:
        >>> net = TopGapNet("resnet18", num_classes=5, k=64)
        >>> net(torch.rand(2, 3, 64, 64)).shape, net.class_maps(torch.rand(2, 3, 64, 64)).shape
        (torch.Size([2, 5]), torch.Size([2, 5, 16, 16]))
    """

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        k: int | float | str = 1.0,
        pretrained: bool = False,
        maps: int | tuple[int, ...] | None = None,
        dropout: float = 0.0,
    ):
        maps = PYRAMID_MAPS.get(backbone, 4) if maps is None else maps
        if isinstance(maps, int):
            if maps < 1:
                raise UserError(f"maps = {maps}: the pyramid needs at least one feature map")
            maps = range(-maps, 0)
        maps = tuple(maps)
        try:
            net = create_backbone(backbone, pretrained, features_only=True, out_indices=maps)
        except (AssertionError, IndexError) as error:
            raise UserError(
                f"{backbone} has no feature maps {maps} ({error}): give another `maps`, such as 3"
            ) from error
        super().__init__(*_input_of(net))
        self.backbone = net
        self.head = PyramidHead(net.feature_info.channels(), num_classes, dropout)
        self.pool = make_pool(k, num_classes)

    def features(self, images: Tensor) -> list[Tensor]:
        return [_channels_first(f, self.backbone) for f in self.backbone(self.normalised(images))]

    def class_maps(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class StandardNet(MapClassifier):
    """The baseline: the timm network as it is, with the methods of ``TopGapNet``.

    Where the network ends in global average pooling and one linear layer, its class maps are that
    layer applied at every position, and their average is the logits. There ``pool`` is
    ``TopKPool2d(1.0)`` and can be swapped. Other networks (VGG, ConvNeXt) have logits and feature
    maps only: ``pool`` is None and ``class_maps`` raises.

    Args:
        backbone, num_classes, k, pretrained: as in ``TopGapNet``; k = 1.0 is the network as
            published.

    Raises:
        UserError: an unknown backbone, or another k than 1.0 for a network without class maps.

    Source: paper, Definitions 2 (GAP) and 3 (CAM: Zhou et al. 2016,
    https://arxiv.org/abs/1512.04150).
    """

    def __init__(
        self, backbone: str, num_classes: int, k: int | float | str = 1.0, pretrained: bool = False
    ):
        net = create_backbone(backbone, pretrained, num_classes=num_classes)
        super().__init__(*_input_of(net))
        self.net = net
        self.pool = make_pool(k, num_classes) if _ends_in_average_and_linear(net) else None
        if self.pool is None and not is_average(k):
            raise UserError(
                f"{backbone} does not pool class maps: k = {k} needs TopGapNet, or a network that "
                f"ends in average pooling and one linear layer"
            )

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps, largest first; the last is the one the network pools, X^(n)."""
        final, maps = self.net.forward_intermediates(self.normalised(images))
        if final.ndim != 4:
            raise UserError(
                f"{type(self.net).__name__} ends in tokens, not in feature maps (N, D, h, w)"
            )
        return [*maps[:-1], _channels_first(final, self.net)]

    def class_maps(self, images: Tensor) -> Tensor:
        if self.pool is None:
            raise UserError(
                f"{type(self.net).__name__} is not fully convolutional: it has no class maps of "
                f"its own; explain it with grad_cam or recipro_cam"
            )
        return self.maps_of(self.net.forward_features(self.normalised(images)))

    def maps_of(self, final: Tensor) -> Tensor:
        """Return the class maps, (N, C, h, w), of X^(n), (N, D, h, w) (Definition 3)."""
        linear = self.net.get_classifier()
        return F.conv2d(final, linear.weight[:, :, None, None], linear.bias)

    def forward(self, images: Tensor) -> Tensor:
        if self.pool is None:
            return self.net(self.normalised(images))
        return super().forward(images)


def _ends_in_average_and_linear(net: nn.Module) -> bool:
    pooling, linear = getattr(net, "global_pool", None), net.get_classifier()
    if getattr(pooling, "pool_type", None) != "avg" or not isinstance(linear, nn.Linear):
        return False
    # Some networks, such as MobileNetV3, have a convolution between the average and this layer.
    layers = list(net.children())
    after = layers[layers.index(pooling) + 1 :]
    harmless = (nn.Identity, nn.Flatten, nn.Dropout)
    return all(layer is linear or isinstance(layer, harmless) for layer in after)


def build_model(
    head: str, backbone: str, num_classes: int, k: int | float | str = 1.0, pretrained: bool = False
) -> MapClassifier:
    """Return a network by the name of its head, ``"standard"`` or ``"topgap"``."""
    heads = {"standard": StandardNet, "topgap": TopGapNet}
    if head not in heads:
        raise UserError(f"head {head!r} is unknown: use {' or '.join(heads)}")
    return heads[head](backbone, num_classes, k, pretrained)
