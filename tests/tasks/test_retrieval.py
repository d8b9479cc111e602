"""The retrieval task on a catalogue whose answers are known."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from helpers.task_fakes import FakeCatalogue, FakeEmbedder
from modiste.embedding.embedder import MatrixEmbedder
from modiste.errors import MissingEmbeddingError, ModisteError
from modiste.tasks.retrieval import Documents, Retrieval, Sample, judged_relevance, read_judgements

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


def test_values_are_worded_as_the_captions_of_training_are():
    embedder = oracle()
    words = {"colour": {"red": "crimson"}, "season": {"Fall": "autumn"}}
    result = Retrieval(template="{colour} {text}", words=words)(embedder, catalogue(), "test")
    assert {"crimson garment 0", "blue garment 1"} <= {text for texts in embedder.asked for text in texts}
    assert result.protocol["words"] == {"colour": {"red": "crimson"}}
    assert "words" not in Retrieval(words=words)(embedder, catalogue(), "test").protocol


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
    """All images of a relevant product are relevant; what is judged 0 is not; a query without any is excluded."""
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
    with pytest.raises(ModisteError, match=r"2 of the 3 relevant products in file.json .* \(x, y\)"):
        judged_relevance({"q": ["a", "x"], "r": ["y"]}, ["a", "b"], "file.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Relevance file"),
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


def test_queries_are_shown_first_and_not_measured():
    """Their results are the best of all rows that training did not use; rows with the values are relevant."""
    held = catalogue()
    held.columns["split"] = ["test"] * 40 + ["train"] * 10 + ["val"] * 10
    asked = {"a red garment": {"colour": "red"}, "nothing like it": {"colour": "mauve"}, "blue": {"colour": "blue"}}
    embedder = chance()
    result = Retrieval(queries=asked)(embedder, held, "test")
    assert result.metrics == Retrieval()(chance(), held, "test").metrics
    red, blue = result.examples[:2]
    assert (red["query"], blue["query"], red["search"]) == ("a red garment", "blue", "queries")
    rows = np.array([row for row, split in enumerate(held.column("split")) if split != "train"])
    for example, colour in ((red, "red"), (blue, "blue")):
        scores = embedder.images(held).numpy()[rows] @ embedder.texts([example["query"]])[0].numpy()
        order = rows[np.argsort(-scores, kind="stable")]
        right = [held.column("colour")[row] == colour for row in order]
        assert [found["row"] for found in example["results"]] == order[:5].tolist()
        assert [found["relevant"] for found in example["results"]] == right[:5]
        assert example["rank"] == right.index(True) + 1


def test_queries_are_excluded_where_embeddings_from_files_have_no_vector_of_them():
    data = catalogue()
    texts = torch.randn(len(data), DIM, generator=torch.Generator().manual_seed(1))
    embedder = MatrixEmbedder(data, chance().images(data), texts)
    asked = {"a red garment": {"colour": "red"}}
    result = Retrieval(queries=asked)(embedder, data, "test")
    assert result.metrics == Retrieval()(embedder, data, "test").metrics
    assert {example["search"] for example in result.examples} == {"t2i", "i2t"}
    with pytest.raises(MissingEmbeddingError, match=r"has no embedding \(3 missing\)"):
        Retrieval(attributes=["colour"])(embedder, data, "test")


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
    with pytest.raises(ModisteError, match="nothing to evaluate"):
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


# ------------------------------------------------------------------------------------------------------ gallery=sample

SAMPLE = {"queries": 15, "negatives": 6, "within": "type", "seeds": 3}


def lookalikes(views=3):
    """40 products in the split, 20 bags, 15 hats, 5 ties, with three images each, and some without a type."""
    product = np.arange(45 * views) // views
    kinds = ["bag"] * 20 + ["hat"] * 15 + ["tie"] * 5 + [""] * 5
    return FakeCatalogue(
        {
            "product_id": [f"p{p}" for p in product],
            "text": [f"garment {p}" for p in product],
            "split": ["test"] * len(product),
            "type": [kinds[p] for p in product],
        }
    )


def whole_numbers(rows, dim=4):
    """Embeddings of few different values before they are normalised by a power of two: many exactly equal scores."""
    generator = np.random.default_rng(0)
    signs = torch.from_numpy(generator.choice([-1.0, 1.0], (rows, dim))).float()
    texts = {f"garment {p}": torch.from_numpy(generator.choice([-1.0, 1.0], dim)).float() for p in range(rows)}
    return FakeEmbedder(signs, texts)


def plain_sample_ranks(embedder, cat, rows, candidates, direction):
    """Rank of each query's own row among its candidates, by a loop over candidates; ties by the lower row."""
    images, texts = embedder.images(cat).double(), embedder.texts(cat.column("text")).double()
    queries, gallery = (texts, images) if direction == "t2i" else (images, texts)
    ranks = []
    for row, others in zip(rows.tolist(), candidates.tolist(), strict=True):
        own, rank = float(queries[row] @ gallery[row]), 1
        for other in others:
            score = float(queries[row] @ gallery[other])
            rank += score > own or (score == own and other < row)
        ranks.append(rank)
    return ranks


@pytest.mark.parametrize("embed", ["random", "tied"])
def test_sampled_ranks_are_those_of_a_plain_loop(embed):
    cat = lookalikes()
    vectors = torch.randn(len(cat), 8, generator=torch.Generator().manual_seed(0))
    embedder = whole_numbers(len(cat)) if embed == "tied" else FakeEmbedder(vectors)
    task = Retrieval(gallery="sample", sample=SAMPLE, ks=[1, 5])
    result = task(embedder, cat, "test")
    rows, candidates, short = task.sample.draw(cat.column("product_id"), cat.column("type"), 0)
    for direction in ("t2i", "i2t"):
        ranks = np.array(plain_sample_ranks(embedder, cat, rows, candidates, direction))
        assert result.per_query[f"{direction}/median_rank"].tolist() == ranks.tolist()
        assert values(result)[f"{direction}/hit_rate@5"] == pytest.approx(np.mean(ranks <= 5))
        assert values(result)[f"{direction}/mrr"] == pytest.approx(np.mean(1 / ranks))
        assert result.metrics[f"{direction}/mrr"].n == 45
    if embed == "tied":
        assert len(set(ranks.tolist())) > 3
    assert result.counts["t2i/queries"] == 45
    assert result.counts["t2i/gallery"] == 7
    assert result.counts["i2t/relevant"] == 45
    assert result.counts["i2t/short"] == short == 30


def test_a_sample_is_the_own_row_and_rows_of_other_products_with_the_same_value():
    cat = lookalikes()
    products, kinds = cat.column("product_id"), cat.column("type")
    rows, candidates, short = Sample(**SAMPLE).draw(products, kinds, seed=7)
    assert short == sum(kind in ("tie", "") for kind in kinds)
    for row, among in zip(rows.tolist(), candidates.tolist(), strict=True):
        assert among == sorted(among)
        assert row in among
        assert {kinds[other] for other in among} == {kinds[row]}
        assert len({products[other] for other in among}) == 7
    for start in (0, 15, 30):
        assert len(set(rows[start : start + 15].tolist())) == 15
    assert len({tuple(rows[start : start + 15].tolist()) for start in (0, 15, 30)}) == 3
    again = Sample(**SAMPLE).draw(products, kinds, seed=7)
    assert (again[0].tolist(), again[1].tolist()) == (rows.tolist(), candidates.tolist())
    assert Sample(**SAMPLE).draw(products, kinds, seed=8)[0].tolist() != rows.tolist()


def test_negatives_and_their_views_are_drawn_evenly():
    """Every other product of the group, and every view of it, is drawn equally often."""
    cat = lookalikes()
    sample = Sample(queries=1000, negatives=6, within="type", seeds=100)
    rows, candidates, _ = sample.draw(cat.column("product_id"), cat.column("type"), seed=0)
    drawn = np.bincount(candidates[rows == 0].ravel(), minlength=60)
    assert drawn[0] == 100
    assert drawn[1:3].tolist() == [0, 0]  # other views of the own product
    every = np.bincount(candidates.ravel(), minlength=60)[:60]
    assert every.std() / every.mean() < 0.1


def test_chance_of_a_sample_is_one_in_its_candidates():
    n = 1000
    columns = {"product_id": [str(i) for i in range(n)], "text": [f"t{i}" for i in range(n)], "split": ["test"] * n}
    embedder = FakeEmbedder(torch.randn(n, 64, generator=torch.Generator().manual_seed(0)))
    task = Retrieval(gallery="sample", sample=SAMPLE | {"queries": n}, ks=[1])
    result = task(embedder, FakeCatalogue(columns | {"type": ["bag"] * n}), "test")
    for direction in ("t2i", "i2t"):
        assert values(result)[f"{direction}/hit_rate@1"] == pytest.approx(1 / 7, abs=0.03)
        assert values(result)[f"{direction}/median_rank"] == 4


def test_fewer_rows_than_queries_are_all_drawn():
    result = Retrieval(gallery="sample", sample=SAMPLE | {"queries": 500})(whole_numbers(135), lookalikes(), "test")
    assert result.counts["t2i/queries"] == 3 * 105


def test_a_sample_and_a_full_gallery_are_never_in_one_table():
    from modiste.reporting.tables import build_blocks

    cat, results = lookalikes(), []
    for gallery in ("split", "sample"):
        result = Retrieval(gallery=gallery, sample=SAMPLE)(whole_numbers(135), cat, "test")
        results.append(json.loads(json.dumps(result.to_json())) | {"schema": 1, "model": {"name": gallery}})
    for block in build_blocks(results):
        assert len({row.model for row in block.rows}) == 1
    assert len(build_blocks(results)) == 2 * len(build_blocks(results[:1]))


def test_the_sample_is_in_the_protocol_only_where_it_is_used():
    assert Retrieval(sample=SAMPLE).describe().get("sample") is None
    protocol = Retrieval(gallery="sample", sample=SAMPLE).describe()
    json.dumps(protocol)
    assert protocol["sample"]["negatives"] == 6
    assert {"candidates", "short", "average", "within", "seeds", "queries"} <= set(protocol["sample"])


def test_examples_of_a_sample_show_its_candidates_alone():
    cat = lookalikes()
    task = Retrieval(gallery="sample", sample=SAMPLE | {"negatives": 3})
    result = task(whole_numbers(135), cat, "test")
    for example in result.examples:
        shown = [r["row"] for r in example["results"]]
        assert len(shown) == 4
        assert len({cat.column("product_id")[row] for row in shown}) == 4
        assert [r["relevant"] for r in example["results"]].index(True) + 1 == example["rank"]


def test_mistakes_in_a_sample_have_a_remedy():
    with pytest.raises(ModisteError, match="Did you mean 'negatives'"):
        Retrieval(gallery="sample", sample={"negative": 3})
    with pytest.raises(ModisteError, match=r"sample\.seeds must be an integer"):
        Retrieval(gallery="sample", sample={"seeds": 0})
    with pytest.raises(ModisteError, match="leave attributes and published empty"):
        Retrieval(gallery="sample", attributes=["colour"])
    with pytest.raises(ModisteError, match=r"has 101 products to sample from.*coarser"):
        Retrieval(gallery="sample", sample={"within": "type"})(whole_numbers(135), lookalikes(), "test")


def test_training_may_validate_on_a_sample_but_not_beyond_its_split():
    Retrieval.validate_config({"gallery": "sample"}, {"trainer": {}})
    with pytest.raises(ModisteError, match="validation split only"):
        Retrieval.validate_config({"gallery": "all"}, {"trainer": {}})
