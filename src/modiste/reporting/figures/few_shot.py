"""Few-shot curves: accuracy over examples per class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modiste.reporting.figures.style import MARKERS, PALETTE, WIDTH, head, new_figure

LINES = 7


def is_few_shot(table: Mapping[str, Any]) -> bool:
    """Whether a result's table holds accuracies over shots."""
    places = [place for place, name in enumerate(table["columns"]) if name in ("shots", "accuracy", "accuracy_sd")]
    numbers = (row[place] for row in table["rows"] for place in places)
    return {"shots", "accuracy"} <= set(table["columns"]) and all(isinstance(cell, (int, float)) for cell in numbers)


def few_shot_curves(tables: Mapping[str, Mapping[str, Any]], path: Path) -> Path | None:
    """Plot a line per attribute with its standard deviation over draws; None without a few-shot table.

    Args:
        tables: Tables of a result: name to ``columns`` (``shots``, ``accuracy``, ``accuracy_sd``) and ``rows``.
        path: The SVG to write; only the first `LINES` attributes are drawn.
    """
    found = {name.rpartition("/")[0] or name: table for name, table in tables.items() if is_few_shot(table)}
    if not found:
        return None
    with new_figure(WIDTH, 3.4, path) as figure:
        axes = figure.add_subplot()
        for number, (name, table) in enumerate(list(found.items())[:LINES]):
            column = {word: [row[table["columns"].index(word)] for row in table["rows"]] for word in table["columns"]}
            deviations = column.get("accuracy_sd") or [0] * len(column["shots"])
            axes.errorbar(
                column["shots"], column["accuracy"], yerr=deviations, color=PALETTE[number], marker=MARKERS[number],
                markersize=4, linewidth=1.5, elinewidth=0.8, capsize=2, label=name,
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        shots = [row[0] for row in next(iter(found.values()))["rows"]]
        axes.set_xticks(shots, [f"{shot:g}" for shot in shots])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("examples per class")
        head(figure, "few-shot accuracy ± s.d. over draws", columns=4)
    return path
