"""The retrieval task on a catalogue whose answers are known."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from task_fakes import FakeCatalogue, FakeEmbedder
from torch.nn import functional as F

from modiste.errors import ModisteError
from modiste.tasks.retrieval import Documents, Retrieval, judged_relevance, read_judgements

N_PRODUCTS, DIM = 30, 32


def catalogue(views=2):
    """30 products with two images each; the first 20 products are the test split."""
    product = np.arange(N_PRODUCTS * views) // views
    return FakeCatalogue(
        {
            "product_id": [f"p{p}" for p in product],
            "text": [f"garment {p}" for p in product],
            "split": ["test" if p < 20 else "train" for p in product],
            "colour": [["red", "blue", "green", ""][p % 4] for p in product],
        }
    )


def oracle(views=2):
    """Every product has a direction of its own, for its images and its text."""
    axes = torch.eye(N_PRODUCTS, DIM)
    return FakeEmbedder(axes.repeat_interleave(views, 0), {f"garment {p}": axes[p] for p in range(N_PRODUCTS)})


def chance():
    return FakeEmbedder(torch.randn(N_PRODUCTS * 2, DIM, generator=torch.Generator().manual_seed(0)))


def values(result):
    return {name: interval.value for name, interval in result.metrics.items()}


@pytest.mark.parametrize("gallery", ["split", "all"])
def test_perfect_embeddings_are_perfect(gallery):
    """Both views of a product are relevant to its text, and both its texts to its image."""
    result = Retrieval(ks=[1, 2], gallery=gallery)(oracle(), catalogue(), "test")
    for direction in ("t2i", "i2t"):
        perfect = {"hit_rate@1", "precision@1", "precision@2", "recall@2", "map@2", "map", "mrr", "ndcg@2", "mrr@10"}
        assert {values(result)[f"{direction}/{name}"] for name in perfect} == {1.0}
        assert values(result)[f"{direction}/recall@1"] == 0.5
        assert values(result)[f"{direction}/median_rank"] == 1.0
        assert result.counts[f"{direction}/queries"] == 40
        assert result.counts[f"{direction}/relevant"] == 80
        assert result.counts[f"{direction}/gallery"] == (40 if gallery == "split" else 60)
    assert (result.task, result.data, result.split, result.primary) == ("retrieval", "fake", "test", "t2i/mrr")


def test_random_embeddings_are_at_chance():
    """One relevant image among 1,000 of independent directions: recall@k = k/1000."""
    n = 1000
    columns = {"product_id": [str(i) for i in range(n)], "text": [f"t{i}" for i in range(n)], "split": ["val"] * n}
    embedder = FakeEmbedder(torch.randn(n, 16, generator=torch.Generator().manual_seed(0)))
    result = Retrieval(ks=[100])(embedder, FakeCatalogue(columns), "val")
    for direction in ("t2i", "i2t"):
        assert values(result)[f"{direction}/recall@100"] == pytest.approx(0.1, abs=0.03)
        assert values(result)[f"{direction}/median_rank"] == pytest.approx(500, abs=60)
        interval = result.metrics[f"{direction}/recall@100"]
        assert interval.low < interval.value < interval.high


def test_metrics_are_the_means_of_the_per_query_values():
    result = Retrieval()(chance(), catalogue(), "test")
    assert set(result.per_query) == set(result.metrics)
    for name, per_query in result.per_query.items():
        mean = np.median(per_query) if name.endswith("median_rank") else np.mean(per_query)
        assert result.metrics[name].value == pytest.approx(mean)
        assert len(per_query) == result.metrics[name].n == 40


def test_queries_carry_the_prefix_and_documents_do_not():
    embedder = oracle()
    Retrieval(prefix="a photo of ", documents={"text": 1}, attributes=["colour"])(embedder, catalogue(), "test")
    queries, colours, documents = embedder.asked
    assert (queries[0], documents[0]) == ("a photo of garment 0", "garment 0")
    assert colours == ["a photo of blue", "a photo of green", "a photo of red"]


def test_the_template_makes_the_text_of_a_row():
    embedder = oracle()
    result = Retrieval(template="{colour} {text}", examples=1)(embedder, catalogue(), "test")
    assert embedder.asked[0][:2] == ["red garment 0"] * 2
    assert embedder.asked[0][6:8] == ["garment 3"] * 2
    assert len(embedder.asked) == 1
    assert result.examples[0]["results"][0]["text"] in embedder.asked[0]
    assert result.protocol["template"] == "{colour} {text}"


def test_documents_are_the_normalised_weighted_sum():
    embedder = chance()
    documents = Documents(embedder, catalogue())
    image, text = embedder.rows, torch.stack([embedder.vector(f"garment {i // 2}") for i in range(60)])
    torch.testing.assert_close(documents.vectors({"image": 0.9, "text": 0.1}), F.normalize(0.9 * image + 0.1 * text))
    torch.testing.assert_close(documents.vectors({"image": 1.0}), image)


def test_attribute_values_search_products():
    """Missing values are no query; relevant are the rows of the gallery with the value."""
    axes = dict(zip(["red", "blue", "green"], torch.eye(3), strict=True))
    columns = catalogue()
    images = torch.stack([axes.get(colour, torch.ones(3) / 9) for colour in columns.column("colour")])
    task = Retrieval(directions=[], attributes=["colour"], documents={"image": 1.0}, ks=[10], gallery="all")
    result = task(FakeEmbedder(images, axes), columns, "test")
    assert result.counts["colour-to-product/queries"] == 3
    assert result.counts["colour-to-product/relevant"] == sum(colour != "" for colour in columns.column("colour"))
    assert values(result)["colour-to-product/map"] == values(result)["colour-to-product/precision@10"] == 1.0
    assert result.primary == "colour-to-product/mrr"


def test_published_queries(tmp_path):
    """All images of a relevant product are relevant; what is judged 0 is not; a query without any is left out."""
    path = tmp_path / "relevance.json"
    path.write_text(json.dumps({"garment 3": {"p3": 1, "p5": 0}, "garment 4": {"p4": 1, "p1": 1}, "none": {"p9": 0}}))
    task = Retrieval(directions=[], published={"mine": str(path)}, documents={"image": 1}, ks=[2])
    result = task(oracle(), catalogue(), "test")
    assert result.counts == {
        "mine/queries": 2,
        "mine/queries_without_relevant": 1,
        "mine/gallery": 40,
        "mine/relevant": 6,
    }
    assert result.per_query["mine/recall@2"].tolist() == [1.0, 0.5]
    assert [example["query"] for example in result.examples] in (["garment 3", "garment 4"], ["garment 4", "garment 3"])


def test_relevance_outside_the_gallery_is_an_error():
    with pytest.raises(ModisteError, match=r"2 of the 3 products that file.json calls relevant .* \(x, y\)"):
        judged_relevance({"q": ["a", "x"], "r": ["y"]}, ["a", "b"], "file.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no relevance file"),
        ("{", "must be JSON"),
        ("[1]", "must be JSON"),
        ('{"q": ["a"]}', "must be JSON"),
        ('{"q": {"a": 2}}', "not with relevance 2"),
    ],
)
def test_relevance_files_of_another_form_are_an_error(tmp_path, content, message):
    path = tmp_path / "r.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ModisteError, match=message):
        read_judgements(path)


def test_examples_are_a_seeded_mix_of_hits_and_misses():
    """Half of them have a relevant item among the five that are shown; rank and relevance agree with the results."""
    cat = catalogue()
    result = Retrieval(examples=6)(chance(), cat, "test")
    for kind in ("t2i", "i2t"):
        examples = [e for e in result.examples if e["kind"] == kind]
        hits = [any(r["relevant"] for r in e["results"]) for e in examples]
        assert hits == [True] * 3 + [False] * 3
        for example, hit in zip(examples, hits, strict=True):
            assert len(example["results"]) == 5
            flags = [r["relevant"] for r in example["results"]]
            assert example["rank"] == flags.index(True) + 1 if hit else example["rank"] > 5
            scores = [r["score"] for r in example["results"]]
            assert scores == sorted(scores, reverse=True)
            own = example["query"] if kind == "t2i" else cat.column("text")[example["query"]]
            assert flags == [cat.column("text")[r["row"]] == own for r in example["results"]]
    assert Retrieval(examples=6)(chance(), cat, "test").examples == result.examples
    assert Retrieval(examples=6, seed=1)(chance(), cat, "test").examples != result.examples


def test_where_all_are_hits_the_examples_are_hits():
    assert len(Retrieval(directions=["t2i"], examples=8)(oracle(), catalogue(), "test").examples) == 8


def test_rows_in_examples_are_those_of_the_full_catalogue():
    result = Retrieval(directions=["i2t"])(oracle(), catalogue(), "train")
    assert {r["row"] for e in result.examples for r in e["results"]} <= set(range(40, 60))
    assert all(40 <= e["query"] < 60 for e in result.examples)


def test_the_result_records_its_protocol():
    protocol = Retrieval(ks=[5], seed=3, resamples=50, prefix="p ")(oracle(), catalogue(), "test").protocol
    json.dumps(protocol)
    assert set(protocol["metrics"]) >= {"recall@5", "hit_rate@5", "map@5", "mrr", "mrr@10"}
    assert (protocol["seed"], protocol["bootstrap"]["resamples"], protocol["prefix"]) == (3, 50, "p ")
    assert "index" in protocol["ties"]


def test_options_that_do_not_exist_are_an_error():
    with pytest.raises(ModisteError, match="Did you mean 't2i'"):
        Retrieval(directions=["t2j"])
    with pytest.raises(ModisteError, match="Unknown gallery 'splits'"):
        Retrieval(gallery="splits")
    with pytest.raises(ModisteError, match="Cut-offs"):
        Retrieval(ks=[0])
    with pytest.raises(ModisteError, match="nothing to do"):
        Retrieval(directions=[])


def test_embeddings_that_are_not_finite_are_an_error():
    embedder = oracle()
    embedder.rows[3, 0] = float("nan")
    with pytest.raises(ModisteError, match="1 of 40 gallery embeddings are not finite"):
        Retrieval()(embedder, catalogue(), "test")


def test_a_real_catalogue_works(tmp_path):
    """The same with modiste.data.catalogue.Catalogue."""
    data = pytest.importorskip("modiste.data.catalogue")
    sources = pytest.importorskip("modiste.data.sources")
    columns = {k: v for k, v in catalogue().columns.items() if k != "row"}
    for i in range(60):
        Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / f"{i}.png")
    columns["image"] = [f"{i}.png" for i in range(60)]
    real = data.Catalogue.build(data.Card("fake"), columns, sources.FolderImages(tmp_path))
    ours, theirs = (Retrieval(attributes=["colour"])(chance(), c, "test") for c in (real, catalogue()))
    assert ours == theirs
