"""Numbers as shops write them: decimal commas, thousands separators, currencies, rare cells of text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ODD = 0.05
"""Maximum fraction of cells that are not numbers, such as "on request"; a short column may have one."""
LEAST = 10
"""Minimum number of numbers in a column of which another cell is dropped."""
LONGEST = 40
"""Maximum number of characters of a number; longer cells are text."""
CODE = re.compile(r"-?0\d.*")
"""Leading zeros: an article number or a barcode."""
CURRENCY = (
    r"€|\$|£|¥|₹|zł|kr|Kč|Fr|US\$|EUR|USD|GBP|CHF|SEK|NOK|DKK|PLN|CZK|HUF|JPY|CNY|INR|AUD|CAD|BRL|TRY"  # no other words
)
CELL = re.compile(
    rf"(?P<before>{CURRENCY})?\.?\s*(?P<number>[-−]?\d[\d.,'’\s]*?)(?:[.,][-–—])?\s*(?P<after>{CURRENCY})?\.?"
)
PRICE = re.compile(r"price|preis|prix|prezzo|precio|preço|preco|prijs|cena|\bpris\b|\buvp\b|\bmsrp\b|cost|amount", re.I)
"""Names of columns whose integers are amounts, not sizes or codes."""


@dataclass(frozen=True)
class Numbers:
    """A column of numbers read from text.

    Attributes:
        values: int or float; None for empty cells and those that are not numbers.
        comma: Whether the numbers have decimal commas.
        odd: The distinct cells that are not numbers.
    """

    values: list[int | float | None]
    comma: bool = False
    odd: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Summarise the column in one line.

        >>> print(Numbers([1.5, None], True, ("on request",)))
        numbers with a decimal comma; not a number, taken as empty: 'on request'
        """
        shown = ", ".join(f"'{text[:30]}'" for text in self.odd[:3]) + (", …" if len(self.odd) > 3 else "")
        kind = "numbers" + (" with a decimal comma" if self.comma else "")
        return kind + (f"; not a number, taken as empty: {shown}" if self.odd else "")


def read_numbers(cells: Sequence[object], name: str = "") -> Numbers | None:
    """Read a text column as numbers if nearly all cells are numbers in one notation; None: it stays text.

    A column with codes such as "007" stays text. Cells that are not numbers are dropped only among amounts: numbers
    with a currency or two decimals, or a column named like a price. Among sizes and codes such a cell is a value, and
    the column stays text.

    Args:
        cells: The cells of the column.
        name: The name of the column.

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
    """Whether more numbers are valid with a decimal comma than with a decimal point; None if ambiguous.

    "1,299" and "1.299" are valid in both notations. Amounts do not have three decimals, so there the mark separates
    thousands. In other columns, "1.299" has a decimal point, as programs write it, and "1,299" stays ambiguous.
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
    """Parse a number in one of the two notations; spaces and apostrophes separate thousands in both."""
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
