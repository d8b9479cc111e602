"""Filters hold for the rows that plain Python says they hold for, and mistakes in them are explained."""

import contextlib

import numpy as np
import pyarrow as pa
import pytest

from helpers.linear import assert_linear
from modiste.errors import ModisteError
from modiste.search import where
from modiste.search.where import NUMBER, TEXT

TYPES = {"price": NUMBER, "gender": TEXT, "base colour": TEXT, "note": TEXT}
ROWS = [
    {"price": price, "gender": gender, "base colour": colour, "note": note}
    for price in (10, 49.5, 50, None)
    for gender in ("Men", "Women", None)
    for colour in ("Red", "it's")
    for note in ("100% cotton", None)
]
TABLE = pa.table({name: [row[name] for row in ROWS] for name in TYPES})

CASES = {
    "price < 50 and gender = 'Men'": lambda r: r["price"] is not None and r["price"] < 50 and r["gender"] == "Men",
    "price >= 49.5": lambda r: r["price"] is not None and r["price"] >= 49.5,
    "price between 10 and 50": lambda r: r["price"] is not None and 10 <= r["price"] <= 50,
    "price in (10, 50)": lambda r: r["price"] in (10, 50),
    "price in (49.5)": lambda r: r["price"] == 49.5,
    "gender not in ('Men')": lambda r: r["gender"] != "Men",
    "gender != 'Men'": lambda r: r["gender"] not in (None, "Men"),
    "gender is null or price is not null": lambda r: r["gender"] is None or r["price"] is not None,
    "not (gender = 'Men' or price < 50)": lambda r: (
        not (r["gender"] == "Men" or (r["price"] is not None and r["price"] < 50))
    ),
    "`base colour` = 'it''s' AND NOT gender = 'Women'": lambda r: r["base colour"] == "it's" and r["gender"] != "Women",
    "note like '%COTTON'": lambda r: r["note"] is not None,
    "true and not false": lambda r: True,
    "false": lambda r: False,
    "gender = 'Men' or gender = 'Women' and price = 10": lambda r: (
        r["gender"] == "Men" or (r["gender"] == "Women" and r["price"] == 10)
    ),
}


@pytest.mark.parametrize("encode", [False, True], ids=["plain", "dictionary"])
@pytest.mark.parametrize("text", CASES)
def test_a_filter_holds_for_the_rows_that_plain_python_says(text, encode):
    table = TABLE
    for place, name in enumerate(table.column_names) if encode else ():
        if TYPES[name] == TEXT:
            table = table.set_column(place, name, table.column(name).combine_chunks().dictionary_encode())
    assert where.mask(where.parse(text, TYPES), table).tolist() == [bool(CASES[text](row)) for row in ROWS]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prce < 3", "no column 'prce'. Did you mean 'price'"),
        ("price < '50'", "price is a number: write price < 50"),
        ("`base colour` < 80", "`base colour` is text, for instance 'on request', and < compares numbers: use = or in"),
        ("`base colour` = 80", "`base colour` is text: write `base colour` = '80'"),
        ("BASE < 80", "no column 'BASE'. Did you mean 'base colour'. Write `base colour`, with the backticks"),
        ("PRICE < 80", "no column 'PRICE'. Did you mean 'price'"),
        ("gender = 5", "gender is text: write gender = '5'"),
        ("gender = Men", "'Men' is unexpected where a value should stand"),
        ("gender = 'Men' price < 3", "'price' is unexpected"),
        ("(gender = 'Men'", "the end is unexpected where '\\)' should stand"),
        ("gender", "the end is unexpected"),
        ("price < 3; drop table", "cannot read '; drop table'"),
        ("price like '3%'", "like is for text"),
        ("price < 99999999999999999999999999", "99999999999999999999999999 is out of range: write a number of 64 bits"),
        ("price in (-9223372036854775809)", "-9223372036854775809 is out of range"),
        ("price = " + 5000 * "9", "999… is out of range"),
        ("price < 1e999", "1e999 is out of range"),
        ("price < " + 5000 * "0" + "1", "000… is out of range: write a number of 64 bits"),
        ("price < 1." + 5000 * "1", "111… is out of range"),
        (3000 * "(" + "price < 3" + 3000 * ")", "more than 50 nested parentheses or nots"),
        (3000 * "not " + "price < 3", "more than 50 nested parentheses or nots"),
    ],
)
def test_a_mistake_in_a_filter_is_explained(text, message):
    with pytest.raises(ModisteError, match=message):
        where.parse(text, TYPES, lambda column: ["", "80", "on request"])


def test_what_is_just_within_the_limits_is_evaluated_by_every_engine():
    deep = where.parse(25 * "(not " + "price < 9223372036854774784" + 25 * ")", TYPES)
    assert where.mask(deep, TABLE).tolist() == [row["price"] is None for row in ROWS]
    assert str(where.sql(deep)).count("NOT") == 25
    assert where.mask(where.parse(" or ".join(["price in (10, 0.5, 9007199254740993)"] * 60), TYPES), TABLE).any()


@pytest.mark.parametrize("number", [0.5, 10, 2**62 + 1, 1e300])
def test_whole_and_other_numbers_of_any_size_are_compared(number):
    table = pa.table({"whole": [1, 2**60 + 1, None], "other": [1.5, 2.0**61, None]})
    for column in table.column_names:
        found = where.mask(
            where.parse(f"{column} < {number} and {column} not in ({number}, 7)", {column: NUMBER}), table
        )
        assert found.tolist() == [value is not None and value < number for value in table.column(column).to_pylist()]


def test_no_text_is_no_filter():
    assert where.parse(None, TYPES) is None
    assert where.parse("  ", TYPES) is None


def test_a_value_that_no_row_has_gets_a_hint():
    node = where.parse("gender = 'men' and `base colour` in ('Red', 'Rd')", TYPES)
    values = {"gender": ["Men", "Women"], "base colour": ["Red", "it's"]}
    assert where.near_misses(node, values.__getitem__) == [
        "no row has gender = 'men'. Did you mean 'Men'?",
        "no row has base colour = 'Rd'. Did you mean 'Red'?",
    ]


def test_missing_values_fulfil_no_comparison_in_a_mask():
    table = pa.table({"price": pa.array([None, 1], pa.int64())})
    assert where.mask(where.parse("price != 5", {"price": NUMBER}), table).tolist() == [False, True]
    assert np.array_equal(where.mask(where.parse("price < 5", {"price": NUMBER}), table), [False, True])


@pytest.mark.parametrize(
    "unit", ["1", "1.", "1e", "0", "''", "a''", "`", "`a`", "not ", "(", "price = 1 or ", "gender = ", " ", "-1 ", "a"]
)
@pytest.mark.parametrize("before", ["price < ", "gender = '", "gender in (", "`", ""])
@pytest.mark.parametrize("after", ["", "a", "'"])
def test_no_filter_takes_more_than_linear_time(unit, before, after):
    def read(text):
        with contextlib.suppress(ModisteError):
            where.parse(text, TYPES)

    assert_linear(read, unit, before, after)


def test_a_filter_is_as_long_as_many_values_need_and_no_longer():
    values = ", ".join(f"'{place:05d}'" for place in range(10_000))
    assert len(where.parse(f"note in ({values})", TYPES).values) == 10_000
    with pytest.raises(ModisteError, match=r"a filter of 180,\d{3} characters is too long: write at most 100,000"):
        where.parse(f"note in ({values}) or note in ({values})", TYPES)


def test_what_is_wrong_is_shown_shortened():
    for text in ("note = '" + 900 * "x", f"{900 * 'x'} = 3", "note = 'a' " + 900 * "x ", "price < 0" + 900 * "1"):
        with pytest.raises(ModisteError) as told:
            where.parse(text, TYPES)
        assert len(str(told.value)) < 400


def test_the_hints_of_a_filter_of_many_values_are_few_and_read_each_column_once():
    node = where.parse("gender in (" + ", ".join(f"'Mn{place}'" for place in range(150)) + ") or gender = 'x'", TYPES)
    asked = []
    hints = where.near_misses(node, lambda column: asked.append(column) or ["Men"])
    assert (len(hints), asked) == (where.HINTS, ["gender"])
