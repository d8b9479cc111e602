"""SigLipLoss: exact value and gradients, multi-positive labels, scale and bias."""

import math

import pytest
import torch
from torch.nn import functional as F

from helpers.loss_references import product_ids, siglip_reference, twenty_steps, unit_pairs, value_and_gradients
from modiste.losses.base import Origin
from modiste.losses.build import build_loss
from modiste.losses.siglip import SigLipLoss


def tiled(loss: SigLipLoss, product_id=None, dtype=torch.float64):
    """The loss as a function of image, text, log-scale and bias."""

    def function(image, text, logit_scale, logit_bias):
        parameters = {"logit_scale": logit_scale, "logit_bias": logit_bias}
        return torch.func.functional_call(loss, parameters, (image.to(dtype), text.to(dtype), product_id))

    return function


def reference(product_id):
    return lambda x, y, s, b: siglip_reference(x, y, s.exp(), b, product_id)


@pytest.mark.parametrize("products", [None, 23, 5, 1], ids=lambda p: f"{p}-products")
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (14.3, 0.0), (100.0, -3.0)])
@pytest.mark.parametrize("tile", [1, 7, 23, 64])
def test_value_and_gradients_equal_the_full_matrix(tile, scale, bias, products):
    """Also where the last tile is short (23 = 3·7 + 2), one tile holds all, and all pairs are one product."""
    image, text = unit_pairs(23)
    ids = None if products is None else product_ids(23, products)
    inputs = image, text, torch.tensor(math.log(scale)).double(), torch.tensor(bias).double()
    ours = value_and_gradients(tiled(SigLipLoss(tile=tile).double(), ids), *inputs)
    torch.testing.assert_close(ours, value_and_gradients(reference(ids), *inputs), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("scale", "tolerance"), [(10.0, 2e-6), (100.0, 2e-5)])
def test_float32_gradients_keep_their_digits(scale, tolerance):
    image, text = (features.float() for features in unit_pairs(300, dim=64))
    inputs = image, text, torch.tensor(math.log(scale)), torch.tensor(-5.7)
    ours = value_and_gradients(tiled(SigLipLoss(tile=64), dtype=torch.float32), *inputs)
    exact = value_and_gradients(reference(None), *(tensor.double() for tensor in inputs))
    for name, got, expected in zip(["value", "image", "text", "scale", "bias"], ours, exact, strict=True):
        assert (got.double() - expected).norm() <= tolerance * expected.norm(), name


@pytest.mark.parametrize("ids", [None, torch.tensor([4, 4, 9, 4, 9])], ids=["none", "multi"])
def test_gradcheck(ids):
    scalars = [torch.tensor(value, dtype=torch.float64) for value in (1.5, -0.7)]
    inputs = [tensor.requires_grad_() for tensor in (*unit_pairs(5, dim=3), *scalars)]
    assert torch.autograd.gradcheck(tiled(SigLipLoss(tile=2).double(), ids), inputs)


@pytest.mark.parametrize("wanted", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 1, 1, 0)])
def test_only_the_wanted_gradients(wanted):
    """With a frozen tower, scale or bias the remaining gradients are the same."""
    values = *unit_pairs(11), torch.tensor(2.0).double(), torch.tensor(-1.0).double()
    function = tiled(SigLipLoss(tile=4).double())
    everything = value_and_gradients(function, *values)[1:]
    inputs = [tensor.clone().requires_grad_(bool(needed)) for tensor, needed in zip(values, wanted, strict=True)]
    function(*inputs).backward()
    for tensor, needed, expected in zip(inputs, wanted, everything, strict=True):
        assert (tensor.grad is not None) == bool(needed)
        if needed:
            torch.testing.assert_close(tensor.grad, expected)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_identical_pairs_cost_their_analytic_value(n):
    """One positive and N-1 negatives an image, all with logit z = s + b."""
    same = F.normalize(torch.ones(n, 4), dim=1)
    loss = SigLipLoss(init_scale=4.0, init_bias=-3.0, tile=4)
    expected = math.log1p(math.exp(-1.0)) + (n - 1) * math.log1p(math.exp(1.0))
    assert loss(same, same).item() == pytest.approx(expected, rel=1e-5)
    one_product = torch.full((n,), 5)
    assert loss(same, same, one_product).item() == pytest.approx(n * math.log1p(math.exp(-1.0)), rel=1e-5)


def test_equals_open_clip():
    open_clip_loss = pytest.importorskip("open_clip.loss")
    image, text = (features.float() for features in unit_pairs(40, dim=16))
    inputs = image, text, torch.tensor(math.log(10.0)), torch.tensor(-10.0)
    ours = value_and_gradients(tiled(SigLipLoss(tile=16), dtype=torch.float32), *inputs)
    theirs = value_and_gradients(lambda x, y, s, b: open_clip_loss.SigLipLoss()(x, y, s.exp(), b), *inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


SIGLIP = {"_target_": "modiste.losses.siglip.SigLipLoss"}


def test_where_it_begins():
    """Bias log(p/(1-p)), p = 1/batch: the first loss is near that of a perfect prior, not of N confident negatives."""
    loss = build_loss(SIGLIP, Origin(global_batch=1024))
    assert loss.scale.item() == pytest.approx(10.0)
    assert torch.sigmoid(loss.logit_bias).item() == pytest.approx(1 / 1024, rel=1e-5)
    loss = build_loss(SIGLIP, Origin(117.3, -12.9, 1024))  # SigLIP B/16's own
    loss.clamp()
    assert (loss.scale.item(), loss.logit_bias.item()) == pytest.approx((117.3, -12.9), rel=1e-5)
    assert math.isfinite(build_loss(SIGLIP, Origin(global_batch=1)).logit_bias.item())
    given = {"init_scale": 20.0, "init_bias": -4.0, "max_scale": 30.0}
    chosen = build_loss(SIGLIP | given, Origin(117.3, -12.9, 8))
    assert (chosen.scale.item(), chosen.logit_bias.item()) == pytest.approx((20.0, -4.0))
    chosen.logit_scale.data.fill_(9.0)
    chosen.clamp()
    assert chosen.scale.item() == pytest.approx(30.0)


def test_twenty_steps_of_sgd_lower_the_loss():
    loss = build_loss(SIGLIP | {"tile": 20}, Origin(global_batch=48))
    values = twenty_steps(loss)
    assert values[-1] < 0.8 * values[0]
