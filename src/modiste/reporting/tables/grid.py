"""Table of a grid or sweep: each run's distinguishing settings and the metrics of its best epoch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modiste.errors import ModisteError
from modiste.metrics.direction import direction
from modiste.reporting.logs import read_metrics
from modiste.reporting.runs import SEED, config_of, differing, find_runs, shorter
from modiste.reporting.tables.blocks import EMPTY
from modiste.reporting.tables.names import number, ordered, split_name
from modiste.reporting.tables.sheets import Grid, Item, Sheet

MAIN = ("mrr", "recall@1", "weighted_f1", "accuracy")
"""Main metrics: a table shows the first `SHOWN` of them that were logged, and the monitored one."""
SHOWN = 4


@dataclass(frozen=True)
class RunRow:
    """A run of a grid, or the mean of several that differ only in their seed.

    Attributes:
        settings: Settings in which the runs of the grid differ.
        seeds: Seeds of the row's runs.
        metrics: Validation metrics at the best epoch by the monitor.
        deviations: Sample standard deviations over the seeds; empty for one run.
        steps: Optimizer steps at the best epoch; None for several runs.
        path: Run directory, the first of several.
    """

    settings: Mapping[str, str]
    seeds: tuple[str, ...]
    metrics: Mapping[str, float]
    deviations: Mapping[str, float]
    steps: int | None
    path: Path


def grid(folder: str | Path, every: bool = False) -> Sheet:
    """Build the table of all training runs in ``folder``, the best by the monitor first.

    Args:
        folder: Directory of a multirun or a sweep.
        every: Show all validation metrics rather than the main ones.

    Raises:
        ModisteError: No run in the folder has logged a validation.
    """
    rows, monitor, mode = grid_rows(folder)
    names = ordered(name for row in rows for name in row.metrics)
    main = [name for name in names if split_name(name)[1] in MAIN and name != monitor][:SHOWN]
    columns = [monitor, *(name for name in (names if every else main) if name != monitor)]
    settings = list(dict.fromkeys(key for row in rows for key in row.settings if key != SEED))
    several = any(len(row.seeds) > 1 for row in rows)
    heads = [*settings, "seeds" if several else "seed", *columns, "run"]
    lines = []
    for place, row in enumerate(rows):
        words = [*(shorter(row.settings.get(key, EMPTY)) for key in settings), ", ".join(row.seeds) or EMPTY]
        numbers = [Item(_shown(row, name), "bold" if place == 0 and name == monitor else "") for name in columns]
        lines.append([*map(Item, words), *numbers, Item(_relative(row.path, Path(folder)))])
    notes = [f"Each run at its best epoch by {monitor} ({mode})."]
    notes += ["±: sample standard deviation over the seeds."] if several else []
    sheet = Grid(heads, f"{'l' * (len(settings) + 1)}{'r' * len(columns)}l", lines)
    return Sheet(f"{Path(folder).name}: {len(rows)} rows", [sheet], notes=notes)


def _shown(row: RunRow, name: str) -> str:
    if name not in row.metrics:
        return EMPTY
    value = f"{row.metrics[name]:.4g}"
    return f"{value} ± {row.deviations[name]:.2g}" if name in row.deviations else value


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def grid_lines(folder: str | Path) -> list[list[Any]]:
    """CSV rows: a header, then one per run or group of seeds, with all metrics."""
    rows, _, _ = grid_rows(folder)
    names = ordered(name for row in rows for name in row.metrics)
    settings = list(dict.fromkeys(key for row in rows for key in row.settings if key != SEED))
    heads = [*settings, "seeds", *(word for name in names for word in (name, f"{name} s.d.")), "run"]
    lines: list[list[Any]] = [heads]
    for row in rows:
        numbers = [value for name in names for value in (row.metrics.get(name), row.deviations.get(name))]
        lines.append([*(row.settings.get(key) for key in settings), " ".join(row.seeds), *numbers, str(row.path)])
    return lines


def grid_rows(folder: str | Path) -> tuple[list[RunRow], str, str]:
    """The rows, best first, the monitor and its mode. Raises ModisteError as `grid`."""
    found = [(run, read_metrics(run)) for run in find_runs(folder)]
    runs = [(run, log) for run, log in found if any(name.startswith("val/") for name in log)]
    if not runs:
        raise ModisteError(
            f"'{folder}' has no training run that was validated, and no results: give the directory of a run, a grid "
            "or a sweep."
        )
    paths = [run for run, _ in runs]
    monitor, mode = _monitor(paths[0], runs[0][1])
    rows: dict[tuple[tuple[str, str], ...], list[RunRow]] = {}
    for (run, log), settings in zip(runs, differing(paths) if len(paths) > 1 else [{}], strict=True):
        step, metrics = best_validation(log, monitor, mode)
        seed = settings.get(SEED, str(config_of(run).get(SEED, "")))
        kept = {key: value for key, value in settings.items() if key != SEED}
        row = RunRow(kept, (seed,) if seed else (), metrics, {}, step, run)
        rows.setdefault(tuple(kept.items()), []).append(row)
    merged = [row for alike in rows.values() for row in _over_seeds(alike)]
    worst = float("inf") if mode == "min" else float("-inf")
    return sorted(merged, key=lambda row: row.metrics.get(monitor, worst), reverse=mode == "max"), monitor, mode


def _monitor(run: Path, log: Mapping[str, Any]) -> tuple[str, str]:
    """The metric that chose the run's best epoch, and ``min`` or ``max``."""
    said = config_of(run).get("monitor")
    metric = said.get("metric") if isinstance(said, Mapping) else None
    metric = metric or next(name for name in log if name.startswith("val/"))
    mode = said.get("mode") if isinstance(said, Mapping) else None
    return str(metric), str(mode or direction(str(metric)))


def best_validation(log: Mapping[str, Any], monitor: str, mode: str) -> tuple[int | None, dict[str, float]]:
    """Step and metrics of the best validation, or of the last one if the monitor was not logged."""
    validated = {
        name: dict(zip(*map(list, series), strict=True)) for name, series in log.items() if name.startswith("val/")
    }
    points = validated.get(monitor) or next(iter(validated.values()))
    known = {step: value for step, value in points.items() if number(value) is not None}
    if not known:
        return None, {}
    step = (min if mode == "min" else max)(known, key=known.__getitem__) if monitor in validated else max(known)
    return int(step), {name: float(values[step]) for name, values in validated.items() if step in values}


def _over_seeds(rows: Sequence[RunRow]) -> list[RunRow]:
    """Merge rows with distinct seeds into one; otherwise return them unchanged."""
    seeds = [seed for row in rows for seed in row.seeds]
    if len(rows) < 2 or len(set(seeds)) < len(rows):
        return list(rows)
    names = [name for name in rows[0].metrics if all(name in row.metrics for row in rows)]
    values = {name: [row.metrics[name] for row in rows] for name in names}
    means = {name: statistics.fmean(found) for name, found in values.items()}
    deviations = {name: statistics.stdev(found) for name, found in values.items()}
    return [RunRow(rows[0].settings, tuple(seeds), means, deviations, None, rows[0].path)]
