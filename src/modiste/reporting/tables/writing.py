"""Blocks as Markdown, CSV, LaTeX, and their summaries in a terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiste.errors import ModisteError, did_you_mean
from modiste.reporting.tables.blocks import COLUMNS_PER_TABLE, EMPTY, Block, Row, build_blocks, show, summaries
from modiste.reporting.tables.costs import NUMBERS, cost_sheet, costs_by_model
from modiste.reporting.tables.names import best, split_name
from modiste.reporting.tables.pairs import BEST
from modiste.reporting.tables.published import read_published
from modiste.reporting.tables.results import load_results
from modiste.reporting.tables.sheets import Grid, Item, Sheet, latex, markdown, terminal

if TYPE_CHECKING:
    from rich.console import Group

FORMATS = ("markdown", "csv", "latex")


def chunks(columns: Sequence[str], most: int = COLUMNS_PER_TABLE) -> list[list[str]]:
    """Columns dealt over as few tables as hold ``most`` each, evenly.

    >>> [len(c) for c in chunks(list("abcdefghi"))]
    [5, 4]
    """
    tables = max(1, math.ceil(len(columns) / most))
    width = math.ceil(len(columns) / tables)
    return [list(columns[i : i + width]) for i in range(0, len(columns), width)]


def heading(block: Block, name: str) -> str:
    """A column's heading: without the part where the block's title says it."""
    return name if block.part == "summary" else split_name(name)[1]


def origin(block: Block, row: Row) -> str:
    """``measured``, or ``published [1]`` with the footnote of its source."""
    return f"published [{block.sources.index(row.source) + 1}]" if row.source else "measured"


def sheet_of(block: Block) -> Sheet:
    """The block as a table: measured rows with 95 % intervals, published rows in italics with their source."""
    grids = []
    for columns in chunks(block.columns):
        heads = ["model", *(heading(block, column) for column in columns), "origin"]
        rows = [
            [
                Item(block.label(row), "italic" if row.source else ""),
                *(_item(block, row, column) for column in columns),
                Item(origin(block, row)),
            ]
            for row in block.rows
        ]
        grids.append(Grid(heads, f"l{'r' * len(columns)}l", rows))
    return Sheet(block.title, grids, block.size, block.footnotes())


def _item(block: Block, row: Row, column: str) -> Item:
    sign = "" if row.source else block.marks.signs.get((row.model, column), "")
    return signed(show(column, row.cells.get(column)), sign)


def signed(text: str, sign: str) -> Item:
    """A number with its mark: the best one bold, others with their sign.

    >>> signed("0.5", "best"), signed("0.4", "≈")
    (Item(text='0.5', style='bold'), Item(text='0.4 ≈', style=''))
    """
    return Item(text, "bold") if sign == BEST else Item(f"{text} {sign}".rstrip())


FIXED = ("data", "split", "task", "variant", "queries", "gallery", "model", "fingerprint", "origin", "source")
HEAD = (*FIXED, "in_domain", "metric", "value", "low", "high", "n", "best", "p_holm")


def to_csv(blocks: Sequence[Block]) -> str:
    """Long form, a line a number; what was not run has no line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEAD)
    for block in (block for block in blocks if block.part != "summary"):
        sizes = [block.sizes.get(word) for word in ("queries", "gallery")]
        where = [block.data, block.split, block.task, block.variant, *sizes]
        for row in block.rows:
            who = [row.model, row.fingerprint, "published" if row.source else "measured", row.source, row.in_domain]
            for column in (column for column in block.columns if column in row.cells):
                cell, key = row.cells[column], (row.model, column)
                tested = [block.marks.signs.get(key) == BEST, block.marks.p.get(key)] if not row.source else [False, ""]
                numbers = [cell.text or cell.value, cell.low, cell.high, cell.n]
                writer.writerow([*where, *who, column, *numbers, *tested])
    return text.getvalue()


def cost_lines(named: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Lines of the CSV with what the trainings cost: the task is ``cost``, the metric a key of ``cost.json``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HEAD, lineterminator="\n")
    for model, cost in costs_by_model(named).items():
        for metric in (name for name in NUMBERS if name in cost):
            row = {"task": "cost", "model": model, "origin": "measured", "metric": metric, "value": cost[metric]}
            writer.writerow(row)
    return text.getvalue()


def check_format(style: str, formats: Iterable[str] = FORMATS) -> None:
    """Raises ModisteError for a format that there is not."""
    if style not in formats:
        raise ModisteError(f"There is no table format '{style}'. {did_you_mean(style, formats)}")


def format_table(
    results: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, str]] = (), style: str = "markdown"
) -> str:
    """The whole table as text.

    Args:
        results: Contents of result files.
        published: Rows of `read_published`.
        style: One of `FORMATS`.

    Raises:
        ModisteError: unknown style.
    """
    check_format(style)
    blocks = build_blocks(results, published)
    named = [(result["model"]["name"], result) for result in results]
    if style == "csv":
        return to_csv(blocks) + cost_lines(named)
    return (markdown if style == "markdown" else latex)([*map(sheet_of, blocks), *cost_sheet(named)])


def rich_table(results: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, str]] = ()) -> Group:
    """The summaries for a terminal: a line a metric, a column a measured model, and the best published number."""
    from rich.console import Group

    return Group(*(t for block in summaries(build_blocks(results, published)) for t in terminal(_turned(block))))


def _turned(block: Block) -> Sheet:
    """A line a metric, a column a measured model, and the best published number."""
    measured = [row for row in block.rows if not row.source]
    top = {column: _best_published(block, column) for column in block.columns}
    heads = ["metric", *(block.label(row) for row in measured), *(["best published"] if any(top.values()) else [])]
    rows = []
    for column in block.columns:
        row = [Item(column), *(_item(block, row, column) for row in measured)]
        rows.append([*row, Item(top[column] or EMPTY)] if any(top.values()) else row)
    return Sheet(block.title, [Grid(heads, f"l{'r' * (len(heads) - 1)}", rows)], block.size, block.remarks())


def print_results(paths: Iterable[str | Path]) -> None:
    """Print the summaries of result files to the terminal, beside the packaged published numbers."""
    from rich.console import Console

    Console().print(rich_table(load_results(paths), read_published()))


def _best_published(block: Block, column: str) -> str:
    """``0.334 (Marqo-FashionSigLIP)``; empty when nobody published it."""
    cells = {row.model: row.cells[column] for row in block.rows if row.source and column in row.cells}
    if not cells:
        return ""
    value = best(column, (cell.value for cell in cells.values()))
    model, cell = next((model, cell) for model, cell in cells.items() if cell.value == value)
    return f"{cell.text} ({model})"
