"""Embeddings come from the cache exactly when weights, pixels and preprocessing are the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.tiny_models import two_tower
from modiste.data.synthetic import Synthetic
from modiste.embedding import backends
from modiste.embedding.build import build_embedder
from modiste.embedding.embedder import MatrixEmbedder, ModelEmbedder, PrefixEmbedder, fingerprint, read_matrix
from modiste.errors import ModisteError
from modiste.texts.words import HashTokenizer


@pytest.fixture(scope="module")
def catalogue():
    return Synthetic(products=12, views=1, size=32)()


def embed(model, catalogue, cache, **options):
    embedder = ModelEmbedder(model, cache=cache, **{"batch_size": 5} | options)
    return embedder.images(catalogue), embedder.texts(catalogue.column("text"))


def test_rows_keep_their_order_and_batches_do_not_matter(catalogue):
    model = two_tower()
    images, texts = embed(model, catalogue, None)
    with torch.no_grad():
        for row in range(len(catalogue)):
            pixels = model.preprocess(catalogue.read_image(row))[None]
            torch.testing.assert_close(images[row], model.encode_image(pixels)[0], rtol=1e-4, atol=1e-5)
            tokens = model.tokenizer([catalogue.column("text")[row]])
            torch.testing.assert_close(texts[row], model.encode_text(tokens)[0], rtol=1e-4, atol=1e-5)


def test_the_second_time_nothing_is_computed(catalogue, tmp_path, monkeypatch):
    model = two_tower()
    first = embed(model, catalogue, tmp_path)
    monkeypatch.setattr(type(model), "image_features", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr(type(model), "text_features", lambda *_: pytest.fail("computed again"))
    second = embed(model, catalogue, tmp_path)
    assert all(map(torch.equal, first, second))


def test_a_stale_entry_is_never_used(catalogue, tmp_path):
    model = two_tower()
    before, _ = embed(model, catalogue, tmp_path)
    with torch.no_grad():
        next(model.image.parameters()).add_(0.1)
    weights, _ = embed(model, catalogue, tmp_path)
    assert not torch.allclose(weights, before)
    files = len(list(tmp_path.iterdir()))
    model.preprocess = replace(model.preprocess, resize="squash", interpolation="nearest")
    preprocessing, _ = embed(model, catalogue, tmp_path)
    assert len(list(tmp_path.iterdir())) > files, "photos of the input's size are the same pixels, under another key"
    other = Synthetic(products=12, views=1, size=32, seed=1)()
    assert not torch.allclose(embed(model, other, tmp_path)[0], preprocessing)
    backwards = catalogue.select(rows=list(range(len(catalogue)))[::-1])
    torch.testing.assert_close(embed(model, backwards, tmp_path)[0], preprocessing.flip(0), rtol=1e-4, atol=1e-5)


def test_texts_are_one_entry_however_they_are_batched_and_padded(catalogue, tmp_path, monkeypatch):
    model = two_tower()
    texts = ["one", "two words", "a third one that is much longer than those", *catalogue.column("text")]
    first = ModelEmbedder(model, batch_size=3, cache=tmp_path).texts(texts)
    monkeypatch.setattr(type(model), "text_features", lambda *_: pytest.fail("computed again"))
    assert torch.equal(ModelEmbedder(model, batch_size=100, cache=tmp_path).texts(texts), first)


def test_texts_by_length_equal_padded_ones_and_repeats_are_embedded_once(monkeypatch):
    model = two_tower()
    texts = ["one", "two words", "a third one that is much longer than those", "one", "", "two words", "x y z"]
    seen = []
    inner = model.encode_text
    monkeypatch.setattr(model, "encode_text", lambda tokens: seen.append(tokens) or inner(tokens))
    got = ModelEmbedder(model, batch_size=2).texts(texts)
    assert sum(len(tokens["input_ids"]) for tokens in seen) == len(set(texts))
    widths = [tokens["input_ids"].shape[1] for tokens in seen]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]
    with torch.no_grad():
        padded = inner(model.tokenizer(texts))  # all to the longest
    torch.testing.assert_close(got, padded, rtol=1e-4, atol=1e-5)
    assert torch.equal(got[0], got[3])
    assert torch.equal(got[1], got[5])


def test_images_that_look_alike_are_embedded_once(catalogue, monkeypatch):
    model = two_tower()
    rows = [3, 1, 3, 3, 0, 1]
    alone = ModelEmbedder(model).images(catalogue)
    seen = []
    inner = model.encode_image
    monkeypatch.setattr(model, "encode_image", lambda pixels: seen.append(len(pixels)) or inner(pixels))
    got = ModelEmbedder(model, batch_size=2).images(catalogue.select(rows=rows))
    assert sum(seen) == 3
    torch.testing.assert_close(got, alone[rows], rtol=1e-4, atol=1e-5)


class LeftPadded:
    """The words of another tokenizer, padded on the left."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, texts):
        return {name: tensor.flip(1) for name, tensor in self.inner(texts).items()}


def test_texts_that_differ_where_a_left_padded_one_has_words_are_two_entries(tmp_path):
    model = two_tower()
    model.tokenizer = LeftPadded(model.tokenizer)
    longest = "one that is much longer than those"
    embedder = ModelEmbedder(model, cache=tmp_path)
    first, second = embedder.texts(["red shoe", longest]), embedder.texts(["blue coat", longest])
    assert not torch.allclose(first[0], second[0])


def test_nothing_and_one_thing_can_be_embedded_by_any_backend(catalogue):
    model = two_tower()
    for backend in ("torch", "channels_last"):
        embedder = ModelEmbedder(model, backend=backend)
        assert embedder.texts([]).shape == (0, 16)
        assert embedder.texts(["one"]).shape == (1, 16)
        assert embedder.images(catalogue.select(rows=[2])).shape == (1, 16)


@pytest.fixture
def two_backends(monkeypatch):
    """Torch, and a backend that is faster and near enough for most models; the names that were measured."""
    measured = []

    def rate(tower, encode):
        measured.append(tower.kind)
        return float(len(measured))

    def twin(tower, bf16):
        return lambda inputs: tower.encode(inputs) * 1.0

    monkeypatch.setattr(backends, "BACKENDS", {"torch": backends.eager, "twin": twin})
    monkeypatch.setattr(backends, "has_bf16", lambda: False)
    monkeypatch.setattr(backends, "rate", rate)
    return measured


def test_auto_is_measured_once_a_model_and_its_entries_are_those_of_what_it_took(
    catalogue, tmp_path, two_backends, monkeypatch
):
    model = two_tower()
    first = ModelEmbedder(model, cache=tmp_path, backend="auto")
    images = first.images(catalogue)
    assert first.used == {"image": "twin"}
    assert two_backends == ["image", "image"]
    other = ModelEmbedder(model, cache=tmp_path, backend="auto")
    other.images(catalogue.select(rows=[0, 1, 2]))  # of new data; nothing is measured
    assert other.used == {"image": "twin"}
    assert len(two_backends) == 2
    monkeypatch.setattr(type(model), "image_features", lambda *_: pytest.fail("computed again"))
    for name in ("auto", "twin"):
        assert torch.equal(ModelEmbedder(model, cache=tmp_path, backend=name).images(catalogue), images)


def test_what_auto_took_is_given_up_when_it_is_too_far_on_other_data(catalogue, tmp_path, two_backends, monkeypatch):
    model = two_tower()
    ModelEmbedder(model, cache=tmp_path, backend="auto").images(catalogue)
    monkeypatch.setitem(backends.BACKENDS, "twin", lambda tower, bf16: lambda inputs: -tower.encode(inputs))
    embedder = ModelEmbedder(model, cache=tmp_path, backend="auto")
    embedder.images(catalogue.select(rows=[0, 1, 2]))
    assert embedder.used == {"image": "torch"}


def test_a_named_backend_that_is_too_far_makes_no_entry(catalogue, tmp_path, two_backends, monkeypatch):
    monkeypatch.setitem(backends.BACKENDS, "twin", lambda tower, bf16: lambda inputs: -tower.encode(inputs))
    embedder = ModelEmbedder(two_tower(), cache=tmp_path, backend="twin")
    with pytest.raises(ModisteError, match=r"too far from torch: cosine -1.*min_cosine.text=0.999"):
        embedder.texts(["one", "two words"])
    assert not list(tmp_path.rglob("*.npy"))
    with pytest.raises(ModisteError, match="auto also chooses the precision"):
        ModelEmbedder(two_tower(), backend="auto", precision="bf16")


@pytest.mark.slow
def test_another_backend_gives_the_same_embeddings_and_entries_of_its_own(catalogue, tmp_path):
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    model = two_tower("test_efficientnet")
    torchs = embed(model, catalogue, tmp_path)
    entries = set(tmp_path.iterdir())
    others = embed(model, catalogue, tmp_path, backend="openvino")
    assert set(tmp_path.iterdir()) > entries
    for ours, theirs in zip(others, torchs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    with pytest.raises(ModisteError, match="Did you mean 'openvino'"):
        ModelEmbedder(model, backend="openvin")


def test_another_tokenizer_or_pooling_is_another_entry(catalogue, tmp_path):
    model = two_tower()
    before = embed(model, catalogue, tmp_path)[1]
    model.tokenizer = HashTokenizer(buckets=512, max_length=2)
    shorter = embed(model, catalogue, tmp_path)[1]
    assert not torch.allclose(shorter, before)
    model.text.pooling = "cls"
    assert not torch.allclose(embed(model, catalogue, tmp_path)[1], shorter)


def test_a_fingerprint_sees_every_weight_and_buffer():
    model = two_tower("test_efficientnet")
    seen = {fingerprint(model)}
    for name, tensor in model.state_dict().items():
        before = tensor.clone()
        tensor.add_(1)
        assert fingerprint(model) not in seen, name
        tensor.copy_(before)
    assert fingerprint(model) in seen


def matrices(catalogue):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(catalogue), 4, generator=generator), torch.randn(len(catalogue), 4, generator=generator)


def test_matrix_embedder_gives_the_rows_of_a_part(catalogue):
    images, texts = matrices(catalogue)
    embedder = MatrixEmbedder(catalogue, images, texts)
    part = catalogue.select(rows=[7, 2])
    torch.testing.assert_close(embedder.images(part), torch.nn.functional.normalize(images[[7, 2]], dim=-1))
    with pytest.raises(ModisteError, match="text 'unheard of' has no embedding"):
        embedder.texts(["unheard of"])


def test_matrices_that_do_not_fit_are_one_sentence(catalogue, tmp_path):
    images, texts = matrices(catalogue)
    for wrong, message in (
        ((images[:5], texts), "give a matrix with 12 rows"),
        ((images, texts[:, :3]), "differ in size"),
        ((images * float("nan"), texts), "non-finite"),
    ):
        with pytest.raises(ModisteError, match=message):
            MatrixEmbedder(catalogue, *wrong)
    with pytest.raises(ModisteError, match="Embedding file"):
        read_matrix(tmp_path / "none.npy")
    (tmp_path / "bad.npy").write_text("no matrix")
    with pytest.raises(ModisteError, match="does not contain a matrix"):
        read_matrix(tmp_path / "bad.npy")
    np.save(tmp_path / "good.npy", images.numpy())
    assert torch.equal(read_matrix(tmp_path / "good.npy"), images)


def test_prefixes_are_cut_and_normalised_and_share_one_entry_of_the_cache(catalogue, tmp_path, monkeypatch):
    embedder = ModelEmbedder(two_tower(), batch_size=4, cache=tmp_path)
    whole, texts = embedder.images(catalogue), embedder.texts(["a", "b c"])
    entries = sorted(tmp_path.glob("*.npy"))
    monkeypatch.setattr(embedder, "_embed_images", lambda *_: pytest.fail("embedded again"))
    for dim in (1, 3):
        prefix = PrefixEmbedder(embedder, dim)
        expected = whole[:, :dim] / whole[:, :dim].norm(dim=1, keepdim=True)
        torch.testing.assert_close(prefix.images(catalogue), expected)
        torch.testing.assert_close(prefix.texts(["a", "b c"]), torch.nn.functional.normalize(texts[:, :dim], dim=1))
    assert sorted(tmp_path.glob("*.npy")) == entries
    with pytest.raises(ModisteError, match="needs the model itself"):
        _ = prefix.model
    with pytest.raises(ModisteError, match="exceeds"):
        PrefixEmbedder(embedder, 10_000).images(catalogue)
    with pytest.raises(ModisteError, match="at least 1"):
        PrefixEmbedder(embedder, 0)


def test_an_embedder_is_built_where_its_model_is():
    model = two_tower().to("meta")
    assert build_embedder(two_tower(), device="cpu", cache=False).device.type == "cpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modiste.embedding.embedder.fingerprint", lambda model: "")
        assert build_embedder(model, device=None, cache=False).device.type == "meta"
