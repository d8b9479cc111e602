"""The findings of an audit, on the terminal and as a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modiste.evaluation.audit import MEANING, Audit, closest, notes, pair, shown
from modiste.utils.atomic import write_image
from modiste.utils.drawing import write

if TYPE_CHECKING:
    from rich.console import Console

THUMB, MARGIN, CAPTION, HEADING, PER_ROW = (96, 128), 10, 62, 28, 6


def show(audit: Audit, console: Console, most: int) -> None:
    """Print the counts, the closest pairs and the notes."""
    from rich.table import Table

    train, test = audit.train, audit.test
    console.print(
        f"Evaluated: {test.card.name}, {len(test):,} images ({', '.join(sorted(test.splits))}). "
        f"Training: {train.card.name}, {len(train):,} images ({', '.join(sorted(train.splits))}).",
        highlight=False,
    )
    style = {"title_justify": "left", "title_style": "bold", "box": None, "header_style": "dim"}
    counts = Table("", title="Evaluated images that share something with a training image", **style)  # type: ignore[arg-type]
    for column in ("images", "share"):
        counts.add_column(column, justify="right")
    counts.add_column("meaning")
    for name, match in audit.matches.items():
        number = int(match.touched.sum())
        cell = f"[red]{number:,}[/]" if number else "0"
        counts.add_row(name, cell, f"{number / len(test):.2%}", MEANING[name].format(**audit.settings))
    console.print(counts)
    for name in shown(audit):
        rows = closest(audit, name)[:most]
        if rows:
            table = Table("distance", "evaluated", "training", title=f"Closest pairs, {name}", **style)  # type: ignore[arg-type]
            for cells in (pair(audit, name, row) for row in rows):
                sides = (f"{cells[f'{side}_product_id']}: {cells[f'{side}_text']}" for side in ("test", "train"))
                table.add_row(f"{cells['distance']:.4g}", *sides)
            console.print(table, markup=False)
    for note in notes(audit):
        console.print(f"Note: {note}", highlight=False, markup=False)


def draw_pairs(audit: Audit, path: Path, most: int) -> bool:
    """Draw a PNG of pairs, evaluated left and training right: up to ``most`` of each measure.

    They are evenly spaced from closest to farthest, so that the sheet also shows pairs near the threshold. Returns
    whether there is any pair.
    """
    from PIL import Image

    sections = {name: _spread(closest(audit, name), most) for name in shown(audit)}
    sections = {name: rows for name, rows in sections.items() if rows}
    if not sections:
        path.unlink(missing_ok=True)  # an earlier audit's
        return False
    width, height = 2 * THUMB[0] + 2 * MARGIN, THUMB[1] + CAPTION
    heights = [HEADING + -(-len(rows) // PER_ROW) * height for rows in sections.values()]
    sheet = Image.new("RGB", (MARGIN + PER_ROW * width, sum(heights) + MARGIN), "white")
    for top, (name, rows) in zip(np.cumsum([0, *heights]).tolist(), sections.items(), strict=False):
        total = len(closest(audit, name))
        heading = f"{name}: {len(rows)} of {total} pairs, closest first"
        write(sheet, (MARGIN, top + 6), heading, 15, "black", sheet.width - 2 * MARGIN)
        for place, row in enumerate(rows):
            corner = (MARGIN + place % PER_ROW * width, top + HEADING + place // PER_ROW * height)
            _draw_pair(sheet, corner, audit, name, row)
    write_image(path, sheet)
    return True


def _spread(rows: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of ``rows``, evenly spaced, including the first and the last.

    >>> _spread([5, 6, 7, 8, 9], 3)
    [5, 7, 9]
    """
    places = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
    return [rows[place] for place in places.tolist()]


def _draw_pair(sheet: Any, corner: tuple[int, int], audit: Audit, name: str, row: int) -> None:
    x, y = corner
    cells = pair(audit, name, row)
    for offset, catalogue, position in (
        (0, audit.test, row),
        (THUMB[0] + 2, audit.train, int(audit.matches[name].train[row])),
    ):
        image = catalogue.read_image(position)
        scale = min(THUMB[0] / image.width, THUMB[1] / image.height)
        image = image.resize([max(1, round(length * scale)) for length in image.size])
        sheet.paste(image, (x + offset + (THUMB[0] - image.width) // 2, y + (THUMB[1] - image.height) // 2))
    write(sheet, (x, y + THUMB[1] + 2), f"{cells['distance']:.4g}", 10, "#D55E00", 2 * THUMB[0])
    for line, side in enumerate(("test", "train")):
        said = f"{cells[f'{side}_product_id']} {cells[f'{side}_text']}"
        write(sheet, (x, y + THUMB[1] + 15 + 13 * line), said, 10, "#333333", 2 * THUMB[0])
