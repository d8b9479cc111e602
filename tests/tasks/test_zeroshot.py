"""The zero-shot task on embeddings whose answers are known."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch.nn import functional as F

from helpers.task_fakes import FakeCatalogue, FakeEmbedder
from modiste.errors import ModisteError
from modiste.tasks.zeroshot import MAX_CLASSES, ZeroShot

TYPES = ["Dress", "Shirt", "Shoe"]
PLAIN = {"type": ["{}"], "default": ["{}"]}


def catalogue(n=90):
    kinds = np.random.default_rng(0).choice(3, n, p=[0.6, 0.3, 0.1])
    return FakeCatalogue(
        {
            "product_id": [str(i) for i in range(n)],
            "text": ["x"] * n,
            "split": ["test"] * (n - 10) + ["train"] * 10,
            "type": [TYPES[k] for k in kinds],
            "season": ["NA" if i % 3 == 0 else "Summer" if i % 3 == 1 else "" for i in range(n)],
        }
    )


def embedder(noise=0.0, table=None):
    """An image lies on the axis of its type; so do the words."""
    axes = dict(zip(TYPES, torch.eye(3, 8), strict=True))
    images = torch.stack([axes[kind] for kind in catalogue().column("type")])
    images = images + noise * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return FakeEmbedder(images, table or axes)


def values(result):
    return {name: interval.value for name, interval in result.metrics.items()}


def test_perfect_embeddings_are_perfect():
    result = ZeroShot(["type"], PLAIN)(embedder(), catalogue(), "test")
    assert set(values(result).values()) == {1.0}
    assert result.confusion["type"]["labels"] == TYPES
    assert np.trace(result.confusion["type"]["matrix"]) == result.counts["type/queries"] == 80
    assert (result.task, result.primary) == ("zeroshot", "type/weighted_f1")


def test_synonyms_are_averaged_into_the_vector_of_their_class():
    """Two values with one word are one class; the words of both count."""
    words = {"type": {"Dress": "garment", "Shirt": "garment"}}
    synonyms = {"type": {"Dress": ["gown"], "Shirt": ["blouse", "top"]}}
    task = ZeroShot(["type"], {"type": ["a {}", "the {}"]}, words, synonyms)
    fake = embedder(noise=0.5)
    result = task(fake, catalogue(), "test")
    texts = [f"{the} {word}" for word in ("garment", "gown", "blouse", "top") for the in ("a", "the")]
    garment = torch.stack([F.normalize(fake.vector(text), dim=0) for text in texts]).mean(0)
    shoe = torch.stack([F.normalize(fake.vector(text), dim=0) for text in ("a Shoe", "the Shoe")]).mean(0)
    cosines = fake.rows[:80] @ F.normalize(torch.stack([shoe, garment]), dim=-1).T  # in alphabetical order
    expected = [["Shoe", "garment"][i] for i in cosines.argmax(1)]
    targets = ["Shoe" if kind == "Shoe" else "garment" for kind in catalogue().column("type")[:80]]
    assert result.confusion["type"]["labels"] == ["Shoe", "garment"]
    assert values(result)["type/accuracy"] == pytest.approx(
        np.mean([a == b for a, b in zip(expected, targets, strict=True)])
    )
    assert result.protocol["synonyms"] == synonyms
    assert "synonyms" not in ZeroShot(["type"], PLAIN)(fake, catalogue(), "test").protocol
    with pytest.raises(ModisteError, match="give a list"):
        ZeroShot(["type"], synonyms={"type": {"Dress": "gown"}})


def test_random_embeddings_are_at_chance():
    """Words and images in independent directions: balanced accuracy 1/C, on average over draws of the words."""
    n, found = 300, []
    columns = {
        "product_id": ["p"] * n,
        "text": ["x"] * n,
        "split": ["test"] * n,
        "type": [TYPES[i % 3] for i in range(n)],
    }
    for seed in range(20):
        fake = FakeEmbedder(torch.randn(n, 16, generator=torch.Generator().manual_seed(seed)))
        result = ZeroShot(["type"], {"type": [f"{seed} {{}}"]}, resamples=10)(fake, FakeCatalogue(columns), "test")
        found.append(values(result)["type/mean_per_class_recall"])
    assert np.mean(found) == pytest.approx(1 / 3, abs=0.02)


def test_metrics_and_table_equal_scikit_learn():
    """Recomputed from cosines with the words' vectors."""
    noisy = embedder(noise=0.5)
    result = ZeroShot(["type"], PLAIN)(noisy, catalogue(), "test")
    targets = catalogue().column("type")[:80]
    cosines = noisy.rows[:80] @ torch.stack([noisy.vector(word) for word in TYPES]).T
    predictions = [TYPES[i] for i in cosines.argmax(1)]
    assert 0.3 < values(result)["type/accuracy"] < 0.95
    assert values(result)["type/weighted_f1"] == pytest.approx(f1_score(targets, predictions, average="weighted"))
    assert values(result)["type/macro_f1"] == pytest.approx(f1_score(targets, predictions, average="macro"))
    assert values(result)["type/mean_per_class_recall"] == pytest.approx(balanced_accuracy_score(targets, predictions))
    rows = {row[0]: row for row in result.tables["type"]["rows"]}
    assert rows["Shirt"][1] == targets.count("Shirt")
    assert rows["Shirt"][4] == pytest.approx(f1_score(targets, predictions, average=None, labels=TYPES)[1])
    assert result.per_query["type/accuracy"].tolist() == [
        float(t == p) for t, p in zip(targets, predictions, strict=True)
    ]


def test_a_class_is_the_normalised_mean_of_its_normalised_prompts():
    class Unnormalised(FakeEmbedder):
        def texts(self, texts):
            return super().texts(texts) * torch.tensor([[1.0 + 9 * text.startswith("b")] for text in texts])

    fake = Unnormalised(torch.eye(2, 16))
    vectors = ZeroShot.class_vectors(fake, ["Shoe", "{x}"], ["a {}", "b {}"])
    for vector, word in zip(vectors, ["Shoe", "{x}"], strict=True):
        mean = (fake.vector(f"a {word}") + fake.vector(f"b {word}")) / 2
        torch.testing.assert_close(vector, F.normalize(mean, dim=0))
    assert fake.asked == [["a Shoe", "b Shoe", "a {x}", "b {x}"]]


def test_classes_rename_and_unite_values():
    """Two values with one word are one class."""
    axes = {"gown": torch.eye(3, 8)[0], "top": torch.eye(3, 8)[1]}
    fake = embedder(table=axes)
    fake.rows[fake.rows[:, 2] > 0.5] = torch.eye(3, 8)[1]
    task = ZeroShot(["type"], PLAIN, classes={"type": {"Dress": "gown", "Shirt": "top", "Shoe": "top"}})
    result = task(fake, catalogue(), "test")
    assert fake.asked == [["gown", "top"]]
    assert result.confusion["type"]["labels"] == ["gown", "top"]
    assert values(result)["type/accuracy"] == 1.0
    assert result.protocol["classes"]["type"]["Shoe"] == "top"


def test_missing_values_are_ignored_and_na_is_a_value():
    fake = embedder()
    result = ZeroShot(["season"], {"season": ["{}"]})(fake, catalogue(), "test")
    assert fake.asked == [["NA", "Summer"]]
    seasons = catalogue().column("season")[:80]
    assert result.counts == {
        "season/queries": 80 - seasons.count(""),
        "season/ignored": seasons.count(""),
        "season/classes": 2,
    }
    assert len(result.per_query["season/accuracy"]) == result.counts["season/queries"]
    also = ZeroShot(["season"], {"season": ["{}"]}, ignore_values=["", "NA"])(fake, catalogue(), "test")
    assert also.counts["season/classes"] == 1


def test_attributes_are_those_with_prompts_or_all():
    assert list(ZeroShot(prompts={"type": ["{}"]})(embedder(), catalogue(), "test").tables) == ["type"]
    assert list(ZeroShot(prompts={"default": ["{}"]})(embedder(), catalogue(), "test").tables) == ["type", "season"]
    assert list(ZeroShot(attributes=["season"])(embedder(), catalogue(), "test").tables) == ["season"]


def test_prompts_default_where_none_are_given():
    fake = embedder()
    result = ZeroShot(["type", "season"], {"type": ["one {}"]})(fake, catalogue(), "test")
    assert fake.asked[0] == ["one Dress", "one Shirt", "one Shoe"]
    assert "a photo of a NA" in fake.asked[1]
    assert result.protocol["prompts"]["type"] == ["one {}"]
    assert result.protocol["prompts"]["season"][0] == "a photo of a {}"
    json.dumps(result.to_json(), allow_nan=False)


def test_columns_that_are_no_classes_are_skipped_unless_they_are_asked_for():
    n = MAX_CLASSES + 1
    columns = {"product_id": ["p"] * n, "text": ["x"] * n, "split": ["test"] * n, "type": ["Dress"] * n}
    columns |= {"price": [str(i) for i in range(n)], "material": [""] * n}
    fake = FakeEmbedder(torch.ones(n, 4))
    result = ZeroShot()(fake, FakeCatalogue(columns), "test")
    assert list(result.tables) == ["type"]
    assert result.protocol["skipped"] == ["price", "material"]
    for name in ("price", "material"):
        with pytest.raises(ModisteError, match=f"Attribute '{name}' has no value, or more than"):
            ZeroShot([name])(fake, FakeCatalogue(columns), "test")


def test_what_does_not_exist_is_an_error():
    with pytest.raises(ModisteError, match=r"no attribute 'types'\. Did you mean 'type'"):
        ZeroShot(["types"])(embedder(), catalogue(), "test")
    with pytest.raises(ModisteError, match="for the class name"):
        ZeroShot(prompts={"type": ["a photo"]})
    with pytest.raises(ModisteError, match="for the class name"):
        ZeroShot(prompts={"type": []})
    bare = FakeCatalogue({"product_id": ["1"], "text": ["x"], "split": ["test"]})
    with pytest.raises(ModisteError, match="no attribute with"):
        ZeroShot()(embedder(), bare, "test")


def test_embeddings_that_are_not_finite_are_an_error():
    fake = embedder()
    fake.rows[0] = float("nan")
    with pytest.raises(ModisteError, match="not finite"):
        ZeroShot(["type"], PLAIN)(fake, catalogue(), "test")
