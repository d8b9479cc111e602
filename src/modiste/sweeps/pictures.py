"""What a sweep found, as pictures and a page: importance of the parameters, parallel coordinates, the table."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from modiste.reporting import figures
from modiste.reporting.report import CSS
from modiste.sweeps.study import Objective, best_first, finished, rows

FEW = 5
"""A column of at most so many values is drawn as kinds, not to scale."""


def importance(study: Any, objectives: Sequence[Objective]) -> dict[str, float]:
    """Share of each parameter in the variance of the first objective (fANOVA, Hutter et al. 2014), largest first.

    Empty where fewer than four trials are complete, or nothing varies: then there is nothing to be said.
    """
    import optuna

    complete = [trial for trial in finished(study) if trial.state == optuna.trial.TrialState.COMPLETE]
    if len(complete) < 4 or not complete[0].params or len({trial.values[0] for trial in complete}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    target = (lambda trial: trial.values[0]) if len(objectives) > 1 else None
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, target=target))


def importance_plot(shares: Mapping[str, float], title: str, path: Path) -> Path:
    """Horizontal bars, the most important parameter on top."""
    names = list(shares)[::-1]
    with figures.new_figure(6.4, 0.9 + 0.34 * len(names), path) as figure:
        axes = figure.subplots()
        bars = axes.barh(names, [shares[name] for name in names], color=figures.PALETTE[0])
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.set_xlim(0, 1.1 * max(shares.values()))
        axes.set_xlabel("share of the variance (fANOVA)")
        axes.set_title(title)
        axes.grid(axis="y", visible=False)
        axes.set_axisbelow(True)
    return path


def parallel_coordinates(
    table: Sequence[Mapping[str, Any]], names: Sequence[str], metric: Objective, path: Path
) -> Path:
    """One line a complete trial over the parameters to the metric; the better, the darker, the best in colour."""
    ordered = best_first([dict(row) for row in table if row["state"] == "complete"], [metric])
    columns = [_positions([row[name] for row in ordered]) for name in (*names, metric.metric)]
    with figures.new_figure(max(6.4, 1.5 * len(columns)), 4.2, path) as figure:
        axes = figure.subplots()
        for rank in reversed(range(len(ordered))):
            shade = 0.25 + 0.6 * rank / max(len(ordered) - 1, 1)
            axes.plot(
                range(len(columns)), [places[rank] for places, _ in columns],
                color=figures.PALETTE[1] if rank == 0 else str(shade), linewidth=2.2 if rank == 0 else 1.0,
            )  # fmt: skip
        for x, (_, ticks) in enumerate(columns):
            axes.axvline(x, color="black", linewidth=0.8)
            for place, label in ticks:
                axes.annotate(label, (x, place), xytext=(4, 0), textcoords="offset points", fontsize=7.5, va="center")
        axes.set_xticks(range(len(columns)), [name.replace(".", ".\n") for name in (*names, metric.metric)])
        axes.set_yticks([])
        axes.set_xlim(-0.2, len(columns) - 0.4)
        axes.set_title(f"{len(ordered)} trials; the best of {metric.metric} ({metric.mode}) in colour")
        axes.grid(visible=False)
    return path


def _positions(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights in [0, 1] of a column's values, and its labelled ticks."""
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


def write_page(
    study: Any,
    objectives: Sequence[Objective],
    names: Sequence[str],
    folder: Path,
    title: str,
    seeds: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """``report.html`` and its pictures under ``figures/``; ``seeds`` are the rows of the best trial over its seeds."""
    table = rows(study, objectives)
    complete = [row for row in table if row["state"] == "complete"]
    pictures = []
    shares = importance(study, objectives)
    if shares:
        heading = f"What decides {objectives[0].metric}"
        pictures.append(importance_plot(shares, heading, folder / "figures" / "importance.png"))
    if len(complete) > 1:
        path = folder / "figures" / "parallel.png"
        pictures.append(parallel_coordinates(table, names, objectives[0], path))
    images = "".join(
        f'<figure><img alt="{path.stem}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
        "</figure>"
        for path in pictures
    )
    page = folder / "report.html"
    page.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{CSS}</style>'
        f"</head><body><h1>{escape(title)}</h1><p>{len(table)} trials, {len(complete)} complete.</p>{images}"
        f"{_table(best_first(table, objectives))}{'<h2>The best over its seeds</h2>' if seeds else ''}{_table(seeds)}"
        "</body></html>\n",
        encoding="utf-8",
    )
    return page


def _table(table: Sequence[Mapping[str, Any]]) -> str:
    """Rows with all their columns; nothing of no rows."""
    if not table:
        return ""
    columns = list(dict.fromkeys(name for row in table for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    cells = [[escape(_short(row.get(name, ""))) for name in columns] for row in table]
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in cells)
    return f'<div class="scroll"><table class="dense"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
