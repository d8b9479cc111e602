"""Heat maps against plain loops and hand-written gradients."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from modiste.errors import ModisteError
from modiste.images.timm import TimmEncoder
from modiste.models.dual_encoder import DualEncoder, TwoTower
from modiste.models.heatmaps import (
    Cam,
    GradCam,
    Occlusion,
    PatchText,
    as_map,
    input_pixels,
    on_image,
    pad_to_square,
    resized,
)
from modiste.models.preprocess import Preprocess


class NoText(nn.Module):
    """A text tower of no use."""

    dim, tokenizer = 4, None

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def tower(name, size, **options):
    torch.manual_seed(0)
    return TwoTower(TimmEncoder(name, size=size, **options), NoText(), embed_dim=16).eval()


@pytest.fixture(scope="module")
def cnn():
    return tower("test_efficientnet", 64)


@pytest.fixture(scope="module")
def vit():
    return tower("test_vit", 64)


def noise(width, height, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)


def phrases(number=3, dim=16, seed=1):
    return F.normalize(torch.randn(number, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def occlusion_by_the_protocol(model, pixels, text, step=15, rounds=5):
    """One masked image at a time, float64, no algebra."""
    size = pixels.shape[-1]
    borders = [round(mark * size / 224) for mark in [*range(0, 224, step), 224]]
    masks = []
    for i in range(len(borders)):
        for j in range(i + 1, len(borders)):
            across, down = np.zeros((size, size)), np.zeros((size, size))
            across[borders[i] : borders[j], :] = 1
            down[:, borders[i] : borders[j]] = 1
            masks += [across, down]

    def cosine(image):
        with torch.no_grad():
            return float(model.encode_image(torch.from_numpy(image)[None])[0].double() @ text.double())

    picture = pixels.numpy()
    whole = cosine(picture)
    score = np.zeros((size, size))
    for mask in masks:
        image = np.where(mask.astype(bool), picture, 128).astype(np.uint8)
        score += np.clip(cosine(image) * mask - whole, 0, None)
    score /= len(masks)
    for _ in range(rounds):
        score = np.clip(score - score.mean(), 0, None)
    return (score - score.min()) / (score.max() - score.min())


@pytest.mark.parametrize("family", ["cnn", "vit"])
@pytest.mark.parametrize("step", [25, 60])
def test_occlusion_equals_a_plain_loop_of_the_protocol(family, step, request):
    """A portrait, so that some bands show grey alone; one text is far from the image: its cosine is negative."""
    model = request.getfixturevalue(family)
    pixels = input_pixels(model, noise(40, 64))
    texts = phrases()
    with torch.no_grad():
        texts[2] = -model.encode_image(pixels[None])[0]
    assert float((texts[2] @ model.encode_image(pixels[None])[0]).detach()) < 0
    maps = Occlusion(step=step, batch_size=7)(model, pixels, texts)
    assert maps.shape == (3, 64, 64)
    for heat, text in zip(maps.numpy(), texts, strict=True):
        wanted = occlusion_by_the_protocol(model, pixels, text, step)
        np.testing.assert_allclose(heat / heat.max(), wanted, atol=2e-3)


def test_bands_lie_between_all_borders_from_edge_to_edge():
    assert Occlusion(15).borders(224) == [*range(0, 211, 15), 224]
    bands = Occlusion(15).bands(224)
    assert len(bands) == 16 * 15 // 2
    assert bands[:, 0].any()
    assert bands[:, 223].any()
    assert Occlusion(15).borders(96)[:4] == [0, 6, 13, 19]
    with pytest.raises(ModisteError, match="1 to 224"):
        Occlusion(0)


class Counting(DualEncoder):
    """Embeds an image by its mean colours; counts what it is given."""

    embed_dim, preprocess = 3, Preprocess(size=32)

    def __init__(self):
        super().__init__()
        self.batches = []

    def image_features(self, pixels):
        self.batches.append(len(pixels))
        return pixels.mean((2, 3)) + 0.1


def test_band_images_are_embedded_in_batches_once_for_all_phrases_and_without_repeats():
    model = Counting()
    pixels = input_pixels(model, noise(32, 32))
    Occlusion(step=56, batch_size=8)(model, pixels, phrases(5, 3))
    assert model.batches == [8, 8, 3]  # the image, 10 bands across, 10 down; two of them are the image itself
    model.batches = []
    Occlusion(step=56, batch_size=8)(model, torch.full((3, 32, 32), 128, dtype=torch.uint8), phrases(5, 3))
    assert model.batches == [1]


def test_patch_text_is_the_cosine_of_each_patch(vit):
    pixels, texts = input_pixels(vit, noise(64, 50)), phrases()
    maps = PatchText()(vit, pixels, texts)
    with torch.no_grad():
        patches = vit.encode_patches(pixels[None])[0]
    assert maps.shape == (3, 4, 4)
    for k in range(3):
        for y in range(4):
            for x in range(4):
                assert float(maps[k, y, x]) == pytest.approx(float(patches[y, x] @ texts[k]), abs=1e-6)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "resnet10t"])
def test_cam_decomposes_the_image_features_of_a_pooled_network(name):
    """The mean over the map is the dot product of image and text; each cell is W f · t, in float64."""
    model = tower(name, 64)
    pixels, texts = input_pixels(model, noise(64, 50)), phrases()
    maps = Cam()(model, pixels, texts)
    with torch.no_grad():
        normalised = model.preprocess.normalise(pixels[None])
        whole = texts @ model.image_features(normalised)[0]
        features = model.image.trunk.forward_features(normalised)[0].double()
        cells = torch.einsum("kd,dc,chw->khw", texts.double(), model.image_projection.weight.double(), features)
    torch.testing.assert_close(maps.mean((1, 2)), whole, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(maps.double(), cells, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "grid"), [("test_vit", 96, 6), ("test_efficientnet", 97, 4), ("convnext_atto", 97, 3)]
)
def test_a_tower_takes_another_size_with_the_same_weights(name, size, grid):
    model = tower(name, 64)
    other, why = resized(model, 97)
    assert (other.preprocess.size, model.preprocess.size, why) == (size, 64, "")
    pixels = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    assert other.encode_patches(pixels).shape[1:3] == (grid, grid)
    own = model.encode_patches(pixels[:, :, :64, :64]).shape[1:3]
    assert own == ((4, 4) if name == "test_vit" else (2, 2))
    changed = {n for (n, a), b in zip(model.named_parameters(), other.parameters(), strict=True) if a is not b}
    assert changed == ({"image.trunk.pos_embed"} if name == "test_vit" else set())


def test_interpolated_positions_are_timms_own():
    from timm.layers import resample_abs_pos_embed

    model = tower("test_vit", 64)
    wanted = resample_abs_pos_embed(model.image.trunk.pos_embed, [6, 6], num_prefix_tokens=1)
    torch.testing.assert_close(model.at_size(96).image.trunk.pos_embed, wanted)


def test_a_tower_of_one_size_keeps_it_and_says_why():
    model = tower("mixer_s32_224", 224)
    same, why = resized(model, 384)
    assert same is model
    assert "384" in why
    assert resized(model, None) == (model, "")


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "resnet10t"])
def test_grad_cam_of_a_pooled_network_is_its_class_activation_map(name):
    """With average pooling and a linear projection (Zhou et al. 2016) the weights have a closed form."""
    model = tower(name, 64)
    pixels, texts = input_pixels(model, noise(64, 50)), phrases()
    with torch.no_grad():
        features = model.image.trunk.forward_features(model.preprocess.normalise(pixels[None]))[0].double()
        weight = model.image_projection.weight.double()
        projected = weight @ features.mean((1, 2))
        unit = projected / projected.norm()
        places = features.shape[1] * features.shape[2]
        for text, heat in zip(texts.double(), GradCam()(model, pixels, texts), strict=True):
            slope = weight.T @ ((text - unit * (unit @ text)) / projected.norm()) / places
            wanted = torch.einsum("c,chw->hw", slope, features).clamp(min=0)
            torch.testing.assert_close(heat.double(), wanted, atol=1e-6, rtol=1e-4)


def test_grad_cam_of_a_vision_transformer_looks_at_the_tokens_before_the_last_attention(vit):
    pixels, texts = input_pixels(vit, noise(64, 50)), phrases()
    trunk = vit.image.trunk
    with torch.no_grad():
        tokens = trunk.patch_embed(vit.preprocess.normalise(pixels[None]))
        tokens = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(tokens)))
        for block in trunk.blocks[:-1]:
            tokens = block(tokens)
        last = trunk.blocks[-1]
        normed = last.norm1(tokens)
    normed = normed.detach().requires_grad_()
    hidden = tokens + last.ls1(last.attn(normed))
    hidden = hidden + last.ls2(last.mlp(last.norm2(hidden)))
    embedding = F.normalize(vit.image_projection(trunk.forward_head(trunk.norm(hidden), pre_logits=True)), dim=1)[0]
    for text, heat in zip(texts, GradCam()(vit, pixels, texts), strict=True):
        gradient = torch.autograd.grad(embedding @ text, normed, retain_graph=True)[0]
        weights = gradient[0, -16:].mean(0)
        wanted = (normed[0, -16:] @ weights).relu().view(4, 4).detach()
        torch.testing.assert_close(heat, wanted, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["test_convnext", "test_vit2", "test_vit3", "test_byobnet", "test_mambaout", "swin_tiny_patch4_window7_224"]
)
def test_grad_cam_and_patches_fit_other_kinds_of_network(name):
    """ConvNeXt, registers, attention pooling, channels last."""
    model = tower(name, 224 if "swin" in name else 64)
    pixels, texts = input_pixels(model, noise(64, 50)), phrases()
    maps = GradCam()(model, pixels, texts)
    assert maps.shape == PatchText()(model, pixels, texts).shape
    assert maps.amax((1, 2)).max() > 0


def test_grad_cam_leaves_the_model_as_it_was_and_works_within_inference_mode(cnn):
    pixels, texts = input_pixels(cnn, noise(64, 50)), phrases()
    outside = GradCam()(cnn, pixels, texts)
    for parameter in cnn.parameters():
        parameter.requires_grad_(False)
    try:
        with torch.inference_mode():
            inside = GradCam()(cnn, pixels.clone(), texts.clone())
    finally:
        for parameter in cnn.parameters():
            parameter.requires_grad_(True)
    assert torch.equal(inside, outside)
    assert all(parameter.grad is None for parameter in cnn.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in cnn.modules())


def test_a_map_of_tokens_leaves_out_those_before_the_patches():
    tokens = torch.arange(2 * 21 * 3).float().view(2, 21, 3)  # class, four registers, 4 × 4
    assert torch.equal(as_map(tokens)[1, :, 2, 3], tokens[1, 5 + 4 * 2 + 3])


@pytest.mark.parametrize("size", [(60, 80), (81, 60), (50, 50), (7, 301)])
@pytest.mark.parametrize("resize", ["shortest", "squash", "pad"])
def test_a_map_lies_where_the_image_shows_it(size, resize):
    """A white square on black: its brightness in the model's input, brought back, is the square in the image."""
    model = Counting()
    model.preprocess = Preprocess(size=64, resize=resize, crop_pct=0.875 if resize == "shortest" else 1.0)
    width, height = size
    image = Image.new("RGB", size)
    left, top, right, bottom = round(0.6 * width), 0, width, round(0.3 * height)
    image.paste((255, 255, 255), (left, top, right, bottom))
    pixels = input_pixels(model, image)
    heat = on_image(pixels.float().mean(0, keepdim=True), size, (height, width))[0]
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    blur = max(size) / 64 * 2  # pixels of the image that two of the input cover
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    near = ((x - left).abs() < blur) & (y < bottom + blur) | ((y - bottom).abs() < blur) & (x > left - blur)
    assert torch.equal((heat > 0.5)[~near], inside[~near])


def test_the_image_on_its_square_without_padding_is_sampled_exactly():
    """A ramp over the square stays that ramp at the centres of the image's pixels."""
    ramp = ((torch.arange(80) + 0.5) / 80).repeat(80, 1)
    maps = on_image(torch.stack([ramp, ramp.T]), (60, 80), (40, 30))
    across, down = torch.arange(30) / 29, torch.arange(40) / 39
    torch.testing.assert_close(maps[0], across.repeat(40, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(maps[1], down[:, None].repeat(1, 30), atol=1e-5, rtol=0)


def test_flat_maps_are_zero_even_where_only_the_padding_differs():
    flat = torch.full((1, 8, 8), 0.3)
    padded = flat.clone()
    padded[:, :, :2] = 0.9
    assert not on_image(flat, (8, 8), (50, 50)).any()
    assert not on_image(padded, (40, 80), (33, 17))[..., 3:].any()
    padded[:, :, 2] = 0.3 + 1e-9
    assert not on_image(padded[:, :, 2:], (40, 80), (33, 17)).any()


def test_nothing_of_the_image_is_cropped():
    image = Image.new("RGB", (40, 80), (255, 0, 0))
    assert pad_to_square(image).getpixel((19, 0)) == (128, 128, 128)
    model = Counting()
    model.preprocess = Preprocess(size=64, crop_pct=0.5)
    pixels = input_pixels(model, image)
    assert (pixels[0] == 255).sum(1).tolist() == pytest.approx([32] * 64, abs=2)
