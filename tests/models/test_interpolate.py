"""Interpolated weights are (1 − alpha)·first + alpha·second, exactly; adapters fold into what they adapt."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from helpers.commands import TINY
from modiste.config import compose
from modiste.errors import ModisteError
from modiste.models.finetune import fold_adapters
from modiste.models.interpolate import check_architecture, interpolate
from modiste.models.load import build_model


def network(seed):
    """With batch normalisation that has seen data, so that its statistics and counter are its own."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    for _ in range(1 + seed):
        net(torch.randn(2, 3, 8, 8) * (1 + seed))
    return net


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


@pytest.fixture
def ends():
    first, second = network(0).state_dict(), network(1).state_dict()
    for side, sign in ((first, -1.0), (second, 1.0)):
        side["odd"] = torch.tensor([-0.0, 0.0, float("inf"), sign, 1e-45])  # what arithmetic does not leave alone
        side["half"] = torch.tensor([1.0, 3.0]).bfloat16() * sign
        side["flag"] = torch.tensor([sign > 0])
    return first, second


@pytest.mark.parametrize("alpha", [0, 1, 0.0, 1.0])
def test_the_ends_are_the_two_models_bit_for_bit_and_copies(ends, alpha):
    end = ends[int(alpha)]
    merged = interpolate(*ends, alpha)
    assert list(merged) == list(ends[0])
    for name, tensor in merged.items():
        assert tensor.dtype == end[name].dtype
        assert bits(tensor) == bits(end[name]), name
        assert tensor.data_ptr() != end[name].data_ptr()


@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.5, 1 / 3, 0.9])
def test_between_them_every_floating_tensor_is_the_float64_mean_rounded_once(ends, alpha):
    merged = interpolate(*ends, alpha)
    for name, tensor in merged.items():
        first, second = (end[name] for end in ends)
        if not tensor.is_floating_point():
            continue
        mean = (1 - alpha) * first.double().numpy() + alpha * second.double().numpy()
        expected = torch.from_numpy(np.asarray(mean)).to(first.dtype)
        assert tensor.dtype == first.dtype
        assert torch.equal(tensor, expected), name
    assert {"1.running_mean", "1.running_var"} <= merged.keys()
    assert not torch.equal(merged["1.running_var"], ends[0]["1.running_var"])


@pytest.mark.parametrize(("alpha", "end"), [(0.4, 0), (0.5, 1), (0.6, 1)])
def test_counters_and_flags_are_copied_from_the_nearer_side(ends, alpha, end):
    merged = interpolate(*ends, alpha)
    assert int(merged["1.num_batches_tracked"]) == (1, 2)[end]
    assert torch.equal(merged["flag"], ends[end]["flag"])


def test_the_sides_are_left_as_they_were(ends):
    before = copy.deepcopy(ends)
    merged = interpolate(*ends, 0.5)
    merged["0.weight"].zero_()
    assert all(bits(now[name]) == bits(then[name]) for now, then in zip(ends, before, strict=True) for name in then)


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan")])
def test_an_alpha_outside_is_one_sentence(ends, alpha):
    with pytest.raises(ModisteError, match=r"outside \[0, 1\]"):
        interpolate(*ends, alpha)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"w": torch.zeros(3)}, r"'w' is float32 \(2,\) in the first and float32 \(3,\) in the second"),
        ({"w": torch.zeros(2).half()}, "float16"),
        ({"v": torch.zeros(2)}, "absent in the second"),
        ({"w": torch.zeros(2), "v": torch.zeros(2)}, "'v' is absent in the first"),
    ],
)
def test_other_architectures_are_one_sentence_with_the_first_difference(other, message):
    with pytest.raises(ModisteError, match=message):
        interpolate({"w": torch.zeros(2)}, other, 0.5)


def test_modules_of_equal_weights_that_compute_other_things_are_told_apart_but_not_by_their_dropout():
    def layers(activation, rate):
        return nn.Sequential(nn.Linear(2, 2), activation, nn.Dropout(rate))

    check_architecture(layers(nn.GELU(), 0.1), layers(nn.GELU(), 0.25))
    with pytest.raises(ModisteError, match=r"GELU\(approximate='tanh'\)"):
        check_architecture(layers(nn.GELU(), 0.1), layers(nn.GELU(approximate="tanh"), 0.1))


def test_folded_adapters_change_nothing_that_the_model_computes():
    words = [*TINY, "run_dir=x", "tune.image.train=lora", "tune.text.train=lora", "tune.text.rank=2"]
    model = build_model(compose("train", words)).eval()
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    pixels, tokens = torch.rand(3, 3, 32, 32), model.tokenizer(["a red dress", "jeans"])
    with torch.no_grad():
        before = model.encode_image(pixels), model.encode_text(tokens)
        bare = copy.deepcopy(model)
        for name, parameter in bare.named_parameters():
            if ".lora_B" in name:
                parameter.zero_()
        assert (bare.encode_text(tokens) - before[1]).abs().max() > 1e-3, "the adapters do nothing"
        fold_adapters(model)
        after = model.encode_image(pixels), model.encode_text(tokens)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    check_architecture(model, build_model(compose("train", [*TINY, "run_dir=x"])))
