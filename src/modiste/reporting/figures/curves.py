"""Training curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modiste.reporting.figures.style import MARKERS, PALETTE, WIDTH, head, new_figure
from modiste.reporting.logs import Series
from modiste.reporting.tables import ordered, split_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT = 3.2  # inches per panel
LINES_PER_PANEL = 7
MAIN = ("recall@1", "recall@10", "mrr", "accuracy", "weighted_f1")
"""Metrics that a panel shows instead of the others, where it has any."""


def _is_rate(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.startswith(("lr-", "lr_", "learning_rate")) or "lr" in name.split("/") or name.startswith("lr")


FRACTIONS, OTHER_UNITS = "validation metrics", "validation, other units"
# Panel title and its columns; a column goes to the first panel that matches.
PANELS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("loss", lambda name: "loss" in name and not _is_rate(name)),  # train/lr/loss/no_decay is a group's rate
    ("learning rate", _is_rate),
    ("logit scale (1 / temperature)", lambda name: name.rpartition("/")[2] in {"scale", "logit_scale"}),
    ("temperature", lambda name: name.rpartition("/")[2] == "temperature"),
    ("logit bias", lambda name: name.rpartition("/")[2] in {"bias", "logit_bias"}),
    (FRACTIONS, lambda name: name.startswith("val/")),
    ("pairs per second", lambda name: name.endswith("pairs_per_second")),
)


def panels(metrics: Mapping[str, Series]) -> dict[str, list[str]]:
    """Panel title → its columns, without empty panels; a column that matches none is dropped.

    Validation metrics above 1, such as ranks, go to a separate panel.
    """
    shown: dict[str, list[str]] = {}
    for name, (_, values) in metrics.items():
        title = next((title for title, takes in PANELS if takes(name)), None)
        if title == FRACTIONS and len(values) and np.nanmax(values) > 1:
            title = OTHER_UNITS
        if title:
            shown.setdefault(title, []).append(name)
    return {title: shown[title] for title in (*(title for title, _ in PANELS), OTHER_UNITS) if title in shown}


def training_curves(metrics: Mapping[str, Series], folder: Path) -> list[Path]:
    """Plot loss, learning rate, logit scale and validation metrics over steps: ``curves.*.svg``.

    Args:
        metrics: From `modiste.reporting.logs.read_metrics`.
        folder: Folder to write to.
    """
    paths = []
    for title, names in panels(metrics).items():
        path = folder / f"curves.{title.split(' (')[0].replace(' ', '_')}.svg"
        with new_figure(WIDTH, HEIGHT, path) as figure:
            axes = figure.add_subplot()
            drawn = _lines(axes, {name: metrics[name] for name in names})
            axes.set_xlabel("step")
            head(figure, title, columns=0 if drawn == 1 else 1 if drawn <= 3 else 2)
        paths.append(path)
    return paths


def _lines(axes: Axes, series: Mapping[str, Series]) -> int:
    """Draw the series, at most `LINES_PER_PANEL`; return how many."""
    shown = _spread(series)
    for i, (name, (steps, values)) in enumerate(shown.items()):
        color, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
        few = len(steps) <= 30
        if len(steps) > 100 and "loss" in name and not _is_rate(name):  # a batch loss is noisy
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            values = _smooth(values)
        axes.plot(steps, values, color=color, label=name, linewidth=1.6, marker=marker if few else "", markersize=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}")
    return len(shown)


def _spread(series: Mapping[str, Series]) -> dict[str, Series]:
    """At most `LINES_PER_PANEL` series, the `MAIN` ones if any, evenly spaced in reading order."""
    names = ordered(series)
    names = [name for name in names if split_name(name)[1] in MAIN] or names
    step = max(1, math.ceil(len(names) / LINES_PER_PANEL))
    return {name: series[name] for name in names[::step]}


def _smooth(values: np.ndarray) -> np.ndarray:
    """Moving average over 1/25 of the points, with shorter windows at the ends."""
    half = max(1, len(values) // 50)
    total = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)
