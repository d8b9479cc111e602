"""Columns derived from others by rules, for properties that only the title or the image shows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from modiste.data.augment import trim
from modiste.data.catalogue import Catalogue
from modiste.errors import ModisteError

VALUE, ASPECT = "value", "aspect"


def derive(catalogue: Catalogue, columns: Mapping[str, Sequence[Mapping[str, Any]]]) -> Catalogue:
    """Return the catalogue with an additional column for every entry of ``columns``.

    Args:
        catalogue: Any catalogue.
        columns: Name of the new column → rules, in order. A rule has a ``value`` and at least one condition: a regular
            expression (RE2's syntax) per column, searched in the row's cell and ignoring case, or ``aspect: [low,
            high]``, bounds of height/width of the image without its margins (`aspect`). A row takes the value of the
            first rule whose conditions all hold, or stays empty.

    Raises:
        ModisteError: The column exists; a rule lacks a value or a condition or names an unknown column; an expression
            or ``aspect`` is malformed.

    >>> from modiste.data.catalogue import Card
    >>> titles = ["Brown Leather Boots", "Boot Polish", "White Sneaker"]
    >>> columns = {"product_id": ["1", "2", "3"], "text": titles, "image": ["1", "2", "3"], "pixels": ["1", "2", "3"]}
    >>> shop = Catalogue.build(Card("shop"), columns | {"type": ["Shoes", "Care", "Shoes"]}, None)
    >>> rules = [{"value": "boot", "text": r"\\bboots?\\b", "type": "shoe"}, {"value": "shoe", "type": "shoe"}]
    >>> derive(shop, {"kind": rules}).column("kind")
    ['boot', '', 'shoe']
    """
    for name, rules in columns.items():
        if name in catalogue.table.column_names:
            raise ModisteError(f"data.derive.{name}: the data set has a column of this name: choose another name.")
        catalogue = catalogue.replace_column(name, _values(catalogue, name, rules))
    return catalogue


def _values(catalogue: Catalogue, name: str, rules: Sequence[Mapping[str, Any]]) -> list[str]:
    values = [""] * len(catalogue)
    left = list(range(len(catalogue)))
    for rule in rules:
        if VALUE not in rule or len(rule) < 2:
            raise ModisteError(f"data.derive.{name}: every rule needs a value and a column, not {dict(rule)}.")
        held = set(_holding(catalogue, name, rule, left))
        for row in held:
            values[row] = rule[VALUE]
        left = [row for row in left if row not in held]
    return values


def _holding(catalogue: Catalogue, name: str, rule: Mapping[str, Any], rows: list[int]) -> list[int]:
    """The rows for which all conditions of a rule hold; images are read last, and as few as possible."""
    for column, expression in rule.items():
        if column not in (VALUE, ASPECT):
            cells = catalogue.column(column)
            rows = list(itertools.compress(rows, _matches(name, expression, [cells[row] for row in rows])))
    if ASPECT in rule:
        low, high = _bounds(name, rule[ASPECT])
        rows = [row for row in rows if low <= aspect(catalogue.read_image(row)) <= high]
    return rows


def aspect(image: Image.Image) -> float:
    """Height / width of an image without its margins.

    >>> photo = Image.new("RGB", (60, 80), "white")
    >>> photo.paste("navy", (10, 10, 50, 30))
    >>> aspect(photo)
    0.5
    """
    width, height = trim(image.convert("RGB")).size
    return height / width


def _bounds(name: str, given: Any) -> tuple[float, float]:
    try:
        low, high = map(float, given)
    except (TypeError, ValueError):
        raise ModisteError(f"data.derive.{name}: aspect={given} must be two numbers, [low, high].") from None
    return low, high


def _matches(name: str, expression: str, cells: list[str]) -> list[bool]:
    """Whether each cell contains a match; RE2 takes linear time even for untrusted expressions."""
    try:
        found: list[bool] = pc.match_substring_regex(
            pa.array(cells, pa.string()), expression, ignore_case=True
        ).to_pylist()
    except pa.ArrowInvalid as error:
        reason = str(error).removeprefix("Invalid regular expression: ")
        raise ModisteError(
            f"data.derive.{name}: '{expression}' is not a regular expression of RE2: {reason}: correct it."
        ) from None
    return found
