"""PreAct ResNet-18 for 32-pixel images: the network of Table 3, which timm lacks.

A 3x3 stem at full resolution and four stages of two blocks, so maps of 32, 16, 8 and 4 positions a
side; in each block, normalisation and ReLU come before the convolution, and the last map passes
through one more of both. Importing this module makes the networks known to timm.

Source: He et al., Identity mappings in deep residual networks, 2016; the paper names the network
and nothing more. The widths are those usual on CIFAR-10.
"""

import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
BLOCKS = 2


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after normalisation and ReLU, added to the shortcut."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut = None
        if stride > 1 or channels != width:
            self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(activated)
        return self.conv2(F.relu(self.bn2(self.conv1(activated)))) + kept


class PreActResNet(nn.Module):
    """The network, with the methods that timm's feature extraction and our models call.

    Args:
        width: channels of the first stage; each further stage has twice as many.
        num_classes: of the linear layer; 0 leaves it out.
        in_chans: channels of the image.
    """

    def __init__(self, width: int = 64, num_classes: int = 10, in_chans: int = 3, **_):
        super().__init__()
        self.num_classes = num_classes
        widths = [width * 2**stage for stage in range(4)]
        self.conv1 = nn.Conv2d(in_chans, width, 3, 1, 1, bias=False)
        self.layers = nn.ModuleList()
        channels = width
        for stage, out in enumerate(widths):
            blocks = []
            for block in range(BLOCKS):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(PreActBlock(channels, out, stride))
                channels = out
            self.layers.append(nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(channels)
        self.global_pool = SelectAdaptivePool2d(pool_type="avg", flatten=True)
        self.fc = nn.Linear(channels, num_classes) if num_classes else nn.Identity()
        self.num_features = channels
        self.feature_info = [
            {"num_chs": out, "reduction": 2**stage, "module": f"layers.{stage}"}
            for stage, out in enumerate(widths)
        ]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        """Return the linear layer."""
        return self.fc

    def forward_intermediates(
        self, x: Tensor, indices=None, norm: bool = True, intermediates_only: bool = False, **_
    ):
        """Return (last map, maps of the stages ``indices``), as timm's networks do.

        The last stage's map is the normalised and activated one, which the classifier reads.
        """
        wanted = self._stages(indices)
        x, maps = self.conv1(x), []
        for stage, layer in enumerate(self.layers):
            x = layer(x)
            if stage == len(self.layers) - 1:
                x = F.relu(self.norm(x))
            if stage in wanted:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(self, indices=1, prune_norm: bool = False, prune_head=True):
        """Drop the classifier, which a feature extractor does not need; return the stages taken."""
        if prune_head:
            self.fc = nn.Identity()
        return self._stages(indices)

    def _stages(self, indices) -> list[int]:
        count = len(self.layers)
        if indices is None or isinstance(indices, int):
            return list(range(count))[-(indices or count) :]
        return [index % count for index in indices]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last map, (N, 8 width, h/8, w/8)."""
        return self.forward_intermediates(x, indices=1)[0]

    def forward_head(self, x: Tensor) -> Tensor:
        """Return the logits of the last map."""
        return self.fc(self.global_pool(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


_CONFIG = {
    "num_classes": 10, "input_size": (3, 32, 32), "mean": CIFAR10_MEAN, "std": CIFAR10_STD,
    "first_conv": "conv1", "classifier": "fc", "license": "mit",
}  # fmt: skip
default_cfgs = generate_default_cfgs(
    {"preact_resnet18.untrained": _CONFIG, "preact_resnet18_quarter.untrained": _CONFIG}
)


def _create(name: str, width: int, pretrained: bool, **options) -> nn.Module:
    features = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
    return build_model_with_cfg(
        PreActResNet, name, pretrained, feature_cfg=features, width=width, **options
    )


@register_model
def preact_resnet18(pretrained: bool = False, **options) -> nn.Module:
    """Return PreAct ResNet-18, 64 to 512 channels."""
    return _create("preact_resnet18", 64, pretrained, **options)


@register_model
def preact_resnet18_quarter(pretrained: bool = False, **options) -> nn.Module:
    """Return PreAct ResNet-18 at a quarter of its width, 16 to 128 channels: for a CPU."""
    return _create("preact_resnet18_quarter", 16, pretrained, **options)
