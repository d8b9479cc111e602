"""Depthwise convolutions that train fast on a CPU.

oneDNN lacks fast kernels for some gradients of a depthwise convolution in the channels-last layout, which take most of
a training step of a mobile network: that of the weights at stride 1 in float32 without AVX-512, and in bfloat16 those
of weights and input of all but kernels up to 3×3 at stride 1. The classes here compute the same gradients: that of the
weights as a sum over the kernel's taps, that of the input as a convolution of the gradient, with zeros inserted for the
stride.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise ``nn.Conv2d``; values and gradients are the same, without oneDNN's slow kernels."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not gains(self, input):
            return super()._conv_forward(input, weight, bias)
        return depthwise(input, weight, bias, self.stride, self.padding)

    def _get_name(self) -> str:
        return nn.Conv2d.__name__  # keeps the model's repr, which identifies it


class DepthwiseConv2dSame(Conv2dSame):
    """`DepthwiseConv2d` for timm's convolution with TensorFlow's padding."""

    def forward(self, x: Tensor) -> Tensor:
        if not gains(self, x):
            return super().forward(x)  # type: ignore[no-untyped-call]
        padded = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        return depthwise(padded, self.weight, self.bias, self.stride, (0, 0))

    def _get_name(self) -> str:
        return Conv2dSame.__name__


FAST: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: DepthwiseConv2d, Conv2dSame: DepthwiseConv2dSame}


def fast_depthwise(trunk: nn.Module) -> None:
    """Replace the class of every depthwise convolution in ``trunk``, in place.

    >>> trunk = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1))
    >>> before = repr(trunk)
    >>> fast_depthwise(trunk)
    >>> [type(layer).__name__ for layer in trunk], repr(trunk) == before
    (['DepthwiseConv2d', 'Conv2d'], True)
    """
    for module in trunk.modules():
        if type(module) in FAST and _is_plain_depthwise(module):
            module.__class__ = FAST[type(module)]


def gains(layer: nn.Conv2d, image: Tensor) -> bool:
    """Whether oneDNN's backward pass is slow for this layer and input."""
    trains = torch.is_grad_enabled() and (layer.weight.requires_grad or image.requires_grad)
    if not trains or image.device.type != "cpu":
        return False
    if torch.is_autocast_enabled("cpu"):
        return layer.stride != (1, 1) or max(layer.kernel_size) > 3
    return layer.stride == (1, 1) and not has_avx512()


@functools.cache
def has_avx512() -> bool:
    """Whether torch uses AVX-512 on this processor."""
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


def depthwise(
    image: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], padding: tuple[int, ...] | str
) -> Tensor:
    """``F.conv2d`` with one group per channel, in autocast's dtype if autocast is enabled.

    Args:
        image: Input (B, C, H, W).
        weight: Kernel (C, 1, k, l).
        bias: Bias (C,), or None.
        stride: Two numbers.
        padding: Two numbers, each less than the kernel's side.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        image, weight = image.to(dtype), weight.to(dtype)
    output = _Depthwise.apply(image, weight, stride, padding)
    return output if bias is None else output + bias.to(output.dtype).view(-1, 1, 1)


def _is_plain_depthwise(layer: Any) -> bool:
    return (
        layer.groups == layer.in_channels == layer.out_channels > 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and all(pad < side for pad, side in zip(layer.padding, layer.kernel_size, strict=True))
    )


class _Depthwise(torch.autograd.Function):
    """y_nchw = Σ_ij w_cij x_n,c,sh+i-p,tw+j-q, with x zero outside."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(image, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        of_image = of_weight = None
        if ctx.needs_input_grad[0]:
            of_image = _of_image(gradient, weight, ctx.stride, ctx.padding, image.shape[2:])
        if ctx.needs_input_grad[1]:
            of_weight = torch.zeros_like(weight)
            rows, columns = image.movedim(1, -1), gradient.movedim(1, -1)  # channels last: one vector per position
            for tap in _taps(weight.shape[2:], ctx.stride, ctx.padding, image.shape[2:], gradient.shape[2:]):
                (i, from_row, to_row), (j, from_column, to_column) = tap
                product = rows[:, from_row, from_column] * columns[:, to_row, to_column]
                of_weight[:, 0, i, j] = product.reshape(-1, product.shape[-1]).sum(0)
        return of_image, of_weight, None, None


def _of_image(gradient: Tensor, weight: Tensor, stride: Any, padding: Any, size: torch.Size) -> Tensor:
    """Transposed convolution: one of stride 1 of the gradient, with zeros inserted for the stride."""
    kernel = weight.shape[2:]
    if stride != (1, 1):
        sides = [side + 2 * pad - taps + 1 for side, pad, taps in zip(size, padding, kernel, strict=True)]
        spread = gradient.new_zeros(*gradient.shape[:2], *sides).contiguous(memory_format=torch.channels_last)
        spread[:, :, :: stride[0], :: stride[1]] = gradient
        gradient = spread
    turned = [taps - 1 - pad for taps, pad in zip(kernel, padding, strict=True)]
    return F.conv2d(gradient, weight.flip(2, 3), None, 1, turned, 1, len(weight))


Span = tuple[int, slice, slice]


def _taps(kernel: Any, stride: Any, padding: Any, inputs: Any, outputs: Any) -> Iterator[tuple[Span, Span]]:
    """All taps that overlap the image: row and column, each with the inputs and outputs that it connects."""
    sides = [
        [span for offset in range(side) if (span := _span(offset, offset - pad, step, size, out)) is not None]
        for side, step, pad, size, out in zip(kernel, stride, padding, inputs, outputs, strict=True)
    ]
    yield from ((row, column) for row in sides[0] for column in sides[1])


def _span(offset: int, shift: int, step: int, size: int, out: int) -> Span | None:
    """Outputs t with 0 ≤ t·step + shift < size, and these inputs."""
    start, stop = max(0, -(shift // step)), min(out, (size - 1 - shift) // step + 1)
    inputs = slice(start * step + shift, (stop - 1) * step + shift + 1, step)
    return (offset, inputs, slice(start, stop)) if start < stop else None
