"""What a section of a page is made of; ``templates/blocks.html`` has a macro for each ``kind``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from modiste.reporting import tables


@dataclass
class Heading:
    """Of a part of a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass
class Note:
    """A sentence; a ``warning`` is set off."""

    kind: ClassVar[str] = "note"
    text: str
    warning: bool = False


@dataclass
class Facts:
    """Names and what they are."""

    kind: ClassVar[str] = "facts"
    items: Mapping[str, str]


@dataclass
class Code:
    """Text as it is."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Td:
    """A cell. ``part``: length of its bar in percent. ``sort``: what a sorted column goes by. ``href``: a link."""

    text: str
    small: str = ""
    words: bool = False
    part: float | None = None
    sort: float | str | None = None
    href: str = ""


@dataclass
class Table:
    """Rows under headings, sortable; ``definitions`` explain the headings (``key`` makes their
    anchors unique on the page), ``published`` rows are set off."""

    kind: ClassVar[str] = "table"
    heads: Sequence[Td]
    rows: Sequence[Sequence[Td]]
    definitions: Mapping[str, str] = field(default_factory=dict)
    published: Sequence[int] = ()
    wrap: bool = False
    key: str = ""

    @property
    def anchors(self) -> dict[str, str]:
        """Where the page explains a heading."""
        return {name: f"{self.key}-{place}" for place, name in enumerate(self.definitions)}


@dataclass
class Pictures:
    """Files next to each other, each with its alternative text."""

    kind: ClassVar[str] = "pictures"
    files: Sequence[tuple[Path, str]]
    caption: str = ""


@dataclass
class Confusion:
    """Counts, rows are true classes, shaded by the fraction of the true class."""

    kind: ClassVar[str] = "confusion"
    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    fractions: Sequence[Sequence[float]]


@dataclass
class Fold:
    """Blocks behind their title."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence[Any]
    open: bool = False


@dataclass
class Section:
    """A part of the page with an entry in its contents."""

    key: str
    title: str
    blocks: Sequence[Any]
    open: bool = True


def plain_table(columns: Sequence[object], rows: Sequence[Sequence[Any]], wrap: bool = False) -> Table:
    """Plain values as a table: words to the left, a fraction also as a bar."""
    words = [bool(rows) and isinstance(rows[0][i], str) for i in range(len(columns))]
    heads = [Td(str(column), words=word) for column, word in zip(columns, words, strict=True)]
    return Table(heads, [[cell(value) for value in row] for row in rows], wrap=wrap)


def cell(value: object) -> Td:
    """A plain value."""
    part = 100 * value if isinstance(value, float) and 0 <= value <= 1 else None
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    return Td(plain(value), words=isinstance(value, str), part=part, sort=number)


def plain(value: object) -> str:
    """A value in words.

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
