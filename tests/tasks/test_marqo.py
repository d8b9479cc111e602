"""Marqo's protocol against an implementation of its own with pytrec_eval, and on the published files."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
import torch
from torch.nn import functional as F

from helpers.task_fakes import FakeCatalogue, FakeEmbedder
from modiste.errors import ModisteError
from modiste.tasks.marqo import Marqo

TASKS = [
    {"name": "text-to-image", "query_col": ["text"], "doc_col": ["image"]},
    {"name": "color-to-product", "query_col": ["colour"], "doc_col": ["image", "text"], "doc_weights": [0.9, 0.1]},
]
FILES = {"text-to-image": "ground_truth_text-image.json", "color-to-product": "ground_truth_colour-image+text.json"}
N = 60


def benchmark(folder):
    """A benchmark of 50 of the catalogue's 60 products, in the published files' form."""
    judged = {
        "text-to-image": {f"garment {p}": {str(p): 1, str(p + 10): 1} for p in range(0, 40, 3)},
        "color-to-product": {f"colour {c}": {str(p): 1 for p in range(50) if p % 4 == c} for c in range(4)},
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"name": "tiny", "tasks": TASKS}))
    for name, file in FILES.items():
        (folder / file).write_text(json.dumps(judged[name]))
    return judged


def catalogue():
    """Newest first: products of the benchmark are not at the beginning; three are in the train split."""
    ids = [str(p) for p in reversed(range(N))]
    split = ["train" if p in ("0", "3", "10") else "excluded" for p in ids]
    return FakeCatalogue({"product_id": ids, "text": [f"garment {p}" for p in ids], "split": split}, "tiny")


def embedder():
    return FakeEmbedder(torch.randn(N, 24, generator=torch.Generator().manual_seed(0)))


def reference(judged, prefix="", gallery=50):
    """As the benchmark does it: the ten most similar documents of each query, scored by pytrec_eval; MRR by hand."""
    fake, cat = embedder(), catalogue()
    image = dict(zip(cat.column("product_id"), fake.images(cat), strict=True))
    ids = [p for p in image if int(p) < gallery]
    found = {}
    for name, queries in judged.items():
        documents = torch.stack([image[p] for p in ids])
        if name != "text-to-image":
            texts = torch.stack([fake.vector(f"garment {p}") for p in ids])
            documents = F.normalize(0.9 * documents + 0.1 * texts, dim=1)
        run = {}
        for query in queries:
            top = torch.cosine_similarity(fake.vector(prefix + query)[None], documents).topk(10)
            run[query] = {ids[i]: float(s) for s, i in zip(*top, strict=True)}
        measures = {"recall.1,10", "P.1,10", "map_cut.1,10", "ndcg_cut.1,10"}
        rows = list(pytrec_eval.RelevanceEvaluator(queries, measures).evaluate(run).values())
        mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        ranked = {q: sorted(r, key=r.get, reverse=True) for q, r in run.items()}
        first = [next((i + 1 for i, d in enumerate(ranked[q]) if d in queries[q]), np.inf) for q in queries]
        for k in (1, 10):
            found |= {f"{name}/recall@{k}": mean[f"recall_{k}"], f"{name}/precision@{k}": mean[f"P_{k}"]}
            found |= {f"{name}/map@{k}": mean[f"map_cut_{k}"], f"{name}/ndcg@{k}": mean[f"ndcg_cut_{k}"]}
        found[f"{name}/mrr@10"] = float(np.mean(1 / np.array(first)))
        found[f"{name}/avg_recall"] = (mean["recall_1"] + mean["recall_10"]) / 2
        found[f"{name}/avg_precision"] = (mean["P_1"] + mean["P_10"]) / 2
    return found


@pytest.mark.parametrize("prefix", ["", "a photo of a "])
def test_the_protocol_equals_an_implementation_with_pytrec_eval(tmp_path, prefix):
    """Both kinds of document, the gallery of judged products only, the prefix before queries only."""
    judged = benchmark(tmp_path)
    result = Marqo(str(tmp_path), query_prefix=prefix)(embedder(), catalogue(), "test")
    assert {k: v.value for k, v in result.metrics.items()} == pytest.approx(reference(judged, prefix), abs=1e-6)
    assert result.primary == "text-to-image/avg_recall"
    assert result.counts["text-to-image/gallery"] == result.counts["color-to-product/gallery"] == 50
    assert result.counts["text-to-image/queries"] == 14


def test_the_whole_catalogue_is_the_gallery_of_the_hubs_sets(tmp_path):
    """gallery=all: ten of the 60 products are relevant to nothing, and stand in the way."""
    judged = benchmark(tmp_path)
    result = Marqo(str(tmp_path), gallery="all")(embedder(), catalogue(), "test")
    assert {k: v.value for k, v in result.metrics.items()} == pytest.approx(reference(judged, gallery=N), abs=1e-6)
    assert result.counts["text-to-image/gallery"] == result.counts["color-to-product/gallery"] == N
    assert result.protocol["gallery"].startswith("every row of the catalogue")
    assert reference(judged, gallery=N) != pytest.approx(reference(judged), abs=1e-6)
    with pytest.raises(ModisteError, match="61 rows of tiny belong to 60 products"):
        Marqo(str(tmp_path), gallery="all")(embedder(), catalogue().select(rows=[*range(N), 0]), "test")
    with pytest.raises(ModisteError, match=r"Unknown gallery 'al'\. Did you mean 'all'"):
        Marqo(str(tmp_path), gallery="al")


def test_a_set_without_text_is_searched_by_its_images_alone(tmp_path):
    """iMaterialist's tasks: category-to-image; no document's text is embedded."""
    judged = {f"garment {c}": {str(p): 1 for p in range(c, 60, 7)} for c in range(7)}
    tasks = [{"name": "category-to-image", "query_col": ["category"], "doc_col": ["image"]}]
    (tmp_path / "config.json").write_text(json.dumps({"name": "iMaterialist", "tasks": tasks}))
    (tmp_path / "ground_truth_category-image.json").write_text(json.dumps(judged))
    fake = embedder()
    result = Marqo(str(tmp_path))(fake, catalogue(), "test")
    assert fake.asked == [list(judged)]
    assert result.primary == "category-to-image/avg_precision"
    images, ids = fake.images(catalogue()), catalogue().column("product_id")
    hits = [
        [ids[i] in judged[query] for i in torch.argsort(images @ fake.vector(query), descending=True)[:10].tolist()]
        for query in judged
    ]
    assert result.metrics["category-to-image/precision@10"].value == pytest.approx(np.mean(hits))
    assert result.metrics["category-to-image/precision@1"].value == pytest.approx(np.mean([row[0] for row in hits]))


def test_what_was_trained_on_is_counted(tmp_path):
    """Products 0, 3 and 10 are in train: 0 and 3 are relevant to a query, 10 to another of text-to-image."""
    benchmark(tmp_path)
    counts = Marqo(str(tmp_path))(embedder(), catalogue(), "test").counts
    assert counts["text-to-image/relevant_in_train"] == 3
    assert counts["color-to-product/relevant_in_train"] == 3


def test_the_result_records_its_protocol(tmp_path):
    benchmark(tmp_path)
    result = Marqo(str(tmp_path), query_prefix="p ")(embedder(), catalogue(), "test")
    json.dumps(result.to_json(), allow_nan=False)
    assert result.protocol["documents"]["color-to-product"] == {"image": 0.9, "text": 0.1}
    assert result.protocol["query_prefix"] == "p "
    assert {name.split("/")[1] for name in result.metrics} == set(result.protocol["metrics"])


def test_absent_files_are_an_error(tmp_path):
    with pytest.raises(ModisteError, match=r"config\.json does not exist"):
        Marqo(str(tmp_path))(embedder(), catalogue(), "test")
    benchmark(tmp_path)
    (tmp_path / FILES["color-to-product"]).unlink()
    with pytest.raises(ModisteError, match=r"1 of 2 relevance files .*: ground_truth_colour-image\+text.json"):
        Marqo(str(tmp_path))(embedder(), catalogue(), "test")
    (tmp_path / "config.json").write_text('{"tasks": [{"name": "x"}]}')
    with pytest.raises(ModisteError, match="not a configuration"):
        Marqo(str(tmp_path))(embedder(), catalogue(), "test")


def test_products_that_the_catalogue_lacks_are_an_error(tmp_path):
    benchmark(tmp_path)
    with pytest.raises(ModisteError, match=r"2 of the benchmark's 50 products are not in tiny \(0, 1\)"):
        Marqo(str(tmp_path))(embedder(), catalogue().select(rows=range(N - 2)), "test")


def test_a_product_with_several_rows_is_an_error(tmp_path):
    benchmark(tmp_path)
    with pytest.raises(ModisteError, match="51 rows of tiny belong to 50 products"):
        Marqo(str(tmp_path))(embedder(), catalogue().select(rows=[*range(N), N - 1]), "test")


def test_only_the_test_split_is_evaluated(tmp_path):
    """The published queries must not choose a checkpoint."""
    benchmark(tmp_path)
    with pytest.raises(ModisteError, match="split=test, not split=val"):
        Marqo(str(tmp_path))(embedder(), catalogue(), "val")


PUBLISHED = Path(os.environ.get("MODISTE_DATA", "")) / "marqo-kagl"


@pytest.mark.skipif(
    "MODISTE_DATA" not in os.environ or not PUBLISHED.is_dir(), reason="needs marqo-kagl in the folder MODISTE_DATA"
)
def test_the_published_kagl_files():
    """All seven tasks, 2,000 … 8 queries against 44,434 products, at chance for random embeddings, in seconds."""
    relevance = [json.loads(path.read_text()) for path in sorted(PUBLISHED.glob("ground_truth_*.json"))]
    ids = sorted({item for queries in relevance for items in queries.values() for item in items})
    columns = {"product_id": ids, "text": [f"text {i}" for i in range(len(ids))], "split": ["excluded"] * len(ids)}
    generator = torch.Generator().manual_seed(0)

    class RandomEmbedder:
        fingerprint = "random"

        def images(self, catalogue):
            return F.normalize(torch.randn(len(catalogue), 32, generator=generator), dim=1)

        def texts(self, texts):
            return F.normalize(torch.randn(len(texts), 32, generator=generator), dim=1)

    result = Marqo(str(PUBLISHED))(RandomEmbedder(), FakeCatalogue(columns, "kagl"), "test")
    queries = {
        "text-to-image": 2000,
        "category-to-product": 7,
        "sub-category-to-product": 45,
        "fine-category-to-product": 142,
        "color-to-product": 46,
        "season-to-product": 4,
        "usage-to-product": 8,
    }
    assert {name: result.counts[f"{name}/queries"] for name in queries} == queries
    assert {result.counts[f"{name}/gallery"] for name in queries} == {44_434}
    assert result.metrics["text-to-image/recall@10"].value < 0.005
    assert result.metrics["season-to-product/precision@10"].value == pytest.approx(0.25, abs=0.2)
    assert len(result.metrics) == 7 * 11
