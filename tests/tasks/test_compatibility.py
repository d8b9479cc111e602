"""Polyvore Outfits: its files, the scores by loops, the AUC by scikit-learn."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from helpers.task_fakes import FakeCatalogue, FakeEmbedder
from modiste.config import compose, instantiate
from modiste.errors import ModisteError
from modiste.metrics.classification import auc
from modiste.tasks.compatibility import Compatibility, read_published

N_ITEMS = 60
CAPTIONS = ['data.captions.templates=["a {text}"]', "data.captions.words={text: {title 0: first}, colour: {a: b}}"]


def item(i):
    return f"1{i:08d}"


@pytest.fixture
def folder(tmp_path):
    """The published layout: sets of three to five items, an item possibly in several sets, indices from 1."""
    generator = np.random.default_rng(0)
    kind = tmp_path / "nondisjoint"
    kind.mkdir()
    number = 200000000
    for word, n_sets in (("train", 4), ("valid", 6), ("test", 30)):
        sets = []
        for _ in range(n_sets):
            number += 1
            members = generator.permutation(N_ITEMS)[: generator.integers(3, 6)]
            items = [{"item_id": item(i), "index": j} for j, i in enumerate(members, 1)]
            sets.append({"items": items, "set_id": str(number)})
        (kind / f"{word}.json").write_text(json.dumps(sets))
        references = [[f"{s['set_id']}_{entry['index']}" for entry in s["items"]] for s in sets]
        every = [reference for outfit in references for reference in outfit]
        random = [list(generator.choice(every, len(outfit), replace=False)) for outfit in references]
        lines = [f"1 {' '.join(outfit)}" for outfit in references] + [f"0 {' '.join(outfit)}" for outfit in random]
        (kind / f"compatibility_{word}.txt").write_text("\n".join(lines) + "\n")
        questions = []
        for outfit in references:
            others = [r for r in every if r.split("_")[0] != outfit[0].split("_")[0]]
            blank = int(generator.integers(len(outfit)))
            answers = [outfit[blank], *generator.choice(others, 3, replace=False).tolist()]
            answers = [answers[i] for i in generator.permutation(4)]
            left = outfit[:blank] + outfit[blank + 1 :]
            questions.append({"question": left, "answers": answers, "blank_position": blank + 1})
        (kind / f"fill_in_blank_{word}.json").write_text(json.dumps(questions))
    return tmp_path


def shop(without=()):
    ids = [item(i) for i in np.random.default_rng(1).permutation(N_ITEMS) if item(i) not in without]
    splits = ["test" if i % 2 else "train" for i in range(len(ids))]
    return FakeCatalogue({"product_id": ids, "text": [f"title {i}" for i in ids], "split": splits})


def embedder(catalogue):
    return FakeEmbedder(torch.randn(len(catalogue), 6, generator=torch.Generator().manual_seed(2)))


def by_hand(folder, vectors, word="test"):
    """(labels, scores) of the outfits and whether each question is answered, by loops over pairs in float64."""
    kind = folder / "nondisjoint"
    lookup = {}
    for outfit in json.loads((kind / f"{word}.json").read_text()):
        for entry in outfit["items"]:
            lookup[f"{outfit['set_id']}_{entry['index']}"] = vectors.get(entry["item_id"])
    labels, scores = [], []
    for line in (kind / f"compatibility_{word}.txt").read_text().splitlines():
        label, *references = line.split()
        found = [lookup[r] for r in references if lookup[r] is not None]
        if len(found) > 1:
            pairs = [float(a @ b) for i, a in enumerate(found) for b in found[i + 1 :]]
            labels.append(int(label))
            scores.append(np.float32(np.mean(pairs)))
    answered = []
    for entry in json.loads((kind / f"fill_in_blank_{word}.json").read_text()):
        own = entry["question"][0].split("_")[0]
        given = [lookup[r] for r in entry["question"] if lookup[r] is not None]
        candidates = [lookup[r] for r in entry["answers"]]
        if given and all(c is not None for c in candidates):
            means = [np.mean([float(c @ g) for g in given]) for c in candidates]
            answered.append(entry["answers"][int(np.argmax(means))].split("_")[0] == own)
    return labels, scores, answered


def vectors_of(catalogue, matrix):
    return {name: matrix[i].double() for i, name in enumerate(catalogue.column("product_id"))}


@pytest.mark.parametrize(("split", "word"), [("test", "test"), ("val", "valid")])
def test_both_tasks_agree_with_loops_and_scikit_learn(folder, split, word):
    catalogue = shop()
    model = embedder(catalogue)
    result = Compatibility(str(folder))(model, catalogue, split)
    labels, scores, answered = by_hand(folder, vectors_of(catalogue, model.rows), word)
    assert result.metrics["compatibility/auc"].value == pytest.approx(roc_auc_score(labels, scores))
    assert result.metrics["fill_in_blank/accuracy"].value == pytest.approx(np.mean(answered))
    np.testing.assert_array_equal(result.per_query["fill_in_blank/accuracy"], answered)
    assert result.per_query["compatibility/auc"].mean() == pytest.approx(result.metrics["compatibility/auc"].value)
    assert len(result.per_query["compatibility/auc"]) == result.counts["compatibility/compatible"] == sum(labels)
    assert result.counts["compatibility/queries"] == len(labels) == result.metrics["compatibility/auc"].n
    assert result.counts["items_missing"] == result.counts["compatibility/queries_excluded"] == 0
    assert (result.primary, result.split) == ("compatibility/auc", split)


def test_the_text_of_an_item_has_the_words_of_the_captions(folder):
    catalogue = shop()
    model = embedder(catalogue)
    compatibility = compose("evaluate", ["task=[compatibility]", f"task.compatibility.path={folder}", *CAPTIONS])
    result = instantiate(compatibility.task.compatibility, documents={"text": 1.0})(model, catalogue, "test")
    texts = model.texts([f"a {'first' if i == 'title 0' else i}" for i in catalogue.column("text")])
    labels, scores, _ = by_hand(folder, vectors_of(catalogue, texts))
    assert result.metrics["compatibility/auc"].value == pytest.approx(roc_auc_score(labels, scores))
    assert result.protocol["words"] == {"text": {"title 0": "first"}}


def test_items_may_be_a_mixture_of_image_and_text(folder):
    catalogue = shop()
    model = embedder(catalogue)
    result = Compatibility(str(folder), documents={"image": 0.6, "text": 0.4})(model, catalogue, "test")
    texts = model.texts(catalogue.column("text"))
    mixed = F.normalize(0.6 * model.rows + 0.4 * texts, dim=1)
    labels, scores, answered = by_hand(folder, vectors_of(catalogue, mixed))
    assert result.metrics["compatibility/auc"].value == pytest.approx(roc_auc_score(labels, scores))
    assert result.metrics["fill_in_blank/accuracy"].value == pytest.approx(np.mean(answered))
    assert result.protocol["documents"] == {"image": 0.6, "text": 0.4}


def test_missing_items_are_excluded_and_counted(folder):
    catalogue = shop(without=[item(i) for i in range(0, N_ITEMS, 3)])
    model = embedder(catalogue)
    result = Compatibility(str(folder))(model, catalogue, "test")
    labels, scores, answered = by_hand(folder, vectors_of(catalogue, model.rows))
    assert result.metrics["compatibility/auc"].value == pytest.approx(roc_auc_score(labels, scores))
    np.testing.assert_array_equal(result.per_query["fill_in_blank/accuracy"], answered)
    assert result.counts["compatibility/queries_excluded"] == 60 - len(labels) > 0
    assert result.counts["fill_in_blank/queries_excluded"] == 30 - len(answered) > 0
    assert result.counts["items_missing"] > 0


def test_a_model_that_sees_no_difference_gets_half_an_auc_and_no_blank_right(folder):
    """Ties count half in the AUC; a tie for the first place is a wrong answer, wherever the right one stands."""
    catalogue = shop()
    result = Compatibility(str(folder))(FakeEmbedder(torch.ones(N_ITEMS, 3)), catalogue, "test")
    interval = result.metrics["compatibility/auc"]
    assert (interval.value, interval.low, interval.high) == (0.5, 0.5, 0.5)
    assert result.metrics["fill_in_blank/accuracy"].value == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_auc_of_resamples_agrees_with_scikit_learn_ties_included(seed):
    generator = np.random.default_rng(seed)
    scores, labels = generator.integers(5, size=40).astype(float), generator.random(40) < 0.4
    counts = generator.integers(4, size=(20, 40)).astype(float)
    expected = [roc_auc_score(labels, scores, sample_weight=row) for row in counts]
    np.testing.assert_allclose(auc(scores, labels, counts), expected)
    assert auc(scores, labels)[0] == pytest.approx(roc_auc_score(labels, scores))


def test_mistakes_have_a_remedy(folder):
    kind = folder / "nondisjoint"
    catalogue = shop()
    with pytest.raises(ModisteError, match="Did you mean 'disjoint'"):
        Compatibility(str(folder), kind="disjont")
    with pytest.raises(ModisteError, match="no split 'query'"):
        read_published(kind, "query")
    with pytest.raises(ModisteError, match=r"task\.compatibility\.path"):
        Compatibility(str(folder), kind="disjoint")(embedder(catalogue), catalogue, "test")
    other = FakeCatalogue({"product_id": ["1"], "text": ["x"], "split": ["test"]})
    with pytest.raises(ModisteError, match="data=polyvore"):
        Compatibility(str(folder))(embedder(other), other, "test")
    model = embedder(catalogue)
    model.rows = model.rows * float("nan")
    with pytest.raises(ModisteError, match="not finite"):
        Compatibility(str(folder))(model, catalogue, "test")
    lines = (kind / "compatibility_test.txt").read_text()
    (kind / "compatibility_test.txt").write_text(lines + "1 200000099_1 200000099_2\n")
    with pytest.raises(ModisteError, match="200000099_1 is in no outfit"):
        read_published(kind, "test")
    (kind / "compatibility_test.txt").write_text(lines)
    question = json.loads((kind / "fill_in_blank_test.json").read_text())[0]
    question["answers"] = question["question"][:1] * 4
    (kind / "fill_in_blank_test.json").write_text(json.dumps([question]))
    with pytest.raises(ModisteError, match="is damaged"):
        read_published(kind, "test")
    with pytest.raises(ModisteError, match="after training"):
        Compatibility.validate_config({}, {"trainer": {}})
