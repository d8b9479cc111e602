"""ClipLoss: exact value and gradients, multi-positive targets, temperature."""

import math

import pytest
import torch
from torch.nn import functional as F

from helpers.loss_references import clip_reference, product_ids, twenty_steps, unit_pairs, value_and_gradients
from modiste.errors import ModisteError
from modiste.losses.base import LogitScale, Origin, TiledLoss
from modiste.losses.build import build_loss
from modiste.losses.clip import ClipLoss, Powers, infonce
from modiste.losses.matmul import Matmul
from modiste.losses.siglip import SigLipLoss


def tiled(loss: ClipLoss, product_id=None, dtype=torch.float64):
    """The loss as a function of image, text and log-scale."""

    def function(image, text, logit_scale):
        parameters = {"logit_scale": logit_scale}
        return torch.func.functional_call(loss, parameters, (image.to(dtype), text.to(dtype), product_id))

    return function


@pytest.mark.parametrize("products", [None, 23, 5, 1], ids=lambda p: f"{p}-products")
@pytest.mark.parametrize("scale", [1 / 0.07, 100.0])
@pytest.mark.parametrize("tile", [1, 7, 23, 64])
@pytest.mark.parametrize("keep", [0, 1])
def test_value_and_gradients_equal_the_full_matrix(tile, scale, products, keep):
    """Also where the last tile is short (23 = 3·7 + 2), one tile holds all, and all pairs are one product."""
    image, text = unit_pairs(23)
    ids = None if products is None else product_ids(23, products)
    logit_scale = torch.tensor(math.log(scale), dtype=torch.float64)
    ours = value_and_gradients(
        tiled(ClipLoss(tile=tile, logits_cache_mib=keep).double(), ids), image, text, logit_scale
    )
    reference = value_and_gradients(lambda x, y, s: clip_reference(x, y, s.exp(), ids), image, text, logit_scale)
    torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1 / 0.07, 100.0])
@pytest.mark.parametrize("noise", [0.02, 0.5, 1.5])
def test_float32_keeps_the_digits_of_a_full_float32_matrix(noise, scale):
    """Error against float64, for pairs that match almost perfectly (P_ii near 1, where digits cancel) and others."""
    image, text = (features.float() for features in unit_pairs(300, dim=64, noise=noise))
    logit_scale = torch.tensor(math.log(scale))

    def full(image, text, logit_scale):
        return clip_reference(image, text, logit_scale.exp(), None)

    ours = value_and_gradients(tiled(ClipLoss(tile=64), dtype=torch.float32), image, text, logit_scale)
    plain = value_and_gradients(full, image, text, logit_scale)
    exact = value_and_gradients(full, image.double(), text.double(), logit_scale.double())
    for name, got, peer, expected in zip(["value", "image", "text", "scale"], ours, plain, exact, strict=True):
        error = (got - expected).norm()
        assert error <= 2 * (peer - expected).norm() + 1e-6 * expected.norm(), name
        if noise == 1.5:
            assert error <= 3e-6 * expected.norm(), name


def test_logits_are_kept_where_all_of_them_fit_and_computed_again_elsewhere(monkeypatch):
    image, text = unit_pairs(23, dim=8)
    products = count_products(monkeypatch)
    for keep, grad, expected in (
        (23 * 23 * 8 / 2**20, True, 16),
        (23 * 23 * 8 / 2**20 - 1e-6, True, 32),
        (1, False, 16),
    ):
        products.clear()
        with torch.set_grad_enabled(grad):
            value = ClipLoss(tile=6, logits_cache_mib=keep).double()(image.clone().requires_grad_(), text)
        if grad:
            value.backward()
        assert len(products) == expected, (keep, grad)


def count_products(monkeypatch):
    """A list that grows with every product of logits."""
    found = []

    def mm(a, b, out):
        found.append(1)
        return torch.mm(a, b, out=out)

    monkeypatch.setattr("modiste.losses.clip.choose_matmul", lambda *_: Matmul(mm, torch.Tensor.addmm_))
    return found


@pytest.mark.parametrize("keep", [0.0, 64.0])
@pytest.mark.parametrize("ids", [None, product_ids(40, 12)])
def test_one_exponential_for_rows_and_columns_gives_what_two_give(monkeypatch, keep, ids):
    image, text = unit_pairs(40)
    loss = ClipLoss(init_scale=30.0, tile=16, logits_cache_mib=keep).double()
    tiles, put = [], Powers.put
    monkeypatch.setattr(Powers, "put", lambda powers, tile: tiles.append(tile) or put(powers, tile))
    once = value_and_gradients(lambda x, y: loss(x, y, ids), image, text)
    assert len(tiles) == (9 if keep else 18)  # 3 × 3 tiles, forward, and backward where they are not kept
    tiles.clear()
    monkeypatch.setattr(Powers, "RANGE", -torch.inf)
    twice = value_and_gradients(lambda x, y: loss(x, y, ids), image, text)
    assert not tiles
    torch.testing.assert_close(once, twice, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("keep", [0.0, 64.0])
def test_a_column_far_below_all_rows_has_exponentials_of_its_own(monkeypatch, keep):
    """Its largest logit is -100, where each row has one of +100: relative to that, all of it would be 0."""
    image = torch.tensor([[1.0, 0.0]]).repeat(4, 1) + 1e-3 * torch.arange(8.0).view(4, 2)
    text = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [-1.0, 0.1]])
    ids, scale = torch.arange(4), torch.tensor(100.0)

    def tiled(x, y):
        return infonce(x, y, scale, ids, 2048, "float32", logits_cache_mib=keep)

    exact = value_and_gradients(lambda x, y: clip_reference(x, y, scale.double(), ids), image.double(), text.double())
    found = value_and_gradients(tiled, image, text)
    torch.testing.assert_close([a.double() for a in found], exact, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(Powers, "RANGE", torch.inf)
    wrong = value_and_gradients(tiled, image, text)
    assert not all(torch.isfinite(a).all() for a in wrong)


def test_a_second_backward_pass_does_not_take_the_tiles_of_the_first_for_logits():
    image, text = unit_pairs(23)
    image.requires_grad_()
    value = ClipLoss(tile=7).double()(image, text)
    first, second = (torch.autograd.grad(value, image, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(second, first, rtol=1e-12, atol=1e-15)


def test_a_negative_room_for_logits_is_refused():
    with pytest.raises(ModisteError, match=r"loss\.logits_cache_mib=-1 must be at least 0"):
        ClipLoss(logits_cache_mib=-1)


@pytest.mark.parametrize("loss", [ClipLoss, SigLipLoss])
def test_positives_by_caption_change_nothing_but_in_siglip(loss):
    """Pairs of one text: their features, and so their logits, are equal, whichever of them a target lies on."""
    image, distinct = unit_pairs(23)
    ids, rows = torch.randint(7, (23,), generator=torch.Generator().manual_seed(0)), torch.arange(23)
    texts = distinct[:7].clone().requires_grad_()
    scale = torch.tensor(math.log(14.0), dtype=torch.float64)

    def found(product_id):
        x, s = image.clone().requires_grad_(), scale.clone().requires_grad_()
        parameters = {"logit_scale": s} | ({"bias": torch.tensor(-10.0)} if loss is SigLipLoss else {})
        value = torch.func.functional_call(loss().double(), parameters, (x, texts[ids], product_id))
        return value, *torch.autograd.grad(value, (x, texts, s))

    each, together = found(rows), found(ids)
    same = all(torch.allclose(a, b, rtol=1e-10, atol=1e-14) for a, b in zip(each, together, strict=True))
    assert same == (loss is ClipLoss)


@pytest.mark.parametrize("ids", [None, torch.tensor([4, 4, 9, 4, 9])], ids=["none", "multi"])
def test_gradcheck(ids):
    image, text = unit_pairs(5, dim=3)
    inputs = [image.requires_grad_(), text.requires_grad_(), torch.tensor(1.5, dtype=torch.float64, requires_grad=True)]
    assert torch.autograd.gradcheck(tiled(ClipLoss(tile=2).double(), ids), inputs)


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True), (False, True, True)]
)
def test_only_the_wanted_gradients(wanted):
    """With a frozen tower or a frozen scale the remaining gradients are the same."""
    image, text = unit_pairs(11)
    scale = torch.tensor(2.0, dtype=torch.float64)
    function = tiled(ClipLoss(tile=4).double())
    everything = value_and_gradients(function, image, text, scale)[1:]
    inputs = [
        tensor.clone().requires_grad_(needed) for tensor, needed in zip((image, text, scale), wanted, strict=True)
    ]
    function(*inputs).backward()
    for tensor, needed, expected in zip(inputs, wanted, everything, strict=True):
        assert (tensor.grad is not None) == needed
        if needed:
            torch.testing.assert_close(tensor.grad, expected)


@pytest.mark.parametrize("n", [1, 6, 50])
def test_indistinguishable_pairs_cost_log_n(n):
    """Analytic value: uniform softmax, cross-entropy log N, for any targets and any temperature; zero gradient."""
    same = F.normalize(torch.ones(n, 4), dim=1).requires_grad_()
    for ids in (None, torch.zeros(n, dtype=torch.int64), torch.arange(n) // 2):
        value = ClipLoss(init_scale=37.0, tile=4)(same, same, ids)
        assert value.item() == pytest.approx(math.log(n), abs=1e-5)


def test_orthogonal_pairs_cost_their_analytic_value():
    """log(1 + (N-1) e^-s) for N orthogonal pairs at scale s."""
    value = ClipLoss(init_scale=3.0, tile=3)(torch.eye(8), torch.eye(8))
    assert value.item() == pytest.approx(math.log1p(7 * math.exp(-3.0)), rel=1e-6)


def test_pairs_of_one_product_attract():
    """A duplicate is a negative without ids, a positive with them: the gradient's sign along it turns."""
    image = F.normalize(torch.tensor([[1.0, 0.1], [0.1, 1.0], [-1.0, -1.0]]), dim=1)
    text = image.clone()
    slopes = []
    for ids in (None, torch.tensor([0, 0, 1])):
        leaf = image.clone().requires_grad_()
        ClipLoss()(leaf, text, ids).backward()
        slopes.append((leaf.grad[0] @ text[1]).item())
    assert slopes[0] > 0 > slopes[1]


@pytest.mark.parametrize("scale", [1 / 0.07, 100.0])
def test_equals_open_clip(scale):
    open_clip_loss = pytest.importorskip("open_clip.loss")
    image, text = (features.float() for features in unit_pairs(40, dim=16))
    logit_scale = torch.tensor(math.log(scale))
    ours = value_and_gradients(tiled(ClipLoss(tile=16), dtype=torch.float32), image, text, logit_scale)
    theirs = value_and_gradients(lambda x, y, s: open_clip_loss.ClipLoss()(x, y, s.exp()), image, text, logit_scale)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_second_derivatives_are_refused_rather_than_wrong():
    leaf = unit_pairs(9)[0].requires_grad_()
    for loss in (ClipLoss(tile=4), SigLipLoss(tile=4)):
        (gradient,) = torch.autograd.grad(loss(leaf, leaf.detach()), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="does not require grad"):
            gradient.sum().backward()


@pytest.mark.parametrize("kind", [ClipLoss, SigLipLoss])
def test_autocast_and_bfloat16_input_use_float32_logits(kind):
    """Under bf16 autocast, forward and backward, the result is that of the upcast input to float32 precision."""
    image, text = (features.bfloat16() for features in unit_pairs(40, dim=16))
    loss = kind(init_scale=100.0, tile=16)
    plain = [features.float().requires_grad_() for features in (image, text)]
    loss(*plain).backward()
    low = [features.clone().requires_grad_() for features in (image, text)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(*low)
        value.backward()
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(*plain))
    for ours, expected in zip(low, plain, strict=True):
        assert ours.grad.dtype == torch.bfloat16
        assert torch.equal(ours.grad, expected.grad.bfloat16())


def test_a_loss_of_plain_products_is_in_float32_too():
    """A subclass may write `image @ text.T`: inside the caller's autocast it is not rounded to bfloat16."""

    class MeanLogit(LogitScale, TiledLoss):
        def compute(self, image, text, product_id):
            return (image @ text.T).mean()

    image, text = (features.float() for features in unit_pairs(40, dim=16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = MeanLogit(10.0, tile=1)(image, text)
    assert torch.equal(value, (image @ text.T).mean())


@pytest.mark.parametrize(
    ("given", "origin", "scale"),
    [
        ({}, Origin(global_batch=32), 1 / 0.07),
        ({}, Origin(55.0, global_batch=32), 55.0),
        ({"init_scale": None}, Origin(117.3, -12.9, 32), 100.0),  # SigLIP's weights, trained on with this loss
        ({"max_scale": 20.0}, Origin(55.0), 20.0),
        ({"init_scale": 20.0}, Origin(55.0), 20.0),
    ],
)
def test_it_begins_at_the_temperature_of_the_weights_unless_one_is_given(given, origin, scale):
    loss = build_loss({"_target_": "modiste.losses.clip.ClipLoss"} | given, origin)
    assert loss.scale.item() == pytest.approx(scale)
    assert [name for name, _ in loss.named_parameters()] == ["logit_scale"]


def test_clamp():
    loss = ClipLoss()
    loss.logit_scale.data.fill_(9.0)
    loss.clamp()
    assert loss.scale.item() == pytest.approx(100.0)
    loss.logit_scale.data.fill_(-3.0)
    loss.clamp()
    assert loss.scale.item() == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [{"tile": 0}, {"max_scale": 0.5}, {"init_scale": 120.0}, {"init_scale": 0.0}])
def test_bad_options_say_which(bad):
    with pytest.raises(ModisteError, match=next(iter(bad))):
        ClipLoss(**bad)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="must both be"):
        ClipLoss()(torch.eye(3), torch.eye(4))
    with pytest.raises(ValueError, match="product_id"):
        ClipLoss()(torch.eye(3), torch.eye(3), torch.arange(4))


def test_twenty_steps_of_sgd_lower_the_loss():
    """Two linear towers and the temperature learn to pair two views of the same points."""
    values = twenty_steps(ClipLoss(tile=20))
    assert values[-1] < 0.8 * values[0]
