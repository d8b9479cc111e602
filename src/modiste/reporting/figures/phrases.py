"""Plots of pointing by phrase, with the controls that a method must beat."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modiste.reporting.figures.style import FAINT, INK, PALETTE, WIDTH, head, new_figure

MARKS = {
    "{}/own_mean": ("own mean map", "|"),
    "{}/wrong_phrase": ("wrong phrase", "x"),
    "prior": ("position prior", "d"),
}
MOST = 35


def is_by_phrase(table: Mapping[str, Any]) -> bool:
    """Whether a result's table holds pointing by phrase."""
    return {"phrase", "pairs"} <= set(table["columns"])


def drawn_methods(table: Mapping[str, Any]) -> list[str]:
    """Methods for which a possibly untrusted table has every number that `phrase_bars` draws."""
    columns, rows = list(table["columns"]), table["rows"][:MOST]

    def is_whole(method: str) -> bool:
        names = [f"{method}/pointing{end}" for end in ("", "_low", "_high")]
        names += [f"{name.format(method)}/pointing" for name in MARKS]
        cells = [row[columns.index(name)] for name in (*names, "pairs") if name in columns for row in rows]
        return set(names) <= set(columns) and all(isinstance(cell, int | float) for cell in cells)

    methods = [name.removesuffix("/pointing_low") for name in columns if name.endswith("/pointing_low")]
    return [method for method in methods if is_whole(method)]


def phrase_bars(table: Mapping[str, Any], method: str, path: Path) -> Path:
    """Plot a bar per phrase with its 95 % interval, and marks for the mean map, wrong phrase and prior.

    Args:
        table: Table of a grounding result: ``phrase``, ``pairs``, ``<map>/pointing``, ``<method>/pointing_low`` and
            ``_high``; the first `MOST` phrases, the most frequent ones, are drawn.
        method: One of `drawn_methods`.
        path: The SVG or PNG to write.
    """
    rows = table["rows"][:MOST]
    column = {name: [row[place] for row in rows] for place, name in enumerate(table["columns"])}
    places = range(len(rows))
    with new_figure(1.6 * WIDTH, 1.1 + 0.24 * len(rows), path) as figure:
        axes = figure.add_subplot()
        values, low, high = (column[f"{method}/pointing{end}"] for end in ("", "_low", "_high"))
        axes.barh(places, values, height=0.6, color=PALETTE[0], alpha=0.45, label=method)
        axes.hlines(places, low, high, color=PALETTE[0], linewidth=1.6, label="95 % interval")
        for (name, (label, marker)), colour in zip(MARKS.items(), (INK, PALETTE[1], PALETTE[2]), strict=True):
            axes.plot(
                column[f"{name.format(method)}/pointing"], places, marker, color=colour, markersize=7,
                markeredgewidth=1.6, fillstyle="none", linestyle="", clip_on=False, label=label,
            )  # fmt: skip
        axes.set_yticks(
            places, [f"{phrase}  ({n:,})" for phrase, n in zip(column["phrase"], column["pairs"], strict=True)]
        )
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("pointing (pairs)", color=FAINT)
        head(figure, f"{method}: pointing by phrase", columns=5)
    return path
