"""Results for people: a table in the terminal, and a page of pictures."""

from __future__ import annotations

import base64
import html
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from modiste.errors import ModisteError, did_you_mean
from modiste.search.index import FIXED, Index
from modiste.search.results import Results

OWN = ("product_id", "row", "score", "match", "views", "text")
PIPE_WIDTH = 200
"""Characters of a line where the output is no terminal."""
MARKS = {True: "✓", False: "·", None: ""}
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: light-dark(#1d1b19, #eceae6); --soft: light-dark(#6d6862, #a5a09a);
  --line: light-dark(#e4e0da, #3a3733); --page: light-dark(#faf8f5, #191817); --card: light-dark(#fff, #232120); }}
body {{ font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0 auto;
  max-width: 1200px; padding: 24px; }}
h1 {{ font-size: 22px; margin: 0 0 4px; }} p {{ color: var(--soft); margin: 0 0 20px; }}
ol {{ list-style: none; padding: 0; display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); }}
li {{ background: var(--card); border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }}
li.weak {{ opacity: .55; }} figure {{ margin: 0; background: #fff; height: 210px; }}
img {{ width: 100%; height: 100%; object-fit: contain; }} div {{ padding: 10px 12px 12px; }}
b {{ display: block; font-weight: 600; }} small {{ color: var(--soft); display: block; overflow-wrap: anywhere; }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
<ol>
{items}
</ol>
</html>
"""


def print_results(results: Results, columns: Sequence[str] | None, file: IO[str] | None = None) -> None:
    """Prints a table of the results and a sentence about them.

    Args:
        results: What was found.
        columns: Attributes to show; None: the first ones that fit.
        file: Where to; None: the terminal.

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
    table.add_column("title", ratio=1, no_wrap=True, overflow="ellipsis")
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


def write_gallery(file: Path, index: Index, results: Results, asked: Mapping[str, Any]) -> None:
    """Writes a page that holds everything in itself, its pictures, too."""
    title = ", ".join(f"{name}: {_shown(value)}" for name, value in asked.items() if value) or "Everything"
    items = [_item(place, row, index) for place, row in enumerate(results.table.to_pylist(), 1)]
    page = PAGE.format(title=html.escape(title), summary=html.escape(results.summary()), items="\n".join(items))
    file.write_text(page, encoding="utf-8")


def _item(place: int, row: Mapping[str, Any], index: Index) -> str:
    data = base64.b64encode(index.thumbnail(row["row"])).decode()
    kind = "png" if data.startswith("iVBOR") else "jpeg"
    facts = " · ".join(_shown(row[n]) for n in row if n not in (*OWN, "split") and row[n] not in (None, ""))
    weak = ' class="weak"' if row["match"] is False else ""
    views = f" · {len(row['views'])} views" if len(row.get("views") or []) > 1 else ""
    title = html.escape(row["text"])
    return (
        f'<li{weak}><figure><img alt="{title}" src="data:image/{kind};base64,{data}"></figure><div><b>{title}</b>'
        f"<small>{place}. {html.escape(row['product_id'])} · {row['score']:.3f}{views}</small>"
        f"<small>{html.escape(facts)}</small></div></li>"
    )


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
