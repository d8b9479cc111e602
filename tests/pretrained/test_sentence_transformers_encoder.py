"""CLIP-like models of sentence-transformers, in its own layouts."""

import numpy as np
import pytest
import torch

from helpers.tiny_encoders import TEXTS, pictures, save_clip
from helpers.tiny_export import save_bert
from modiste.errors import ModisteError
from modiste.models.finetune import TOWERS, Tuning

sbert = pytest.importorskip("sentence_transformers")
IMAGES = [picture.convert("RGB") for picture in pictures() if min(picture.size) > 8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """CLIP as sentence-transformers saves it: one Transformer for both."""
    from sentence_transformers.sentence_transformer.modules import Transformer

    path = tmp_path_factory.mktemp("clip")
    (path / "hub").mkdir()
    clip = Transformer(str(save_clip(path / "hub", eos=2)))
    sbert.SentenceTransformer(modules=[clip], device="cpu").save_pretrained(str(path / "sbert"))
    return path / "sbert"


@pytest.fixture(scope="module")
def encoder(folder):
    from modiste.pretrained.sentence_transformers import SentenceTransformersDualEncoder

    return SentenceTransformersDualEncoder(str(folder))


def test_embeddings_are_those_of_sentence_transformers(encoder, folder):
    theirs = sbert.SentenceTransformer(str(folder), device="cpu")
    with torch.inference_mode():
        images = encoder.encode_image(torch.stack([encoder.preprocess(image) for image in IMAGES]))
        texts = encoder.encode_text(encoder.tokenizer(TEXTS))
    # It resizes with torchvision, a shade off PIL.
    for ours, inputs, floor in ((images, IMAGES, 0.999), (texts, TEXTS, 0.999999)):
        wanted = torch.as_tensor(np.asarray(theirs.encode(inputs)))
        assert torch.nn.functional.cosine_similarity(ours, wanted).min() > floor
    assert encoder.embed_dim == images.shape[1] == texts.shape[1]


def test_towers_can_be_tuned(encoder):
    for tower in TOWERS:
        groups = encoder.layer_groups(tower)
        assert len(groups) > 2
        Tuning("last_n", layers=1).apply(encoder, tower)
    trained = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    assert any("visual_projection" in name for name in trained)
    assert any("text_projection" in name for name in trained)
    assert not any("embeddings" in name for name in trained)


def test_it_is_what_load_makes_of_such_a_folder(folder):
    import modiste

    assert type(modiste.load(str(folder)).model).__name__ == "SentenceTransformersDualEncoder"


def test_a_text_model_is_refused(tmp_path):
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    from modiste.pretrained.sentence_transformers import SentenceTransformersDualEncoder

    text = Transformer(str(save_bert(tmp_path / "bert")))
    sbert.SentenceTransformer(modules=[text, Pooling(32)], device="cpu").save_pretrained(str(tmp_path / "text"))
    with pytest.raises(ModisteError, match="embeds text: use a model that embeds images and texts"):
        SentenceTransformersDualEncoder(str(tmp_path / "text"))


def test_without_the_package_the_sentence_says_how_to_get_it(folder, monkeypatch):
    import sys

    from modiste.pretrained.sentence_transformers import SentenceTransformersDualEncoder

    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModisteError, match=r"pip install -U 'modiste\[sentence-transformers\]'"):
        SentenceTransformersDualEncoder(str(folder))
