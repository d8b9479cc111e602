import itertools
import json
import random
from collections import Counter

import pytest

from helpers.tiny_data import make_catalogue
from modiste.data.splits import HELD_OUT, GivenSplit, HeldOut, MarqoSplit, RandomSplit, groups, leaks
from modiste.errors import ModisteError

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


def random_catalogue(seed, rows=40, splits=None):
    """Products with several images, and images on several products, so that long chains of sharing occur."""
    draw = random.Random(seed)
    return make_catalogue(
        [draw.randrange(30) for _ in range(rows)],
        [draw.randrange(35) for _ in range(rows)],
        [f"title {draw.randrange(25)}" for _ in range(rows)],
        draw.choices(splits, k=rows) if splits else None,
        brand=[draw.choice("AABCD") for _ in range(rows)],
        kind=[draw.choice(["shirt", "shoe", "hat"]) for _ in range(rows)],
    )


def brute_force_groups(catalogue):
    """Sets of rows, joined until no two sets share a product or an image."""
    products, pixels = catalogue.column("product_id"), catalogue.column("pixels")
    sets = [{i} for i in range(len(catalogue))]
    joined = True
    while joined:
        joined = False
        for a, b in itertools.combinations(sets, 2):
            if any(products[i] == products[j] or pixels[i] == pixels[j] for i in a for j in b):
                sets.remove(b)
                a |= b
                joined = True
                break
    return sets


def brute_force_sharing(catalogue, one, other, columns=("product_id", "pixels")):
    """Pairs of rows in splits ``one`` and ``other`` that share a value of one of the columns."""
    rows = list(zip(catalogue.column("split"), *(catalogue.column(name) for name in columns), strict=True))
    return [
        (a, b)
        for a in rows
        for b in rows
        if a[0] == one and b[0] == other and any(x == y for x, y in zip(a[1:], b[1:], strict=True))
    ]


def assert_no_leak(catalogue):
    for one, other in itertools.permutations(set(catalogue.column("split")) - {"excluded"}, 2):
        assert brute_force_sharing(catalogue, one, other) == []


@pytest.mark.parametrize("seed", range(15))
def test_groups_are_the_closure_of_sharing(seed):
    catalogue = random_catalogue(seed)
    named = {}
    for i, name in enumerate(groups(catalogue)):
        named.setdefault(name, set()).add(i)
    assert sorted(map(sorted, named.values())) == sorted(map(sorted, brute_force_groups(catalogue)))


@pytest.mark.parametrize("seed", range(15))
def test_random_split_puts_nothing_on_two_sides(seed):
    hold_out = {"hout_b": {"brand": ["C"]}} if seed % 2 else {}
    catalogue = RandomSplit(FRACTIONS, seed, hold_out)(random_catalogue(seed))
    assert_no_leak(catalogue)
    assert set(catalogue.column("split")) <= {*FRACTIONS, *hold_out}


def test_random_split_has_the_fractions_asked_for():
    splits = RandomSplit(FRACTIONS, seed=3)(make_catalogue(range(4000), range(4000))).splits
    assert {name: round(count / 4000, 1) for name, count in splits.items()} == FRACTIONS


def test_a_part_of_zero_gets_nothing():
    splits = RandomSplit({"train": 1.0, "val": 0.0})(make_catalogue(range(200), range(200))).splits
    assert splits == {"train": 200}


def test_the_split_depends_on_the_seed_alone():
    catalogue = make_catalogue(range(200), range(200))
    first, again, other = (RandomSplit(FRACTIONS, seed)(catalogue).column("split") for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_adding_products_and_shuffling_moves_no_other_product():
    catalogue = RandomSplit(FRACTIONS)(make_catalogue(range(100), range(100)))
    before = dict(zip(catalogue.column("product_id"), catalogue.column("split"), strict=True))
    order = random.Random(0).sample(range(300), 300)
    larger = RandomSplit(FRACTIONS)(make_catalogue(order, order))
    after = dict(zip(larger.column("product_id"), larger.column("split"), strict=True))
    assert {product: after[product] for product in before} == before


@pytest.mark.parametrize("fractions", [{"train": 0.5}, {"train": 1.2, "val": -0.2}])
def test_fractions_must_add_up(fractions):
    with pytest.raises(ModisteError, match=r"sum to 1"):
        RandomSplit(fractions)(make_catalogue("ab", range(2)))


# ------------------------------------------------------------------------------------------------------------ hold-out


def test_several_columns_of_a_hold_out_must_all_fit():
    catalogue = make_catalogue(
        range(400),
        range(400),
        brand=[["A", "B"][i % 2] for i in range(400)],
        kind=[["shirt", "shoe", "hat"][i % 3] for i in range(400)],
    )
    held = RandomSplit(FRACTIONS, hold_out={"hout_p": {"brand": ["A"], "kind": ["shoe", "hat"]}})(catalogue)
    for brand, kind, split in zip(held.column("brand"), held.column("kind"), held.column("split"), strict=True):
        assert (split == "hout_p") == (brand == "A" and kind in ("shoe", "hat"))


@pytest.mark.parametrize("seed", range(8))
def test_a_group_that_touches_a_hold_out_goes_there_whole(seed):
    catalogue = random_catalogue(seed)
    held = RandomSplit(FRACTIONS, seed, {"hout_b": {"brand": ["B"]}, "hout_k": {"kind": ["hat"]}})(catalogue)
    split = held.column("split")
    for group in brute_force_groups(catalogue):
        brands = {catalogue.column("brand")[i] for i in group}
        kinds = {catalogue.column("kind")[i] for i in group}
        assert len({split[i] for i in group}) == 1
        name = split[min(group)]
        assert (name == "hout_b") == ("B" in brands)
        assert (name == "hout_k") == ("hat" in kinds and "B" not in brands)


def test_numbers_in_a_hold_out_are_values():
    catalogue = make_catalogue("ab", range(2), year=["2012", "2013"])
    held = RandomSplit({"train": 1.0}, hold_out={"new": {"year": [2013]}})(catalogue)
    assert held.column("split") == ["train", "new"]


@pytest.mark.parametrize(
    ("hold_out", "message"),
    [
        ({"h": {"brnad": ["A"]}}, "no column 'brnad'.*Did you mean 'brand'"),
        ({"h": {"brand": ["Nkie"]}}, "no value 'Nkie'.*Did you mean 'Nike'"),
        ({"h": {"brand": ["Nike"], "kind": ["shoe"]}}, "matches no product"),
        ({"test": {"brand": ["Nike"]}}, "a unique name"),
        ({"h": {}}, "list columns and values"),
    ],
)
def test_mistakes_in_a_hold_out_are_named(hold_out, message):
    catalogue = make_catalogue("ab", range(2), brand=["Nike", "Puma"], kind=["shirt", "shoe"])
    with pytest.raises(ModisteError, match=message):
        RandomSplit(FRACTIONS, hold_out=hold_out)(catalogue)


# ------------------------------------------------------------------------------------------------------------ held out


def two_sided(seed):
    """A catalogue with products in common, split so that training, validation and test all have every brand."""
    draw = random.Random(seed)
    return make_catalogue(
        [draw.randrange(120) for _ in range(150)],
        [draw.randrange(400) for _ in range(150)],
        brand=[draw.choice("ABCDEF") for _ in range(150)],
        kind=[draw.choice(["shirt", "shoe", "hat"]) for _ in range(150)],
    )


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("entries", "is_held"),
    [
        ({"brand": ["A", "C"]}, lambda brand, kind: brand in "AC"),
        ({"brand": ["A", "B"], "kind": "hat"}, lambda brand, kind: brand in "AB" and kind == "hat"),
        ([{"brand": ["A"]}, {"kind": ["hat"]}], lambda brand, kind: brand == "A" or kind == "hat"),
    ],
    ids=["values", "all columns of an entry", "any entry"],
)
def test_what_is_held_out_is_never_trained_and_nothing_is_on_two_sides(seed, entries, is_held):
    before = RandomSplit({"train": 0.5, "val": 0.25, "test": 0.25}, seed)(two_sided(seed))
    after = HeldOut.parse(entries)(before)
    assert_no_leak(after)
    own, split = before.column("split"), after.column("split")
    brands, kinds = after.column("brand"), after.column("kind")
    for group in brute_force_groups(before):
        held = any(is_held(brands[i], kinds[i]) for i in group)
        for i in group:
            assert split[i] == (HELD_OUT[own[i]] if held else own[i])
    assert {"train", "val", "val_held_out", "test_held_out"} <= set(split)


@pytest.mark.parametrize("seed", range(5))
def test_drawn_values_are_count_or_share_of_those_that_both_sides_have(seed):
    before = make_catalogue(
        range(400), range(400), splits=(["train"] * 3 + ["val"]) * 100, brand=[f"b{i // 4 % 20}" for i in range(400)]
    )
    rare = before.replace_column("brand", ["", "", "only trained", *before.column("brand")[3:]])

    def held(entry):
        after = HeldOut.parse(entry)(rare)
        return {b for b, s in zip(after.column("brand"), after.column("split"), strict=True) if s == "val_held_out"}

    draw = {"column": "brand", "count": 5, "seed": seed}
    assert len(held(draw)) == 5
    assert held(draw) == held({"column": "brand", "share": 0.25, "seed": seed}) < held({**draw, "count": 6})
    assert held(draw) != held({**draw, "seed": seed + 1})
    trained = HeldOut.parse({"column": "brand", "count": 19, "seed": seed})(rare)
    assert len(set(trained.select(split="val").column("brand"))) == 1
    assert {"", "only trained"} < set(trained.select(split="train").column("brand"))


def test_splits_other_than_train_val_and_test_stay_as_they_are():
    catalogue = make_catalogue(
        "abcdefg",
        range(7),
        splits=["train", "train", "val", "test", "query", "hout_c", "excluded"],
        brand=list("XYYYYYY"),
    )
    split = HeldOut.parse({"brand": "Y"})(catalogue).column("split")
    assert split == ["train", "excluded", "val_held_out", "test_held_out", "query", "hout_c", "excluded"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"brnad": ["A"]}, "no column 'brnad'.*Did you mean 'brand'"),
        ({"brand": ["Nkie"]}, "data.held_out: column 'brand' has no value 'Nkie'.*Did you mean 'Nike'"),
        ({"brand": ["Nike", "Puma"]}, "no rows of 'tiny' to train on"),
        ({"brand": ["Reebok"]}, "no rows of 'tiny' in its validation split"),
        ({"column": "brand"}, "either count or share"),
        ({"column": "brand", "count": 1, "share": 0.5}, "either count or share"),
        ({"column": "brand", "count": 2}, "cannot hold out 2 of the 2 values of brand"),
        ({"column": "brand", "number": 1}, "no option 'number'"),
    ],
)
def test_mistakes_in_held_out_are_named(entry, message):
    brands = ["Nike", "Puma", "Nike", "Puma", "Reebok"]
    catalogue = make_catalogue("abcde", range(5), splits=["train", "train", "val", "val", "test"], brand=brands)
    with pytest.raises(ModisteError, match=message):
        HeldOut.parse(entry)(catalogue)


# --------------------------------------------------------------------------------------------------------------- given


@pytest.mark.parametrize("seed", range(15))
def test_given_split_puts_nothing_on_two_sides_and_keeps_test(seed):
    catalogue = random_catalogue(seed, splits=["train"] * 8 + ["val", "test"])
    split = GivenSplit(val_fraction=0.3 if seed % 2 else 0.0, seed=seed)(catalogue)
    assert_no_leak(split)
    for before, after in zip(catalogue.column("split"), split.column("split"), strict=True):
        if before == "test":
            assert after == "test"
        elif before == "val":
            assert after in ("val", "excluded")
        else:
            assert after in ("train", "val", "excluded")


def test_given_split_excludes_only_what_shares():
    split = GivenSplit()(
        make_catalogue(
            ["a", "b", "c", "c", "d", "e", "f"],
            [1, 1, 2, 3, 4, 5, 5],
            splits=["train", "test", "train", "val", "train", "val", "test"],
        )
    )
    assert split.column("split") == ["excluded", "test", "excluded", "val", "train", "excluded", "test"]


def test_rows_without_a_split_are_excluded():
    split = GivenSplit()(make_catalogue("abc", range(3), splits=["train", "", "test"]))
    assert split.column("split") == ["train", "excluded", "test"]


def test_queries_and_galleries_may_share_products_but_not_with_train():
    split = GivenSplit()(make_catalogue("aabb", range(4), splits=["query", "gallery", "train", "query"]))
    assert split.column("split") == ["query", "gallery", "excluded", "query"]


def test_val_fraction_takes_whole_groups_of_train():
    catalogue = make_catalogue([i // 2 for i in range(600)], range(600), splits=["train"] * 600)
    split = GivenSplit(val_fraction=0.2, seed=1)(catalogue)
    assert_no_leak(split)
    assert 0.1 < split.splits["val"] / 600 < 0.3


def test_given_split_holds_out():
    catalogue = make_catalogue("abc", range(3), splits=["train", "train", "test"], brand=["A", "B", "B"])
    assert GivenSplit(hold_out={"hout": {"brand": "A"}})(catalogue).column("split") == ["hout", "train", "test"]


def test_a_data_set_without_splits_cannot_give_them():
    with pytest.raises(ModisteError, match=r"data/split=random"):
        GivenSplit()(make_catalogue("ab", range(2)))


def test_val_fraction_is_checked():
    with pytest.raises(ModisteError, match=r"val_fraction=1"):
        GivenSplit(val_fraction=1.0)(make_catalogue("ab", range(2), splits=["train", "test"]))


# --------------------------------------------------------------------------------------------------------------- marqo


@pytest.fixture
def queries(tmp_path):
    def write(relevance):
        path = tmp_path / "ground_truth_text-image.json"
        path.write_text(json.dumps(relevance))
        return str(path)

    return write


@pytest.mark.parametrize(("titles", "last"), [("exact", "train"), ("normalised", "excluded")])
def test_marqo_split_by_hand(queries, titles, last):
    catalogue = make_catalogue(
        ["1", "2", "3", "4", "5", "5", "6", "7"],
        [10, 20, 10, 40, 50, 20, 50, 70],
        ["red hat", "blue hat", "cap", "red hat", "shoe", "boot", "sock", "Blue Hat!"],
    )
    relevant = queries({"red": {"1": 1}, "blue": {"2": 1, "absent": 1}})
    split = MarqoSplit(relevant, val_fraction=0.0, titles=titles)(catalogue)
    # 3 has the picture of 1, 4 its title; 5 has, on its second row, the picture of 2; 6 shares with 5 only; 7 has the
    # title of 2 in other letters.
    assert split.column("split") == ["test", "test", *["excluded"] * 4, "train", last]


def test_a_marqo_split_refuses_another_word_for_titles(queries):
    with pytest.raises(ModisteError, match="Did you mean 'normalised'"):
        MarqoSplit(queries({}), titles="normalized")(make_catalogue(["1"], [10], ["hat"]))


@pytest.mark.parametrize("seed", range(15))
def test_marqo_split_leaks_neither_pixels_nor_titles_nor_products_into_test(seed, queries):
    catalogue = random_catalogue(seed, rows=60)
    relevant = {"q1": {"3": 1, "4": 1}, "q2": {"5": 1}}
    hold_out = {"hout": {"brand": ["D"]}} if seed % 2 else {}
    split = MarqoSplit(queries(relevant), val_fraction=0.3, seed=seed, hold_out=hold_out)(catalogue)
    for product, name in zip(split.column("product_id"), split.column("split"), strict=True):
        assert (name == "test") == (product in ("3", "4", "5"))
    assert_no_leak(split)
    for name in set(split.column("split")) - {"test", "excluded"}:
        assert brute_force_sharing(split, "test", name, ("product_id", "pixels", "text")) == []
    # Nothing is excluded without a reason.
    products, names = split.column("product_id"), split.column("split")
    values = {column: split.column(column) for column in ("pixels", "text")}
    tested = {
        column: {v for v, s in zip(column_values, names, strict=True) if s == "test"}
        for column, column_values in values.items()
    }
    for product in {p for p, s in zip(products, names, strict=True) if s == "excluded"}:
        rows = [i for i, p in enumerate(products) if p == product]
        assert any(values[column][i] in tested[column] for column in values for i in rows)


def test_marqo_split_says_what_is_wrong_with_its_file(queries, tmp_path):
    catalogue = make_catalogue("ab", range(2))
    with pytest.raises(ModisteError, match=r"gone\.json does not exist: download"):
        MarqoSplit(str(tmp_path / "gone.json"))(catalogue)
    with pytest.raises(ModisteError, match=r"not a JSON object"):
        MarqoSplit(queries(["a", "b"]))(catalogue)
    with pytest.raises(ModisteError, match=r"No product of data set 'tiny'"):
        MarqoSplit(queries({"q": {"x": 1}}))(catalogue)


# --------------------------------------------------------------------------------------------------------------- leaks


@pytest.mark.parametrize("seed", range(10))
def test_leaks_counts_as_brute_force_does(seed):
    catalogue = random_catalogue(seed, splits=["train", "test", "val", "excluded", ""])
    splits = catalogue.column("split")
    for between in (None, ("train", "test")):
        for name, column in {"products": "product_id", "pixels": "pixels", "titles": "text"}.items():
            values = catalogue.column(column)
            expected = sum(
                len(
                    {s for v, s in zip(values, splits, strict=True) if v == value}
                    & set(between or ("train", "test", "val"))
                )
                > 1
                for value in set(values)
            )
            assert leaks(catalogue, between)[name] == expected


# ----------------------------------------------------------------------------------------------------------- real data


def test_real_random_split_is_free_of_leaks(real_kagl):
    split = RandomSplit({"train": 0.8, "val": 0.1, "test": 0.1}, hold_out={"hout_c": {"articleType": ["Sarees"]}})(
        real_kagl
    )
    counts = leaks(split)
    assert (counts["products"], counts["pixels"]) == (0, 0)
    assert split.splits["hout_c"] >= Counter(real_kagl.column("articleType"))["Sarees"] > 400
    assert abs(split.splits["test"] / len(split) - 0.1) < 0.01


def test_real_marqo_split_is_free_of_leaks(real_kagl, data_dir):
    path = data_dir / "marqo-kagl" / "ground_truth_text-image.json"
    if not path.is_file():
        pytest.skip("marqo-kagl is not in MODISTE_DATA")
    split = MarqoSplit(str(path), val_fraction=0.05)(real_kagl)
    assert split.splits["test"] == 2774
    relevant = {product for query in json.loads(path.read_text()).values() for product in query}
    assert set(split.select(split="test").column("product_id")) == relevant
    test = split.select(split="test")
    for name in ("train", "val"):
        part = split.select(split=name)
        for column in ("product_id", "pixels", "text"):
            assert not set(part.column(column)) & set(test.column(column))
    train, val = split.select(split="train"), split.select(split="val")
    assert not set(train.column("pixels")) & set(val.column("pixels"))
