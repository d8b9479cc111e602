"""GclLoss: value and gradients of the full matrices field by field, with weights and without the fields that lack."""

import math

import pytest
import torch
from torch.nn import functional as F

from helpers.loss_references import product_ids, unit_pairs, value_and_gradients
from modiste.errors import ModisteError
from modiste.losses.clip import ClipLoss, infonce
from modiste.losses.gcl import GclLoss

N, FIELDS, TEXTS = 23, 3, 31
LOGIT_SCALE = torch.tensor(math.log(20.0), dtype=torch.float64)


def term(image, text, scale, ids, weight):
    """Weighted cross-entropy against the uniform distribution over the pairs of one product, both ways."""
    logits = scale * image @ text.T
    same = (ids[:, None] == ids[None, :]).to(logits.dtype)
    target = same / same.sum(1, keepdim=True)
    rows = F.cross_entropy(logits, target, reduction="none")
    cols = F.cross_entropy(logits.T, target, reduction="none")
    return (weight * (rows + cols)).sum() / (2 * weight.sum()) if len(image) and weight.sum() else 0.0 * logits.sum()


def reference(image, text, logit_scale, ids, fields, weight, fused):
    """Each term over the rows that have the field, and no others."""
    ids = torch.arange(len(image)) if ids is None else ids
    weight = torch.ones(len(image), dtype=image.dtype) if weight is None else weight
    scale, index, importance = logit_scale.exp(), fields["index"], fields["weight"].tolist()
    total = 0.0
    for field, factor in enumerate(importance):
        rows = [row for row in range(len(image)) if index[row, field] >= 0]
        texts = torch.stack([text[index[row, field]] for row in rows]) if rows else text[:0]
        total = total + factor * term(image[rows], texts, scale, ids[rows], weight[rows])
    rows = [row for row in range(len(image)) if (index[row] >= 0).any()]
    means = [
        sum(factor * text[index[row, field]] for field, factor in enumerate(importance) if index[row, field] >= 0)
        for row in rows
    ]
    mean = torch.stack([mean / mean.norm() for mean in means])
    total = total + fused * term(image[rows], mean, scale, ids[rows], weight[rows])
    return total / (sum(importance) + fused)


def batch(absent=0.3, seed=0):
    """Image embeddings (N, D), text embeddings (TEXTS, D), fields of which a part is absent, weights (N,)."""
    generator = torch.Generator().manual_seed(seed)
    image = unit_pairs(N)[0]
    text = unit_pairs(TEXTS, seed=3)[0]
    index = torch.randint(TEXTS, (N, FIELDS), generator=generator)
    index[torch.rand(N, FIELDS, generator=generator) < absent] = -1
    weight = torch.rand(N, generator=generator, dtype=torch.float64)
    weight[3] = 0.0
    return image, text, {"index": index, "weight": torch.tensor([1.0, 0.25, 2.0])}, weight


def ours(loss, ids, fields, weight):
    def function(image, text, logit_scale):
        arguments = (image, text, ids, fields, weight)
        return torch.func.functional_call(loss, {"logit_scale": logit_scale}, arguments)

    return function


@pytest.mark.parametrize("fused", [0.0, 1.5])
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.parametrize("products", [None, 7, 1], ids=lambda p: f"{p}-products")
@pytest.mark.parametrize("tile", [1, 7, 64])
def test_value_and_gradients_equal_the_full_matrices(tile, products, weighted, fused):
    image, text, fields, weight = batch()
    fields["index"][5] = -1  # a product without any field
    weight = weight if weighted else None
    ids = None if products is None else product_ids(N, products)
    loss = GclLoss(tile=tile, fused=fused).double()
    expected = value_and_gradients(
        lambda x, y, s: reference(x, y, s, ids, fields, weight, fused), image, text, LOGIT_SCALE
    )
    got = value_and_gradients(ours(loss, ids, fields, weight), image, text, LOGIT_SCALE)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
def test_a_vocabulary_classifies_each_image_among_all_texts_of_the_field(weighted):
    """Cross-entropy over the whole vocabulary, of which the batch has a part; the other fields' terms stay."""
    image, text, fields, weight = batch()
    weight = weight if weighted else None
    words = [2, 3, 5, 11, 30]
    chosen = torch.randint(len(words) - 1, (N,), generator=torch.Generator().manual_seed(7))  # the last occurs nowhere
    lacking = fields["index"][:, 1] < 0
    fields["index"][:, 1] = torch.where(lacking, -1, torch.tensor(words)[chosen])
    without = torch.full((5,), -1)
    with_words = {**fields, "vocabulary": torch.stack([without, torch.tensor(words), without])}

    def expected(x, y, s):
        scale, parts, importance = s.exp(), [], fields["weight"].tolist()
        share = torch.ones(N, dtype=torch.float64) if weight is None else weight
        for field, factor in enumerate(importance):
            rows = [row for row in range(N) if fields["index"][row, field] >= 0]
            if field == 1:
                log_p = (scale * x[rows] @ y[words].T).log_softmax(1)[range(len(rows)), chosen[rows]]
                parts.append(-factor * (share[rows] * log_p).sum() / share[rows].sum())
            else:
                texts = y[fields["index"][rows, field]]
                parts.append(factor * term(x[rows], texts, scale, torch.arange(N)[rows], share[rows]))
        return sum(parts) / sum(importance)

    loss = GclLoss(tile=7, fused=0.0).double()
    torch.testing.assert_close(
        value_and_gradients(ours(loss, None, with_words, weight), image, text, LOGIT_SCALE),
        value_and_gradients(expected, image, text, LOGIT_SCALE),
        rtol=1e-9, atol=1e-12,
    )  # fmt: skip


def test_gradcheck():
    image, text, fields, weight = batch()
    fields["index"] = fields["index"][:6]
    inputs = [image[:6].requires_grad_(), text.requires_grad_(), LOGIT_SCALE.clone().requires_grad_()]
    function = ours(GclLoss(tile=4).double(), product_ids(6, 4), fields, weight[:6])
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("products", [None, 5])
@pytest.mark.parametrize("fused", [0.0, 1.0])
def test_one_field_of_unit_weight_is_the_clip_loss(fused, products):
    """And pairs of one weight, whatever it is, are pairs of weight 1; so is the loss without fields."""
    image, text = unit_pairs(N)
    ids = None if products is None else product_ids(N, products)
    clip = value_and_gradients(
        lambda x, y, s: torch.func.functional_call(ClipLoss(tile=7).double(), {"logit_scale": s}, (x, y, ids)),
        image, text, LOGIT_SCALE,
    )  # fmt: skip
    loss = GclLoss(tile=7, fused=fused).double()
    one = {"index": torch.arange(N)[:, None], "weight": torch.tensor([1.0])}
    alike = torch.full((N,), 0.3, dtype=torch.float64)
    for fields, weight in [(one, None), (one, alike), (None, alike), (None, None)]:
        got = value_and_gradients(ours(loss, ids, fields, weight), image, text, LOGIT_SCALE)
        torch.testing.assert_close(got[0], clip[0], rtol=1e-9, atol=1e-12)
        if not (fields and fused):
            torch.testing.assert_close(got, clip, rtol=1e-9, atol=1e-12)
        else:  # normalising the mean takes the radial part, which the unit sphere does not have
            for mine, theirs, point in zip(got[1:3], clip[1:3], (image, text), strict=True):
                torch.testing.assert_close(tangential(mine, point), tangential(theirs, point), rtol=1e-9, atol=1e-12)


def tangential(gradient, point):
    return gradient - (gradient * point).sum(1, keepdim=True) * point


def test_an_absent_field_is_no_negative():
    """What stands in the place of an absent text or its image changes nothing of the field's term."""
    image, text, fields, weight = batch()
    loss = GclLoss(tile=7, fused=0.0).double()
    fields = {"index": fields["index"][:, :1], "weight": torch.tensor([1.0])}
    lacking = (fields["index"][:, 0] < 0).nonzero()[:, 0]
    assert len(lacking) > 3
    moved = image.clone()
    moved[lacking] = F.normalize(torch.ones(len(lacking), 8, dtype=torch.float64), dim=1)
    assert torch.equal(loss(moved, text, None, fields, weight), loss(image, text, None, fields, weight))


def test_a_pair_of_weight_zero_is_still_a_negative():
    image, text = unit_pairs(N)
    weight = torch.ones(N, dtype=torch.float64)
    weight[3] = 0.0
    kept = torch.arange(N) != 3
    loss = GclLoss().double()
    assert loss(image, text, weight=weight) > loss(image[kept], text[kept], weight=weight[kept])


def test_texts_that_products_share_need_no_positives():
    """The claim of the docstring: identical columns, positives or not, with the same value and gradients."""
    image, text = unit_pairs(N)
    index = torch.arange(N) // 4
    fields = {"index": index[:, None], "weight": torch.tensor([1.0])}
    loss = GclLoss(tile=7, fused=1.0).double()
    alone = value_and_gradients(ours(loss, None, fields, None), image, text, LOGIT_SCALE)
    together = value_and_gradients(ours(loss, index, fields, None), image, text, LOGIT_SCALE)
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_to_learn_from_is_zero_and_not_nan(dtype):
    image, text, fields, weight = batch()
    image, text = image.to(dtype).requires_grad_(), text.to(dtype).requires_grad_()
    nothing = {"index": torch.full((N, FIELDS), -1), "weight": fields["weight"]}
    words = torch.tensor([[4, 5], [-1, -1], [-1, -1]])
    known = {**nothing, "vocabulary": words}
    for chosen, weights in [(nothing, None), (fields, 0 * weight), (nothing, 0 * weight), (known, None)]:
        value = GclLoss()(image, text, None, chosen, weights)
        gradients = torch.autograd.grad(65536 * value, [image, text], allow_unused=True)  # as a gradient scaler does
        assert value.item() == 0
        assert value.dtype == torch.float32
        assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_weights_count_as_copies_do():
    """A pair of weight 2 pulls twice as hard as one of weight 1: the sum of the two losses that it mixes."""
    image, text = unit_pairs(N)
    first, second = (torch.arange(N) < 9).double(), (torch.arange(N) >= 9).double()
    scale = torch.tensor(20.0, dtype=torch.float64)

    def value(weight):
        return infonce(image, text, scale, torch.arange(N), 7, "float32", weight)

    expected = (2 * first.sum() * value(first) + second.sum() * value(second)) / (2 * first + second).sum()
    torch.testing.assert_close(value(2 * first + second), expected)


def test_mistakes_are_said():
    image, text, fields, weight = batch()
    loss = GclLoss().double()
    with pytest.raises(ModisteError, match=r"loss\.fused=-1"):
        GclLoss(fused=-1)
    with pytest.raises(ValueError, match="products by fields"):
        loss(image[:5], text, None, fields)
    with pytest.raises(ValueError, match="2 rows for 3 fields"):
        loss(image, text, None, {**fields, "vocabulary": torch.tensor([[0], [1]])})
    with pytest.raises(ValueError, match="one per pair"):
        loss(image, text, None, fields, weight[:5])
    with pytest.raises(ValueError, match="a row for each"):
        loss(image, text, None, None, weight)
