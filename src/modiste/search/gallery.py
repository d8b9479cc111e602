"""Output of search results: a table in the terminal, and an HTML gallery."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from modiste.errors import ModisteError, did_you_mean
from modiste.reporting.html.page import data_uri, write_page
from modiste.search.index import Index
from modiste.search.opened import FIXED
from modiste.search.results import Results

OWN = ("product_id", "row", "score", "match", "views", "text")
PIPE_WIDTH = 200
"""Width, in characters, of output that is not to a terminal."""
MARKS = {True: "✓", False: "·", None: ""}


def print_results(results: Results, columns: Sequence[str] | None, file: IO[str] | None = None) -> None:
    """Print a table of the results and a summary.

    Args:
        results: Results of a search.
        columns: Attributes to show; None: the first ones that fit.
        file: File to print to; None: standard output.

    Raises:
        ModisteError: A column is unknown.
    """
    from rich.console import Console
    from rich.table import Table

    out = file or sys.stdout
    console = Console(file=out) if out.isatty() else Console(file=out, width=PIPE_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("#", "product", "score", *([] if results.threshold is None else ["match"])):
        table.add_column(name, justify="right" if name in ("#", "score") else "left", no_wrap=True)
    table.add_column("text", ratio=1, no_wrap=True, overflow="ellipsis")
    shown = chosen_columns(results, columns, (console.width - 70) // 14)
    for name in shown:
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=18)
    for place, row in enumerate(results.table.to_pylist(), 1):
        match = [] if results.threshold is None else [MARKS[row["match"]]]
        cells = [str(place), row["product_id"], f"{row['score']:.3f}", *match, row["text"]]
        table.add_row(*(_escaped(cell) for cell in [*cells, *(_shown(row[name]) for name in shown)]))
    if len(results):
        console.print(table)
    console.print(_escaped(results.summary()), style="dim", soft_wrap=True)
    if len(results) and results.uncalibrated:
        console.print(_escaped(results.uncalibrated), style="dim", soft_wrap=True)


def chosen_columns(results: Results, columns: Sequence[str] | None, room: int) -> list[str]:
    """The attributes that a table shows. Raises ModisteError for an unknown one."""
    known = [name for name in results.table.column_names if name not in OWN]
    if columns is None:
        varied = [name for name in known if name not in (*FIXED, "split")]
        return varied[: max(room, 0)]
    for name in columns:
        if name not in known:
            raise ModisteError(f"columns: the index has no '{name}'. {did_you_mean(name, known)}")
    return list(columns)


def gallery_file(path: str) -> Path:
    """Return the path of a gallery that can be written, with ``~`` expanded.

    Raises:
        ModisteError: Its folder does not exist, or it is a folder.
    """
    file = Path(path).expanduser()
    if not file.absolute().parent.is_dir():
        raise ModisteError(f"html={path}: the folder does not exist: create it, or choose another.")
    if file.is_dir():
        raise ModisteError(f"html={path} is a folder: name a file in it.")
    return file


def write_gallery(file: Path, index: Index, results: Results, asked: Mapping[str, Any]) -> None:
    """Write a self-contained HTML page of the results with their thumbnails."""
    title = ", ".join(f"{name}: {_shown(value)}" for name, value in asked.items() if value) or "Everything"
    items = [_item(row, index) for row in results.table.to_pylist()]
    write_page(file, "gallery.html", title=title, summary=results.summary(), items=items)


def _item(row: Mapping[str, Any], index: Index) -> dict[str, Any]:
    """A result's values in the template."""
    views = f" · {len(row['views'])} views" if len(row.get("views") or []) > 1 else ""
    return {
        "title": row["text"],
        "picture": data_uri(index.thumbnail(row["row"])),
        "what": f"{row['product_id']} · {row['score']:.3f}{views}",
        "facts": " · ".join(_shown(row[n]) for n in row if n not in (*OWN, "split") and row[n] not in (None, "")),
        "weak": row["match"] is False,
    }


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
