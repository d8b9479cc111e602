"""FashionIQ's protocol: the reader on the published files, the composition, the galleries and the means."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers.task_fakes import FakeCatalogue, FakeEmbedder
from modiste.data.catalogue import Card, Catalogue
from modiste.data.sources import ArrayImages
from modiste.errors import ModisteError
from modiste.metrics.intervals import bootstrap_groups
from modiste.tasks.composed import PROTOCOL, Composed, Query, read_category

CATEGORIES = ("dress", "shirt", "toptee")
LISTED, QUERIES = 70, {"dress": 30, "shirt": 20, "toptee": 10}


@pytest.fixture
def folder(tmp_path):
    """Three categories of 70 listed images, the queries' among the first 40; shirt and toptee share an image."""
    generator = np.random.default_rng(0)
    (tmp_path / "captions").mkdir()
    (tmp_path / "image_splits").mkdir()
    for category in CATEGORIES:
        asins = [f"{category}{i}" for i in range(LISTED)]
        if category == "toptee":
            asins[5] = "shirt5"
        pairs = [generator.permutation(40)[:2] for _ in range(QUERIES[category])]
        queries = [
            {"target": asins[t], "candidate": asins[r], "captions": [f" {category} more {i} ", f"less {i}"]}
            for i, (r, t) in enumerate(pairs)
        ]
        (tmp_path / f"captions/cap.{category}.val.json").write_text(json.dumps(queries))
        (tmp_path / f"image_splits/split.{category}.val.json").write_text(json.dumps(asins))
    return tmp_path


def shop(without=()):
    """A row an image of a category's list, in another order than the lists, among other products."""
    ids = [f"{category}{i}" for category in CATEGORIES for i in range(LISTED)] + ["other", "shirt5"]
    ids = [ids[i] for i in np.random.default_rng(1).permutation(len(ids)) if ids[i] not in without]
    return FakeCatalogue({"product_id": ids, "text": ["a dress"] * len(ids), "split": ["val"] * len(ids)})


def embedder(catalogue, dim=8):
    return FakeEmbedder(torch.randn(len(catalogue), dim, generator=torch.Generator().manual_seed(3)))


def by_hand(folder, catalogue, model, gallery, texts_of, weights=(1.0, 1.0), exclude=False):
    """Category → rank of the target of every query, in float64, one query after another."""
    ids = catalogue.column("product_id")
    vector = {asin: model.rows[ids.index(asin)].double() for asin in ids}
    ranks = {}
    for category in CATEGORIES:
        queries = json.loads((folder / f"captions/cap.{category}.val.json").read_text())
        listed = json.loads((folder / f"image_splits/split.{category}.val.json").read_text())
        used = [entry[key] for entry in queries for key in ("candidate", "target")]
        pool = {asin for asin in (listed if gallery == "original" else used) if asin in vector}
        for entry in queries:
            reference, target = entry["candidate"], entry["target"]
            if reference in vector and target in vector:
                query = weights[0] * vector[reference] + weights[1] * texts_of(model, entry["captions"])
                score = {asin: float(query @ v) for asin, v in vector.items() if asin in pool}
                higher = [a for a, s in score.items() if s > score[target] and not (exclude and a == reference)]
                ranks.setdefault(category, []).append(1 + len(higher))
    return {category: np.array(found) for category, found in ranks.items()}


def joined(template):
    return lambda model, captions: model.vector(template.format(*(c.strip() for c in captions))).double()


def mean_of_captions(model, captions):
    return F.normalize(torch.stack([model.vector(c.strip()).double() for c in captions]).mean(0), dim=0)


@pytest.mark.parametrize(
    ("options", "texts_of", "weights"),
    [
        ({}, joined("{0} and {1}"), (1.0, 1.0)),
        ({"gallery": "val"}, joined("{0} and {1}"), (1.0, 1.0)),
        ({"join": "{1}, {0}", "image_weight": 0.3, "text_weight": 0.7}, joined("{1}, {0}"), (0.3, 0.7)),
        ({"prefix": "with "}, joined("with {0} and {1}"), (1.0, 1.0)),
        ({"join": "mean", "gallery": "val"}, mean_of_captions, (1.0, 1.0)),
        ({"exclude_reference": True, "text_weight": 0.2}, joined("{0} and {1}"), (1.0, 0.2)),
    ],
)
def test_ranks_agree_with_a_loop_over_the_protocol(folder, options, texts_of, weights):
    catalogue = shop()
    model = embedder(catalogue)
    result = Composed(str(folder), **options)(model, catalogue, "val")
    gallery, exclude = options.get("gallery", "original"), options.get("exclude_reference", False)
    ranks = by_hand(folder, catalogue, model, gallery, texts_of, weights, exclude)
    rates = {}
    for category in CATEGORIES:
        np.testing.assert_array_equal(result.per_query[f"{category}/median_rank"], ranks[category])
        for k in (10, 50):
            rates[category, k] = (ranks[category] <= k).mean()
            assert result.metrics[f"{category}/hit_rate@{k}"].value == pytest.approx(rates[category, k])
    for k in (10, 50):
        expected = np.mean([rates[category, k] for category in CATEGORIES])
        assert result.metrics[f"mean/hit_rate@{k}"].value == pytest.approx(expected)
    mean = result.metrics["mean/mean"]
    assert mean.value == pytest.approx(np.mean(list(rates.values())))
    assert mean.low < mean.value < mean.high
    assert mean.n == sum(QUERIES.values())
    assert result.per_query["mean/mean"].mean() == pytest.approx(mean.value)
    assert result.primary == "mean/mean"
    for name, value in options.items():
        assert result.protocol[name] == value


def test_the_two_galleries_differ_and_are_recorded(folder):
    catalogue = shop()
    results = {g: Composed(str(folder), gallery=g)(embedder(catalogue), catalogue, "val") for g in ("original", "val")}
    for category in CATEGORIES:
        assert results["original"].counts[f"{category}/gallery"] == LISTED
        assert results["val"].counts[f"{category}/gallery"] <= 40
        assert results["original"].counts[f"{category}/queries"] == QUERIES[category]
    assert {name: result.protocol["gallery"] for name, result in results.items()} == {n: n for n in results}


def test_missing_images_are_excluded_counted_and_never_taken_for_the_protocol(folder, caplog):
    first = json.loads((folder / "captions/cap.dress.val.json").read_text())[0]
    unused = f"dress{LISTED - 1}"
    catalogue = shop(without=(first["target"], unused))
    result = Composed(str(folder))(embedder(catalogue), catalogue, "val")
    queries = json.loads((folder / "captions/cap.dress.val.json").read_text())
    lost = sum(first["target"] in (query["target"], query["candidate"]) for query in queries)
    assert result.counts["dress/queries_excluded"] == lost >= 1
    assert result.counts["dress/queries"] == QUERIES["dress"] - lost
    assert result.counts["dress/gallery"] == LISTED - 2
    assert result.counts["dress/gallery_missing"] == 2
    assert result.counts["shirt/gallery_missing"] == 0
    assert result.protocol["complete"] is False
    assert "not the published protocol" in caplog.text
    ranks = by_hand(folder, catalogue, embedder(catalogue), "original", joined("{0} and {1}"))
    np.testing.assert_array_equal(result.per_query["dress/median_rank"], ranks["dress"])


def test_examples_show_the_reference_and_the_words(folder):
    catalogue = shop()
    result = Composed(str(folder), examples=2)(embedder(catalogue), catalogue, "val")
    queries = json.loads((folder / "captions/cap.shirt.val.json").read_text())
    shown = {(query["candidate"], " and ".join(c.strip() for c in query["captions"])) for query in queries}
    ids = catalogue.column("product_id")
    examples = [example for example in result.examples if example["search"] == "shirt"]
    assert len(examples) == 2
    assert all((ids[example["query"]], example["text"]) in shown for example in examples)
    assert {example["kind"] for example in examples} == {"i2i"}


def test_an_empty_caption_leaves_the_other_alone():
    assert Query("a", "b", ("", "is red")).text("{0} and {1}") == "is red"
    assert Query("a", "b", ("is red", "")).text("{0} and {1}") == "is red"
    assert Query("a", "b", ("is red", "is long")).text("{1} and {0}") == "is long and is red"


def test_the_interval_of_the_mean_resamples_within_categories():
    """Sizes differ: the variance of the mean of three is the sum of the groups' variances over n, divided by nine."""
    generator = np.random.default_rng(0)
    groups = [{"hit": (generator.random(n) < p).astype(float)} for n, p in ((400, 0.5), (100, 0.1), (25, 0.5))]
    interval = bootstrap_groups(groups, 4000)["hit"]
    error = np.sqrt(sum(group["hit"].var() / len(group["hit"]) for group in groups)) / 3
    assert interval.value == pytest.approx(np.mean([group["hit"].mean() for group in groups]))
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert interval.n == 525


def test_mistakes_have_a_remedy(folder):
    catalogue = shop()
    with pytest.raises(ModisteError, match="Did you mean 'original'"):
        Composed("x", gallery="orginal")
    for join in ("{0}", "{0} {2}", "{caption}", "both"):
        with pytest.raises(ModisteError, match="needs both captions"):
            Composed("x", join=join)
    with pytest.raises(ModisteError, match="split=val"):
        Composed(str(folder))(embedder(catalogue), catalogue, "test")
    (folder / "captions/cap.dress.test.json").write_text('[{"candidate": "dress1", "captions": ["a", "b"]}]')
    (folder / "image_splits/split.dress.test.json").write_text('["dress1"]')
    with pytest.raises(ModisteError, match="whose targets are published"):
        Composed(str(folder))(embedder(catalogue), catalogue, "test")
    other = FakeCatalogue({"product_id": ["1"], "text": ["x"], "split": ["val"]})
    with pytest.raises(ModisteError, match="data=fashion_iq"):
        Composed(str(folder))(embedder(other), other, "val")
    (folder / "image_splits/split.shirt.val.json").write_text('["shirt1"]')
    with pytest.raises(ModisteError, match="is damaged"):
        read_category(folder, "shirt", "val", "original")
    with pytest.raises(ModisteError, match="after training"):
        Composed.validate_config({}, {"trainer": {}})


def test_the_published_files_have_the_protocols_sizes(data_dir):
    """2,017, 2,038 and 1,961 queries; 3,817, 6,346 and 5,373 listed images."""
    for name, sizes in PROTOCOL.items():
        for gallery in ("original", "val"):
            category = read_category(data_dir / "fashion-iq", name, "val", gallery)
            assert (len(category.queries), len(category.gallery)) == (sizes["queries"], sizes[gallery])
            assert all(any(query.captions) for query in category.queries)


@pytest.mark.parametrize("gallery", ["original", "val"])
def test_the_published_captions_with_made_images_are_the_complete_protocol(data_dir, gallery):
    """A catalogue with a made image for every listed ASIN; shirt and toptee share 121 of them, two rows each."""
    folder = data_dir / "fashion-iq"
    lists = {name: json.loads((folder / f"image_splits/split.{name}.val.json").read_text()) for name in PROTOCOL}
    rows = [(asin, name) for name, asins in lists.items() for asin in asins]
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    columns = {
        "product_id": [asin for asin, _ in rows],
        "image": [f"{i}" for i in range(len(rows))],
        "text": [f"a {name}" for _, name in rows],
        "split": ["val"] * len(rows),
        "category": [name for _, name in rows],
        "pixels": [asin for asin, _ in rows],
    }
    catalogue = Catalogue.build(Card("fashion_iq"), columns, ArrayImages(pixels))
    result = Composed(str(folder), gallery=gallery, resamples=20)(embedder(catalogue, 4), catalogue, "val")
    assert result.protocol["complete"] is True
    for name, sizes in PROTOCOL.items():
        assert result.counts[f"{name}/queries"] == sizes["queries"]
        assert result.counts[f"{name}/gallery"] == sizes[gallery]
        assert result.counts[f"{name}/queries_excluded"] == result.counts[f"{name}/gallery_missing"] == 0
    assert result.counts["mean/queries"] == 6016
