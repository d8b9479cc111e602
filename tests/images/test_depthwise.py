"""The depthwise convolution gives the values and gradients of torch's own."""

import copy

import pytest
import torch
from torch import nn

from modiste.images.depthwise import DepthwiseConv2d, fast_depthwise


def pair(kernel, padding, bias=False, channels=6):
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, channels, kernel, padding=padding, groups=channels, bias=bias).double()
    fast = copy.deepcopy(plain)
    fast_depthwise(fast)
    assert type(fast) is DepthwiseConv2d
    return plain, fast


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    ("kernel", "padding", "size"),
    [(3, 1, (7, 5)), (5, 2, (2, 2)), (5, 2, (1, 3)), (3, 0, (6, 4)), ((3, 5), (1, 2), (4, 9)), (5, 4, (3, 3))],
)
def test_values_and_gradients_are_those_of_torch(kernel, padding, size, layout, bias):
    plain, fast = pair(kernel, padding, bias)
    image = torch.randn(3, 6, *size, dtype=torch.float64).contiguous(memory_format=layout)
    found = []
    for layer in (plain, fast):
        pixels = image.clone().requires_grad_()
        output = layer(pixels)
        (output * torch.arange(output.numel()).view_as(output).sin()).sum().backward()
        found.append([output, pixels.grad, *(parameter.grad for parameter in layer.parameters())])
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_frozen_layer_still_passes_the_gradient_on():
    plain, fast = pair(3, 1)
    gradients = []
    for layer in (plain, fast):
        layer.requires_grad_(False)
        pixels = torch.ones(1, 6, 4, 4, dtype=torch.float64, requires_grad=True)
        layer(pixels).square().sum().backward()
        gradients.append(pixels.grad)
    torch.testing.assert_close(*gradients)


def test_strided_dilated_and_dense_convolutions_are_left_alone():
    layers = [
        nn.Conv2d(4, 4, 3, stride=2, groups=4),
        nn.Conv2d(4, 4, 3, dilation=2, groups=4),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4),
    ]
    trunk = nn.Sequential(*layers)
    fast_depthwise(trunk)
    assert {type(layer) for layer in trunk} == {nn.Conv2d}


def test_the_weights_and_the_name_stay():
    plain, fast = pair(3, 1)
    assert repr(fast) == repr(plain)
    assert fast.state_dict().keys() == plain.state_dict().keys()
    assert type(copy.deepcopy(fast)) is DepthwiseConv2d
