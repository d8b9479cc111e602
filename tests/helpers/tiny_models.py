"""Dual encoders of a few thousand random parameters."""

import torch

from modiste.images.timm import TimmEncoder
from modiste.models.dual_encoder import TwoTower
from modiste.texts.hf import HfTextEncoder
from modiste.texts.words import HashTokenizer

TEXTS = ["a red dress", "blue jeans for men, slim", "shoe"]


def small_text():
    config = {
        "model_type": "bert",
        "vocab_size": 512,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    return HfTextEncoder(config=config, tokenizer=HashTokenizer(buckets=512))


def two_tower(image="test_vit"):
    torch.manual_seed(0)
    return TwoTower(TimmEncoder(image, size=32), small_text(), embed_dim=16)


def pixels(count=3, size=32):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def narrow_two_tower(image="test_efficientnet", hidden=16):
    torch.manual_seed(0)
    config = {
        "model_type": "bert",
        "vocab_size": 64,
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 2 * hidden,
    }
    text = HfTextEncoder(config=config, tokenizer=HashTokenizer(buckets=64))
    return TwoTower(TimmEncoder(image, size=32), text, 8).eval()
