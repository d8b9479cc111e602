"""VseppLoss: value and gradients of a brute-force reference in float64, several positives, no N×N matrix."""

import pytest
import torch
from torch.nn import functional as F

from helpers.loss_references import product_ids, unit_pairs, value_and_gradients
from modiste.errors import ModisteError
from modiste.losses import MatryoshkaLoss, VseppLoss


def reference(image, text, margin, ids=None):
    """Eq. 6 with loops, positives of a product averaged."""
    scores, total = image @ text.T, 0.0
    ids = list(range(len(image))) if ids is None else ids.tolist()
    for table in (scores, scores.T):
        for i, own in enumerate(ids):
            negatives = [table[i, j] for j, other in enumerate(ids) if other != own]
            positives = [table[i, j] for j, other in enumerate(ids) if other == own]
            if negatives:
                hinges = [(margin + max(negatives) - positive).clamp_min(0) for positive in positives]
                total = total + sum(hinges) / len(hinges)
    return total / len(image) + 0 * scores.sum()


@pytest.mark.parametrize("products", [None, 15, 4, 1], ids=lambda p: f"{p}-products")
@pytest.mark.parametrize("margin", [0.2, 1.0])
@pytest.mark.parametrize("tile", [1, 7, 23, 64])
def test_value_and_gradients_equal_the_loops(tile, margin, products):
    image, text = unit_pairs(23, dim=4, noise=0.8)
    ids = None if products is None else product_ids(23, products)
    loss = VseppLoss(margin, tile)
    ours = value_and_gradients(lambda x, y: loss(x, y, ids), image, text)
    theirs = value_and_gradients(lambda x, y: reference(x, y, margin, ids), image, text)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert (theirs[0] > 0) == (products != 1)


def test_gradcheck():
    inputs = [tensor.requires_grad_() for tensor in unit_pairs(6, dim=3, noise=1.0)]
    ids = torch.tensor([4, 4, 9, 1, 2, 9])
    assert torch.autograd.gradcheck(lambda x, y: VseppLoss(0.7, 4)(x, y, ids), inputs)


def test_of_equally_hard_negatives_the_first_gets_the_gradient_whatever_the_tile():
    image = torch.eye(4, dtype=torch.float64)[[0, 1, 1, 1]]
    text = torch.eye(4, dtype=torch.float64)[[1, 0, 0, 0]]
    found = [value_and_gradients(VseppLoss(0.2, tile), image, text) for tile in (1, 3, 4)]
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_half_precision_input_is_compared_in_float32():
    image, text = (features.bfloat16() for features in unit_pairs(40, dim=16, noise=0.8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = VseppLoss(tile=16)(image, text)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), reference(image.double(), text.double(), 0.2), rtol=1e-5, atol=1e-6)


def test_it_serves_nested_prefixes_and_has_no_temperature():
    loss = MatryoshkaLoss(VseppLoss(), dims=[2, 4])
    assert loss.inverse_temperature() is None
    assert not list(loss.parameters())
    assert loss(*(features.float() for features in unit_pairs(9, dim=4))).isfinite()


def test_thirty_steps_of_sgd_lower_the_loss():
    torch.manual_seed(0)
    points, towers = torch.randn(48, 12), torch.nn.ModuleList([torch.nn.Linear(12, 8), torch.nn.Linear(12, 8)])
    loss, optimizer, values = VseppLoss(tile=20), torch.optim.SGD(towers.parameters(), lr=0.5), []
    for _ in range(30):
        value = loss(*(F.normalize(tower(points), dim=1) for tower in towers), torch.arange(48) // 2)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.8 * values[0]


def test_a_margin_out_of_range_is_one_sentence():
    with pytest.raises(ModisteError, match=r"loss\.margin=0 must lie in"):
        VseppLoss(margin=0)
