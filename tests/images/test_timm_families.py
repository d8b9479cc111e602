"""Image encoders of timm, one tiny random one per family: features, patches, Grad-CAM, layer groups, tuning."""

import pytest
import torch

from helpers.tiny_models import small_text
from modiste.images.timm import TimmEncoder
from modiste.models.dual_encoder import TwoTower
from modiste.models.finetune import Tuning, freeze_rest, parameters
from modiste.models.heatmaps import GradCam

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2}
# name, side of the input, options, side of the grid of patches
FAMILIES = {
    "vit": ("vit_tiny_patch16_224", 32, TINY, 2),
    "deit distilled": ("deit_tiny_distilled_patch16_224", 32, TINY, 2),
    "clip": ("vit_base_patch16_clip_224", 32, TINY, 2),
    "dinov2": ("vit_small_patch14_reg4_dinov2", 28, TINY, 2),
    "dinov3": ("vit_small_patch16_dinov3", 32, TINY, 2),
    "siglip": ("vit_base_patch16_siglip_224", 32, TINY, 2),
    "siglip, average": ("vit_base_patch16_siglip_gap_224", 32, TINY, 2),
    "eva02": ("eva02_tiny_patch14_224", 28, TINY, 2),
    "naflex": ("naflexvit_base_patch16_gap", 32, TINY, 2),
    "naflex, siglip": ("naflexvit_base_patch16_siglip", 32, TINY, 2),
    "swin": ("swin_tiny_patch4_window7_224", 56, {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}, 7),
    "convnext": ("test_convnext", 32, {}, 1),
    "efficientnet": ("test_efficientnet", 32, {}, 1),
    "mobilenetv3": ("mobilenetv3_small_050", 32, {}, 1),
    "mobilenetv4": ("mobilenetv4_conv_small_050", 32, {}, 1),
    "resnet": ("test_resnet", 32, {}, 1),
}
TAIL = {"deit distilled", "clip", "siglip, average", "naflex, siglip", "mobilenetv4"}  # near relatives of others
EVERY = [pytest.param(family, marks=pytest.mark.slow) if family in TAIL else family for family in FAMILIES]
MODES = ["full", "last_n", "lora", "frozen"]


def encoder(family):
    torch.manual_seed(0)
    name, side, options, _ = FAMILIES[family]
    return TimmEncoder(name, size=side, options=options)


def pixels(family, count=2):
    return torch.randn(count, 3, *(FAMILIES[family][1],) * 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", EVERY)
def test_features_patches_and_layer_groups(family):
    made = encoder(family).eval()
    image, grid = pixels(family), FAMILIES[family][3]
    with torch.no_grad():
        features, patches = made(image), made.patches(image)
    assert features.shape == (2, made.dim)
    assert patches.shape == (2, grid, grid, made.dim)
    assert not torch.allclose(features[0], features[1])
    groups = made.layer_groups()
    grouped = [id(parameter) for parameter in parameters(groups)]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in made.parameters()}
    assert len(groups) > 2


@pytest.mark.parametrize("family", EVERY)
def test_grad_cam_sees_the_picture(family):
    model = TwoTower(encoder(family), small_text(), 16).eval()
    heat = GradCam()(model, pixels(family)[0], torch.nn.functional.normalize(torch.randn(2, 16), dim=1))
    assert heat.shape[0] == 2
    assert heat.isfinite().all()


@pytest.mark.parametrize("train", MODES)
@pytest.mark.parametrize("family", EVERY)
def test_what_trains_has_a_gradient(family, train):
    model = TwoTower(encoder(family), small_text(), 16)
    Tuning(train, layers=2, rank=2).apply(model, "image")
    freeze_rest(model)
    model.train()
    features = model.encode_image(pixels(family))
    assert features.requires_grad == (train != "frozen")
    if train == "frozen":
        return
    features.matmul(torch.randn(16)).sum().backward()
    image = {name: p for name, p in model.named_parameters() if name.startswith("image") and p.requires_grad}
    assert image
    assert not [name for name, p in image.items() if p.grad is None]
