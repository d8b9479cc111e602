"""The depthwise convolution gives the values and gradients of torch's own."""

import copy
import itertools

import pytest
import torch
from timm.layers import Conv2dSame, pad_same
from torch import nn

import modiste.images.depthwise
from modiste.images.depthwise import DepthwiseConv2d, DepthwiseConv2dSame, depthwise, fast_depthwise


@pytest.fixture(autouse=True)
def without_avx512(monkeypatch):
    """So that float32 and float64 take the own way on every processor."""
    monkeypatch.setattr(modiste.images.depthwise, "has_avx512", lambda: False)


def pair(kernel, padding, bias=False, channels=6, stride=1):
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels, bias=bias).double()
    fast = copy.deepcopy(plain)
    fast_depthwise(fast)
    assert type(fast) is DepthwiseConv2d
    return plain, fast


def same(kernel, stride, channels=6):
    torch.manual_seed(0)
    plain = Conv2dSame(channels, channels, kernel, stride, groups=channels)
    fast = copy.deepcopy(plain)
    fast_depthwise(fast)
    assert type(fast) is DepthwiseConv2dSame
    return plain, fast


def takes_own_way(output):
    """Whether our backward pass made a tensor."""
    nodes = [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if "Depthwise" in type(node).__name__:
            return True
        nodes += [following for following, _ in node.next_functions if following is not None]
    return False


def step(layer, image):
    """Output, and the gradients of the input and the parameters."""
    return gradients_of(layer, image, layer.parameters())


def own_step(plain, image, padding, prepare=lambda pixels: pixels):
    """`step` by our way, with the weights of a plain layer."""
    weight, bias = (parameter.detach().requires_grad_() for parameter in plain.parameters())
    return gradients_of(lambda x: depthwise(prepare(x), weight, bias, plain.stride, padding), image, (weight, bias))


def gradients_of(function, image, parameters):
    pixels = image.clone().requires_grad_()
    output = function(pixels)
    (output * torch.arange(output.numel()).view_as(output).sin()).sum().backward()
    return [output, pixels.grad, *(parameter.grad for parameter in parameters)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    ("kernel", "padding", "size"),
    [(3, 1, (7, 5)), (5, 2, (2, 2)), (5, 2, (1, 3)), (3, 0, (6, 4)), ((3, 5), (1, 2), (4, 9)), (5, 4, (3, 3))],
)
def test_values_and_gradients_are_those_of_torch(kernel, padding, size, layout, bias):
    plain, fast = pair(kernel, padding, bias)
    image = torch.randn(3, 6, *size, dtype=torch.float64).contiguous(memory_format=layout)
    torch.testing.assert_close(step(fast, image), step(plain, image), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize(
    ("kernel", "padding", "size"), [(3, 1, (7, 5)), (5, 2, (8, 6)), (3, 0, (9, 4)), ((3, 5), (1, 2), (4, 9))]
)
def test_strides_and_rows_that_no_window_reaches(kernel, padding, size, stride):
    """Compared in float64; the layer itself takes this way with a stride only in reduced precision."""
    plain, _ = pair(kernel, padding, bias=True, stride=stride)
    image = torch.randn(3, 6, *size, dtype=torch.float64)
    expected = step(plain, image)
    torch.testing.assert_close(own_step(plain, image, plain.padding), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("make", [lambda stride: pair(5, 2, stride=stride), lambda stride: same(5, stride)])
def test_in_bfloat16_it_is_as_near_to_float32_as_torchs_own(make, stride):
    """The reference is torch's step in float32 on the values that bfloat16 holds."""
    plain, fast = (layer.float() for layer in make(stride))
    with torch.no_grad():
        for layer in (plain, fast):
            layer.weight.copy_(layer.weight.bfloat16())
            if layer.bias is not None:
                layer.bias.copy_(layer.bias.bfloat16())
    image = torch.randn(4, 6, 9, 11).bfloat16().float()
    expected = step(plain, image)
    with torch.autocast("cpu", torch.bfloat16):
        plain.zero_grad(set_to_none=True)
        found, torchs = step(fast, image), step(plain, image)
    assert found[0].dtype == torchs[0].dtype == torch.bfloat16
    for exact, ours, theirs in zip(expected, found, torchs, strict=True):
        assert (ours - exact).norm() <= 1.5 * (theirs - exact).norm() + 2**-9 * exact.norm()


@pytest.mark.parametrize("avx512", [False, True])
@pytest.mark.parametrize("make", [lambda k, stride: pair(k, k // 2, stride=stride), lambda k, stride: same(k, stride)])
def test_the_own_way_is_taken_where_torchs_is_slow(monkeypatch, make, avx512):
    """Frozen weights pass a gradient on, too."""
    monkeypatch.setattr(modiste.images.depthwise, "has_avx512", lambda: avx512)
    image = torch.randn(2, 6, 9, 8, requires_grad=True)
    taken = set()
    for kernel, stride, reduced in itertools.product((3, 5), (1, 2), (False, True)):
        layer = make(kernel, stride)[1].float()
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            own = takes_own_way(layer(image))
            layer.requires_grad_(False)
            assert takes_own_way(layer(image)) == own
            assert layer(image.detach()).grad_fn is None
        if own:
            taken.add((kernel, stride, "bf16" if reduced else "fp32"))
    float32 = set() if avx512 else {(3, 1, "fp32"), (5, 1, "fp32")}
    assert taken == {(3, 2, "bf16"), (5, 1, "bf16"), (5, 2, "bf16")} | float32


@pytest.mark.parametrize("stride", [1, 2])
def test_timms_padding_as_tensorflow_pads(stride):
    """The layer, and our way by itself, which with a stride the layer takes in reduced precision only."""
    plain, fast = (layer.double() for layer in same(3, stride))
    image = torch.randn(2, 6, 7, 8, dtype=torch.float64)
    expected = step(plain, image)
    torch.testing.assert_close(step(fast, image), expected)
    own = own_step(plain, image, (0, 0), lambda pixels: pad_same(pixels, [3, 3], [stride, stride]))
    torch.testing.assert_close(own, expected)
    assert repr(fast) == repr(plain)


def test_a_frozen_layer_still_passes_the_gradient_on():
    plain, fast = pair(3, 1)
    gradients = []
    for layer in (plain, fast):
        layer.requires_grad_(False)
        pixels = torch.ones(1, 6, 4, 4, dtype=torch.float64, requires_grad=True)
        layer(pixels).square().sum().backward()
        gradients.append(pixels.grad)
    torch.testing.assert_close(*gradients)


def test_dilated_and_dense_convolutions_are_left_alone():
    layers = [
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
