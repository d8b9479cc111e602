"""Tiny untrained dual encoders, saved in the layouts in which the real ones are published."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

SIZES = [(60, 80), (80, 60), (28, 28), (32, 32), (61, 33), (33, 61), (35, 300), (1, 50), (97, 64)]
TEXTS = ["Red dress with long sleeves", "a", "Blue-jeans, slim fit: 501!"]


def pictures():
    """Smooth noise in portrait, landscape, square and odd sizes; `SIZES` are (width, height)."""
    draw = np.random.default_rng(1)
    for width, height in SIZES:
        small = draw.integers(0, 256, (height // 4 + 2, width // 4 + 2, 3), dtype=np.uint8)
        yield Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def without_gradient(encoder, images, texts):
    """Names of the trainable parameters that a step on the pairs gives no gradient; the encoder is left as it was."""
    pixels = torch.stack([encoder.preprocess(image) for image in images])
    image, text = encoder(pixels, encoder.tokenizer(texts))
    F.cross_entropy(10 * image @ text.T, torch.arange(len(images))).backward()
    names = [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    encoder.zero_grad()
    return names


def at_twice_the_size(encoder):
    """The encoder for inputs of twice its side, one such input, and the number of patches along its own side.

    A side that is no multiple of the patch's is rounded down, and the encoder itself stays as it is.
    """
    side = encoder.preprocess.size
    wide = encoder.at_size(2 * side + 3)
    assert (wide.preprocess.size, encoder.preprocess.size) == (2 * side, side)
    pixels = torch.randint(0, 256, (1, 3, 2 * side, 2 * side), dtype=torch.uint8)
    with torch.no_grad():
        grid = encoder.encode_patches(pixels[:, :, :side, :side]).shape[1]
        assert wide.encode_patches(pixels).shape[1:3] == (2 * grid, 2 * grid)
    return wide, pixels, grid


def save_clip(path: Path, eos: int, side: int = 32, crop: int = 32) -> Path:
    from tokenizers import pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    tower = {"hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={
            **tower, "num_hidden_layers": 3, "vocab_size": len(tokens), "eos_token_id": eos,
            "bos_token_id": 0, "pad_token_id": 1,
        },
        vision_config={**tower, "num_hidden_layers": 2, "image_size": crop, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    randomised(CLIPModel(config)).save_pretrained(path)
    CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[]).save_pretrained(path)
    processor = {
        "crop_size": crop, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": side,
    }  # fmt: skip
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path


def save_siglip(path: Path, image_size: int = 32, patch_size: int = 8) -> Path:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    tower = {"hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4, "num_hidden_layers": 2}
    torch.manual_seed(0)
    size = save_gemma_tokenizer(path)
    config = SiglipConfig(
        text_config={**tower, "vocab_size": size, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
        vision_config={**tower, "image_size": image_size, "patch_size": patch_size},
    )
    randomised(SiglipModel(config)).save_pretrained(path)
    SiglipImageProcessor(size={"height": image_size, "width": image_size}, resample=2).save_pretrained(path)
    return path


def save_gemma_tokenizer(path: Path) -> int:
    from transformers import GemmaTokenizer

    letters = [chr(code) for code in range(33, 127)]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *letters]
    vocab = {token: index for index, token in enumerate(tokens)}
    GemmaTokenizer(
        vocab=vocab, merges=[], add_bos_token=False, add_eos_token=True, padding_side="right",
        model_input_names=["input_ids"],
    ).save_pretrained(path)  # fmt: skip
    return len(tokens)


def randomised(model):
    """Weights large enough that every pixel and token moves the output."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model
