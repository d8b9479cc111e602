"""Patches are dropped in training only, the same ones in both passes of gradient caching; others are refused."""

import functools

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from modiste.config import compose, instantiate, validate
from modiste.errors import ModisteError
from modiste.images.timm import TimmEncoder


def tokens_seen(encoder, pixels):
    """Number of tokens that enter the first block."""
    seen = []
    hook = encoder.trunk.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    encoder(pixels)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize(
    "words", [["image=timm", "image.name=test_vit", "image.pretrained=false"], ["image=small_vit"]]
)
def test_training_leaves_out_patches_and_evaluation_none(words):
    cfg = compose("train", [*words, "image.size=64", "image.patch_drop_rate=0.5"])
    validate(cfg)
    encoder, pixels = instantiate(cfg.image), torch.zeros(2, 3, 64, 64)
    prefix = encoder.trunk.num_prefix_tokens
    patches = encoder.trunk.patch_embed.num_patches
    assert tokens_seen(encoder.train(), pixels) == prefix + patches // 2
    assert tokens_seen(encoder.eval(), pixels) == prefix + patches


def test_the_second_pass_of_gradient_caching_sees_the_patches_of_the_first():
    torch.manual_seed(0)
    encoder = TimmEncoder("test_vit", size=64, patch_drop_rate=0.5).train()
    pixels = torch.randn(4, 3, 64, 64)
    found = []
    for cached in (False, True):
        torch.manual_seed(7)
        encoder.zero_grad()
        embed = functools.partial(checkpoint, encoder, use_reentrant=False) if cached else encoder
        embed(pixels).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in encoder.parameters() if parameter.grad is not None])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)


@pytest.mark.parametrize("name", ["test_efficientnet", "resnet10t", "swin_tiny_patch4_window7_224"])
def test_towers_without_patches_to_leave_out_are_refused_in_one_sentence(name):
    with pytest.raises(ModisteError, match="patch_drop_rate needs a vision transformer"):
        TimmEncoder(name, size=224, patch_drop_rate=0.5)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_outside_its_range_is_refused_before_anything_is_built(rate):
    with pytest.raises(ModisteError, match="patch_drop_rate"):
        validate(compose("train", ["image=small_vit", f"image.patch_drop_rate={rate}"]))
