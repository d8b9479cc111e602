"""Numbers as shops write them: decimal commas, thousands, currencies, and single cells that are none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ODD = 0.05
"""Fraction of a column's cells that may be no number, such as "on request"; a single one may in a short column."""
LEAST = 10
"""Numbers that a column needs before a cell that is none is dropped."""
LONGEST = 40
"""Characters of a number; longer cells are texts."""
CODE = re.compile(r"-?0\d.*")
"""Leading zeros: an article number or a barcode."""
CURRENCY = (
    r"€|\$|£|¥|₹|zł|kr|Kč|Fr|US\$|EUR|USD|GBP|CHF|SEK|NOK|DKK|PLN|CZK|HUF|JPY|CNY|INR|AUD|CAD|BRL|TRY"  # no word else
)
CELL = re.compile(
    rf"(?P<before>{CURRENCY})?\.?\s*(?P<number>[-−]?\d[\d.,'’\s]*?)(?:[.,][-–—])?\s*(?P<after>{CURRENCY})?\.?"
)
PRICE = re.compile(r"price|preis|prix|prezzo|precio|preço|preco|prijs|cena|\bpris\b|\buvp\b|\bmsrp\b|cost|amount", re.I)
"""Names of columns whose whole numbers are amounts, not sizes or codes."""


@dataclass(frozen=True)
class Numbers:
    """A column of numbers that was written as text.

    Attributes:
        values: int or float; None for empty cells and those that are no number.
        comma: Whether a comma separates the decimals.
        odd: What is no number, each text once.
    """

    values: list[int | float | None]
    comma: bool = False
    odd: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What is worth saying of it.

        >>> print(Numbers([1.5, None], True, ("on request",)))
        numbers with a decimal comma; no number, taken as empty: 'on request'
        """
        shown = ", ".join(f"'{text[:30]}'" for text in self.odd[:3]) + (", …" if len(self.odd) > 3 else "")
        kind = "numbers" + (" with a decimal comma" if self.comma else "")
        return kind + (f"; no number, taken as empty: {shown}" if self.odd else "")


def read_numbers(cells: Sequence[object], name: str = "") -> Numbers | None:
    """Return a column of texts as numbers where all or nearly all are numbers in one notation; None: it stays text.

    A column that holds codes such as "007" stays text. A cell that is no number is dropped only among amounts: numbers
    with a currency or two decimals, or a column named as a price. Among sizes and codes such a cell is a value.

    Args:
        cells: The column.
        name: Of the column.

    >>> read_numbers(["105,02", "1.299,00 €", ""]).values, read_numbers(["007", "12"])
    ([105.02, 1299.0, None], None)
    >>> read_numbers(["9.50"] * 10 + ["on request"]).odd, read_numbers(["38"] * 10 + ["M"])
    (('on request',), None)
    """
    texts = [cell.strip() for cell in cells if isinstance(cell, str) and cell.strip()]
    if not texts or not all(isinstance(cell, str) or cell is None for cell in cells):
        return None
    parts = {text: CELL.fullmatch(text) if len(text) <= LONGEST else None for text in dict.fromkeys(texts)}
    currencies = {sign for match in parts.values() if match for sign in match.group("before", "after") if sign}
    if len(currencies) > 1 or any(CODE.fullmatch(text) and not re.match(r"-?0[.,]", text) for text in parts):
        return None
    read = {
        comma: {text: _number(match["number"], comma) if match else None for text, match in parts.items()}
        for comma in (False, True)
    }
    numbers = {text: match["number"] for text, match in parts.items() if match}
    comma = _has_decimal_comma(numbers.values(), bool(currencies))
    if comma is None:
        return None
    known = read[comma]
    odd = [text for text in texts if known[text] is None]
    mark = "," if comma else "."
    amounts = bool(currencies or PRICE.search(name)) or any(
        re.search(rf"\{mark}\d\d$", text) for text in numbers.values()
    )
    count = len(texts) - len(odd)
    if odd and (not amounts or count < LEAST or len(odd) > max(1, ODD * len(texts))):
        return None
    values = [known[cell.strip()] if isinstance(cell, str) and cell.strip() else None for cell in cells]
    if any(isinstance(value, float) for value in values):
        values = [None if value is None else float(value) for value in values]
    return Numbers(values, comma and any("," in text for text in numbers.values()), tuple(dict.fromkeys(odd)))


def _has_decimal_comma(numbers: Iterable[str], amounts: bool) -> bool | None:
    """The notation in which more of the numbers can be read; None where it cannot be told.

    "1,299" alone may be either. Among amounts, which have no three decimals, it is a thousand and more; "1.299" of
    other columns is a decimal point, as programs write it.
    """
    texts = list(numbers)
    point, comma = (sum(_number(text, kind) is not None for text in texts) for kind in (False, True))
    if point != comma:
        return comma > point
    marked = [text for text in texts if re.search("[.,]", text)]
    if not marked:
        return False
    if any("." in text for text in marked):
        return amounts
    return False if amounts else None


WHOLE = r"[-−]?(?:0|[1-9]\d*)"
GROUPED = r"[-−]?[1-9]\d{{0,2}}(?:{separator}\d{{3}})+"


def _number(text: str, comma: bool) -> int | float | None:
    """A number in one of the two notations; spaces and apostrophes separate thousands in both."""
    mark, thousands = (",", r"\.") if comma else (r"\.", ",")
    separators = (thousands, r"[\s'’]")
    whole = "|".join([WHOLE, *(GROUPED.format(separator=separator) for separator in separators)])
    match = re.fullmatch(rf"(?P<whole>{whole})(?:{mark}(?P<decimals>\d+))?", text.strip())
    if match is None:
        return None
    digits = re.sub(r"[^\d-]", "", match["whole"].replace("−", "-"))
    if match["decimals"] is not None:
        return float(f"{digits}.{match['decimals']}")
    return int(digits) if len(digits.lstrip("-")) <= 18 else None
