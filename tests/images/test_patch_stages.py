"""Dilated trunks and patch features of several stages; models without them are what they were."""

import pytest
import torch
from torch.nn import functional as F

from helpers.tiny_models import small_text
from modiste.errors import ModisteError
from modiste.images.timm import TimmEncoder
from modiste.models.dual_encoder import TwoTower


def encoder(name="test_efficientnet", **options):
    torch.manual_seed(0)
    return TimmEncoder(name, size=64, **options).eval()


def pixels(side=64):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_convnext"])
@pytest.mark.parametrize(("stride", "side"), [(None, 2), (32, 2), (16, 4), (8, 8)])
def test_the_output_stride_makes_maps_finer_with_the_same_weights(name, stride, side):
    own, made = encoder(name), encoder(name, output_stride=stride)
    made.load_state_dict(own.state_dict())
    with torch.no_grad():
        assert made.patches(pixels()).shape[1:3] == (side, side)
        assert made(pixels()).shape == (2, own.dim)
        if stride in (None, 32):
            assert torch.equal(made(pixels()), own(pixels()))


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_convnext", "test_vit"])
def test_stages_are_the_networks_own_maps_side_by_side(name):
    made = encoder(name, patch_stages=[1, -1])
    with torch.no_grad():
        maps = made.trunk.forward_intermediates(pixels(), output_fmt="NCHW", intermediates_only=True)
        found = made.stages(pixels())
    last = F.interpolate(maps[-1], maps[1].shape[-2:], mode="bilinear")
    assert found.shape == (2, *maps[1].shape[-2:], made.patch_dim)
    assert torch.allclose(found.movedim(-1, 1), torch.cat([maps[1], last], dim=1), atol=1e-6)


def test_a_patch_head_leaves_the_global_embedding_and_old_checkpoints_as_they_are():
    with torch.no_grad():
        old = TwoTower(encoder(), small_text(), 16).eval()
        new = TwoTower(encoder(patch_stages=[-2, -1]), small_text(), 16).eval()
        missing = new.load_state_dict(old.state_dict(), strict=False).missing_keys
        assert {name.split(".")[0] for name in missing} == {"patch_head"}
        assert torch.equal(new.encode_image(pixels()), old.encode_image(pixels()))
        patches = new.encode_patches(pixels())
        wanted = F.normalize(new.patch_head(new.image.stages(pixels())), dim=-1)
    assert patches.shape == (2, 4, 4, 16)
    assert torch.allclose(patches, wanted)
    assert not any(name.startswith("patch_head") for name in old.state_dict())
    assert new.patch_head in new.layer_groups("image")[-1]


def test_features_of_patches_are_excluded_in_training_only():
    model = TwoTower(encoder(patch_stages=[-2, -1]), small_text(), 16, patch_dropout=0.5)
    features = torch.randn(4, 4, model.image.patch_dim)
    with torch.no_grad():
        head = model.eval().patch_head
        assert torch.equal(head(features), head.projection(head.norm(features)))
        assert not torch.equal(model.train().patch_head(features), head.projection(head.norm(features)))
    with pytest.raises(ModisteError, match=r"model\.patch_dropout=1 must be at least 0 and below 1"):
        TwoTower(encoder(patch_stages=[-2, -1]), small_text(), 16, patch_dropout=1.0)


def test_what_a_network_cannot_do_is_said():
    with pytest.raises(ModisteError, match="output_stride=16: use null"):
        encoder("test_vit", output_stride=16)
    with pytest.raises(ModisteError, match="distinct stages"):
        encoder(patch_stages=[9])
    with pytest.raises(ModisteError, match="distinct stages"):
        encoder(patch_stages=[-1, 4])
    with pytest.raises(ModisteError, match="8, 16 or 32"):
        TimmEncoder.validate_config({"name": "test_efficientnet", "output_stride": 5}, {})
