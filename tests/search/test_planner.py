"""A plan takes the smallest way to search that holds the floor; what is said of an answer is what was measured."""

import json
from dataclasses import replace

import numpy as np
import pytest

from helpers.tiny_export import described_run
from helpers.tiny_index import CARD, Embedder, catalogue, columns, make_index, source, unit, vector_of, vectors
from modiste import search
from modiste.errors import ModisteError
from modiste.search import planner
from modiste.search.api import _prefixes
from modiste.search.build import Source, build
from modiste.search.calibrate import queries
from modiste.search.planner import EXACT, Measured, Plan, Step, smallest

ROWS = 1200


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return make_index(tmp_path_factory.mktemp("plan") / "shop.index", columns(ROWS, views=1))


def ids(results):
    return results.table.column("product_id").to_pylist()


def test_the_smallest_choice_that_holds_the_floor_is_used_and_says_so(index, monkeypatch):
    monkeypatch.setattr(planner, "LIMIT", 50)
    monkeypatch.setattr(planner, "LIMIT_SIZES", (50,))
    exact = [ids(index.search(text=str(number))) for number in range(20)]
    measured = {m.choice: m for m in index.plan(recall_floor=0.95)}
    assert measured["int8"].recall == measured["bf16"].recall == {10: 1, 100: 1}
    sizes = [measured[choice].bytes for choice in ("binary", "int8", "bf16", EXACT)]
    assert sizes == sorted(sizes)
    assert index.plan_in_use.choice == "binary"
    results = index.search(text="0")
    assert str(results.exactness).startswith("approximate, recall@10 ")
    assert "sampled queries" in str(results.exactness)
    hits = [len(set(ids(index.search(text=str(n)))) & set(exact[n])) / 10 for n in range(20)]
    assert np.mean(hits) > 0.9
    filtered = index.search(text="0", where="gender = 'Men'")
    assert str(filtered.exactness).endswith("at this filter selectivity")
    few = index.search(text="0", where="price < 3")
    assert str(few.exactness) == "exact"
    assert few.passing < 50
    # Rarer than anything that was measured, and above the limit: exact.
    assert index.plan_in_use.steps[-1].selectivity <= 0.05


@pytest.mark.parametrize("choice", ["bf16", "int8"])
def test_codes_that_bound_their_error_answer_exactly(tmp_path, choice):
    index = make_index(tmp_path / "shop.index", columns(ROWS, views=1))
    index.plan([EXACT])
    before = {text: ids(index.search(text=text, where=where)) for text, where in (("a", None), ("b", "gender = 'Men'"))}
    index.plan([choice])
    assert index.plan_in_use.choice == choice
    assert ids(index.search(text="a")) == before["a"]
    assert str(index.search(text="a").exactness) == "exact"
    index.delete("SKU-0")  # its codes are recomputed
    assert len(index.codes(choice).codes) == ROWS - 1
    index.delete([f"SKU-{row}" for row in range(1, ROWS)])
    assert len(index.search(text="a")) == 0


@pytest.mark.slow
def test_lancedb_index_of_the_vectors(tmp_path, monkeypatch):
    monkeypatch.setattr(planner, "LIMIT", 100)
    monkeypatch.setattr(planner, "LIMIT_SIZES", (100,))
    index = make_index(tmp_path / "ivf.index", columns(600, views=1))
    measured = index.plan(["ivf_rq"], recall_floor=0.5)
    assert min(measured[0].recall.values()) >= 0.5
    results = index.search(text="a", where="gender = 'Men'")
    assert index.plan_in_use.choice == "ivf_rq"
    assert str(results.exactness).startswith("approximate, recall@10 ")
    assert len(results) == 10
    assert set(results.table.column("gender").to_pylist()) == {"Men"}


def test_a_search_is_widened_until_it_holds_the_floor():
    steps = [Step(1.0, 50, 0.99, 10), Step(0.5, 100, 0.992, 10), Step(0.1, 400, 0.991, 10)]
    plan = Plan("binary", steps=[*steps, Step(1.0, 500, 0.99, 100), Step(0.5, 900, 0.99, 100)])
    assert [plan.step(s, 10).width for s in (1.0, 0.7, 0.5, 0.11)] == [50, 100, 100, 400]
    assert [plan.step(s, 40).width for s in (1.0, 0.7)] == [500, 900]
    assert plan.step(0.05, 1) is plan.step(0.2, 40) is plan.step(1.0, 101) is None


@pytest.mark.parametrize(("k", "selectivity"), [(10, 0.1), (100, 1.0)])
def test_a_choice_below_the_floor_anywhere_is_not_taken(k, selectivity):
    recall = {10: 0.99, 100: 0.99} | ({k: 0.8} if selectivity == 1 else {})
    measured = [
        Measured("binary", 1, recall, 1.0, (Step(1.0, 50, 0.99, 10), Step(selectivity, 50, 0.8, k))),
        Measured("int8", 8, {10: 1.0, 100: 1.0}, 2.0),
        Measured("exact", 32, {10: 1.0, 100: 1.0}, 3.0),
    ]
    assert smallest(measured, 0.99).choice == "int8"
    with pytest.raises(ModisteError, match="No choice reaches"):
        smallest(measured[:1], 0.99)


def test_an_unknown_choice_is_refused(index):
    with pytest.raises(ModisteError, match="Did you mean 'int8'"):
        index.plan(["int4"])


def test_a_matryoshka_models_own_prefixes_are_choices(tmp_path, monkeypatch):
    monkeypatch.setattr(planner, "LIMIT", 50)
    monkeypatch.setattr(planner, "LIMIT_SIZES", (50,))
    table, weight = columns(ROWS, views=1), np.where(np.arange(64) < 16, 1.0, 0.05)
    own = {pixels: unit(weight * vector_of(pixels)) for pixels in table["pixels"]}
    build(tmp_path / "shop.index", catalogue(table), Source(replace(CARD, prefixes=[16, 32]), vectors=own))
    index = search.open(tmp_path / "shop.index")
    measured = {m.choice: m for m in index.plan()}
    assert list(measured) == [EXACT, "bf16", "int8", "prefix-64", "binary", "matryoshka-16", "matryoshka-32"]
    assert measured["matryoshka-16"].bytes == 16 * ROWS
    assert measured["matryoshka-16"].steps[0].recall > 0.99
    index.plan(["matryoshka-16"])
    fresh = search.open(tmp_path / "shop.index")  # by the codes on disk
    fresh.embedder = Embedder({"q": unit(weight * vector_of("q"))})
    exact = np.asarray(index.snapshot.vectors) @ fresh.embedder.known["q"]
    results = fresh.search(text="q")
    assert results.exactness.method.startswith("matryoshka-16")
    assert results.table.column("score").to_pylist() == pytest.approx(np.sort(exact)[::-1][:10].tolist(), abs=1e-6)


@pytest.mark.parametrize(("loss", "prefixes"), [("matryoshka", [8, 16]), ("clip", [])])
def test_the_prefixes_are_those_of_the_runs_loss(loss, prefixes, tmp_path):
    words = [f"loss={loss}", *(["loss.dims=[8,16]"] if prefixes else [])]
    assert _prefixes(str(described_run(tmp_path / "run", *words).path)) == prefixes
    assert _prefixes(None) == []


def test_of_choices_of_equal_size_the_one_with_the_higher_recall_is_used():
    recalls = {"prefix-64": 0.99, "matryoshka-64": 1.0}
    pair = [Measured(choice, 64, dict.fromkeys(planner.KS, recall), 1.0) for choice, recall in recalls.items()]
    assert smallest(pair, 0.99).choice == smallest(pair[::-1], 0.99).choice == "matryoshka-64"


@pytest.mark.parametrize(
    "choice", ["matryoshka-65", "prefix-0", "prefix--1", "prefix-x", "prefix-100000", "prefix-", "prefix-２"]
)
def test_a_prefix_that_the_vectors_do_not_have_is_refused(index, choice):
    with pytest.raises(ModisteError, match=f"no plan '{choice}': write (prefix|matryoshka)-1 to "):
        index.plan([choice])


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """An index of 1,200 rows whose plan is binary codes."""
    monkeypatch.setattr(planner, "LIMIT", 50)
    monkeypatch.setattr("modiste.search.build.QUERIES", 50)
    index = make_index(tmp_path / "shop.index", columns(ROWS, views=1))
    index.plan(["binary"], recall_floor=0.95)
    return index


def upserted(index, count):
    table = columns(count, views=1)
    build(index.path, catalogue(table), source(table))
    index.refresh()


def test_the_recall_of_other_rows_is_not_claimed(planned):
    assert str(planned.search(text="0").exactness).startswith("approximate, recall@10 ")
    upserted(planned, ROWS + 60)
    assert str(planned.search(text="0").exactness).startswith("approximate, recall@10 ")
    upserted(planned, 2 * ROWS)
    results = planned.search(text="0", k=10)
    assert str(results.exactness) == "exact"
    expected = np.argsort(-(vectors(columns(2 * ROWS, views=1)) @ vector_of("0")))[:10]
    assert results.table.column("row").to_pylist() == expected.tolist()
    said = "the plan binary is not used, since its recall was measured on 1,200 rows, and 1,200 have changed since"
    assert results.summary().endswith(f"{said}: run modiste index plan index={planned.path}")
    planned.plan(["binary"], recall_floor=0.9)
    assert planned.plan_in_use.rows == 2 * ROWS
    assert str(planned.search(text="0").exactness).startswith("approximate, recall@10 ")


def test_the_recall_of_another_version_is_not_claimed(planned):
    first = planned.version
    planned.delete("SKU-0")
    earlier = planned.at(first)
    assert str(earlier.search(text="0").exactness) == "exact"
    planned.restore(first)  # nobody counted what differs
    assert "have changed since" in planned.search(text="0").summary()


@pytest.mark.parametrize("unknown", ["rows", "k"])
def test_a_plan_that_does_not_say_what_it_was_measured_on_claims_nothing(planned, unknown):
    facts = json.loads((planned.path / "index.json").read_text())
    for record in (facts["plan"], *facts["plan"]["steps"]):
        record.pop(unknown, None)
    (planned.path / "index.json").write_text(json.dumps(facts))
    index = search.open(planned.path)
    index.embedder = planned.embedder
    assert "does not say on how many rows, or for how many results" in index.search(text="0").summary()


def test_more_results_than_recall_was_measured_for_are_exact(planned):
    truth = np.argsort(-(vectors(columns(ROWS, views=1)) @ vector_of("0")))
    for k in (101, 1000):
        results = planned.search(text="0", k=k)
        assert str(results.exactness) == "exact"
        assert results.table.column("row").to_pylist() == truth[:k].tolist()
    for k, said in ((10, "recall@10"), (11, "recall@100"), (100, "recall@100")):
        assert str(planned.search(text="0", k=k).exactness).startswith(f"approximate, {said} ")
    assert "recall@100" in str(planned.search(like="SKU-0", k=10).exactness)  # the product itself is excluded
    assert str(planned.search(like="SKU-0", k=100).exactness) == "exact"


@pytest.mark.parametrize("group", [True, False])
def test_fewer_results_are_the_first_of_those_that_recall_was_measured_for(planned, group):
    for k, measured in ((3, 10), (40, 100)):
        most = planned.search(text="0", k=measured, group=group)
        assert str(most.exactness).startswith("approximate")
        assert ids(planned.search(text="0", k=k, group=group)) == ids(most)[:k]


@pytest.mark.parametrize(("k", "views"), [(10, 40), (100, 6)])
def test_recall_is_measured_for_products_if_they_have_several_views(tmp_path, monkeypatch, k, views):
    """The tenth product is then far behind the tenth row."""
    monkeypatch.setattr(planner, "_widths", lambda k: [1])
    monkeypatch.setattr(planner, "LIMIT", 50)
    monkeypatch.setattr("modiste.search.build.QUERIES", 50)
    table = columns(ROWS, views=views)
    near = {  # the views of a product are alike
        pixels: unit(vector_of(product) + 0.05 * vector_of(pixels))
        for pixels, product in zip(table["pixels"], table["product_id"], strict=True)
    }
    build(tmp_path / "shop.index", catalogue(table), Source(CARD, vectors=near))
    index = search.open(tmp_path / "shop.index")
    (measured,) = index.plan(["prefix-2"], recall_floor=0.001)
    index.embedder = Embedder()
    asked = queries(index, 50)
    hits = []
    for query in asked:
        index.embedder.known = {"q": query}
        found = index.search(text="q", k=k)
        exact = np.asarray(index.snapshot.vectors) @ query
        products = np.array(table["product_id"])[np.argsort(-exact)]
        best = set(products[np.sort(np.unique(products, return_index=True)[1])][:k])
        hits.append(len(best & set(ids(found))) / k)
    assert measured.recall[k] <= np.mean(hits) + 1e-6
    assert (found.exactness.recall, found.exactness.k) == (measured.recall[k], k)
    assert measured.recall[k] < 1
