"""Grad-CAM of published encoders against gradients written out by hand for each family."""

import pytest
import torch
from torch.nn import functional as F

from helpers.tiny_openclip import CLIP, RESNET, save
from helpers.tiny_openclip import save_siglip as save_openclip_siglip
from modiste.errors import ModisteError
from modiste.models.heatmaps import GradCam, PatchText, input_pixels
from modiste.pretrained.openclip import OpenClipDualEncoder
from modiste.pretrained.transformers import TransformersDualEncoder


def transformers_clip(encoder, pixels):
    """The normalised tokens that enter the last block, and the rest of the tower."""
    vision = encoder.model.vision_model
    hidden = vision.pre_layrnorm(vision.embeddings(pixels))
    *before, last = vision.encoder.layers
    for layer in before:
        hidden = layer(hidden, None)

    def rest(normed):
        after = hidden + last.self_attn(hidden_states=normed, attention_mask=None)[0]
        after = after + last.mlp(last.layer_norm2(after))
        return encoder.model.visual_projection(vision.post_layernorm(after[:, 0]))

    return last.layer_norm1(hidden), rest


def transformers_siglip(encoder, pixels):
    vision = encoder.model.vision_model
    hidden = vision.embeddings(pixels)
    *before, last = vision.encoder.layers
    for layer in before:
        hidden = layer(hidden, None)

    def rest(normed):
        after = hidden + last.self_attn(hidden_states=normed, attention_mask=None)[0]
        return vision.head(vision.post_layernorm(after + last.mlp(last.layer_norm2(after))))

    return last.layer_norm1(hidden), rest


def openclip_vit(encoder, pixels):
    visual = encoder.model.visual
    hidden = visual.conv1(pixels).flatten(2).mT
    hidden = torch.cat([visual.class_embedding.expand(1, 1, -1), hidden], dim=1) + visual.positional_embedding
    hidden = visual.ln_pre(hidden)
    *before, last = visual.transformer.resblocks
    for block in before:
        hidden = block(hidden)

    def rest(normed):
        after = hidden + last.attn(normed, normed, normed)[0]
        return visual.ln_post(after + last.mlp(last.ln_2(after)))[:, 0] @ visual.proj

    return last.ln_1(hidden), rest


def openclip_siglip(encoder, pixels):
    trunk = encoder.model.visual.trunk
    hidden = trunk._pos_embed(trunk.patch_embed(pixels))
    *before, last = trunk.blocks
    for block in before:
        hidden = block(hidden)

    def rest(normed):
        after = hidden + last.attn(normed)
        return trunk.attn_pool(trunk.norm(after + last.mlp(last.norm2(after))))

    return last.norm1(hidden), rest


def openclip_resnet(encoder, pixels):
    visual = encoder.model.visual
    features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
    return features, visual.attnpool


@pytest.fixture(scope="module")
def encoders(clip_dir, siglip_dir, tmp_path_factory):
    def folder(name):
        return tmp_path_factory.mktemp(name)

    return {
        transformers_clip: TransformersDualEncoder(str(clip_dir)),
        transformers_siglip: TransformersDualEncoder(str(siglip_dir)),
        openclip_vit: OpenClipDualEncoder(str(save(folder("vit"), CLIP))),
        openclip_siglip: OpenClipDualEncoder(str(save_openclip_siglip(folder("map")))),
        openclip_resnet: OpenClipDualEncoder(str(save(folder("resnet"), RESNET))),
    }


FAMILIES = [transformers_clip, transformers_siglip, openclip_vit, openclip_siglip, openclip_resnet]


@pytest.mark.parametrize("family", FAMILIES)
def test_grad_cam_equals_a_gradient_by_hand(family, encoders, images):
    encoder = encoders[family].eval()
    texts = F.normalize(torch.randn(3, encoder.embed_dim, generator=torch.Generator().manual_seed(0)), dim=1)
    pixels = input_pixels(encoder, images[0])
    with torch.no_grad():
        features, _ = family(encoder, encoder.preprocess.normalise(pixels[None]))
    _, rest = family(encoder, encoder.preprocess.normalise(pixels[None]))
    features = features.detach().requires_grad_()
    embedding = F.normalize(rest(features), dim=1)[0]
    torch.testing.assert_close(embedding, encoder.encode_image(pixels[None])[0], atol=1e-5, rtol=0)
    maps = GradCam()(encoder, pixels, texts)
    assert maps.max() > 0
    for text, heat in zip(texts, maps, strict=True):
        gradient = torch.autograd.grad(embedding @ text, features, retain_graph=True)[0][0]
        places = features.detach()[0].flatten(1).mT if features.ndim == 4 else features.detach()[0]
        gradient = gradient.flatten(1).mT if features.ndim == 4 else gradient
        number = heat.numel()
        wanted = (places[-number:] @ gradient[-number:].mean(0)).relu()
        torch.testing.assert_close(heat.flatten(), wanted, atol=1e-6, rtol=1e-3)


def test_a_tower_without_patch_embeddings_says_so(encoders, images):
    encoder = encoders[openclip_resnet]
    with pytest.raises(ModisteError, match="no patch embeddings"):
        PatchText()(encoder, input_pixels(encoder, images[0]), torch.ones(1, encoder.embed_dim))
