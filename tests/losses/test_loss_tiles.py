"""What the tiles promise for both losses: memory, floating point operations, positives without a mask."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers.loss_references import product_ids, unit_pairs
from modiste.losses.clip import ClipLoss
from modiste.losses.siglip import SigLipLoss
from modiste.losses.tiles import matching_pairs
from modiste.losses.vsepp import VseppLoss

N, DIM, TILE = 96, 8, 32


class Recorder(TorchDispatchMode):
    """The largest tensor that any operation returned, and the floating point operations of all matrix products."""

    def __init__(self):
        super().__init__()
        self.largest = 0
        self.flops = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
                self.largest = max(self.largest, leaf.untyped_storage().nbytes() // leaf.element_size())
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_):
            left, right = args[-2:]
            if left.layout != torch.strided:  # of a sparse matrix
                return out
            self.flops += 2 * left.shape[0] * left.shape[1] * right.shape[1]
        return out


def batch():
    image, text = (features.float() for features in unit_pairs(N, dim=DIM))
    return image.requires_grad_(), text.requires_grad_(), product_ids(N, 30)


@pytest.mark.parametrize(
    "loss", [ClipLoss(tile=TILE, logits_cache_mib=0), SigLipLoss(tile=TILE)], ids=["clip", "siglip"]
)
def test_no_tensor_is_larger_than_a_tile_or_the_features(loss):
    """Forward and backward; with one product for all too, where every pair is a positive."""
    image, text, ids = batch()
    for product_id in (ids, torch.zeros_like(ids)):
        with Recorder() as recorder:
            loss(image, text, product_id).backward()
        assert 0 < recorder.largest <= max(N * DIM, TILE * TILE) < N * N


def test_the_hinge_holds_its_positives_besides():
    image, text, ids = batch()
    with Recorder() as recorder:
        VseppLoss(tile=TILE)(image, text, ids).backward()
    positives = int((ids[:, None] == ids).sum())
    assert recorder.largest <= max(N * DIM, TILE * TILE, 4 * positives) < N * N


def test_the_recorder_sees_a_full_matrix():
    """The test above can fail: one tile for all, logits that are kept, and a plain matrix product, are noticed."""
    image, text, ids = batch()
    for loss in (ClipLoss(tile=N), ClipLoss(tile=TILE), SigLipLoss(tile=N), lambda x, y, _: (x @ y.T).sum()):
        with Recorder() as recorder:
            loss(image, text, ids).backward()
        assert recorder.largest >= N * N


@pytest.mark.parametrize(
    ("loss", "factor"),
    [
        (ClipLoss(tile=TILE, logits_cache_mib=0), 8),
        (ClipLoss(tile=TILE), 6),
        (SigLipLoss(tile=TILE), 6),
        (VseppLoss(tile=TILE), 4),
    ],
)
def test_floating_point_operations(loss, factor):
    """8·N²·D for InfoNCE (one product forward, one again and two for gradients backward), 6·N²·D where its logits are
    kept, and for the sigmoid; 4·N²·D for the hinge, a product for each direction and none backward."""
    image, text, ids = batch()
    with Recorder() as recorder:
        loss(image, text, ids).backward()
    assert recorder.flops == factor * N * N * DIM


@pytest.mark.parametrize("loss", [ClipLoss(tile=TILE), SigLipLoss(tile=TILE)], ids=["clip", "siglip"])
def test_no_gradient_work_without_grad(loss):
    """Validation costs the value alone, 2·N²·D, though the inputs ask for gradients; so does input without them."""
    image, text, ids = batch()
    expected = loss(image, text, ids)
    with Recorder() as recorder, torch.no_grad():
        value = loss(image, text, ids)
    assert recorder.flops == 2 * N * N * DIM
    assert torch.equal(value, expected)
    assert not value.requires_grad


@pytest.mark.parametrize("loss", [ClipLoss(tile=TILE), SigLipLoss(tile=TILE)], ids=["clip", "siglip"])
def test_a_frozen_image_tower_saves_its_product(loss):
    image, text, ids = batch()
    with Recorder() as everything:
        loss(image, text, ids).backward()
    with Recorder() as frozen:
        loss(image.detach(), text, ids).backward()
    assert everything.flops - frozen.flops == 2 * N * N * DIM


def test_matching_pairs_are_the_mask():
    for rows, cols in ((1, 5), (13, 7), (40, 40)):
        row_ids, col_ids = product_ids(rows, 6, seed=1), product_ids(cols, 6, seed=2)
        i, j = matching_pairs(row_ids, *col_ids.sort())
        got = torch.zeros(rows, cols, dtype=torch.int64)
        got.index_put_((i, j), torch.ones_like(i), accumulate=True)
        assert torch.equal(got, (row_ids[:, None] == col_ids[None, :]).long())


def test_large_logits_stay_finite():
    """Opposite pairs at scale 100: every exponent is far outside float32's range without the running maximum."""
    image, _ = unit_pairs(50)
    image = image.float().requires_grad_()
    for loss in (ClipLoss(init_scale=100.0, tile=16), SigLipLoss(init_scale=100.0, tile=16)):
        value = loss(image, -image)
        (gradient,) = torch.autograd.grad(value, image)
        assert math.isfinite(value.item())
        assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", [ClipLoss, SigLipLoss])
def test_upstream_gradient_and_second_backward(kind):
    """3·loss has three times the gradient, and a retained graph gives it again (nothing saved is overwritten)."""
    image, text = unit_pairs(9)
    leaf = image.clone().requires_grad_()
    value = kind(tile=4)(leaf, text)
    (once,) = torch.autograd.grad(value, leaf, retain_graph=True)
    (thrice,) = torch.autograd.grad(3 * value, leaf, retain_graph=True)
    (again,) = torch.autograd.grad(value, leaf, retain_graph=True)
    torch.testing.assert_close(thrice, 3 * once)
    assert torch.equal(once, again)
