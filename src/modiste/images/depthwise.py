"""Depthwise convolutions that train fast on a CPU.

oneDNN has no fast kernel for the weight gradient of a depthwise convolution in the channels-last layout: it takes most
of a training step of a mobile network. `DepthwiseConv2d` gives the same gradient as a sum over the kernel's taps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise ``nn.Conv2d`` of stride 1; values and gradients are the same, the backward pass on CPUs is faster."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        trains = torch.is_grad_enabled() and weight.requires_grad
        if not trains or input.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return super()._conv_forward(input, weight, bias)
        output = _Depthwise.apply(input, weight, self.padding)
        return output if bias is None else output + bias.view(-1, 1, 1)

    def _get_name(self) -> str:
        return nn.Conv2d.__name__  # it is the same layer: a model's repr, which identifies it, stays what it was


def fast_depthwise(trunk: nn.Module) -> None:
    """Makes every depthwise convolution of stride 1 in ``trunk`` a `DepthwiseConv2d`, in place.

    >>> trunk = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1))
    >>> before = repr(trunk)
    >>> fast_depthwise(trunk)
    >>> [type(layer).__name__ for layer in trunk], repr(trunk) == before
    (['DepthwiseConv2d', 'Conv2d'], True)
    """
    for module in trunk.modules():
        if type(module) is nn.Conv2d and _is_plain_depthwise(module):
            module.__class__ = DepthwiseConv2d


def _is_plain_depthwise(layer: nn.Conv2d) -> bool:
    return (
        layer.groups == layer.in_channels == layer.out_channels > 1
        and layer.stride == layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and all(pad < side for pad, side in zip(layer.padding, layer.kernel_size, strict=True))
    )


class _Depthwise(torch.autograd.Function):
    """y_nchw = Σ_ij w_cij x_n,c,h+i-p,w+j-q, with x zero outside."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.padding = padding
        return F.conv2d(image, weight, None, 1, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        of_image = of_weight = None
        if ctx.needs_input_grad[0]:
            height, width = (side - 1 - pad for side, pad in zip(weight.shape[2:], ctx.padding, strict=True))
            of_image = F.conv2d(gradient, weight.flip(2, 3), None, 1, (height, width), 1, len(weight))
        if ctx.needs_input_grad[1]:
            of_weight = torch.zeros_like(weight)
            rows, columns = image.movedim(1, -1), gradient.movedim(1, -1)  # channels last: one vector a position
            for tap in _taps(weight.shape[2:], ctx.padding, image.shape[2:], gradient.shape[2:]):
                (i, from_row, to_row), (j, from_column, to_column) = tap
                product = rows[:, from_row, from_column] * columns[:, to_row, to_column]
                of_weight[:, 0, i, j] = product.reshape(-1, product.shape[-1]).sum(0)
        return of_image, of_weight, None


Span = tuple[int, slice, slice]


def _taps(kernel: Any, padding: Any, inputs: Any, outputs: Any) -> Iterator[tuple[Span, Span]]:
    """Every tap that meets the image: its row and column, each with the inputs and the outputs that it joins."""
    sides = [
        [span for offset in range(side) if (span := _span(offset, offset - pad, size, out)) is not None]
        for side, pad, size, out in zip(kernel, padding, inputs, outputs, strict=True)
    ]
    yield from ((row, column) for row in sides[0] for column in sides[1])


def _span(offset: int, shift: int, size: int, out: int) -> Span | None:
    start, stop = max(0, -shift), min(out, size - shift)
    return (offset, slice(start + shift, stop + shift), slice(start, stop)) if start < stop else None
