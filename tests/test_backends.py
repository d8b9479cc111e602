"""Every backend gives torch's embeddings, for any batch size and text length, or is refused or passed over."""

import pytest
import torch

from modiste import backends
from modiste.backends import Tower, check_name, choose
from modiste.errors import ModisteError
from modiste.images.timm import TimmEncoder
from modiste.model import TwoTower
from modiste.texts.hf import HfTextEncoder
from modiste.texts.words import HashTokenizer

TEXTS = ["a red dress with long sleeves", "jeans", "a shoe for running", "bag", "two words"]


def model(image="test_efficientnet"):
    torch.manual_seed(0)
    config = {
        "model_type": "bert",
        "vocab_size": 64,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    text = HfTextEncoder(config=config, tokenizer=HashTokenizer(buckets=64))
    return TwoTower(TimmEncoder(image, size=32), text, 8).eval()


def pixels(count):
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("compile", "test_efficientnet"),
        ("onnxruntime", "test_efficientnet"),
        ("onnxruntime", "test_vit"),
        ("openvino", "test_efficientnet"),
        ("openvino", "test_vit"),
    ],
)
def test_embeddings_are_torchs_for_other_sizes_than_the_examples(name, image):
    built = model(image)
    taken, encode = choose(Tower(built, "image", pixels(3)), name, min_cosine=0.9999)
    assert taken == name
    for count in (1, 5):
        torch.testing.assert_close(encode(pixels(count)), built.encode_image(pixels(count)), rtol=1e-3, atol=1e-4)
    _, encode = choose(Tower(built, "text", built.tokenizer(TEXTS[:3])), name, min_cosine=0.9999)
    for texts in (TEXTS[:1], TEXTS[3:], TEXTS):
        tokens = built.tokenizer(texts)
        torch.testing.assert_close(encode(tokens), built.encode_text(tokens), rtol=1e-3, atol=1e-4)


def test_auto_takes_the_fastest_that_is_near_enough(monkeypatch):
    built = model()
    tower = Tower(built, "image", pixels(2))
    speeds = {"torch": 1.0, "far": 100.0, "broken": 50.0, "good": 10.0}

    def broken(tower):
        raise RuntimeError("cannot export")

    fakes = {
        "torch": lambda tower: tower.encode,
        "far": lambda tower: lambda inputs: -tower.encode(inputs),
        "broken": broken,
        "good": lambda tower: lambda inputs: tower.encode(inputs) * 1.0,
    }
    made = {}
    for name, make in fakes.items():
        monkeypatch.setitem(made, name, make)
    monkeypatch.setattr(backends, "BACKENDS", made)
    names = iter(["torch", "good"])
    monkeypatch.setattr(backends, "rate", lambda tower, encode: speeds[next(names)])
    assert choose(tower, "auto", 0.99)[0] == "good"
    with pytest.raises(ModisteError, match="too far from torch: cosine -1"):
        choose(tower, "far", 0.99)
    with pytest.raises(ModisteError, match=r"cannot run the image tower: cannot export Use backend=torch"):
        choose(tower, "broken", 0.99)


def test_a_backend_that_is_unknown_or_not_installed_is_one_sentence(monkeypatch):
    with pytest.raises(ModisteError, match="Did you mean 'openvino'"):
        check_name("openvin")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModisteError, match=r"pip install 'modiste\[onnx\]'"):
        check_name("onnxruntime")
