"""Plots of the validation that each selection criterion of a run would have chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modiste.reporting.figures.style import FAINT, INK, PALETTE, WIDTH, file_word, head, new_figure


def selection_figures(content: Mapping[str, Any], folder: Path) -> list[Path]:
    """Plot each criterion's curve, ``selection.*.svg``, with the choices marked by their letters.

    Args:
        content: Content of ``selection.json``: ``choices`` (``criterion``, ``epoch``, ``step``, ``values``) and
            ``validations`` (``step``, ``values``).
        folder: Folder to write to.
    """
    paths = []
    choices = content["choices"]
    for choice in choices:
        criterion = choice["criterion"]
        path = folder / f"selection.{file_word(criterion)}.svg"
        points = [(v["step"], v["values"][criterion]) for v in content["validations"] if _finite(v, criterion)]
        with new_figure(WIDTH, 2.6, path) as figure:
            axes = figure.add_subplot()
            axes.plot(*zip(*points, strict=True), color=FAINT, linewidth=1.2, marker="o", markersize=2.5)
            places: dict[tuple[int, float], list[str]] = {}
            for number, other in enumerate(choices):
                if criterion in other["values"]:
                    places.setdefault((other["step"], other["values"][criterion]), []).append(letter(number))
            for at, letters in places.items():
                axes.plot(
                    *at, "o", markersize=9, markerfacecolor="none", markeredgecolor=PALETTE[1], markeredgewidth=1.8
                )
                axes.annotate(
                    " ".join(letters), at, xytext=(0, 9), textcoords="offset points", ha="center", color=INK,
                    fontweight="bold",
                )  # fmt: skip
            axes.margins(0.08, 0.25)
            axes.set_xlabel("step")
            head(figure, criterion)
        paths.append(path)
    return paths


def letter(number: int) -> str:
    """Letter of a choice.

    >>> letter(0), letter(2)
    ('a', 'c')
    """
    return chr(ord("a") + number % 26)


def _finite(validation: Mapping[str, Any], name: str) -> bool:
    return math.isfinite(validation["values"].get(name, math.nan))
