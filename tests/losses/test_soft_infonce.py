"""Tiled soft targets against the full matrix in the textbook's words, value and every gradient, float64."""

import pytest
import torch
from torch.nn import functional as F

from helpers.loss_references import clip_reference, product_ids, unit_pairs, value_and_gradients
from modiste.losses.soft import soft_infonce


def reference(image, text, scale, left, right, target_scale, product_id, mix):
    """Soft part by `kl_div` in both directions; hard part: `clip_reference`."""
    logits, targets = scale * image @ text.T, target_scale * left @ right.T
    both = [
        F.kl_div(q.log_softmax(1), p.softmax(1), reduction="batchmean")
        for q, p in ((logits, targets), (logits.T, targets.T))
    ]
    return mix * sum(both) / 2 + (1 - mix) * clip_reference(image, text, scale, product_id)


@pytest.mark.parametrize("tile", [1, 3, 7, 64])
@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("products", [3, 1000])
def test_value_and_gradients_are_those_of_the_full_matrix(tile, mix, products):
    image, text = unit_pairs(13, seed=1)
    left, right = unit_pairs(13, dim=5, seed=2)
    ids, scale, target_scale = product_ids(13, products), torch.tensor(9.0).double(), torch.tensor(4.0).double()

    def tiled(image, text, scale):
        return soft_infonce(image, text, scale, left, right, target_scale, ids, mix, tile)

    def full(image, text, scale):
        return reference(image, text, scale, left, right, target_scale, ids, mix)

    ours, theirs = value_and_gradients(tiled, image, text, scale), value_and_gradients(full, image, text, scale)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
    assert float(ours[1].abs().max()) > 1e-3


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_student_that_is_its_teacher_has_no_loss_and_no_gradient(scale):
    image, text = (tensor.float() for tensor in unit_pairs(20, seed=3))
    ids = torch.arange(20)
    value, *gradients = value_and_gradients(
        lambda x, y: soft_infonce(x, y, scale, image, text, scale, ids, tile=6), image, text
    )
    assert value.item() == 0
    assert all(not gradient.any() for gradient in gradients)


def test_gradients_near_a_sharp_match_keep_their_digits_in_float32():
    image, text = unit_pairs(64, noise=0.05)
    left, right = unit_pairs(64, noise=0.06, seed=4)
    ids = torch.arange(64)

    def gradients(kind):
        inputs = [tensor.to(kind) for tensor in (image, text)]
        return value_and_gradients(
            lambda x, y: soft_infonce(x, y, 100.0, left.to(kind), right.to(kind), 100.0, ids, 0.5), *inputs
        )

    for single, double in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        assert float((single.double() - double).norm() / double.norm()) < 3e-5


def test_a_large_n_needs_no_large_matrix():
    """At N = 6,000 the matrix would be 144 MB a copy; what autograd keeps is of the size of the embeddings."""
    image, text = (F.normalize(torch.randn(6000, 8), dim=1).requires_grad_() for _ in range(2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        soft_infonce(image, text, 10.0, image.detach(), text.detach(), 5.0, torch.arange(6000), tile=512).backward()
    assert max(kept) <= 6000 * 8


def test_no_gradient_is_made_under_no_grad_and_none_goes_to_the_targets():
    image, text = unit_pairs(6)
    left = image.clone().requires_grad_()
    value = soft_infonce(image.clone().requires_grad_(), text, 2.0, left, text, 2.0, torch.arange(6))
    value.backward()
    assert left.grad is None
    with torch.no_grad():
        assert not soft_infonce(image, text, 2.0, left, text, 2.0, torch.arange(6)).requires_grad
