r"""Output of tables: GitHub Markdown, CSV, LaTeX (``\usepackage{booktabs}``), terminal."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modiste.reporting.markdown import Markdown, code, escape, one_line, paragraph
from modiste.reporting.tables.blocks import DAGGER, EMPTY
from modiste.reporting.tables.names import number

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Item:
    """The text of a cell; ``style`` is ``bold``, ``italic`` or empty."""

    text: str
    style: str = ""


@dataclass
class Grid:
    """Rows under headings; ``align``: ``l`` or ``r`` per column; ``rules``: rows with a rule before them."""

    heads: list[str]
    align: str
    rows: list[list[Item]]
    rules: set[int] = field(default_factory=set)


@dataclass
class Sheet:
    """A titled table of one or several grids, with footnotes and (label, command) pairs that measure it.

    Without grids it is a heading; ``level`` is the heading level of its title in Markdown.
    """

    title: str
    grids: list[Grid]
    caption: str = ""
    notes: list[str] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)
    level: int = 3


def markdown(sheets: Sequence[Sheet]) -> str:
    """Format as GitHub Markdown."""
    lines: list[str] = []
    for sheet in sheets:
        lines += [f"{'#' * sheet.level} {escape(sheet.title)}", ""]
        lines += [f"{paragraph(sheet.caption)}.", ""] if sheet.caption else []
        for grid in sheet.grids:
            lines += [*_markdown_lines(grid), ""]
        for note in sheet.notes:
            lines += [paragraph(note), ""]
        lines += [f"- {escape(label)}: {code(command)}" for label, command in sheet.commands]
        lines += [""] if sheet.commands else []
    return "\n".join(lines).rstrip() + "\n"


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Format rows of plain values as a GitHub Markdown table; floats have four significant digits.

    Args:
        rows: Column to value.
        columns: Columns and their order; by default all, in order of appearance. Missing values show "—".

    >>> print(markdown_table([{"trial": 1, "loss": 0.25}, {"trial": 2, "note": "<b> | c"}]))
    | trial | loss | note |
    | ---: | ---: | --- |
    | 1 | 0.25 | — |
    | 2 | — | &lt;b> \\| c |
    """
    return grid_markdown(plain_grid(rows, columns))


def grid_markdown(grid: Grid) -> str:
    """Format a grid as GitHub Markdown, without a trailing line break."""
    return "\n".join(_markdown_lines(grid))


def formatted_table(heads: Sequence[str], align: str, rows: Iterable[Sequence[object]]) -> str:
    """Format cells that are Markdown already; ``align``: see `Grid`.

    >>> print(formatted_table(["recipe", "F1"], "lr", [["`kagl_lite`", "**0.457**"]]))
    | recipe | F1 |
    | --- | ---: |
    | `kagl_lite` | **0.457** |
    """
    items = [[Item(Markdown(str(cell))) for cell in row] for row in rows]
    return grid_markdown(Grid([*map(Markdown, heads)], align, items))


def plain_grid(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Grid:
    """Rows of plain values as a `Grid`, numbers right-aligned; see `markdown_table`."""
    columns = list(dict.fromkeys(name for row in rows for name in row)) if columns is None else list(columns)
    present = {name: [row[name] for row in rows if row.get(name) is not None] for name in columns}
    align = "".join("r" if found and all(map(_is_number, found)) else "l" for found in present.values())
    return Grid(columns, align, [[Item(plain(row.get(name))) for name in columns] for row in rows])


def plain(value: object) -> str:
    """Format a value of a table.

    >>> plain(0.123456), plain(None), plain(7)
    ('0.1235', '—', '7')
    """
    return EMPTY if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _markdown_lines(grid: Grid) -> list[str]:
    lines = ["| " + " | ".join(escape(head) for head in grid.heads) + " |"]
    lines.append("| " + " | ".join("---" if side == "l" else "---:" for side in grid.align) + " |")
    return lines + ["| " + " | ".join(_markdown_item(item) for item in row) + " |" for row in grid.rows]


BREAK = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")
"""Control characters, at which some readers end a cell or a row whatever the quotes around it say."""
FORMULA = re.compile(r'(?:^|(?<=[;|]))(?=[\s"\ufeff\u200b-\u200d]*[=+\-@＝＋－＠])')
"""Where a spreadsheet would begin a formula, also one that splits cells at semicolons, as in many languages."""


def _without_formulas(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = BREAK.sub(" ", value)
    return FORMULA.sub("'", text) if number(text) is None else text


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    r"""Format rows as CSV; text that a spreadsheet would take for a formula gets an apostrophe (OWASP).

    Line breaks and tabs within a cell become a space.

    >>> csv_text([["model", "value"], ["=cmd()", -0.5]])
    "model,value\n'=cmd(),-0.5\n"
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow([_without_formulas(value) for value in row])
    return text.getvalue()


def _markdown_item(item: Item) -> str:
    around = {"bold": "**", "italic": "*"}.get(item.style, "") if item.text else ""
    return f"{around}{escape(item.text)}{around}"


def latex(sheets: Sequence[Sheet]) -> str:
    """Format as LaTeX tables; footnotes are part of the caption."""
    lines = [r"% needs \usepackage{booktabs}"]
    for sheet in sheets:
        lines += [one_line(f"% {label}: {command}") for label, command in sheet.commands]
        if not sheet.grids:
            continue
        lines += [r"\begin{table}", r"\centering\small"]
        caption = f"{sheet.title}: {sheet.caption}." if sheet.caption else f"{sheet.title}."
        lines.append(rf"\caption{{{_latex(' '.join([caption, *sheet.notes]))}}}")
        for grid in sheet.grids:
            lines += [rf"\begin{{tabular}}{{@{{}}{grid.align}@{{}}}}", r"\toprule"]
            lines += [" & ".join(_latex(head) for head in grid.heads) + r" \\", r"\midrule"]
            for i, row in enumerate(grid.rows):
                lines += [r"\addlinespace"] if i in grid.rules else []
                lines.append(" & ".join(_latex_item(item) for item in row) + r" \\")
            lines += [r"\bottomrule", r"\end{tabular}", ""]
        lines += [r"\end{table}", ""]
    return "\n".join(lines)


_SPECIAL = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "[": "{[}", EMPTY: "---", DAGGER: r"$\dagger$"},
    **{"·": r"$\cdot$", "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "→": r"$\rightarrow$"},
    **{"↓": r"$\downarrow$", "≈": r"$\approx$"},
}


def _latex(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in one_line(text))


def _latex_item(item: Item) -> str:
    command = {"bold": "textbf", "italic": "textit"}.get(item.style) if item.text else None
    return rf"\{command}{{{_latex(item.text)}}}" if command else _latex(item.text)


def terminal(sheet: Sheet, compact: bool = False) -> list[Table]:
    """Tables for a terminal, without footnotes; ``compact``: no frames, only the first column wraps."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    tables: list[Table] = []
    for i, grid in enumerate(sheet.grids):
        table = Table(title=Text(sheet.title) if i == 0 else None, title_justify="left")
        if compact:
            table.box, table.pad_edge, table.collapse_padding = box.SIMPLE_HEAD, False, True
        for column, (head, side) in enumerate(zip(grid.heads, grid.align, strict=True)):
            justify: Any = {"l": "left", "r": "right"}[side]
            table.add_column(Text(head), justify=justify, overflow="fold", no_wrap=compact and column > 0)
        for row in grid.rows:
            table.add_row(*(Text(item.text, style=item.style) for item in row))
        tables.append(table)
    return tables


PIPE_WIDTH = 160
"""Minimum width, in characters, of a table that is not printed to a terminal."""


def print_sheets(sheets: Iterable[Sheet], compact: bool = False) -> None:
    """Print tables to the terminal, or at least `PIPE_WIDTH` wide to a pipe or a file."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=max(PIPE_WIDTH, console.width))
    for sheet in sheets:
        tables = terminal(sheet, compact)
        console.print(*tables) if tables else console.print(Text(sheet.title, style="bold"))
        commands = [f"{label}: {command}" for label, command in sheet.commands]
        for line in (*([f"{sheet.caption}."] if sheet.caption else []), *sheet.notes, *commands):
            console.print(Text(line), soft_wrap=not console.is_terminal)
        console.print()
