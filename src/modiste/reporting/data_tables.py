"""Output of `modiste data`: a catalogue's statistics, and the detected settings of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

KINDS = {"string": "text", "int64": "numbers", "double": "numbers", "bool": "true/false"}
SHOWN, FEW = 30, 3
"""In the table of attributes: characters per value, and values of a column that is not classes."""
UNIQUE = 0.7
"""Distinct values per row above which no value counts as frequent; products may have several rows."""


def show(facts: dict[str, Any], console: Console) -> None:
    """Print the result of `modiste.data.facts.describe`."""
    card, rows, distinct = facts["card"], facts["rows"], facts["distinct"]
    console.print(f"[bold]{escape(card['title'] or card['name'])}[/]  ({escape(card['name'])})")
    for name in ("licence", "citation", "homepage"):
        if card[name]:
            console.print(f"  {name}: {card[name]}", markup=False)
    expected = ", ".join(f"{count:,} {name}" for name, count in card["expected"].items())
    console.print(
        f"{rows['read']:,} rows read, {rows['kept']:,} kept{f' (published: {expected})' if expected else ''}: "
        f"{distinct['product_id']:,} products, {distinct['pixels']:,} different images, {distinct['text']:,} titles",
        highlight=False,
    )
    for reason, ids in facts["bad"].items():
        shown = ", ".join(ids[:10]) + (", …" if len(ids) > 10 else "")
        console.print(f"  dropped: {len(ids):,} {reason}: {shown}", style="yellow", markup=False, highlight=False)
    for shared in facts["shared_pictures"][:5]:
        line = f"  {shared['products']:,} products share one image: {shared['image']}"
        console.print(line, style="yellow", markup=False, highlight=False)
    words = facts["text"]
    console.print(
        f"words in a title: mean {words['words_mean']}, median {words['words_median']}, 95 % at most "
        f"{words['words_95']}, longest {words['words_max']} ({words['characters_max']} characters)",
        highlight=False,
    )
    console.print(_splits_table(facts), _columns_table(facts))
    if facts["leaks"]:
        console.print(_leaks_table(facts))


def _splits_table(facts: dict[str, Any]) -> Table:
    table = _table("Splits", "split", "rows", "share")
    for split, count in facts["splits"].items():
        table.add_row(escape(split), f"{count:,}", f"{count / facts['rows']['kept']:.1%}")
    return table


def _columns_table(facts: dict[str, Any]) -> Table:
    table = _table("Attributes", "column", "type", "values", "missing", "rarest has")
    table.add_column("most frequent", justify="left", ratio=1)
    for name, column in facts["columns"].items():
        classes = name in facts["classes"]
        most = column["top"] if classes else column["top"][:FEW]
        top = ", ".join(f"{_short(value)} {count / facts['rows']['kept']:.1%}" for value, count in most)
        filled = facts["rows"]["kept"] - column["missing"]
        if column["range"] is not None:
            top = "from {:g} to {:g}".format(*column["range"])
        elif column["values"] > 1 and (
            column["top"][0][1] == 1 or (not classes and column["values"] > UNIQUE * filled)
        ):
            top = ""  # almost no value occurs twice
        kind = "classes" if classes else KINDS.get(column["type"], column["type"])
        counts = (f"{column[key]:,}" for key in ("values", "missing", "rarest"))
        table.add_row(escape(name), kind, *counts, escape(top))
    return table


def _short(value: str) -> str:
    return value if len(value) <= SHOWN else value[: SHOWN - 1] + "…"


def _leaks_table(facts: dict[str, Any]) -> Table:
    table = _table("On both sides of", "two splits", "products", "pixels", "titles")
    for pair, counts in facts["leaks"].items():
        table.add_row(pair, *(f"[red]{n:,}[/]" if n else "0" for n in counts.values()))
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="dim")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def show_columns(roles: Mapping[str, str], examples: Mapping[str, Sequence[str]], console: Console) -> None:
    """Print the detected role of each column of a table, with a few of its values.

    Args:
        roles: Column → its detected role.
        examples: Column → some of its values.
        console: Console to print to.
    """
    table = Table(title="Columns", title_justify="left", title_style="bold", box=None, header_style="dim")
    for name in ("column", "taken for", "for instance"):
        table.add_column(name, overflow="fold")
    for name, role in roles.items():
        shown = " · ".join(value if len(value) <= 40 else value[:39] + "…" for value in examples[name])
        table.add_row(escape(name), role, escape(shown))
    console.print(table)
