"""Values and gradients of the losses on the card are float64's, as far as the precision of their products allows."""

import math

import pytest
import torch
from torch.nn import functional as F

from helpers.loss_references import clip_reference, product_ids, siglip_reference, unit_pairs, value_and_gradients
from modiste.losses.clip import ClipLoss
from modiste.losses.gcl import GclLoss
from modiste.losses.matryoshka import MatryoshkaLoss
from modiste.losses.siglip import SigLipLoss

N, DIM, TILE = 301, 64, 128  # uneven tiles
DIMS = [16, 64]
SCALE, BIAS = 20.0, -5.0
LIMITS = {"fp32": 1e-5, "tf32": 5e-3, "bf16": 3e-2}
"""Largest relative error of the value and of each gradient."""


def prefixes(reference):
    """The same reference on each prefix, summed."""

    def total(image, text, *more):
        return sum(reference(F.normalize(image[:, :d], dim=1), F.normalize(text[:, :d], dim=1), *more) for d in DIMS)

    return total


def fields(device):
    """Two text fields of each product, one of them half as heavy."""
    index = torch.stack([torch.arange(N), torch.arange(N).roll(1)], dim=1)
    return {"index": index.to(device), "weight": torch.tensor([1.0, 0.5], device=device)}


def gcl_reference(image, text, scale, ids):
    """The weighted mean of the fields' losses."""
    return (clip_reference(image, text, scale, ids) + 0.5 * clip_reference(image, text.roll(1, 0), scale, ids)) / 1.5


LOSSES = {
    "clip": (lambda **o: ClipLoss(tile=TILE, **o), clip_reference),
    "clip, logits computed again": (lambda **o: ClipLoss(tile=TILE, logits_cache_mib=0, **o), clip_reference),
    "siglip": (lambda **o: SigLipLoss(tile=TILE, **o), siglip_reference),
    "gcl": (lambda **o: GclLoss(tile=TILE, fused=0.0, **o), gcl_reference),
    "matryoshka": (lambda **o: MatryoshkaLoss(ClipLoss(tile=TILE, **o), DIMS), prefixes(clip_reference)),
}


@pytest.fixture(params=["fp32", "tf32", "bf16"])
def precision(request):
    """How float32 matrices are multiplied."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if request.param == "tf32" else "highest")
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("products", [None, 40], ids=["one positive", "several"])
@pytest.mark.parametrize("kind", LOSSES)
def test_value_and_gradients_are_those_of_float64(kind, products, precision, device):
    build, reference = LOSSES[kind]
    loss = build(matmul_dtype="bfloat16" if precision == "bf16" else "float32").to(device)
    image, text = unit_pairs(N, DIM, noise=4.0)
    ids = None if products is None else product_ids(N, products)
    more = (torch.tensor(BIAS).double(),) if kind == "siglip" else ()
    expected = value_and_gradients(
        lambda x, y, log_scale, *bias: reference(x, y, log_scale.exp(), *bias, ids),
        image, text, torch.tensor(math.log(SCALE)).double(), *more,
    )  # fmt: skip
    with torch.no_grad():
        loss.logit_scale.fill_(math.log(SCALE))
        if kind == "siglip":
            loss.logit_bias.fill_(BIAS)
    x, y = (part.float().to(device).requires_grad_() for part in (image, text))
    options = {"fields": fields(device)} if kind == "gcl" else {}
    value = loss(x, y, None if ids is None else ids.to(device), **options)
    value.backward()
    got = [value.detach(), x.grad, y.grad, loss.logit_scale.grad]
    got += [loss.logit_bias.grad] if kind == "siglip" else []
    for mine, exact in zip(got, expected, strict=True):
        assert torch.isfinite(mine).all()
        assert float((mine.double().cpu() - exact).norm() / exact.norm()) < LIMITS[precision]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_loss_of_bfloat16_embeddings_is_float32_under_autocast(kind, device):
    image, text = (part.to(device, torch.bfloat16) for part in unit_pairs(N, DIM, noise=4.0))
    loss = LOSSES[kind][0]().to(device)
    with torch.autocast(device.type, torch.bfloat16):
        value = loss(image, text)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(image.float(), text.float()))


def test_memory_on_the_card_does_not_grow_with_the_square_of_the_batch(device):
    if device.type != "cuda":
        pytest.skip("the CPU's memory is that of tests/losses/test_loss_tiles.py")
    pairs = 16384
    image, text = (part.float().to(device).requires_grad_() for part in unit_pairs(pairs, DIM))
    loss = ClipLoss().to(device)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loss(image, text).backward()
    assert torch.cuda.max_memory_allocated() - before < pairs**2 * 4 / 8
