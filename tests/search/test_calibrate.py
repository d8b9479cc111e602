"""The match threshold covers what it says, on average, for any distribution of scores."""

import numpy as np
import pytest
from PIL import Image

from helpers.tiny_index import CARD, Embedder, catalogue, columns, make_index, unit, vector_of
from modiste import search
from modiste.errors import ModisteError
from modiste.search.build import Source, build
from modiste.search.calibrate import conformal

PHOTO = Image.new("RGB", (1, 1))


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("draw", ["normal", "exponential", "standard_cauchy"])
def test_a_new_true_match_reaches_the_threshold_as_often_as_stated(coverage, draw):
    generator = np.random.default_rng(0)
    reached = []
    for _ in range(2000):
        scores = getattr(generator, draw)(size=100)
        reached.append(getattr(generator, draw)() >= conformal(scores[:99], coverage))
    assert np.mean(reached) == pytest.approx(coverage, abs=0.025)
    assert np.mean(reached) > coverage - 0.02


def test_coverage_is_a_fraction():
    with pytest.raises(ModisteError, match="between 0 and 1"):
        conformal(np.ones(100), 1.0)


def test_titles_that_fit_their_photos_match_and_others_do_not(tmp_path):
    table = columns(400)
    index = make_index(tmp_path / "shop.index", table)
    # A title's embedding lies near its first photo's.
    known = {
        t: unit(vector_of(p) + 0.5 * vector_of(t))
        for t, p in zip(table["text"][::2], table["pixels"][::2], strict=True)
    }
    index.embedder = Embedder(known)
    thresholds = index.calibrate(0.9)
    text = thresholds["text"]
    assert (text.pairs, text.split, text.coverage) == (200, "all", 0.9)
    assert text.chance < 0.02
    scores = [vector_of(p) @ known[t] for t, p in zip(table["text"][::2], table["pixels"][::2], strict=True)]
    assert np.mean(np.array(scores) >= text.threshold) == pytest.approx(0.9, abs=0.02)
    hit = index.search(text=table["text"][2 * int(np.argmax(scores))], k=2)
    assert hit.table.column("match").to_pylist() == [True, False]
    assert not hit.no_match
    assert hit.threshold == pytest.approx(text.threshold)
    miss = index.search(text="a phrase that fits nothing", k=2)
    assert miss.no_match
    assert "no good match" in miss.summary()
    assert "training pairs included, so that its coverage is not known" in miss.summary()
    assert miss.coverage is None
    # The two photos of a product have nothing in common here, so their threshold is low; mixtures have none.
    assert index.search(image=PHOTO).threshold == pytest.approx(thresholds["image"].threshold)
    assert index.search(like="SKU-1", text="red").table.column("match").to_pylist()[0] is None


def test_few_pairs_give_no_threshold(tmp_path):
    index = make_index(tmp_path / "shop.index", columns(20))
    assert index.calibrate() == {}
    found = index.search(text="a")
    assert found.threshold is None
    assert found.uncalibrated == (
        "No match threshold was calibrated for text queries: the index has 10 products, and calibration needs 20."
    )
    assert "10 products" not in found.summary()
    assert "the index has 10 products with two photos" in index.search(image=PHOTO).uncalibrated
    assert "the query is mixed" in index.search(text="a", like="SKU-1").uncalibrated


def test_more_like_a_product_has_no_threshold_since_its_other_views_are_excluded(tmp_path):
    table = columns(120)
    views = {f"{row:040x}": unit(vector_of(f"{row // 2}") + 0.1 * vector_of(f"{row}")) for row in range(120)}
    build(tmp_path / "shop.index", catalogue(table), Source(CARD, vectors=views))
    index = search.open(tmp_path / "shop.index")
    index.embedder = Embedder()
    assert index.calibrate(0.9)["image"].threshold > 0.9
    for query in ({"like": "SKU-1"}, {"like": "SKU-1", "image": PHOTO}):
        results = index.search(**query)
        assert (results.threshold, results.no_match) == (None, False)
        assert results.uncalibrated.startswith("No match threshold, since the product itself is excluded: ")
    assert index.search(image=PHOTO).no_match


@pytest.mark.parametrize(("sizes", "split"), [((15, 25), "test"), ((25, 25), "val"), ((15, 15), "all")])
def test_the_split_is_the_first_with_enough_products_and_is_named(tmp_path, sizes, split):
    """15 products have 30 rows here."""
    val, test = sizes
    table = columns(160)
    products = [row // 2 for row in range(160)]
    table["split"] = ["val" if p < val else "test" if p < val + test else "train" for p in products]
    index = make_index(tmp_path / "shop.index", table)
    found = index.calibrate(0.9)
    assert {kind: one.split for kind, one in found.items()} == {"text": split, "image": split}
    said = index.search(text="a").summary()
    assert ("training pairs included" in said) == (split == "all")
    assert (f"which 90 % of true matches of split {split} do" in said) == (split != "all")
