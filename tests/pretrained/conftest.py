"""No test here may reach for the model hub."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

from helpers.tiny_encoders import TEXTS, pictures, save_clip, save_siglip


@pytest.fixture(scope="session")
def images():
    return list(pictures())


@pytest.fixture(scope="session")
def texts():
    return TEXTS


@pytest.fixture(scope="session")
def clip_dir(tmp_path_factory) -> Path:
    """The layout of patrickjohncyh/fashion-clip: old preprocessor keys, eos_token_id 2, no length in the tokenizer."""
    return save_clip(tmp_path_factory.mktemp("clip"), eos=2)


@pytest.fixture(scope="session")
def siglip_dir(tmp_path_factory) -> Path:
    """The layout of google/siglip2-base-patch16-224: a SiglipModel with a Gemma tokenizer."""
    return save_siglip(tmp_path_factory.mktemp("siglip"))
