"""Blocks of a page's sections; ``templates/blocks.html`` has a macro for each ``kind``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from modiste.reporting import tables


@dataclass
class Heading:
    """Subheading within a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass
class Note:
    """A sentence; a ``warning`` is highlighted."""

    kind: ClassVar[str] = "note"
    text: str
    warning: bool = False


@dataclass
class Facts:
    """List of names and values."""

    kind: ClassVar[str] = "facts"
    items: Mapping[str, str]


@dataclass
class Code:
    """Preformatted text."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Td:
    """A cell; ``part``: length of its bar in percent, ``sort``: its sort key, ``href``: its link."""

    text: str
    small: str = ""
    words: bool = False
    part: float | None = None
    sort: float | str | None = None
    href: str = ""


@dataclass
class Table:
    """Sortable table.

    ``definitions`` explain the headings (``key`` makes their anchors unique on the page); the rows at the positions
    ``published`` are highlighted.
    """

    kind: ClassVar[str] = "table"
    heads: Sequence[Td]
    rows: Sequence[Sequence[Td]]
    definitions: Mapping[str, str] = field(default_factory=dict)
    published: Sequence[int] = ()
    wrap: bool = False
    key: str = ""

    @property
    def anchors(self) -> dict[str, str]:
        """Heading → anchor of its definition on the page."""
        return {name: f"{self.key}-{place}" for place, name in enumerate(self.definitions)}


@dataclass
class Pictures:
    """Images in a row, each with its alternative text."""

    kind: ClassVar[str] = "pictures"
    files: Sequence[tuple[Path, str]]
    caption: str = ""


@dataclass
class Confusion:
    """Confusion matrix; rows are true classes, cells are shaded by the fraction of the true class."""

    kind: ClassVar[str] = "confusion"
    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    fractions: Sequence[Sequence[float]]


@dataclass
class Fold:
    """Collapsible blocks under a title."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence[Any]
    open: bool = False


@dataclass
class Section:
    """Section of a page, listed in its table of contents."""

    key: str
    title: str
    blocks: Sequence[Any]
    open: bool = True


def plain_table(columns: Sequence[object], rows: Sequence[Sequence[Any]], wrap: bool = False) -> Table:
    """Table of plain values: words are left-aligned, fractions also get a bar."""
    words = [bool(rows) and isinstance(rows[0][i], str) for i in range(len(columns))]
    heads = [Td(str(column), words=word) for column, word in zip(columns, words, strict=True)]
    return Table(heads, [[cell(value) for value in row] for row in rows], wrap=wrap)


def cell(value: object) -> Td:
    """Cell of a plain value."""
    part = 100 * value if isinstance(value, float) and 0 <= value <= 1 else None
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    return Td(plain(value), words=isinstance(value, str), part=part, sort=number)


def plain(value: object) -> str:
    """Format a value.

    >>> plain(None), plain(True), plain(1234), plain(0.25)
    ('—', 'true', '1,234', '0.250')
    """
    if value is None:
        return tables.EMPTY
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)
