"""Image→image search against a loop over the definition, and the settings of the published benchmarks."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.task_fakes import FakeCatalogue, FakeEmbedder
from modiste.data.catalogue import Card, Catalogue
from modiste.data.sources import ArrayImages
from modiste.errors import ModisteError
from modiste.metrics.ranking import query_metrics
from modiste.metrics.ranks import other_ranks
from modiste.metrics.relevance import Relevance
from modiste.reporting.html.gallery import Thumbs, gallery
from modiste.tasks.similar import Similar

KS = [1, 3]


def table(columns, n):
    return FakeCatalogue({"text": ["x"] * n, "pixels": [f"pixels{i}" for i in range(n)], **columns})


def views(products=12, others=9, seed=0):
    """Products of one to four images in test, others in train; vectors of ±1/2: equal scores abound, and are exact."""
    generator = np.random.default_rng(seed)
    ids = [f"p{p}" for p in range(products) for _ in range(1 + p % 4)]
    order = generator.permutation(len(ids))
    ids = [ids[i] for i in order] + [f"p{i}" for i in range(others)]
    split = ["test"] * len(order) + ["train"] * others
    colour = [["red", "blue", ""][i] for i in generator.integers(3, size=len(ids))]
    embedder = FakeEmbedder(torch.from_numpy(generator.choice([-1.0, 1.0], size=(len(ids), 4))).float())
    return table({"product_id": ids, "split": split, "colour": colour}, len(ids)), embedder


def by_hand(embedder, queries, gallery, relevant, ideal="relevant"):
    """{metric: values} of the queries with a relevant item: a loop that sorts each gallery without the query."""
    found = {}
    for q in queries:
        items = [g for g in gallery if g != q]
        scores = embedder.rows[[*gallery]] @ embedder.rows[q]  # as one product: the order of sums decides ties
        score = dict(zip(gallery, scores.tolist(), strict=True))
        ranked = [relevant(q, g) for g in sorted(items, key=lambda g: (-score[g], gallery.index(g)))]
        if not any(ranked):
            continue
        ranks = [rank for rank, hit in enumerate(ranked, 1) if hit]
        values = {"mrr": 1 / ranks[0], "map": np.mean([(i + 1) / r for i, r in enumerate(ranks)])}
        for k in KS:
            best = k if ideal == "full" else min(k, len(ranks))
            values[f"hit_rate@{k}"] = float(ranks[0] <= k)
            values[f"recall@{k}"] = sum(r <= k for r in ranks) / len(ranks)
            gains = sum(1 / np.log2(r + 1) for r in ranks if r <= k)
            values[f"ndcg@{k}"] = gains / sum(1 / np.log2(i + 1) for i in range(1, best + 1))
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return found


def agree(result, prefix, expected):
    for name, values in expected.items():
        np.testing.assert_allclose(result.per_query[f"{prefix}/{name}"], values, err_msg=name)
        assert result.metrics[f"{prefix}/{name}"].value == pytest.approx(np.mean(values))


@pytest.mark.parametrize("seed", range(5))
def test_other_views_agree_with_a_loop_that_takes_the_query_out_of_its_gallery(seed):
    catalogue, embedder = views(seed=seed)
    result = Similar(ks=KS)(embedder, catalogue, "test")
    ids = catalogue.column("product_id")
    test = [i for i, split in enumerate(catalogue.column("split")) if split == "test"]
    agree(result, "product", by_hand(embedder, test, test, lambda q, g: ids[q] == ids[g]))
    assert result.counts["product/queries"] + result.counts["product/queries_without_relevant"] == len(test)
    assert result.counts["product/queries_without_relevant"] == 3  # the products of one image
    assert result.counts["product/gallery"] == len(test) - 1
    assert (result.primary, result.split) == ("product/hit_rate@1", "test")


@pytest.mark.parametrize("sort_from", [2, 10**6])
def test_the_query_leaves_its_gallery_exactly_among_identical_images(sort_from, monkeypatch):
    """Every score is equal: the order is that of the gallery, in which those behind the query move up by one."""
    monkeypatch.setattr("modiste.metrics.ranks.relevant_ranks.__defaults__", (2**20, sort_from))
    same = torch.ones(5, 1)
    relevance = Relevance.from_pairs([0, 2, 2, 4], [3, 1, 4, 0], n_queries=5)
    ranks = other_ranks(same, same, relevance, np.arange(5))
    assert ranks.tolist() == [3, 2, 4, 1]
    assert other_ranks(same, same, relevance, np.full(5, -1)).tolist() == [4, 2, 5, 1]


def test_a_query_partition_searches_a_gallery_partition():
    """In-shop: the gallery is another split, products of other splits take no part."""
    catalogue, embedder = views()
    splits = ["gallery" if i % 3 else "query" for i in range(len(catalogue))]
    splits[-4:] = ["train"] * 4
    catalogue.columns["split"] = splits
    result = Similar(gallery_split="gallery", ks=KS)(embedder, catalogue, "query")
    ids, where = catalogue.column("product_id"), np.array(splits)
    queries, gallery = (np.flatnonzero(where == name).tolist() for name in ("query", "gallery"))
    agree(result, "product", by_hand(embedder, queries, gallery, lambda q, g: ids[q] == ids[g]))
    assert result.counts["product/gallery"] == len(gallery)
    assert result.protocol["gallery_split"] == "gallery"
    named = Similar(query_split="query", gallery_split="gallery", ks=KS)(embedder, catalogue, "test")
    assert (named.metrics, named.split) == (result.metrics, "query")


def lookbench(seed=0):
    generator = np.random.default_rng(seed)
    n = 200
    columns = {
        "product_id": [str(i) for i in range(n)],
        "split": ["query"] * 40 + ["gallery"] * (n - 40),
        "subset": [*generator.choice(["Studio", "Street"], 100, p=[0.8, 0.2]), *["all"] * (n - 100)],
        "category": list(generator.choice(["dress", "shoe", "hat", "bag"], 100)) + [""] * (n - 100),
        "main_attribute": list(generator.choice(["red", "blue", "long", ""], 100)) + [""] * (n - 100),
    }
    columns = {name: [str(v) for v in values] for name, values in columns.items()}
    columns["category"][3], columns["main_attribute"][3] = "scarf", "knitted"  # nothing in the gallery is like it
    return table(columns, n), FakeEmbedder(torch.from_numpy(generator.normal(size=(n, 6))).float())


RELEVANCE = {"fine": ["category", "main_attribute"], "coarse": ["category"]}


def test_lookbench_agrees_with_a_loop_over_subsets_with_common_distractors():
    catalogue, embedder = lookbench()
    task = Similar(RELEVANCE, gallery_split="gallery", group_by="subset", ks=KS, ideal="full", without_relevant="miss")
    result = task(embedder, catalogue, "query")
    column = {name: catalogue.column(name) for name in catalogue.columns}
    weighted = {}
    for subset in ("Studio", "Street"):
        queries = [i for i in range(40) if column["subset"][i] == subset]
        gallery = [i for i in range(40, 200) if column["subset"][i] in (subset, "all")]
        for name, columns in RELEVANCE.items():

            def equal(q, g, columns=columns):
                return all(column[c][q] == column[c][g] for c in columns) and any(column[c][g] for c in columns)

            expected = by_hand(embedder, queries, gallery, equal, "full")
            prefix = f"{subset}/{name}"
            assert result.counts[f"{prefix}/queries"] == len(queries)
            assert result.counts[f"{prefix}/gallery"] == len(gallery)
            for metric, values in expected.items():
                mean = sum(values) / len(queries)  # a query without a relevant item adds nothing, and counts
                assert result.metrics[f"{prefix}/{metric}"].value == pytest.approx(mean), metric
                weighted.setdefault(f"{name}/{metric}", []).append(mean * len(queries))
    for metric, parts in weighted.items():
        overall = result.metrics[f"overall/{metric}"]
        assert overall.value == pytest.approx(sum(parts) / 40)
        assert overall.low <= overall.value <= overall.high
        assert overall.n == 40
        assert len(result.per_query[f"overall/{metric}"]) == 40
    assert result.primary == "overall/fine/hit_rate@1"
    assert result.counts["overall/fine/queries"] == 40
    assert result.counts["overall/fine/queries_without_relevant"] >= 1
    assert "k relevant items" in result.protocol["metrics"]["ndcg@3"]


def test_excluded_queries_raise_the_mean_that_misses_lower():
    catalogue, embedder = lookbench()
    options = {"gallery_split": "gallery", "ks": KS}
    out = Similar(RELEVANCE, **options)(embedder, catalogue, "query")
    miss = Similar(RELEVANCE, **options, without_relevant="miss")(embedder, catalogue, "query")
    n_out, n_all = (r.counts["coarse/queries"] for r in (out, miss))
    assert (n_out, n_all) == (39, 40)
    scaled = out.metrics["coarse/hit_rate@3"].value * n_out / n_all
    assert scaled > 0
    assert miss.metrics["coarse/hit_rate@3"].value == pytest.approx(scaled)
    assert miss.per_query["coarse/median_rank"][3] == 161
    assert miss.examples[0]["query"] in range(40)


def test_the_ideal_of_k_relevant_items_is_the_gain_of_k_hits():
    """One relevant item of one: an ideal order has it first, k relevant ones would have gained more."""
    relevance = Relevance.from_pairs([0], [0], n_queries=1)
    one, full = (
        query_metrics(np.array([1]), relevance, [3], ideal=ideal)["ndcg@3"][0] for ideal in ("relevant", "full")
    )
    assert one == 1.0
    assert full == pytest.approx(1 / (1 + 1 / np.log2(3) + 1 / 2))


def test_identical_images_stay_in_the_gallery_and_are_counted():
    columns = {"product_id": ["a", "a", "b", "b"], "split": ["test"] * 4, "pixels": ["same", "x", "same", "y"]}
    catalogue = FakeCatalogue({"text": ["x"] * 4, **columns})
    axes = torch.eye(3)
    result = Similar(ks=[1])(FakeEmbedder(axes[[0, 1, 0, 2]]), catalogue, "test")
    assert result.counts["product/queries_with_identical_image"] == 2
    assert result.per_query["product/hit_rate@1"].tolist()[0] == 0.0  # the other product's identical image is first


def pixel(shown):
    """The colour of a thumbnail."""
    return Image.open(io.BytesIO(base64.b64decode(shown.thumb.image.partition(",")[2]))).convert("RGB").getpixel((4, 4))


def test_examples_are_images_that_find_images_and_never_themselves(tmp_path):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
    images = ArrayImages(np.tile(colours[:, None, None], (1, 8, 8, 1)))
    columns = {"product_id": list("aabb"), "image": list("0123"), "text": list("wxyz"), "split": ["test"] * 4}
    catalogue = Catalogue.build(Card("tiny"), columns, images)
    result = Similar(ks=[1])(FakeEmbedder(torch.eye(2)[[0, 0, 1, 1]]), catalogue, "test")
    for example in result.examples:
        assert (example["kind"], example["search"], example["rank"]) == ("i2i", "product", 1)
        rows = [found["row"] for found in example["results"]]
        assert sorted([*rows, example["query"]]) == [0, 1, 2, 3]
        assert example["results"][0]["relevant"]
    red = next(example for example in result.examples if example["query"] == 0)
    (shown,) = gallery("product", [red], Thumbs(tmp_path / "thumbs.json", catalogue)).examples
    assert pixel(shown.query) == (255, 0, 0)
    assert pixel(shown.results[0]) == (0, 255, 0)  # its other view


def test_every_image_is_embedded_once():
    catalogue, embedder = lookbench()
    asked = []
    images = embedder.images
    embedder.images = lambda rows: (asked.append(len(rows)), images(rows))[1]
    Similar(RELEVANCE, gallery_split="gallery", group_by="subset")(embedder, catalogue, "query")
    assert asked == [200]


def test_what_cannot_be_measured_is_an_error_with_a_remedy():
    catalogue, embedder = views()
    with pytest.raises(ModisteError, match="Did you mean 'miss'"):
        Similar(without_relevant="mis")
    with pytest.raises(ModisteError, match="Did you mean 'full'"):
        Similar(ideal="ful")
    with pytest.raises(ModisteError, match="columns"):
        Similar({"product": []})
    with pytest.raises(ModisteError, match="'nowhere'"):
        Similar(gallery_split="nowhere")(embedder, catalogue, "test")
    catalogue.columns["single"] = [str(i) for i in range(len(catalogue))]
    with pytest.raises(ModisteError, match="several images per product"):
        Similar({"own": ["single"]})(embedder, catalogue, "test")
    catalogue.columns["none"] = [""] * len(catalogue)
    with pytest.raises(ModisteError, match=r"task\.similar\.group_by"):
        Similar(group_by="none")(embedder, catalogue, "test")
    with pytest.raises(ModisteError, match="gallery_split=null"):
        Similar.validate_config({"gallery_split": "gallery"}, {"trainer": {}})
    Similar.validate_config({"gallery_split": "gallery"}, {})
