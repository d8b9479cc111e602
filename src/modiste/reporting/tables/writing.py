"""Formatting of blocks as Markdown, CSV, LaTeX, or for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modiste.errors import ModisteError, did_you_mean
from modiste.reporting.tables.blocks import COLUMNS_PER_TABLE, EMPTY, Block, Row, build_blocks, show, summaries
from modiste.reporting.tables.costs import NUMBERS, cost_sheet, costs_by_model
from modiste.reporting.tables.names import best, split_name
from modiste.reporting.tables.pairs import BEST
from modiste.reporting.tables.published import read_published
from modiste.reporting.tables.results import load_results
from modiste.reporting.tables.sheets import Grid, Item, Sheet, csv_text, latex, markdown, print_sheets
from modiste.utils.atomic import write_text

TERMINAL = "terminal"
FORMATS = (TERMINAL, "markdown", "csv", "latex")
SUFFIXES = {".csv": "csv", ".tex": "latex"}
SIDE_BY_SIDE = 3
"""Maximum number of models that are columns of a terminal table; more become rows."""


def chunks(columns: Sequence[str], most: int = COLUMNS_PER_TABLE) -> list[list[str]]:
    """Split columns evenly into the fewest tables of at most ``most`` columns.

    >>> [len(c) for c in chunks(list("abcdefghi"))]
    [5, 4]
    """
    tables = max(1, math.ceil(len(columns) / most))
    width = math.ceil(len(columns) / tables)
    return [list(columns[i : i + width]) for i in range(0, len(columns), width)]


def heading(block: Block, name: str) -> str:
    """Heading of a column; the part is omitted where the block's title names it."""
    return name if block.part == "summary" else split_name(name)[1]


def origin(block: Block, row: Row) -> str:
    """``measured``, or ``published [1]`` with the footnote of its source."""
    return f"published [{block.sources.index(row.source) + 1}]" if row.source else "measured"


def sheet_of(block: Block) -> Sheet:
    """A block as a table: measured rows with 95 % intervals, published rows in italics with source."""
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


def _item(block: Block, row: Row, column: str, interval: bool = True) -> Item:
    sign = "" if row.source else block.marks.signs.get((row.model, column), "")
    return signed(show(column, row.cells.get(column), interval), sign)


def signed(text: str, sign: str) -> Item:
    """A number with its mark: bold for the best, else followed by its sign.

    >>> signed("0.5", "best"), signed("0.4", "≈")
    (Item(text='0.5', style='bold'), Item(text='0.4 ≈', style=''))
    """
    return Item(text, "bold") if sign == BEST else Item(f"{text} {sign}".rstrip())


FIXED = ("data", "split", "task", "variant", "queries", "gallery", "model", "fingerprint", "origin", "source")
HEAD = (*FIXED, "in_domain", "metric", "value", "low", "high", "n", "best", "p_holm")


def csv_lines(blocks: Sequence[Block]) -> Iterator[list[Any]]:
    """Long-form rows of the CSV, one per number; cells that were not run have none."""
    for block in (block for block in blocks if block.part != "summary"):
        sizes = [block.sizes.get(word) for word in ("queries", "gallery")]
        where = [block.data, block.split, block.task, block.variant, *sizes]
        for row in block.rows:
            who = [row.model, row.fingerprint, "published" if row.source else "measured", row.source, row.in_domain]
            for column in (column for column in block.columns if column in row.cells):
                cell, key = row.cells[column], (row.model, column)
                tested = [block.marks.signs.get(key) == BEST, block.marks.p.get(key)] if not row.source else [False, ""]
                numbers = [cell.text or cell.value, cell.low, cell.high, cell.n]
                yield [*where, *who, column, *numbers, *tested]


def cost_lines(named: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[list[Any]]:
    """CSV rows of training costs: the task is ``cost``, the metric a key of ``cost.json``."""
    for model, cost in costs_by_model(named).items():
        for metric in (name for name in NUMBERS if name in cost):
            row = {"task": "cost", "model": model, "origin": "measured", "metric": metric, "value": cost[metric]}
            yield [row.get(head) for head in HEAD]


def check_format(style: str, formats: Iterable[str] = FORMATS) -> None:
    """Raise ModisteError for an unknown format."""
    if style not in formats:
        raise ModisteError(f"There is no table format '{style}'. {did_you_mean(style, formats)}")


def format_of(style: str | None, output: str | None) -> str:
    """The requested format; by default that of the file's suffix, or ``terminal``.

    >>> format_of(None, None), format_of(None, "table.md"), format_of(None, "table.csv"), format_of("latex", None)
    ('terminal', 'markdown', 'csv', 'latex')

    Raises:
        ModisteError: The format is unknown.
    """
    if style is not None:
        check_format(style)
    if output is None:
        return style or TERMINAL
    return style if style not in (None, TERMINAL) else SUFFIXES.get(Path(output).suffix, "markdown")


def format_table(
    results: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, str]] = (), style: str = "markdown"
) -> str:
    """Format the whole table as text.

    Args:
        results: Contents of result files.
        published: Rows of `read_published`.
        style: ``markdown``, ``csv`` or ``latex``.

    Raises:
        ModisteError: The style is unknown.
    """
    check_format(style, FORMATS[1:])
    named = [(result["model"]["name"], result) for result in results]
    if style == "csv":
        return csv_text([HEAD, *csv_lines(build_blocks(results, published, aggregate=False)), *cost_lines(named)])
    sheets = [*map(sheet_of, build_blocks(results, published)), *cost_sheet(named)]
    return (markdown if style == "markdown" else latex)(sheets)


def terminal_sheets(
    results: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, str]] = (), every: bool = False
) -> list[Sheet]:
    """Tables for a terminal, with the best published numbers.

    Args:
        results: Contents of result files.
        published: Rows of `read_published`.
        every: All metrics rather than the main ones.
    """
    blocks = build_blocks(results, published)
    chosen = [b for b in blocks if b.part != "summary"] if every else summaries(blocks)
    few = [sum(not row.source for row in block.rows) <= SIDE_BY_SIDE for block in chosen]
    return [_turned(block) if small else _rows_are_models(block) for block, small in zip(chosen, few, strict=True)]


def _turned(block: Block) -> Sheet:
    """One row per metric, one column per measured model, and the best published number."""
    measured = [row for row in block.rows if not row.source]
    top = {column: _best_published(block, column) for column in block.columns}
    heads = ["metric", *(block.label(row) for row in measured), *(["best published"] if any(top.values()) else [])]
    rows = []
    for column in block.columns:
        row = [Item(heading(block, column)), *(_item(block, row, column) for row in measured)]
        rows.append([*row, Item(top[column] or EMPTY)] if any(top.values()) else row)
    return Sheet(block.title, [Grid(heads, f"l{'r' * (len(heads) - 1)}", rows)], block.size, block.remarks())


def _rows_are_models(block: Block) -> Sheet:
    """One row per measured model, without intervals, and the best published numbers below."""
    measured = [row for row in block.rows if not row.source]
    grids = []
    for columns in chunks(block.columns):
        rows = [
            [Item(block.label(row)), *(_item(block, row, column, row.seeds > 1) for column in columns)]
            for row in measured
        ]
        top = [_best_published(block, column) for column in columns]
        rows += [[Item("best published", "italic"), *(Item(text or EMPTY) for text in top)]] if any(top) else []
        grids.append(Grid(["model", *(heading(block, c) for c in columns)], f"l{'r' * len(columns)}", rows))
    return Sheet(block.title, grids, block.size, block.remarks())


def print_results(paths: Iterable[str | Path]) -> None:
    """Print summaries of result files next to the packaged published numbers, and their findings."""
    results = load_results(paths)
    print_sheets(terminal_sheets(results, read_published()))
    for finding in (finding for result in results for finding in result.get("findings") or []):
        print(f"\n{finding}")


def emit(text: str, output: str | Path | None) -> None:
    """Print ``text``, or write it to the file ``output``."""
    if output is None:
        print(text, end="")
        return
    write_text(Path(output), text)
    print(f"Wrote {output}")


def _best_published(block: Block, column: str) -> str:
    """Best published number, ``0.334 (Marqo-FashionSigLIP)``; empty without any."""
    cells = {row.model: row.cells[column] for row in block.rows if row.source and column in row.cells}
    if not cells:
        return ""
    value = best((cell.value for cell in cells.values()), column in block.lower)
    model, cell = next((model, cell) for model, cell in cells.items() if cell.value == value)
    return f"{cell.text} ({model})"
