"""Tiny models in the layout of open_clip's hub repositories."""

import json

import open_clip
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from helpers.tiny_encoders import randomised, save_gemma_tokenizer

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 8, "patch_size": 8},
    "text_cfg": TEXT,
}
RESNET = {**CLIP, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}


def tiny_vit(img_size, num_classes=1000, global_pool="avg"):
    """timm's SigLIP tower in small: no class token."""
    model = VisionTransformer(
        img_size=img_size, patch_size=16, embed_dim=32, depth=2, num_heads=2, mlp_ratio=1, class_token=False,
        num_classes=num_classes, global_pool=global_pool,
    )  # fmt: skip
    model.default_cfg = {}
    return model


@timm.models.register_model
def tiny_siglip_trunk(pretrained, pretrained_cfg, pretrained_cfg_overlay, cache_dir, **kwargs):
    return tiny_vit(32, **kwargs)


@timm.models.register_model
def tiny_one_patch_trunk(pretrained, pretrained_cfg, pretrained_cfg_overlay, cache_dir, **kwargs):
    return tiny_vit(16, **kwargs)


def siglip_config(trunk, size, vocabulary, **vision):
    return {
        "embed_dim": 32,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"image_size": size, "timm_model_name": trunk, "timm_pool": "map", "timm_proj": "none", **vision},
        "text_cfg": {
            **TEXT,
            "width": 32,
            "context_length": 64,
            "vocab_size": vocabulary,
            "hf_tokenizer_name": "somebody/elsewhere",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    }


def build(config):
    torch.manual_seed(0)
    arguments = {name: value for name, value in config.items() if name != "custom_text"}
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    return randomised(kind(**arguments)).eval()


def save(path, config, **preprocess):
    """The layout of hf-hub repositories such as Marqo/marqo-fashionCLIP."""
    model = build(config)
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, path / "open_clip_model.safetensors"
    )
    return path


def save_siglip(path, trunk="tiny_siglip_trunk", size=32, **vision):
    config = siglip_config(trunk, size, save_gemma_tokenizer(path), **vision)
    return save(path, config, mean=[0.5] * 3, std=[0.5] * 3, interpolation="bilinear", resize_mode="squash")
