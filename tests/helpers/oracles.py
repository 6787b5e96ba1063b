"""Networks whose behaviour is known by construction."""

import torch
from torch import nn

from topgap_nb.method.model import MapClassifier
from topgap_nb.method.pooling import TopKPool2d


class Filter(MapClassifier):
    """Class maps that are one convolution after another, without bias."""

    def __init__(self, *kernels, k=1.0):
        super().__init__((0.0,), (1.0,))
        self.head = nn.Sequential(*(_convolution(kernel) for kernel in kernels))
        self.pool = TopKPool2d(k)

    def features(self, images):
        return [images]

    def class_maps(self, images):
        return self.head(images)


def _convolution(kernel):
    out_channels, in_channels, size, _ = kernel.shape
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)
    conv.weight.data.copy_(kernel)
    return conv


class Sees(MapClassifier):
    """Two classes, right on every clean image, and blind outside ``region``.

    Any brightening of the region flips the class; nothing else does. Its class map is 1 on the
    region and 0 elsewhere.
    """

    def __init__(self, images, region):
        super().__init__((0.0,), (1.0,))
        self.clean, self.region = images.mean(1), region.float()
        self.head = nn.Conv2d(1, 1, 1)
        self.pool = TopKPool2d(1.0)

    def features(self, images):
        return [images]

    def class_maps(self, images):
        change = (images.mean(1) - self.clean[: len(images)]) * self.region[: len(images)]
        right = self.region[: len(images)]
        return torch.stack([right, right * (1 - 1e-4) + change], dim=1)
