"""Plots of metrics with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modiste.reporting.figures.style import FAINT, PALETTE, WIDTH, file_word, head, new_figure
from modiste.reporting.tables.blocks import Cell, cell_of
from modiste.reporting.tables.names import ordered, parts_of, split_name
from modiste.reporting.words import measure_words, part_words

ONE_AXIS = 3
"""With at least this number of parts, a panel is a metric and its rows are the parts."""
MOST_PANELS = 6


def interval_plots(
    metrics: Mapping[str, Mapping[str, Any]],
    stem: Path,
    main: Sequence[str] = (),
    chances: Mapping[str, float] | None = None,
) -> list[Path]:
    """Plot dots with 95 % intervals, one file per panel; none if no metric lies in [0, 1].

    Args:
        metrics: ``{name: {"value", "low", "high", "n"}}`` as in a result file; values outside [0, 1], such as
            ranks, are skipped.
        stem: Path of the files ``<stem>.<panel>.svg``.
        main: Metrics without their part that are drawn if more than `MOST_PANELS` panels would be needed.
        chances: Name to chance level, drawn as a tick.
    """
    cells = {name: cell_of(metrics[name], name) for name in ordered(metrics)}
    shown = {name: cell for name, cell in cells.items() if cell is not None and 0 <= cell.value <= 1}
    parts = parts_of(shown)
    by_metric = len(parts) >= ONE_AXIS
    panels: dict[str, dict[str, str]] = {}
    for name in shown:
        part, metric = split_name(name)
        panel, label = (metric, part_words(part)) if by_metric else (part, measure_words(metric))
        panels.setdefault(panel, {})[label] = name
    if by_metric and len(panels) > MOST_PANELS and main:
        panels = {panel: rows for panel, rows in panels.items() if panel in main} or panels
    paths = []
    for number, (panel, rows) in enumerate(list(panels.items())[:MOST_PANELS]):
        title = measure_words(panel) if by_metric else part_words(panel)
        path = stem.with_name(f"{stem.name}.{file_word(panel) or 'value'}.svg")
        colour = PALETTE[0 if by_metric else number % 6]
        lines = {label: (shown[name], (chances or {}).get(name)) for label, name in rows.items()}
        paths.append(_panel(title, lines, colour, path))
    return paths


def _panel(title: str, rows: Mapping[str, tuple[Cell, float | None]], colour: str, path: Path) -> Path:
    labels = list(rows)
    with new_figure(WIDTH, 0.75 + 0.27 * len(labels), path) as figure:
        axes = figure.add_subplot()
        axes.set_yticks(range(len(labels)), labels)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 1)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        for y, (cell, chance) in enumerate(rows.values()):
            if cell.low is not None and cell.high is not None:
                axes.plot([cell.low, cell.high], [y, y], color=colour, linewidth=5, alpha=0.4, solid_capstyle="butt")
            axes.plot([cell.value], [y], "o", color=colour, markersize=4, clip_on=False)
            if chance is not None:
                axes.plot([chance, chance], [y - 0.35, y + 0.35], color=FAINT, linewidth=1.2)
            # In the margin, where no interval crosses it.
            axes.text(1.03, y, f"{cell.value:.3f}", transform=axes.get_yaxis_transform(), va="center", fontsize=9)
        head(figure, title)
    return path
