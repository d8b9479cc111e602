"""The attributes task and its weighted average precision, against scikit-learn and a plain loop."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

from helpers.task_fakes import FakeCatalogue, FakeEmbedder
from modiste.errors import ModisteError
from modiste.metrics.average_precision import Ranking
from modiste.tasks.attributes import COLUMNS, VALUE_COLUMNS, Attributes
from modiste.tasks.result import Result

PARTS = ["hat", "dress", "shoes", "bag"]
PLAIN = {"default": ["{}"]}


def catalogue(n=120):
    """Parts: several a row; sleeve: "" where there is none; kind: one value; all in test but the last ten."""
    random = np.random.default_rng(0)
    has = random.random((n, len(PARTS))) < [0.1, 0.3, 0.7, 0.5]
    has[0] = False
    return FakeCatalogue(
        {
            "product_id": [str(i) for i in range(n)],
            "text": ["x"] * n,
            "split": ["test"] * (n - 10) + ["train"] * 10,
            "parts": [", ".join(p for p, there in zip(PARTS, row, strict=True) if there) for row in has],
            "sleeve": [["", "NA", "long", "short", "short", "none, or hidden"][i % 6] for i in range(n)],
            "kind": ["a" if i % 3 else "b" for i in range(n)],
            "one": ["same"] * n,
        }
    )


def embedder(rows=None, n=120, coarse=False):
    images = torch.randn(n, 8, generator=torch.Generator().manual_seed(1))
    return FakeEmbedder(images.round() + 0.1 if coarse else images)


def test_weighted_average_precision_is_scikit_learns():
    """With ties, items without weight, and positives without weight."""
    random = np.random.default_rng(0)
    for trial in range(60):
        n = int(random.integers(2, 50))
        scores = random.normal(size=n) if trial % 2 else random.integers(0, 4, n).astype(float)
        positives = random.random(n) < random.choice([0.1, 0.5, 0.9])
        positives[random.integers(n)] = True
        weights = np.concatenate([random.integers(0, 3, (n, 6)), random.random((n, 2)), np.ones((n, 1))], axis=1)
        found = Ranking(scores, positives).average_precision(weights)
        for column, value in zip(weights.T, found, strict=True):
            if column[positives].sum() == 0:
                assert np.isnan(value)
            else:
                expected = average_precision_score(positives, scores, sample_weight=column)
                assert value == pytest.approx(expected, abs=1e-12)


def test_weights_are_repetitions():
    random = np.random.default_rng(1)
    scores, positives = random.normal(size=30).round(1), random.random(30) < 0.3
    counts = random.integers(0, 4, 30)
    repeated = Ranking(scores.repeat(counts), positives.repeat(counts)).average_precision(np.ones((counts.sum(), 1)))
    assert Ranking(scores, positives).average_precision(counts[:, None].astype(float)) == pytest.approx(repeated)


def reference(rows, embed, attribute, words, min_positives=2, separator=", ", absent=("", "NA")):
    """Value → average precision, and that of the images without a value: scikit-learn over plain loops."""
    labels = [
        [v for v in (c.split(separator) if separator else [c]) if v not in absent] for c in rows.column(attribute)
    ]
    labels = [{words.get(v, v) for v in cell} for cell in labels]
    images = embed.images(rows).double().numpy()
    every = sorted({v for cell in labels for v in cell})
    vectors = {v: embed.texts([v])[0].double().numpy() for v in every}
    kept = [i for i, cell in enumerate(labels) if cell]
    precisions = {}
    for value in every:
        targets = [value in labels[i] for i in kept]
        if min_positives <= sum(targets) < len(targets):
            precisions[value] = average_precision_score(targets, [images[i] @ vectors[value] for i in kept])
    absent = [not cell for cell in labels]
    scores = [-max(image @ vector for vector in vectors.values()) for image in images]
    return precisions, average_precision_score(absent, scores) if any(absent) else None


@pytest.mark.parametrize("attribute", ["parts", "sleeve", "kind"])
def test_the_metrics_are_those_of_scikit_learn(attribute):
    full, embed, words = catalogue(), embedder(), {"short": "half"}
    task = Attributes(["parts", "sleeve", "kind"], PLAIN, {"sleeve": words}, resamples=20)
    result = task(embed, full, "test")
    precisions, absent = reference(full.select(split="test"), embed, attribute, words)
    assert result.metrics[f"{attribute}/map"].value == pytest.approx(np.mean(list(precisions.values())), abs=1e-6)
    table = {row[0]: row for row in result.tables[attribute]["rows"]}
    assert {value: row[3] for value, row in table.items()} == pytest.approx(precisions, abs=1e-6)
    if absent is None:
        assert f"{attribute}/not_applicable_ap" not in result.metrics
    else:
        assert result.metrics[f"{attribute}/not_applicable_ap"].value == pytest.approx(absent, abs=1e-6)


def test_the_primary_metric_is_the_mean_over_the_attributes():
    result = Attributes(["parts", "sleeve", "kind"], PLAIN, resamples=20)(embedder(), catalogue(), "test")
    assert result.primary == "mean/map"
    parts = [result.metrics[f"{name}/map"].value for name in ("parts", "sleeve", "kind")]
    assert result.metrics["mean/map"].value == pytest.approx(np.mean(parts))


def test_images_that_an_attribute_does_not_apply_to_are_in_no_values_ranking():
    """Whatever such images look like, the values' average precision stays as it is."""
    full, embed = catalogue(), embedder()
    task = Attributes(["sleeve"], PLAIN, resamples=20)
    first = task(embed, full, "test")
    embed.rows = embed.rows.clone()
    embed.rows[[i for i, v in enumerate(full.column("sleeve")) if v in ("", "NA")]] = F.normalize(torch.ones(8), dim=0)
    second = task(embed, full, "test")
    assert second.metrics["sleeve/map"].value == pytest.approx(first.metrics["sleeve/map"].value)
    assert second.metrics["sleeve/not_applicable_ap"].value != first.metrics["sleeve/not_applicable_ap"].value
    applies = sum(v not in ("", "NA") for v in full.select(split="test").column("sleeve"))
    assert first.metrics["sleeve/map"].n == first.counts["sleeve/images"] == applies
    assert first.counts["sleeve/not_applicable"] == 110 - applies


def test_a_separator_parts_the_cells_and_none_leaves_them_whole():
    split = Attributes(["sleeve"], PLAIN, resamples=20)(embedder(), catalogue(), "test")
    whole = Attributes(["sleeve"], PLAIN, separator=None, resamples=20)(embedder(), catalogue(), "test")
    values = [{row[0] for row in result.tables["sleeve"]["rows"]} for result in (split, whole)]
    assert values == [{"long", "short", "none", "or hidden"}, {"long", "short", "none, or hidden"}]


def test_values_with_one_word_are_one_value_and_na_may_be_one():
    classes = {"sleeve": {"long": "some", "short": "some"}}
    result = Attributes(["sleeve"], PLAIN, classes, not_applicable=[""], separator=None, resamples=20)(
        embedder(), catalogue(), "test"
    )
    assert {row[0] for row in result.tables["sleeve"]["rows"]} == {"NA", "some", "none, or hidden"}


def test_perfect_vectors_are_perfect_and_random_ones_are_at_chance():
    full = catalogue(3000)
    has = torch.tensor([[part in cell.split(", ") for part in PARTS] for cell in full.column("parts")]).float()
    axes = dict(zip(PARTS, torch.eye(4, 5), strict=True))
    images = torch.cat([has, 4 - has.sum(1, keepdim=True)], dim=1)
    # Equal length: the cosine with a part's axis is equal for all that have it.
    images[:, 4] = (16 - has.sum(1)).sqrt()
    perfect = Attributes(["parts"], PLAIN, resamples=20)(FakeEmbedder(images, axes), full, "test")
    assert perfect.metrics["parts/map"].value == 1
    assert perfect.metrics["parts/not_applicable_ap"].value == 1
    random = Attributes(["parts"], PLAIN, resamples=20)(embedder(n=3000), full, "test")
    for _, positives, chance, precision in random.tables["parts"]["rows"]:
        assert chance == pytest.approx(positives / random.counts["parts/images"])
        assert precision == pytest.approx(chance, abs=0.06)


def values_of(rows, attributes):
    return sorted({v for a in attributes for cell in rows.column(a) for v in cell.split(", ")} - {"", "NA"})


def test_the_interval_is_that_of_resampled_images():
    """A loop over resamples of the images with scikit-learn, from the same draws."""
    full, embed = catalogue(60), embedder(n=60)
    result = Attributes(["kind", "sleeve"], PLAIN, resamples=40, seed=3, min_positives=2)(embed, full, "test")
    rows = full.select(split="test")
    n, draws = len(rows), {"kind/map": [], "sleeve/map": []}
    images = embed.images(rows).numpy()
    # Once for all resamples: an image drawn twice ties with itself, and some processors round by the place of a row.
    scores = {v: images @ embed.texts([v])[0].numpy() for v in values_of(rows, ("kind", "sleeve"))}
    picks = np.random.default_rng(3).integers(0, n, size=(40, n))
    for pick in picks:
        for attribute in ("kind", "sleeve"):
            labels = [set(rows.column(attribute)[i].split(", ")) - {"", "NA"} for i in pick]
            kept = [k for k, cell in enumerate(labels) if cell]
            found = []
            for value in values_of(rows, (attribute,)):
                targets = [value in labels[k] for k in kept]
                if any(targets):
                    found.append(average_precision_score(targets, scores[value][pick[kept]]))
            draws[f"{attribute}/map"].append(np.mean(found))
    for name, values in draws.items():
        low, high = np.percentile(values, [2.5, 97.5]) + result.metrics[name].value - np.mean(values)
        low, high = max(low, 0), min(high, 1)
        assert (result.metrics[name].low, result.metrics[name].high) == pytest.approx((low, high), abs=1e-5)


def test_the_interval_holds_the_value_where_positives_are_few():
    """Images drawn twice raise average precision: plain percentiles lie above the value here."""
    full = catalogue(80)
    full.columns["rare"] = [f"v{i}" for i in range(80)]
    result = Attributes(["rare"], PLAIN, min_positives=1, resamples=200)(embedder(n=80), full, "test")
    interval = result.metrics["rare/map"]
    assert 0 <= interval.low < interval.value < interval.high <= 1


def test_prompts_are_an_ensemble_and_name_the_attributes():
    prompts = {"kind": ["a {}", "the {} thing"], **PLAIN}
    embed = embedder()
    result = Attributes(prompts=prompts, resamples=20)(embed, catalogue(), "test")
    assert [name for name in result.metrics if name.endswith("/map")] == ["mean/map", "kind/map"]
    assert embed.asked == [["a a", "the a thing", "a b", "the b thing"]]
    vector = F.normalize(torch.stack([embed.vector("a b"), embed.vector("the b thing")]).mean(0), dim=0)
    rows = catalogue().select(split="test")
    expected = average_precision_score([v == "b" for v in rows.column("kind")], embed.images(rows) @ vector)
    assert {row[0]: row[3] for row in result.tables["kind"]["rows"]}["b"] == pytest.approx(expected, abs=1e-6)


def test_what_cannot_be_scored_is_skipped_and_said_or_an_error_when_it_was_asked_for():
    result = Attributes(resamples=20)(embedder(), catalogue(), "test")
    assert set(result.protocol["skipped"]) == {"one"}
    with pytest.raises(ModisteError, match="'one' of fake cannot be scored"):
        Attributes(["one"], resamples=20)(embedder(), catalogue(), "test")
    with pytest.raises(ModisteError, match="Did you mean 'kind'"):
        Attributes(["kinds"])(embedder(), catalogue(), "test")
    with pytest.raises(ModisteError, match=r"lower task\.attributes\.min_positives"):
        Attributes(min_positives=111)(embedder(), catalogue(), "test")


def test_rare_values_are_counted_and_excluded_of_the_mean():
    few = Attributes(["parts"], PLAIN, min_positives=20, resamples=20)(embedder(), catalogue(), "test")
    assert few.counts["parts/values_excluded"] == 1
    assert {row[0] for row in few.tables["parts"]["rows"]} == set(PARTS) - {"hat"}


def test_bad_settings_and_bad_embeddings_are_errors():
    with pytest.raises(ModisteError, match=r"needs one \{\}"):
        Attributes(prompts={"kind": ["no place"]})
    with pytest.raises(ModisteError, match="must be at least 1"):
        Attributes(min_positives=0)
    bad = embedder()
    bad.rows[5] = float("nan")
    with pytest.raises(ModisteError, match="not finite"):
        Attributes(["kind"])(bad, catalogue(), "test")


def test_the_result_is_plain_and_its_tables_are_whole():
    result = Attributes(["parts", "kind"], PLAIN, resamples=20)(embedder(), catalogue(), "test")
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result
    assert result.tables["attributes"]["columns"] == COLUMNS
    assert [len(row) for row in result.tables["attributes"]["rows"]] == [len(COLUMNS)] * 2
    assert all(len(row) == len(VALUE_COLUMNS) for row in result.tables["parts"]["rows"])
