"""The linear probe against scikit-learn called by hand, and the rules of its division of products."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split

from helpers.task_fakes import FakeCatalogue, FakeEmbedder
from modiste.errors import ModisteError
from modiste.tasks.probe import Pool, Probe, shot_places, split_products

TYPES = ["Dress", "Shirt", "Shoe"]
SHARES = {"Dress": 0.55, "Shirt": 0.3, "Shoe": 0.15}


def catalogue(products=80, views=2, others=40, seed=0):
    """Products of several views in test, others in train; a class of four products, and rows without a value."""
    generator = np.random.default_rng(seed)
    kinds = generator.choice(TYPES, products, p=list(SHARES.values())).tolist()
    kinds[:4], kinds[4:7] = ["Scarf"] * 4, [""] * 3
    kinds += generator.choice(TYPES, others).tolist()
    ids = [f"p{i:03d}" for i in range(products + others)]
    rows = [(ids[i], kinds[i], "test" if i < products else "train") for i in range(len(ids)) for _ in range(views)]
    order = generator.permutation(len(rows))
    product, kind, split = (list(column) for column in zip(*(rows[i] for i in order), strict=True))
    columns = {"product_id": product, "text": ["x"] * len(rows), "split": split, "type": kind}
    return FakeCatalogue(columns | {"pixels": [f"pixels{i}" for i in range(len(rows))], "one": ["same"] * len(rows)})


def embedder(table, noise=1.0, dim=8):
    axes = dict(zip([*TYPES, "Scarf", ""], torch.eye(5, dim), strict=True))
    images = torch.stack([axes[kind] for kind in table.column("type")])
    return FakeEmbedder(images + noise * torch.randn(images.shape, generator=torch.Generator().manual_seed(1)))


def values(result):
    return {name: interval.value for name, interval in result.metrics.items()}


def test_separable_embeddings_are_perfect_with_one_product_a_class():
    table = catalogue()
    found = values(Probe(["type"])(embedder(table, noise=0.0), table, "test"))
    assert set(found.values()) == {1.0}
    assert {f"type/{k}_shot_accuracy" for k in (1, 2, 4, 8, 16)} < set(found)


def test_accuracy_and_f1_equal_scikit_learn_called_by_hand():
    """One image a product: the division is scikit-learn's stratified 80/20 with seed 42, as in MODA's probe."""
    table = catalogue(views=1, products=120)
    fake = embedder(table, noise=0.7)
    result = Probe(["type"], shots=[])(fake, table, "test")
    rows = [i for i, kind in enumerate(table.column("type")) if table.column("split")[i] == "test" and kind in TYPES]
    kinds = [table.column("type")[i] for i in rows]
    x_train, x_test, y_train, y_test = train_test_split(
        fake.rows[rows].double().numpy(), kinds, test_size=0.2, random_state=42, stratify=kinds
    )
    predictions = LogisticRegression(C=1.0, max_iter=2000, tol=1e-8).fit(x_train, y_train).predict(x_test)
    found = values(result)
    assert 0.4 < found["type/accuracy"] < 0.95
    assert found["type/accuracy"] == pytest.approx(np.mean(predictions == y_test))
    for average in ("macro", "weighted"):
        assert found[f"type/{average}_f1"] == pytest.approx(f1_score(y_test, predictions, average=average))
    assert sorted(result.per_query["type/accuracy"]) == sorted(map(float, predictions == y_test))
    assert result.counts["type/fitted"] == len(y_train)
    pairs = zip(result.per_query["type/target"], result.per_query["type/prediction"], strict=True)
    assert sorted((TYPES[t], TYPES[p]) for t, p in pairs) == sorted(zip(y_test, predictions.tolist(), strict=True))


def test_a_product_or_a_picture_is_never_on_both_sides():
    """Views of a product, and other products with the same picture, stay together; classes keep their shares."""
    table = catalogue(products=200, views=3)
    table.columns["pixels"][:2] = ["shared", "shared"]
    pool = Pool(embedder(table), table)
    labels = pool.labels("type")
    tested = split_products(labels, pool.products, seed=42)
    for column in ("product_id", "pixels"):
        cells = np.array(table.column(column))
        assert not set(cells[tested]) & set(cells[~tested])
    for kind in TYPES:
        assert tested[labels == kind].mean() == pytest.approx(0.2, abs=0.03)
    again = split_products(labels, pool.products, seed=43)
    assert (again != tested).any()


def test_rows_without_a_value_and_rare_classes_are_excluded_and_counted():
    result = Probe(["type"], shots=[])(embedder(catalogue()), catalogue(), "test")
    assert result.confusion["type"]["labels"] == TYPES
    assert result.counts["type/ignored"] == 6
    assert result.counts["type/rare"] == 8
    total = result.counts["type/queries"] + result.counts["type/fitted"]
    assert total == 160 - 6 - 8
    assert result.counts["type/classes"] == 3
    assert result.counts["type/fitted_products"] == result.counts["type/fitted"] / 2


def test_fit_split_fits_on_another_split_and_tests_on_all_of_the_evaluated_one():
    table = catalogue()
    fake = embedder(table, noise=0.7)
    result = Probe(["type"], fit_split="train", shots=[])(fake, table, "test")
    kinds, splits = np.array(table.column("type")), np.array(table.column("split"))
    train, test = (np.flatnonzero((splits == name) & np.isin(kinds, TYPES)) for name in ("train", "test"))
    features = fake.rows.double().numpy()
    model = LogisticRegression(C=1.0, max_iter=2000, tol=1e-8).fit(features[train], kinds[train])
    right = model.predict(features[test]) == kinds[test]
    assert result.per_query["type/accuracy"].tolist() == right.astype(float).tolist()
    assert result.counts["type/fitted"] == len(train) == 80
    assert result.counts["type/rare"] == 8  # scarves are not among the fitted


def test_shots_are_one_image_each_of_k_products_and_the_same_come_first():
    table = catalogue(products=60, views=3)
    pool = Pool(embedder(table), table)
    targets = np.searchsorted(TYPES, pool.labels("type"))
    kept = np.isin(pool.labels("type"), TYPES)
    targets, products = targets[kept], pool.products[kept]
    places = shot_places(targets, products, seed=42, draw=0)
    for k in (1, 2, 4):
        for target in range(3):
            chosen = products[(places < k) & (targets == target)]
            assert len(set(chosen)) == len(chosen) == k
    assert set(np.flatnonzero(places < 2)) < set(np.flatnonzero(places < 4))
    assert (places != shot_places(targets, products, seed=42, draw=1)).any()
    assert (places == shot_places(targets, products, seed=42, draw=0)).all()


def test_few_shot_accuracy_is_the_mean_over_the_draws():
    """Each draw fitted by hand; the table holds mean and deviation, the metric an image's mean over the draws."""
    table = catalogue(views=1)
    fake = embedder(table, noise=0.7)
    task = Probe(["type"], fit_split="train", shots=[2, 64], shot_draws=3)
    result = task(fake, table, "test")
    problem = task.problem("type", TYPES, Pool(fake, table.select(split="train")), Pool(fake, table.select("test")))
    right = []
    for draw in range(3):
        rows = shot_places(problem.targets, problem.products, 42, draw) < 2
        model = LogisticRegression(tol=1e-8, max_iter=2000).fit(problem.features[rows], problem.targets[rows])
        right.append(model.predict(problem.test_features) == problem.test_targets)
    np.testing.assert_allclose(result.per_query["type/2_shot_accuracy"], np.mean(right, axis=0))
    assert result.metrics["type/2_shot_accuracy"].value == pytest.approx(np.mean(right))
    first, last = (
        dict(zip(result.tables["type/few_shot"]["columns"], row, strict=True))
        for row in result.tables["type/few_shot"]["rows"]
    )
    assert first["accuracy_sd"] == pytest.approx(np.std(np.mean(right, axis=1), ddof=1))
    assert (first["shots"], first["images"], first["classes_with_fewer"]) == (2, 6, 0)
    # Every class gives all it has: the whole fitted part.
    assert last["classes_with_fewer"] == 3
    assert last["accuracy"] == pytest.approx(result.metrics["type/accuracy"].value)
    assert last["accuracy_sd"] == pytest.approx(0, abs=1e-12)


def test_random_embeddings_are_at_chance():
    table = catalogue(products=600, views=1)
    images = torch.randn(len(table), 8, generator=torch.Generator().manual_seed(0))
    result = Probe(["type"], shots=[])(FakeEmbedder(images), table, "test")
    assert values(result)["type/mean_per_class_recall"] == pytest.approx(1 / 3, abs=0.04)


def test_fits_that_end_before_their_optimum_are_counted_and_warned_of(caplog):
    table = catalogue()
    result = Probe(["type"], max_iter=1, shots=[1], shot_draws=2)(embedder(table), table, "test")
    assert result.counts["unconverged"] == 3
    assert result.counts["type/iterations"] == 1
    assert "did not converge" in caplog.text
    assert Probe(["type"])(embedder(table), table, "test").counts["unconverged"] == 0


def test_attributes_are_those_with_prompts_and_what_is_no_problem_is_skipped():
    table = catalogue()
    result = Probe(prompts={"type": ["{}"], "one": ["{}"], "default": ["{}"]}, shots=[])(embedder(table), table, "test")
    assert result.protocol["attributes"] == ["type"]
    assert result.protocol["skipped"] == ["one"]
    assert (result.task, result.primary) == ("probe", "type/accuracy")
    json.dumps(result.to_json(), allow_nan=False)


def test_one_draw_has_no_deviation():
    table = catalogue()
    result = Probe(["type"], shots=[1], shot_draws=1)(embedder(table), table, "test")
    assert result.tables["type/few_shot"]["rows"][0][4] is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attributes": ["one"]}, "Attribute 'one' does not have two to"),
        ({"attributes": ["types"]}, "no attribute 'types'"),
        ({"prompts": {"one": []}}, "No attribute has two to"),
        ({"attributes": ["type"], "fit_split": "nowhere"}, "no rows in split 'nowhere'"),
    ],
)
def test_what_cannot_be_probed_is_an_error(settings, message):
    table = catalogue()
    with pytest.raises(ModisteError, match=message):
        Probe(**settings)(embedder(table), table, "test")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"c": 0}, "positive"), ({"min_products": 4}, "at least 5"), ({"shots": [0]}, "at least 1")],
)
def test_numbers_out_of_range_are_an_error(settings, message):
    with pytest.raises(ModisteError, match=message):
        Probe(**settings)


def test_the_split_that_is_fitted_on_is_another_one_and_not_for_validation():
    with pytest.raises(ModisteError, match="is the evaluated split"):
        Probe.validate_config({"fit_split": "test"}, {"split": "test"})
    with pytest.raises(ModisteError, match="validation split only"):
        Probe.validate_config({"fit_split": "train"}, {"trainer": {}})
    Probe.validate_config({"fit_split": "train"}, {"split": "test"})
    Probe.validate_config({"fit_split": None}, {"trainer": {}})


def test_embeddings_that_are_not_finite_are_an_error():
    table = catalogue()
    fake = embedder(table)
    fake.rows[:] = float("nan")
    with pytest.raises(ModisteError, match="not finite"):
        Probe(["type"])(fake, table, "test")
