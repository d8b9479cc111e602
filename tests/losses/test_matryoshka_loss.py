"""Each prefix counts as a model of its size; the temperature is one."""

import pytest
import torch
from torch.nn import functional as F

from helpers.loss_references import clip_reference, product_ids, siglip_reference, unit_pairs, value_and_gradients
from modiste.config import compose, validate
from modiste.errors import ModisteError
from modiste.losses.base import Origin
from modiste.losses.build import build_loss
from modiste.losses.clip import ClipLoss
from modiste.losses.matryoshka import MatryoshkaLoss
from modiste.losses.siglip import SigLipLoss

DIMS, WEIGHTS = [2, 5, 8], [0.5, 1.0, 2.0]


@pytest.mark.parametrize("kind", [ClipLoss, SigLipLoss])
@pytest.mark.parametrize("weights", [[], WEIGHTS])
def test_value_and_gradients_are_those_of_the_weighted_full_matrices(kind, weights):
    image, text = unit_pairs(11)
    ids = product_ids(11, 6)
    loss = MatryoshkaLoss(kind(tile=4), DIMS, weights).double()
    parameters = list(loss.parameters())

    def full(image, text, log_scale, *bias):
        total = 0.0
        for dim, weight in zip(DIMS, weights or [1.0] * 3, strict=True):
            x, y = (part[:, :dim] / part[:, :dim].norm(dim=1, keepdim=True) for part in (image, text))
            reference = siglip_reference if bias else clip_reference
            total = total + weight * reference(x, y, log_scale.exp(), *bias, ids)
        return total

    expected = value_and_gradients(full, image, text, *parameters)
    image.requires_grad_()
    text.requires_grad_()
    value = loss(image, text, ids)
    value.backward()
    got = [value.detach(), image.grad, text.grad, *(parameter.grad for parameter in parameters)]
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_the_temperature_is_the_inner_losss_under_the_name_of_any_loss():
    inner = {"_target_": "modiste.losses.siglip.SigLipLoss"}
    node = {"_target_": "modiste.losses.matryoshka.MatryoshkaLoss", "inner": inner, "dims": [2]}
    loss = build_loss(node, Origin(scale=12.0, global_batch=5))
    assert loss.inverse_temperature().item() == pytest.approx(12.0)
    assert loss.state_dict()["logit_scale"].exp().item() == pytest.approx(12.0)
    assert loss.state_dict()["logit_bias"].exp().item() == pytest.approx(0.25)
    assert len(list(loss.parameters())) == 2, "an optimizer has each parameter once"
    with torch.no_grad():
        loss.logit_scale.fill_(-3.0)
    loss.clamp()
    assert loss.inverse_temperature().item() == 1


@pytest.mark.parametrize(
    ("dims", "weights", "word"),
    [
        ([], [], "dims"),
        ([0, 2], [], "dims"),
        ([2, 2], [], "dims"),
        ([2, 4], [1.0], "weights"),
        ([2], [-1.0], "weights"),
    ],
)
def test_senseless_settings_are_one_sentence(dims, weights, word):
    with pytest.raises(ModisteError, match=f"loss.{word}"):
        MatryoshkaLoss(ClipLoss(), dims, weights)


def test_a_prefix_longer_than_the_embedding_is_refused_before_anything_is_built_and_at_the_batch():
    with pytest.raises(ModisteError, match="embed_dim=100"):
        validate(compose("train", ["loss=matryoshka", "model.embed_dim=100"]))
    with pytest.raises(ModisteError, match="exceed the 8 dimensions"):
        MatryoshkaLoss(ClipLoss(), [16])(*unit_pairs(3))


def test_the_inner_loss_is_a_choice_of_the_group():
    cfg = compose("train", ["loss=matryoshka", "loss@loss.inner=siglip"])
    assert cfg.loss.inner._target_.endswith("SigLipLoss")
    assert F.normalize(torch.ones(1, 4)[:, :1]).item() == 1
