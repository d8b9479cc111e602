"""Figures of a sweep: parameter importance, parallel coordinates, optimisation history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modiste.reporting.figures.style import FAINT, INK, PALETTE, WIDTH, new_figure
from modiste.sweeps.study import Objective, best_first, finished

if TYPE_CHECKING:
    from optuna import Study

FEW = 5
"""Maximum number of distinct values of a numeric column that is drawn as categories."""
ENOUGH = 10
"""Minimum number of complete trials for an importance."""


def importance(study: Study, objectives: Sequence[Objective]) -> dict[str, float]:
    """Importance of each parameter for the first objective (fANOVA, Hutter et al. 2014), largest first.

    It is the fraction of the objective's variance. Empty if fewer than `ENOUGH` trials are complete, or nothing varies.
    """
    import optuna

    complete = [trial for trial in finished(study) if trial.state == optuna.trial.TrialState.COMPLETE]
    if len(complete) < ENOUGH or not complete[0].params or len({trial.values[0] for trial in complete}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    target = (lambda trial: trial.values[0]) if len(objectives) > 1 else None
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, target=target))


def importance_plot(shares: Mapping[str, float], path: Path) -> Path:
    """Plot importances as horizontal bars, the largest on top."""
    names = list(shares)[::-1]
    with new_figure(WIDTH, 0.7 + 0.34 * len(names), path) as figure:
        axes = figure.subplots()
        bars = axes.barh(names, [shares[name] for name in names], color=PALETTE[0])
        axes.bar_label(bars, fmt="%.2f", padding=3, color=INK)
        axes.set_xlim(0, 1.15 * max(shares.values()))
        axes.set_xlabel("fraction of the variance")
        axes.grid(axis="y", visible=False)
    return path


def history_plot(table: Sequence[Mapping[str, Any]], metric: Objective, path: Path) -> Path:
    """Plot the objective of each complete trial over its number, and the best so far."""
    complete = [row for row in table if row["state"] == "complete"]
    values = [row[metric.metric] for row in complete]
    numbers = [row["trial"] for row in complete]
    from matplotlib.ticker import MaxNLocator

    best = (np.minimum if metric.mode == "min" else np.maximum).accumulate(values)
    with new_figure(WIDTH, 2.8, path) as figure:
        axes = figure.subplots()
        axes.step(numbers, best, where="post", color=PALETTE[1], linewidth=1.5)
        axes.plot(numbers, values, "o", color=PALETTE[0], markersize=4)
        axes.set_xlabel("trial")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(metric.metric)
    return path


def parallel_coordinates(
    table: Sequence[Mapping[str, Any]], names: Sequence[str], metric: Objective, path: Path
) -> Path:
    """Plot one line per complete trial that has all parameters, darker for a better metric."""
    whole = [dict(row) for row in table if row["state"] == "complete" and set(names) <= row.keys()]
    ordered = best_first(whole, [metric])
    columns = [_positions([row[name] for row in ordered]) for name in (*names, metric.metric)]
    with new_figure(max(WIDTH, 1.5 * len(columns)), 3.6, path) as figure:
        axes = figure.subplots()
        for rank in reversed(range(len(ordered))):
            faded = 0.9 - 0.7 * rank / max(len(ordered) - 1, 1)
            axes.plot(
                range(len(columns)), [places[rank] for places, _ in columns],
                color=PALETTE[1] if rank == 0 else FAINT, alpha=1 if rank == 0 else faded,
                linewidth=2.2 if rank == 0 else 1.0,
            )  # fmt: skip
        for x, (_, ticks) in enumerate(columns):
            axes.axvline(x, color=FAINT, linewidth=0.8)
            for place, label in ticks:
                axes.annotate(label, (x, place), xytext=(4, 0), textcoords="offset points", fontsize=7.5, va="center")
        axes.set_xticks(range(len(columns)), [name.replace(".", ".\n") for name in (*names, metric.metric)])
        axes.set_yticks([])
        axes.set_xlim(-0.2, len(columns) - 0.4)
        axes.grid(visible=False)
    return path


def _positions(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights in [0, 1] of a column's values, and its (height, label) ticks."""
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if not numeric or len(set(values)) <= FEW:
        kinds = sorted(set(values)) if numeric else sorted({str(value) for value in values})
        places = {str(kind): index / max(len(kinds) - 1, 1) for index, kind in enumerate(kinds)}
        return [places[str(value)] for value in values], [(places[str(kind)], _short(kind)) for kind in kinds]
    low, high = min(values), max(values)
    logarithmic = low > 0 and high / low >= 20
    scaled = np.log10(values) if logarithmic else np.asarray(values, dtype=float)
    span = float(scaled.max() - scaled.min()) or 1.0
    marks = np.linspace(float(scaled.min()), float(scaled.max()), 5)
    ticks = [((m - scaled.min()) / span, _short(10**m if logarithmic else m)) for m in marks]
    return [float((value - scaled.min()) / span) for value in scaled], ticks


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) and math.isfinite(value) else str(value)
