"""Columns of prices become numbers however shops write them; codes, sizes and ambiguous columns stay text."""

import pytest

from modiste.data.numbers import read_numbers

FEW = [f"{number},{number}" for number in range(10, 40)]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["105,02", "1.299,00"], [105.02, 1299.0]),
        (["105.02", "1,299.00"], [105.02, 1299.0]),
        (["19,90 €", "€ 5", " "], [19.9, 5.0, None]),
        (["CHF 1'299.00", "CHF 12.50"], [1299.0, 12.5]),
        (["1 299,00 €", "1\u202f299,50 €", "89,-"], [1299.0, 1299.5, 89]),
        (["1.299 €", "899 €"], [1299, 899]),
        (["$1,299", "$899"], [1299, 899]),
        (["1.250", "0.125"], [1.25, 0.125]),
        (["1,250", "0,125"], [1.25, 0.125]),
        (["-3,5", "\u22122,5"], [-3.5, -2.5]),
        (["12", ""], [12, None]),
        (["12.50", "3"], [12.5, 3.0]),
        (["0", "0,5"], [0.0, 0.5]),
        (["1.299.000", "2"], [1299000, 2]),
    ],
)
def test_one_notation_is_read(cells, values):
    found = read_numbers(cells)
    assert found is not None
    assert found.values == values
    assert len({type(value) for value in found.values if value is not None}) == 1


@pytest.mark.parametrize(
    "cells",
    [
        ["007", "12"],
        [*FEW, "007"],
        ["38", "40", "M"] * 10,
        [*(["38"] * 40), "M"],  # a size, not a missing one
        [*(["38,5"] * 40), "M"],
        ["1,299", "2,500"],  # thousands, or three decimals?
        ["12 €", "12 $"],
        ["2024-01-02", "2024-01-03"],
        ["1.2.3", "4.5.6"],
        ["1,2,3"],
        ["12345678901234567890"],
        ["9,50 / 8,00"],
        ["38 40", "36 38"],
        [*FEW, *(["auf Anfrage"] * 5)],
        ["9,50", "auf Anfrage"],
        [],
        ["", None],
        [1, "2"],
    ],
)
def test_what_is_no_column_of_numbers_stays_text(cells):
    assert read_numbers(cells) is None


def test_an_odd_cell_among_amounts_is_empty_and_named():
    found = read_numbers([*FEW, "auf Anfrage"])
    assert found.values[-1] is None
    assert found.values[0] == 10.1
    assert str(found) == "numbers with a decimal comma; not a number, taken as empty: 'auf Anfrage'"
    whole = ["80", "95"] * 10 + ["auf Anfrage"]
    assert read_numbers(whole) is None
    assert read_numbers(whole, "Preis").odd == ("auf Anfrage",)
