"""PreAct ResNet-18 for 32-pixel images: the network of Table 3, which timm lacks.

A 3x3 stem at full resolution and four stages of two blocks, so that the maps have 32, 16, 8 and 4
positions a side. In each block, normalisation and ReLU come before the convolution, and the last
map passes through one more of both. Importing this module registers the networks with timm.

Source: He et al. 2016, https://arxiv.org/abs/1603.05027. The paper names the network and nothing
more; the widths are those usual on CIFAR-10.
"""

import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


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
        straight = x if self.shortcut is None else self.shortcut(activated)
        return self.conv2(F.relu(self.bn2(self.conv1(activated)))) + straight


class PreActResNet(nn.Module):
    """PreAct ResNet, with the methods that timm's feature extraction and our models call.

    Args:
        width: channels of the first stage; each further stage has twice as many.
        num_classes: of the linear layer; 0 leaves it out.
    """

    def __init__(self, width: int = 64, num_classes: int = 10, **_):
        super().__init__()
        self.num_classes = num_classes
        widths = [width * 2**stage for stage in range(4)]
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.layers = nn.ModuleList()
        channels = width
        for stage, out in enumerate(widths):
            first = PreActBlock(channels, out, stride=2 if stage else 1)
            self.layers.append(nn.Sequential(first, PreActBlock(out, out, stride=1)))
            channels = out
        self.norm = nn.BatchNorm2d(channels)
        # A layer, so that methods that explain a layer can reach the last map.
        self.act = nn.ReLU()
        self.global_pool = SelectAdaptivePool2d(pool_type="avg", flatten=True)
        self.fc = nn.Linear(channels, num_classes) if num_classes else nn.Identity()
        self.num_features = channels
        self.feature_info = [
            {"num_chs": out, "reduction": 2**stage, "module": f"layers.{stage}"}
            for stage, out in enumerate(widths)
        ]
        self.feature_info[-1]["module"] = "act"
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        """Return the linear layer."""
        return self.fc

    def forward_intermediates(self, x: Tensor, indices=None, intermediates_only=False, **_):
        """Return (last map, maps of the stages ``indices``), the last normalised and activated."""
        wanted = self._stages(indices)
        x, maps = self.conv1(x), []
        for stage, layer in enumerate(self.layers):
            x = layer(x)
            if stage == len(self.layers) - 1:
                x = self.act(self.norm(x))
            if stage in wanted:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(self, indices=None, **_):
        """Drop the classifier, which a feature extractor does not need; return the stages taken."""
        self.fc = nn.Identity()
        return self._stages(indices)

    def _stages(self, indices) -> list[int]:
        count = len(self.layers)
        return [index % count for index in (range(count) if indices is None else indices)]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last map, (N, 8 width, h/8, w/8)."""
        return self.forward_intermediates(x)[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.global_pool(self.forward_features(x)))


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
    """Return PreAct ResNet-18 at a quarter of its width, 16 to 128 channels, for CPUs."""
    return _create("preact_resnet18_quarter", 16, pretrained, **options)
