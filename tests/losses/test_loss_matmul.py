"""Products with bf16 inputs: their error against float64, and the fallback to fp32 on hardware without bf16 units."""

import dataclasses
import logging

import pytest
import torch

from helpers.loss_references import UNIT, clip_reference, rounded, siglip_reference, unit_pairs, value_and_gradients
from modiste.errors import ModisteError
from modiste.losses import matmul
from modiste.losses.clip import ClipLoss
from modiste.losses.siglip import SigLipLoss


@pytest.fixture
def units(monkeypatch):
    monkeypatch.setattr(matmul, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(matmul, "BFLOAT16_CPU", UNIT)


def errors(loss, reference, scale):
    """Relative errors of the value and of the gradients of image and text."""
    image, text = (features.float() for features in unit_pairs(300, dim=64, noise=1.5))
    ours = value_and_gradients(lambda x, y: loss(x, y), image, text)
    exact = value_and_gradients(lambda x, y: reference(x, y, torch.tensor(scale)), image.double(), text.double())
    return [float((a - b).norm() / b.norm()) for a, b in zip(ours, exact, strict=True)]


def siglip(image, text, scale):
    return siglip_reference(image, text, scale, torch.tensor(-5.0), None)


@pytest.mark.parametrize(("scale", "bound"), [(14.0, 6e-3), (100.0, 3e-2)])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_error_is_that_of_rounded_inputs_not_of_rounded_logits(units, kind, scale, bound):
    if kind == "clip":
        made = {name: ClipLoss(init_scale=scale, tile=64, matmul_dtype=name) for name in matmul.MATMUL_DTYPES}
        found = {
            name: errors(loss, lambda x, y, s: clip_reference(x, y, s, None), scale) for name, loss in made.items()
        }
    else:
        made = {
            name: SigLipLoss(init_scale=scale, init_bias=-5.0, tile=64, matmul_dtype=name)
            for name in matmul.MATMUL_DTYPES
        }
        found = {name: errors(loss, siglip, scale) for name, loss in made.items()}
    assert max(found["bfloat16"]) <= bound
    assert max(found["float32"]) < 1e-4 < max(found["bfloat16"])  # the option does something


def test_logits_rounded_to_bfloat16_would_be_several_times_worse(units):
    """Why the products have float32 results."""
    scale = 100.0
    logits = matmul.Matmul(lambda a, b, out: out.copy_(torch.mm(rounded(a), rounded(b)).bfloat16()), UNIT.addmm)
    good = errors(
        ClipLoss(init_scale=scale, matmul_dtype="bfloat16"), lambda x, y, s: clip_reference(x, y, s, None), scale
    )
    matmul.BFLOAT16_CPU = logits  # `units` puts it back
    bad = errors(
        ClipLoss(init_scale=scale, matmul_dtype="bfloat16"), lambda x, y, s: clip_reference(x, y, s, None), scale
    )
    assert max(bad[1:]) > 2 * max(good[1:])


@pytest.mark.parametrize("loss", [ClipLoss, SigLipLoss])
def test_without_units_the_products_stay_in_float32_and_it_is_said_once(loss, monkeypatch, caplog):
    monkeypatch.setattr(matmul, "has_bfloat16", lambda device: False)
    matmul._warn.cache_clear()
    image, text = (features.float() for features in unit_pairs(30))
    with caplog.at_level(logging.WARNING):
        found = [value_and_gradients(loss(matmul_dtype="bfloat16"), image, text) for _ in range(2)]
    plain = value_and_gradients(loss(), image, text)
    for values in found:
        assert all(map(torch.equal, values, plain))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no bf16 units" in caplog.text


def test_the_share_of_a_gradient_is_added_in_float32():
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(shape, generator=generator) for shape in ((40, 64), (64, 16), (40, 16)))
    expected = c + rounded(a).double() @ rounded(b).double()
    assert matmul.BFLOAT16_CPU.addmm(c, a, b) is c
    torch.testing.assert_close(c.double(), expected, rtol=2**-8, atol=0.05)
    large = torch.full((1, 1), 1000.0)  # in bfloat16 the sum would stay where it was
    assert float(matmul.BFLOAT16_CPU.addmm(large, torch.ones(1, 1), torch.ones(1, 1))) == 1001.0


def test_features_are_rounded_in_one_process_as_they_are_between_processes(units):
    matmul.BFLOAT16_CPU = dataclasses.replace(matmul.FLOAT32, inputs=torch.bfloat16)  # `units` puts it back
    image, text = (features.float() for features in unit_pairs(30))
    found = value_and_gradients(ClipLoss(matmul_dtype="bfloat16"), image, text)
    expected = value_and_gradients(ClipLoss(), image, rounded(text))
    assert all(map(torch.equal, found, expected))
    assert not torch.equal(text, rounded(text))


def test_float64_stays_float64(units):
    image, text = unit_pairs(30)
    values = [value_and_gradients(ClipLoss(matmul_dtype=kind).double(), image, text) for kind in matmul.MATMUL_DTYPES]
    assert all(map(torch.equal, *values))


def test_the_precision_of_other_products_is_left_as_it_was():
    before = torch.get_float32_matmul_precision()
    a = torch.ones(4, 4)
    matmul.BFLOAT16_CPU.addmm(matmul.BFLOAT16_CPU.mm(a, a, out=torch.empty(4, 4)), a, a)
    assert torch.get_float32_matmul_precision() == before


def test_another_kind_is_a_mistake():
    with pytest.raises(ModisteError, match="Did you mean 'bfloat16'"):
        ClipLoss(matmul_dtype="bfloat61")
