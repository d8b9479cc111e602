"""The index answers as a brute-force search does, on either engine; versions are atomic, kept, and never doubled."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest
from PIL import Image

from helpers import tiny_index
from helpers.tiny_index import CARD, Embedder, catalogue, columns, make_index, source, unit, vector_of, vectors
from modiste import search
from modiste.errors import ModisteError
from modiste.search import health
from modiste.search.build import Source, build
from modiste.search.encoder import ModelCard
from modiste.search.engines.lancedb import LanceStore
from modiste.search.engines.qdrant import QdrantStore
from modiste.search.opened import snapshot_of

ROWS = 300


def engines():
    server = os.environ.get("MODISTE_QDRANT_URL")
    # The client's in-memory mode stands for the server where none is named: the calls are the same, its graph is not.
    qdrant = {"kind": "qdrant", "url": server or ":memory:"}
    return [pytest.param({"kind": "lancedb"}, id="lancedb"), pytest.param(qdrant, id="qdrant")]


@contextlib.contextmanager
def collection_of(engine):
    """The engine with a collection of its own, which is deleted afterwards."""
    if engine["kind"] == "lancedb":
        yield engine
        return
    engine = engine | {"collection": f"modiste_test_{uuid.uuid4().hex}"}
    yield engine
    QdrantStore(engine["url"], engine["collection"], "").client.delete_collection(engine["collection"])


@pytest.fixture(scope="module", params=engines())
def index(request, tmp_path_factory):
    """Searched only."""
    with collection_of(request.param) as engine:
        yield make_index(tmp_path_factory.mktemp("index") / "shop.index", columns(ROWS), engine)


@pytest.fixture(params=engines())
def writable(request, tmp_path):
    with collection_of(request.param) as engine:
        yield make_index(tmp_path / "shop.index", columns(40), engine)


@pytest.fixture
def local(tmp_path):
    return make_index(tmp_path / "shop.index", columns(40))


def brute_force(table, query, k, keep=lambda row: True):
    """Product ids of the k best products by their best photo."""
    scores, best = vectors(table) @ query, {}
    for row, product in enumerate(table["product_id"]):
        if keep({name: values[row] for name, values in table.items()}):
            best[product] = max(best.get(product, -2), scores[row])
    return sorted(best, key=lambda product: -best[product])[:k]


def found(results):
    return results.table.column("product_id").to_pylist()


FILTERS = {
    None: lambda r: True,
    "price < 20 and gender = 'Men'": lambda r: r["price"] != "" and int(r["price"]) < 20 and r["gender"] == "Men",
    "price between 5 and 6": lambda r: r["price"] in ("5", "6"),
    "colour in ('red', 'blue') and not brand = 'Brand3'": lambda r: r["colour"] != "green" and r["brand"] != "Brand3",
    "price is null": lambda r: r["price"] == "",
    "price != 5 and colour != 'red'": lambda r: r["price"] not in ("", "5") and r["colour"] != "red",
    "gender = 'Men' or price >= 80": lambda r: r["gender"] == "Men" or (r["price"] != "" and int(r["price"]) >= 80),
    "not price < 20": lambda r: r["price"] == "" or int(r["price"]) >= 20,
    "product_id = 'SKU-7'": lambda r: r["product_id"] == "SKU-7",
    "false": lambda r: False,
    "brand like 'brand1%' and not colour like '_ed'": lambda r: (
        r["brand"] in ("Brand1", "Brand10") and r["colour"] != "red"
    ),
    "brand like 'x%'": lambda r: False,
}


@pytest.mark.parametrize("where", FILTERS)
def test_a_search_is_brute_force_over_what_passes(index, where):
    table, keep = columns(ROWS), FILTERS[where]
    results = index.search(text="shoes", where=where, k=12)
    assert found(results) == brute_force(table, vector_of("shoes"), 12, keep)
    passing = [row for row in range(ROWS) if keep({name: values[row] for name, values in table.items()})]
    assert results.passing == index.count(where) == len(passing)
    assert str(results.exactness) == "exact"
    rows = [row for views in results.table.column("views").to_pylist() for row in views] if passing else []
    assert set(rows) <= set(passing)


def test_results_hold_scores_views_and_typed_attributes(index):
    table = index.search(text="shoes", k=3).table
    assert table.column_names[:5] == ["product_id", "row", "score", "match", "views"]
    first = table.to_pylist()[0]
    assert first["row"] in first["views"]
    assert len(first["views"]) == 2
    assert isinstance(first["price"], (int, type(None)))
    assert first["score"] == pytest.approx((vectors(columns(ROWS)) @ vector_of("shoes")).max(), abs=1e-5)
    frame = index.search(text="shoes", k=3).to_pandas()
    assert list(frame["product_id"]) == table.column("product_id").to_pylist()


def test_without_grouping_every_row_stands_for_itself(index):
    results = index.search(text="shoes", k=5, group=False)
    expected = np.argsort(-(vectors(columns(ROWS)) @ vector_of("shoes")))[:5]
    assert results.table.column("row").to_pylist() == expected.tolist()
    assert "views" not in results.table.column_names


def test_like_this_but_not_that_is_a_weighted_sum(index):
    own = unit(vectors(columns(ROWS))[10:12].mean(0))
    query = unit(2 * own + vector_of("red") - 0.25 * (vector_of("blue") + vector_of("long")) / 2)
    results = index.search(
        like="SKU-5", text="red", minus=["blue", "long"], weights={"like": 2, "minus": 0.25}, k=8, where="price < 80"
    )
    expected = brute_force(columns(ROWS), query, 9, lambda r: r["price"] != "" and int(r["price"]) < 80)
    assert found(results) == [product for product in expected if product != "SKU-5"][:8]


@pytest.mark.parametrize("where", [None, "price < 80", "product_id != 'SKU-5'"])
def test_the_number_of_products_is_that_of_the_results(index, where):
    like = ["SKU-5", "SKU-6"]
    assert index.count_products() == ROWS // 2
    results = index.search(like=like, where=where, k=ROWS)
    assert results.products == len(results) == index.count_products(where) - (1 if where and "!=" in where else 2)


def test_hybrid_search_takes_quotes_for_characters(index):
    assert found(index.search(text='"sku-77', hybrid=0.5, k=3))[0] == "SKU-77"
    assert len(index.search(text=1999 * '"', hybrid=0.5, k=3)) == 3


def test_hybrid_search_finds_an_article_number_that_the_model_does_not_know(index):
    assert "SKU-77" not in found(index.search(text="SKU-77", k=3))
    assert found(index.search(text="sku-77", hybrid=0.5, k=3))[0] == "SKU-77"
    assert found(index.search(text="Brand4 sku-77", hybrid=0.5, where="colour = 'red'", k=3))[0] != "SKU-77"


@pytest.mark.parametrize("engine", engines())
def test_hybrid_search_finds_an_article_number_of_digits_but_no_price(engine, tmp_path):
    table = columns(40)
    table["ean"] = [f"40063813339{row:02}" for row in range(40)]
    with collection_of(engine) as engine:
        index = make_index(tmp_path / "shop.index", table, engine)
        assert index.types["ean"] == "number"
        assert "SKU-15" not in found(index.search(text="4006381333931", k=3))
        assert found(index.search(text="4006381333931", hybrid=0.5, k=3))[0] == "SKU-15"
        assert not len(index.store.full_text("31", None)[0])  # the price of that row


def test_a_hybrid_search_is_exact_only_if_it_ranks_every_row(index):
    every = "exact" if index.facts["engine"]["kind"] == "lancedb" else "approximate, recall not measured"
    assert str(index.search(text="sku-77", hybrid=0.5, k=3).exactness) == every
    assert str(index.search(text="sku-77", hybrid=0.5, k=3, where="colour = 'red'").exactness) == "exact"


@pytest.mark.parametrize(
    "where",
    ["price < 49.5", "not price >= 20.0", "price in (3, 4.0, 5.5)", "price between 1e1 and 9e300", "price != -2.5"],
)
def test_a_hybrid_search_compares_whole_numbers_with_decimals(index, where):
    results = index.search(text="title", hybrid=0.5, where=where, k=ROWS)
    assert sorted(found(results)) == sorted(found(index.search(text="title", where=where, k=ROWS)))
    rows, _ = index.store.full_text("title", index._condition(where))
    assert len(rows) == index.count(where) > 0


def test_a_hybrid_search_considers_every_full_text_match(tmp_path):
    count = 10_100
    table = columns(count, views=1, titles=["loafers"] * count)
    found = make_index(tmp_path / "large.index", table).search(text="loafers", hybrid=0.5, k=count, group=False).table
    expected = np.sort(0.5 * vectors(table) @ vector_of("loafers") + 0.5)[::-1]
    np.testing.assert_allclose(found.column("score").to_numpy(), expected, atol=1e-6)


def test_facets_count_what_passes(index):
    table = columns(ROWS)
    men = [row for row in range(ROWS) if table["gender"][row] == "Men"]
    assert index.facets()["gender"] == {"Men": 150, "Women": 150}
    counted = index.facets("gender = 'Men'")
    assert counted["colour"]["red"] == sum(table["colour"][row] == "red" for row in men)
    assert list(counted["colour"].values()) == sorted(counted["colour"].values(), reverse=True)
    assert None not in counted["price"]


def test_what_is_in_it(index):
    assert len(index) == ROWS
    assert index.rows(3) == [0, 1, 2]
    assert index.types["price"] == "number"
    assert set(index.attributes) == {"split", "price", "gender", "colour", "brand"}
    assert index.schema.field("price").type == "int64"
    assert index.image(5).size == (4, 4)
    assert index.browse("colour = 'red'", k=2).column("product_id").to_pylist() == ["SKU-0", "SKU-3"]
    rows, scores = index.nearest(vectors(columns(ROWS))[[4, 9]], 1, "price >= 0")
    assert rows.tolist() == [[4], [9]]
    assert np.allclose(scores, 1, atol=1e-5)
    with pytest.raises(KeyError):
        index.image(10**6)


def test_only_the_ratio_of_weights_counts(index):
    one = index.search(text="red", like="SKU-5", weights={"text": 1, "like": 0.5}).table
    huge = index.search(text="red", like="SKU-5", weights={"text": 2e300, "like": 1e300}).table
    assert one.column("product_id").equals(huge.column("product_id"))
    np.testing.assert_allclose(one.column("score"), huge.column("score"), rtol=1e-6)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "The query is empty"),
        ({"text": "  "}, "The query is empty"),
        ({"text": "a", "k": 0}, "k=0"),
        ({"like": "SKU-x"}, "no such product"),
        ({"text": "a", "weights": {"txt": 1}}, "Did you mean 'text'"),
        ({"text": "a", "weights": {"text": -1}}, "write minus="),
        ({"text": "a", "hybrid": 2}, "from 0 to 1"),
        ({"like": "SKU-1", "hybrid": 0.5}, "no words"),
        ({"image": "nowhere.jpg"}, "no such file"),
        ({"text": "a", "minus": "a", "weights": {"minus": 1}}, "cancel each other out"),
        ({"text": "a", "where": "prize < 5"}, "Did you mean 'price'"),
    ],
)
def test_a_mistake_is_explained(index, asked, message):
    with pytest.raises(ModisteError, match=message):
        index.search(**asked)


def test_no_row_passes_and_why(index):
    results = index.search(text="a", where="colour = 'Red'")
    assert (len(results), results.no_match) == (0, True)
    assert "Did you mean 'red'" in results.summary()


# ------------------------------------------------------------------------------------------------------------- writing


def test_an_upsert_takes_what_changed_and_embeds_new_pixels_only(writable):
    table = columns(44)
    table["price"][0] = "77"  # an attribute
    table["pixels"][3] = f"{999:040x}"  # another photo under the same name
    build(writable.path, catalogue(table), source(table))
    changes = build(writable.path, catalogue(table), source(table))
    assert (changes.added, changes.changed, changes.unchanged) == (0, 0, 44)
    writable.refresh()
    assert len(writable) == 44
    assert writable.count("price = 77") == 1
    assert found(writable.search(text="x", k=9)) == brute_force(table, vector_of("x"), 9)
    assert sorted(writable.rows()) == list(range(44))


def test_an_upsert_counts_what_it_does_and_needs_a_model_for_new_photos(writable):
    table = columns(44)
    table["price"][0] = "77"
    with pytest.raises(ModisteError, match="4 photos have no embedding"):
        writable.upsert(catalogue(table))
    assert len(writable) == 40
    changes = build(writable.path, catalogue(table), source(table), delete_missing=True)
    assert (changes.added, changes.changed, changes.embedded, changes.deleted, changes.unchanged) == (4, 1, 0, 0, 39)
    table = columns(40)
    changes = writable.upsert(catalogue(table), delete_missing=True)
    assert (changes.added, changes.changed, changes.deleted) == (0, 1, 4)
    assert len(writable) == 40


def test_rows_are_unchanged_whatever_the_type_of_their_column_in_the_batch(tmp_path):
    table = columns(40)
    table["size"], table["weight"] = ["38", "M"] * 20, ["2", "2.5"] * 20
    index = make_index(tmp_path / "shop.index", table)
    some = {name: values[::2] for name, values in table.items()}  # all sizes and weights are whole numbers
    assert (index.upsert(catalogue(some)).changed, index.count("size = '38' and weight = 2")) == (0, 20)


def test_an_upserts_snapshot_is_what_the_database_holds(local):
    """It is made from the one before, without reading the whole database; also where that is not on disk."""
    table = columns(46)
    table["price"][0], table["colour"][5] = "77", "mauve"
    kept = {name: values[4:] for name, values in table.items()}
    for values, delete_missing in ((table, False), (kept, True), (columns(40), False)):
        build(local.path, catalogue(values), source(values), delete_missing)
        local.refresh()
        held = snapshot_of(LanceStore(local.path), local.facts["types"])
        assert local.snapshot.table.equals(held.table)
        assert (local.snapshot.vectors == held.vectors).all()
    shutil.rmtree(local.path / "snapshots")
    build(local.path, catalogue(table), source(table))
    assert local.refresh()
    assert len(local) == 46


def test_full_text_finds_rows_that_its_index_does_not_have_yet(local):
    table = columns(41)
    table["text"][40] = "unheard-of galoshes"
    build(local.path, catalogue(table), source(table))
    local.refresh()
    (row,), _ = local.store.full_text("galoshes", None)
    assert row == 40


def test_rows_that_exist_twice_are_noticed(local):
    """LanceDB duplicates a row that two handles upsert (lancedb#2463, #3377), or others add one."""
    rows = local.store.database.open_table("products")
    rows.add(rows.head(1))
    with pytest.raises(ModisteError, match="1 rows exist twice"):
        local.upsert(catalogue(columns(40, prices=[1] * 40)))


def test_thresholds_are_calibrated(writable):
    found = writable.calibrate(0.9)
    assert {kind: one["pairs"] for kind, one in writable.facts["thresholds"].items()} == {"text": 20, "image": 20}
    results = writable.search(text="x", k=5)
    assert results.threshold == pytest.approx(found["text"].threshold)
    cosines = vectors(columns(40)) @ writable.embedder.texts(["title of sku-3"])[0]
    assert found["text"].threshold < max(cosines)
    assert writable.search(text="x", like="SKU-1").threshold is None


def test_too_few_pairs_give_no_threshold_and_a_reason(writable):
    writable.delete([f"SKU-{number}" for number in range(5)])
    assert writable.calibrate() == {}
    for query, kind in (({"text": "x"}, "text"), ({"image": Image.new("RGB", (1, 1))}, "image")):
        found = writable.search(**query)
        assert found.threshold is None
        assert f"No match threshold was calibrated for {kind} queries: " in found.uncalibrated


def test_health_lists_see_every_row(writable, tmp_path):
    table = columns(40)
    table["pixels"][21] = table["pixels"][4]  # a photo of another product
    writable.upsert(catalogue(table))
    (pair,) = health.duplicates(writable).to_pylist()
    assert (pair["row"], pair["other_row"]) == (4, 21)
    assert len(health.misfits(writable, better=0)) == 40
    written = {name: count for name, count, _ in health.write(writable, tmp_path / "health")}
    assert written["duplicates"] == 1
    assert written["attributes"] == len(health.attributes(writable))
    assert written["unfound"] == len(health.unfound(writable))
    assert len(health.unfound(writable, k=1)) > 0


def test_deleted_products_are_gone(writable):
    assert writable.delete(["SKU-3", "SKU-4"]) == 4
    assert len(writable) == 36
    assert not {"SKU-3", "SKU-4"} & set(found(writable.search(text="x", k=40)))
    with pytest.raises(ModisteError, match="no product SKU-3"):
        writable.delete("SKU-3")


def test_an_index_without_rows_answers_and_can_be_filled_again(writable, tmp_path):
    writable.delete(sorted({f"SKU-{row}" for row in range(20)}))
    assert len(writable) == len(writable.search(text="x")) == len(writable.search(text="x", hybrid=True)) == 0
    calls = [writable.calibrate, lambda: next(health.write(writable, tmp_path / "health"))]
    if writable.facts["engine"]["kind"] == "lancedb":
        calls.append(writable.plan)
    for call in calls:
        with pytest.raises(ModisteError, match="has no rows: add products"):
            call()
    build(writable.path, catalogue(columns(40)), source(columns(40)))
    writable.refresh()
    assert found(writable.search(text="x", k=20)) == brute_force(columns(40), vector_of("x"), 20)


def test_another_model_or_preprocessing_is_refused_with_both_fingerprints(writable):
    table = columns(40)
    other = ModelCard("other", "e" * 64, CARD.preprocess, CARD.embed_dim)
    with pytest.raises(ModisteError, match=f"{'f' * 64}.*{'e' * 64}"):
        build(writable.path, catalogue(table), source(table, other))
    larger = ModelCard("tiny", CARD.fingerprint, {"size": 8}, CARD.embed_dim)
    with pytest.raises(ModisteError, match=r"another preprocessing: .*\(size differ\)"):
        build(writable.path, catalogue(table), source(table, larger))


@pytest.mark.parametrize("known", [True, False])
def test_whole_prices_take_decimals_later(writable, known):
    """Also where the rows of the version before are not on disk, and at an earlier version that is restored."""
    rows, prices, changes = columns(44), columns(40)["price"], []
    rows["price"] = ["9.5", *prices[1:], "7.25", "7", "8", ""]
    if not known:
        shutil.rmtree(writable.path / "snapshots", ignore_errors=True)
    for values in (rows, rows, columns(44)):
        changes.append(build(writable.path, catalogue(values), source(values)))
        assert len(writable.search(text="x", k=40, where="price >= 0")) >= 20  # also with the facts from before
        writable.refresh()
        assert writable.schema.field("price").type == "double"
        expected = [float(price) if price else None for price in values["price"]]
        assert writable.store.read(["row", "price"]).column("price").to_pylist() == expected
        assert writable.count("price < 9.6") == sum(price is not None and price < 9.6 for price in expected)
        assert found(writable.search(text="x", k=9, where="price = 7")) == brute_force(
            values, vector_of("x"), 9, lambda r: r["price"] in ("7", "7.0")
        )
    assert [(one.added, one.changed, one.unchanged) for one in changes] == [(4, 1, 39), (0, 0, 44), (0, 5, 39)]
    if writable.facts["engine"]["kind"] == "qdrant":
        return
    first = writable.versions()[0]
    assert writable.at(first).schema.field("price").type == "int64"
    writable.restore(first)
    build(writable.path, catalogue(rows), source(rows))
    writable.refresh()
    assert writable.count("price = 9.5") == 1
    assert writable.snapshot.table.equals(snapshot_of(LanceStore(writable.path), writable.facts["types"]).table)


def test_whole_numbers_are_not_rounded_for_decimals(tmp_path):
    table = columns(4)
    table["number"] = [f"34012345000000000{row}" for row in range(4)]
    index = make_index(tmp_path / "shop.index", table)
    table["number"] = ["1.5"] * 4
    with pytest.raises(ModisteError, match="whole numbers that decimals would round"):
        index.upsert(catalogue(table))


def test_values_of_another_type_and_other_columns_are_refused(writable):
    table = columns(40, prices=["cheap"] * 40)
    with pytest.raises(ModisteError, match=r"'price' of .* holds int64 values"):
        writable.upsert(catalogue(table))
    table = columns(40)
    del table["brand"]
    with pytest.raises(ModisteError, match="missing: brand"):
        writable.upsert(catalogue(table))


@pytest.fixture
def qdrant():
    with collection_of({"kind": "qdrant", "url": ":memory:"}) as engine:
        yield engine


@pytest.mark.parametrize("rows", [0, 10])
def test_a_collection_that_exists_is_not_replaced(qdrant, tmp_path, rows):
    theirs = make_index(tmp_path / "theirs.index", columns(10), qdrant)
    before = theirs.store.read(["row", "product_id", "text"])
    if not rows:
        theirs.delete(sorted(set(before.column("product_id").to_pylist())))
    for _ in range(2):  # the refused attempt leaves nothing that looks like a killed build
        with pytest.raises(ModisteError, match=r"already has a collection .*: choose another qdrant\.collection, or"):
            make_index(tmp_path / "shop.index", columns(4), qdrant)
    assert theirs.store.count() == rows
    assert not rows or theirs.store.read(["row", "product_id", "text"]).equals(before)


@pytest.mark.parametrize("written", [0, 1])
def test_a_build_that_was_killed_between_its_points_resumes(qdrant, tmp_path, monkeypatch, written):
    folder = tmp_path / "shop.index"
    monkeypatch.setattr("modiste.search.engines.qdrant.UPLOAD", 4)
    real = QdrantStore.upsert

    def killed(self, data):
        real(self, data.slice(0, 4 * written))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(QdrantStore, "upsert", killed)
        with pytest.raises(KeyboardInterrupt):
            make_index(folder, columns(10), qdrant)
    with collection_of(qdrant) as other:
        theirs = make_index(tmp_path / "theirs.index", columns(10), other)
        theirs.delete(columns(10)["product_id"])
        with pytest.raises(ModisteError, match="already has a collection"):
            make_index(folder, columns(10), other)
    assert len(make_index(folder, columns(10), qdrant)) == 10


@pytest.mark.parametrize("at", ["between the rows", "before the facts"])
@pytest.mark.parametrize("repeated", [["SKU-3", "SKU-4"], ["SKU-3"], ["SKU-5"]])
def test_a_killed_deletion_is_finished_when_another_one_follows(qdrant, tmp_path, monkeypatch, at, repeated):
    index = make_index(tmp_path / "shop.index", columns(40), qdrant)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if at == "between the rows":
            real = QdrantStore.delete
            patch.setattr(QdrantStore, "delete", lambda self, keys: killed(real(self, keys[:3])))
        else:
            patch.setattr("modiste.search.build._commit", killed)
        with pytest.raises(KeyboardInterrupt):
            index.delete(["SKU-3", "SKU-4"])
    with pytest.raises(ModisteError, match="no product SKU-x: correct the ids"):
        index.delete(["SKU-3", "SKU-x"])
    gone = {"SKU-3", "SKU-4", *repeated}
    assert index.delete(repeated) == 2 * len(gone)
    left = index.store.read(["product_id"]).column("product_id").to_pylist()
    assert set(left) == set(columns(40)["product_id"]) - gone
    assert index.versions()[-1].note == f"{2 * len(gone)} deleted, 4 of them for an interrupted deletion"
    with pytest.raises(ModisteError, match="no product SKU-3"):
        index.delete("SKU-3")


def test_an_upsert_finishes_a_killed_deletion(qdrant, tmp_path, monkeypatch):
    table = columns(40)
    index = make_index(tmp_path / "shop.index", table, qdrant)
    real = QdrantStore.delete

    def killed(self, keys):
        real(self, keys[:1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(QdrantStore, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            index.delete(["SKU-3"])
    rest = {name: values[20:] for name, values in table.items()}
    build(index.path, catalogue(rest), source(rest))
    assert index.refresh()
    assert len(index) == index.versions()[-1].rows == 38


def test_qdrant_keeps_no_versions_and_says_so(tmp_path):
    index = make_index(
        tmp_path / "a.index", columns(10), {"kind": "qdrant", "url": ":memory:", "collection": "versions"}
    )
    for call in (lambda: index.restore(1), lambda: index.at(0)):
        with pytest.raises(ModisteError, match="keeps only the newest version"):
            call()


def test_versions_stay_and_one_can_go_back(local):
    first = local.versions()[0]
    local.delete("SKU-0")
    assert (len(local), first.rows) == (38, 40)
    before = local.at(first)
    before.embedder = Embedder()
    assert found(before.search(text="x", k=40)) == brute_force(columns(40), vector_of("x"), 40)
    assert before.image(0).size == (4, 4)
    local.restore(first)
    assert len(local) == 40
    assert [version.rows for version in local.versions()] == [40, 38, 40]
    assert local.versions()[-1].note == f"back to version {first}"
    with pytest.raises(ModisteError, match="has no version 999"):
        local.restore(999)


def test_a_reader_keeps_its_version_until_it_refreshes(local):
    reader = search.open(local.path)
    local.delete("SKU-0")
    assert (len(reader), len(local)) == (40, 38)
    assert reader.image(0).size == (4, 4)
    assert reader.refresh()
    assert not reader.refresh()
    assert len(reader) == 38


def test_a_commit_that_was_killed_is_taken_back(local):
    """Between the database's commit and the facts."""
    (local.path / "pending").touch()
    local.store.at = None
    local.store.__dict__.pop("table", None)
    local.store.delete(["SKU-0\t0"])
    assert len(search.open(local.path)) == 40
    local.delete("SKU-9")
    assert len(local) == 38
    assert len(local.search(text="SKU", k=40)) == 19
    assert not (local.path / "pending").exists()


@pytest.mark.parametrize("at", ["between the rows", "before the facts"])
def test_a_killed_upsert_is_repeated_with_other_rows(writable, monkeypatch, at):
    table = columns(46)
    part = {name: values[:44] for name, values in table.items()}
    store = type(writable.store)
    real = store.upsert

    def killed(*arguments):
        if at == "between the rows":  # an upsert of LanceDB is atomic
            real(arguments[0], arguments[1].slice(0, 2 if store is QdrantStore else 0))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if at == "between the rows":
            patch.setattr(store, "upsert", killed)
        else:
            patch.setattr("modiste.search.build._commit", killed)
        with pytest.raises(KeyboardInterrupt):
            build(writable.path, catalogue(part), source(part))
    build(writable.path, catalogue(table), source(table))
    assert writable.refresh()
    assert sorted(writable.rows()) == list(range(46))
    assert found(writable.search(text="x", k=23)) == brute_force(table, vector_of("x"), 23)
    assert not (writable.path / "pending").exists()


def test_a_killed_upsert_that_wrote_all_rows_is_committed_when_repeated(writable, monkeypatch):
    table = columns(44)
    with monkeypatch.context() as patch:
        patch.setattr("modiste.search.build.write_json", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            build(writable.path, catalogue(table), source(table))
    build(writable.path, catalogue(table), source(table))
    assert writable.refresh()
    assert writable.versions()[-1].rows == len(writable) == 44


def test_a_killed_build_resumes_from_what_was_embedded(tmp_path, monkeypatch):
    table = columns(10)
    folder = tmp_path / "a.index"
    monkeypatch.setattr("modiste.search.build.CHUNK", 4)

    class Model:
        embed_dim = tiny_index.DIM

    embedded = []

    class FakeEmbedder:
        def __init__(self, stop):
            self.stop = stop

        def images(self, part):
            import torch

            if len(embedded) >= self.stop:
                raise KeyboardInterrupt
            embedded.extend(part.column("pixels"))
            return torch.from_numpy(np.stack([vector_of(name) for name in part.column("pixels")]))

    def attempt(stop):
        monkeypatch.setattr("modiste.search.build.Staging._embedder", FakeEmbedder(stop), raising=True)
        monkeypatch.setattr("modiste.search.encoder.Encoder.save", lambda *_, **__: None)
        return build(folder, catalogue(table), Source(CARD, lambda: Model, export_text=False))

    with pytest.raises(KeyboardInterrupt):
        attempt(8)
    with pytest.raises(ModisteError, match="unfinished"):
        search.open(folder)
    attempt(100)
    assert embedded == table["pixels"]
    assert len(search.open(folder)) == 10
    assert not (folder / "staging").exists()


UPSERT = """
import sys
from helpers.tiny_index import catalogue, columns, source
from modiste.search.build import build
table = columns(40)
table["price"] = [sys.argv[2]] * 40
print(build(sys.argv[1], catalogue(table), source(table)).changed)
"""


@pytest.mark.slow
def test_writers_of_the_same_rows_wait_for_each_other(local):
    paths = os.pathsep.join([str(path) for path in sys.path if path])
    command = [sys.executable, "-c", UPSERT, str(local.path)]
    jobs = [subprocess.Popen([*command, str(price)], env={**os.environ, "PYTHONPATH": paths}) for price in (500, 501)]
    started = time.monotonic()
    while any(job.poll() is None for job in jobs):
        assert len(search.open(local.path)) == 40  # whole at any time
        assert time.monotonic() - started < 120
        time.sleep(0.05)
    assert [job.returncode for job in jobs] == [0, 0]
    local.refresh()
    assert sorted(local.facets()["price"].values()) == [40]
    assert len(local) == 40


def test_a_folder_that_is_no_index_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModisteError, match="exists and is not an index"):
        build(tmp_path, catalogue(columns(4)), source(columns(4)))
    with pytest.raises(ModisteError, match="is not an index"):
        search.open(tmp_path)
    with pytest.raises(ModisteError, match="There is no index"):
        search.open(tmp_path / "shop.index")


def test_an_attribute_may_not_have_the_name_of_a_result(tmp_path):
    table = columns(4)
    table["score"] = ["1"] * 4
    with pytest.raises(ModisteError, match="The attribute 'score'"):
        build(tmp_path / "a", catalogue(table), source(table))


@pytest.mark.parametrize(("one", "other"), [("a_b", "a.b"), ("a.b", "a`b"), ("product_id", "product.id")])
def test_attributes_that_differ_only_by_a_dot_are_refused(tmp_path, one, other):
    table = columns(4)
    table |= {name: table["brand"] for name in (one, other) if name not in table}
    said = f"'{one}' and '{other}' have the same name in an index.*: give it another, data.catalogue.columns.my_"
    with pytest.raises(ModisteError, match=said):
        build(tmp_path / "a", catalogue(table), source(table))


def test_a_folder_that_is_no_index_gets_advice_that_works(tmp_path):
    run = tmp_path / "demo"
    run.mkdir()
    with pytest.raises(ModisteError, match=r"modiste index run=RUN data=… out=shop\.index\.$"):
        search.open(run)
    (run / "config.yaml").write_text("name: demo")
    with pytest.raises(ModisteError, match=f"modiste index run={run} out={run}/index\\.$"):
        search.open(run)
    make_index(run / "index", columns(4))
    with pytest.raises(ModisteError, match=f"It holds one: give index={run}/index\\.$"):
        search.open(run)
    with pytest.raises(ModisteError, match=f"Did you mean '{run}/index'"):
        search.open(run / "indx")
