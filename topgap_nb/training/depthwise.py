"""Depthwise convolutions whose backward pass is fast on a CPU.

The library's gradients of depthwise convolutions fall to slow kernels in places: the weight
gradient of 5x5 kernels on small maps, and without AVX-512 that of all kernels on small maps and the
input gradient at stride 2. Together they take a sixth to a third of a training step of the
EfficientNets. Written as sums over the kernel's offsets, one multiplication of shifted maps each,
they take a fraction of it (benchmarks/model.py).
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn


def _by_hand(kernel: int, stride: int, positions: int) -> tuple[bool, bool]:
    """Return whether the sums beat the library for (input, weight); measured, see the benchmark."""
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        return False, kernel >= 5 and positions <= 144
    return stride > 1, positions <= 49


def _overlaps(kernel: int, stride: int, size: int, padding: int) -> Iterator[tuple]:
    """Yield (offset, output slice, input slice) along one axis: where the kernel meets the map."""
    outputs = (size + 2 * padding - kernel) // stride + 1
    for offset in range(kernel):
        shift = offset - padding
        first = max(0, -(shift // stride))
        last = min(outputs - 1, (size - 1 - shift) // stride)
        if first <= last:
            start = first * stride + shift
            stop = last * stride + shift + 1
            yield offset, slice(first, last + 1), slice(start, stop, stride)


def _meetings(images: Tensor, weight: Tensor, stride: int, padding: int) -> Iterator[tuple]:
    """Yield (kernel offset, its outputs, the inputs it meets there), each along both axes."""
    rows = list(_overlaps(weight.shape[-2], stride, images.shape[-2], padding))
    columns = list(_overlaps(weight.shape[-1], stride, images.shape[-1], padding))
    for i, out_rows, in_rows in rows:
        for j, out_columns, in_columns in columns:
            yield (i, j), (slice(None), out_rows, out_columns), (slice(None), in_rows, in_columns)


def image_gradient(
    gradient: Tensor, images: Tensor, weight: Tensor, stride: int, padding: int
) -> Tensor:
    """Return the gradient of a depthwise convolution's images, (N, C, H, W), as a sum by offset."""
    g = gradient.permute(0, 2, 3, 1)
    spread = torch.zeros_like(images.permute(0, 2, 3, 1))
    for (i, j), outputs, inputs in _meetings(images, weight, stride, padding):
        spread[inputs] += g[outputs] * weight[:, 0, i, j]
    return spread.permute(0, 3, 1, 2)


def weight_gradient(
    gradient: Tensor, images: Tensor, weight: Tensor, stride: int, padding: int
) -> Tensor:
    """Return the gradient of its kernels, (C, 1, h, w), offset by offset."""
    x, g = images.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    found = torch.zeros_like(weight)
    for (i, j), outputs, inputs in _meetings(images, weight, stride, padding):
        found[:, 0, i, j] = (g[outputs] * x[inputs]).sum((0, 1, 2))
    return found


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(images, weight, stride=stride, padding=padding, groups=len(weight))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        images, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        faster = _by_hand(weight.shape[-1], stride, gradient.shape[-1] * gradient.shape[-2])
        by_hand = [n and f for n, f in zip(ctx.needs_input_grad, faster, strict=False)]
        by_library = [n and not h for n, h in zip(ctx.needs_input_grad, by_hand, strict=False)]
        to_images = to_weight = None
        if any(by_library):
            to_images, to_weight, _ = torch.ops.aten.convolution_backward(
                gradient, images, weight, None, [stride] * 2, [padding] * 2, [1, 1], False,
                [0, 0], len(weight), [*by_library, False],
            )  # fmt: skip
        if by_hand[0]:
            to_images = image_gradient(gradient, images, weight, stride, padding)
        if by_hand[1]:
            to_weight = weight_gradient(gradient, images, weight, stride, padding)
        return to_images, to_weight, None, None


class _DepthwiseConv2d(nn.Conv2d):
    def forward(self, images: Tensor) -> Tensor:
        if images.is_cuda or images.dtype != self.weight.dtype:
            return super().forward(images)
        return _DepthwiseConv.apply(images, self.weight, self.stride[0], self.padding[0])


class _DepthwiseConv2dSame(Conv2dSame):
    def forward(self, images: Tensor) -> Tensor:
        if images.is_cuda or images.dtype != self.weight.dtype:
            return super().forward(images)
        padded = pad_same(images, self.kernel_size, self.stride, self.dilation)
        return _DepthwiseConv.apply(padded, self.weight, self.stride[0], 0)


def speed_up_depthwise(model: nn.Module) -> nn.Module:
    """Give the model's depthwise convolutions the fast backward pass, in place.

    Outputs are the same to the bit; gradients agree to rounding. Modules keep their names and
    parameters. On a GPU, or in mixed precision, the library's path runs.
    """
    faster = {nn.Conv2d: _DepthwiseConv2d, Conv2dSame: _DepthwiseConv2dSame}
    for module in model.modules():
        if type(module) in faster and _plainly_depthwise(module):
            module.__class__ = faster[type(module)]
    return model


def _plainly_depthwise(conv: nn.Conv2d) -> bool:
    return (
        conv.groups == conv.in_channels == conv.out_channels > 1
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and conv.dilation == (1, 1)
        and conv.stride[0] == conv.stride[1]
        and not isinstance(conv.padding, str)
        and conv.padding[0] == conv.padding[1]
    )
