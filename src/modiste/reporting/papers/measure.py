"""Measured cells of a paper's tables: only results of the right weights, data and settings fill one.

A result fills a cell if it has the cell's data set, split, task and metric, the ``config`` and the numbers of queries
and documents of the column, and the model of the row, and if

- all results of a row (per seed) have the same fingerprint, which matches the row's if it states one;
- all rows of a column were measured on the same data with the same settings, except those that a row overrides.

Otherwise the cell stays empty, and a footnote says why.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modiste.metrics.intervals import bootstrap_groups
from modiste.reporting.papers.spec import Column, Model, Paper, Table
from modiste.reporting.tables.names import number
from modiste.reporting.tables.pairs import difference
from modiste.reporting.tables.results import (
    StoredResult,
    coordinates,
    corruptions,
    fingerprint,
    in_domain,
    load_results,
    overlap_note,
    per_query,
    sizes,
)

Seed = int | str | None


@dataclass(frozen=True)
class Value:
    """A number of one result, or the mean of several (``results``, one per data set)."""

    value: float
    low: float | None
    high: float | None
    n: int | None
    results: tuple[StoredResult, ...]


@dataclass
class Measured:
    """A cell: one value per measured seed."""

    seeds: dict[Seed, Value] = field(default_factory=dict)

    @property
    def only(self) -> Value | None:
        """The value of a single seed; None for several."""
        return next(iter(self.seeds.values())) if len(self.seeds) == 1 else None

    @property
    def value(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(value.value for value in self.seeds.values())

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds; None for one seed."""
        return statistics.stdev(value.value for value in self.seeds.values()) if len(self.seeds) > 1 else None

    @property
    def results(self) -> list[StoredResult]:
        """All results of the cell."""
        return [result for value in self.seeds.values() for result in value.results]

    @property
    def in_domain(self) -> bool:
        """Whether the model was trained on the data set's train split."""
        return any(map(in_domain, self.results))

    @property
    def overlap(self) -> str:
        """Notes on overlap with the training images; empty if none."""
        return " ".join(dict.fromkeys(note for note in map(overlap_note, self.results) if note))


@dataclass
class Cells:
    """The measured cells of a paper.

    Attributes:
        found: (table, row label, column label) → cell; cells that were not run are missing.
        refused: (table, row label) → reason → labels of the columns that are empty for it.
    """

    found: dict[tuple[str, str, str], Measured] = field(default_factory=dict)
    refused: dict[tuple[str, str], dict[str, list[str]]] = field(default_factory=dict)

    def refuse(self, table: Table, row: Model, column: Column, why: str) -> None:
        """Record why a result is not used."""
        columns = self.refused.setdefault((table.name, row.label), {}).setdefault(why, [])
        columns += [] if column.label in columns else [column.label]

    def notes(self, table: Table, rows: Sequence[Model]) -> list[str]:
        """Footnotes of a table on results that are not used."""
        notes = []
        for row in rows:
            for why, columns in self.refused.get((table.name, row.label), {}).items():
                where = "" if len(columns) == len(table.columns) else f" ({', '.join(columns)})"
                notes.append(f"{row.label}{where}: a result is not used, because {why}.")
        return notes


def measure(paper: Paper) -> Cells:
    """Fill the cells of a paper from the results of its rows.

    Raises:
        ModisteError: A result file is damaged.
    """
    cells = Cells()
    candidates = {row.label: [*_candidates(paper, row)] for row in paper.rows if row.measurable}
    for table in (table for table in paper.tables if not table.columns[0].mean_of):
        for column in table.columns:
            _fill(cells, table, column, paper.rows, candidates)
    for table in (table for table in paper.tables if table.columns[0].mean_of):
        for row in paper.rows:
            for column in table.columns:
                _fill_mean(cells, table, column, row)
    return cells


# ----------------------------------------------------------------------------------------------------------- candidates


@dataclass
class Candidates:
    """Results of a row for one seed, and the refused ones with their reasons."""

    seed: Seed
    results: list[StoredResult]
    refused: list[tuple[StoredResult, str]]


def _candidates(paper: Paper, row: Model) -> Iterator[Candidates]:
    seen: dict[str, Seed] = {}
    for seed in row.seeds or (None,):
        found = Candidates(seed, *_of_the_model(row, _results(paper.folder, row, seed)))
        prints = sorted(set(map(fingerprint, found.results)))
        again = next((print_ for print_ in prints if print_ in seen), None)
        if len(prints) > 1:
            shown = ", ".join(print_[:8] or "none" for print_ in prints)
            which = f" of seed {seed}" if seed is not None else ""
            why = f"its results{which} are of {len(prints)} sets of weights ({shown}): state the row's fingerprint"
        elif again is not None:
            why = f"seeds {seen[again]} and {seed} have the same weights ({again[:8]})"
        else:
            seen |= dict.fromkeys(prints, seed)
            yield found
            continue
        yield Candidates(seed, [], found.refused + [(result, why) for result in found.results])


def _results(folder: Path, row: Model, seed: Seed) -> list[StoredResult]:
    """Results at the row's paths; within folders, only files below one called ``results``."""
    files = []
    for template in row.results:
        place = folder / Path(template.replace("{seed}", str(seed))).expanduser()
        for file in [place] if place.is_file() else sorted(place.rglob("*.json")):
            if place.is_file() or "results" in Path(os.path.relpath(file.parent, folder)).parts:
                files.append(file)
    return load_results(files) if files else []


def _of_the_model(
    row: Model, results: Sequence[StoredResult]
) -> tuple[list[StoredResult], list[tuple[StoredResult, str]]]:
    """Results of the row's weights, and the others with the reason."""
    kept, refused = [], []
    for result in results:
        why = _other_model(row, result)
        if why:
            refused.append((result, why))
        else:
            kept.append(result)
    return kept, refused


def _other_model(row: Model, result: StoredResult) -> str:
    model, print_ = result["model"], fingerprint(result)
    if row.model and model["name"] != row.model:
        return f"it is of the model {model['name']}, not {row.model}"
    if not print_.startswith(row.fingerprint):
        return f"it is of other weights: their fingerprint is {print_[:8] or 'not recorded'}, not {row.fingerprint[:8]}"
    described = model.get("describe") or {}
    for override in row.overrides:
        key, _, wanted = override.partition("=")
        name = key.removeprefix("model.")
        if key.startswith("model.") and str(described.get(name)) != wanted.strip("'\""):
            return f"its model's {name} is {described.get(name)}, not {wanted}"
    return ""


# ---------------------------------------------------------------------------------------------------------------- cells


def _fill(
    cells: Cells,
    table: Table,
    column: Column,
    rows: Sequence[Model],
    candidates: Mapping[str, Sequence[Candidates]],
) -> None:
    """Fill a column; the first measured row sets the data and settings that the others must have."""
    first: tuple[Model, StoredResult] | None = None
    for row in rows:
        measured = Measured()
        for of_seed in candidates.get(row.label, ()):
            value, why = _value(row, column, [result for result in of_seed.results if _is_of(result, column)])
            if value is None and not why:
                why = next((why for result, why in of_seed.refused if _is_of(result, column)), "")
            if value is not None and first is not None:
                why = _other_protocol(first, row, value.results[0])
            if why:
                cells.refuse(table, row, column, why)
            elif value is not None:
                first = first or (row, value.results[0])
                measured.seeds[of_seed.seed] = value
        if measured.seeds:
            cells.found[table.name, row.label, column.label] = measured


def _is_of(result: StoredResult, column: Column) -> bool:
    return coordinates(result)[:3] == (column.data, column.split, column.task)


def _value(row: Model, column: Column, results: Sequence[StoredResult]) -> tuple[Value | None, str]:
    """The value of the one result that fits, or why none does."""
    if results and not any(column.metric in result["metrics"] for result in results):
        return None, f"it has no metric {column.metric}"
    results = [result for result in results if column.metric in result["metrics"]]
    reasons = [_unfit(row, column, result) for result in results]
    fit = [result for result, why in zip(results, reasons, strict=True) if not why]
    if not fit:
        return None, next(iter(reasons), "")
    values = {number(result["metrics"][column.metric]["value"]) for result in fit}
    if len(values) > 1:
        shown = ", ".join(str(result.path) for result in fit[:3])
        return None, f"several results fit and differ ({shown}): let the column's config say which is meant"
    metric = fit[0]["metrics"][column.metric]
    value = number(metric["value"])
    if value is None:
        return None, "it has no value"
    return Value(value, number(metric.get("low")), number(metric.get("high")), metric.get("n"), (fit[0],)), ""


def _unfit(row: Model, column: Column, result: StoredResult) -> str:
    """Why ``result`` does not fit the column; empty if it fits."""
    print_ = str(result.get("data_fingerprint") or "")
    if not print_.startswith(column.data_fingerprint):
        return f"it is of other data: their fingerprint is {print_[:8]}, not {column.data_fingerprint[:8]}"
    if corruptions(result) and not column.data_fingerprint:
        return f"its images were corrupted by {corruptions(result)}"
    for key, wanted in {**column.config, **row.config.get(column.task, {})}.items():
        found = _setting(result.get("config") or {}, key)
        if found != wanted:
            return f"its {column.task}.{key} is {found!r}, not {wanted!r}"
    counted = sizes(result, column.part)
    counted.setdefault("queries", result["metrics"][column.metric].get("n") or 0)
    for word, shown, size in (("queries", "queries", column.queries), ("gallery", "documents", column.gallery)):
        if size is not None and counted.get(word) != size:
            return f"it has {counted.get(word) or 0:,} {shown}, not {size:,}"
    return ""


def _setting(config: Any, key: str) -> Any:
    """The value at a path such as ``prompts.category``; None if missing.

    >>> _setting({"prompts": {"category": ["a {}"]}}, "prompts.category")
    ['a {}']
    """
    for word in key.split("."):
        config = config.get(word) if isinstance(config, Mapping) else None
    return config


def _other_protocol(first: tuple[Model, StoredResult], row: Model, result: StoredResult) -> str:
    """How data and settings differ from the first measured row's, beyond those that the rows override."""
    task = result["task"]
    own = {word for model in (first[0], row) for key in model.config.get(task, {}) for word in key.split(".")[-1:]}
    why = difference(first[1], result, own)
    return f"comparing {first[0].label} (A) and {row.label} (B), {why}" if why else ""


# ---------------------------------------------------------------------------------------------------------------- means


def _fill_mean(cells: Cells, table: Table, column: Column, row: Model) -> None:
    """Fill a mean over tables, for the seeds that all of them have."""
    parts = [cells.found.get((name, row.label, column.label)) for name in column.mean_of]
    whole = [part for part in parts if part is not None]
    if len(whole) < len(parts) or not whole:
        return
    measured = Measured()
    for seed in whole[0].seeds:
        if all(seed in part.seeds for part in whole):
            measured.seeds[seed] = _mean([part.seeds[seed] for part in whole], column.metric)
    if measured.seeds:
        cells.found[table.name, row.label, column.label] = measured


def _mean(values: Sequence[Value], metric: str) -> Value:
    """Mean of values; with a bootstrap interval if all results have per-query values."""
    mean = statistics.fmean(value.value for value in values)
    results = tuple(result for value in values for result in value.results)
    groups = [per_query(result).get(metric) for result in results]
    # Per-query values whose mean is not the result's are of an earlier evaluation.
    fit = [
        group
        for group, value in zip(groups, values, strict=True)
        if group is not None and len(group) and math.isclose(float(group.mean()), value.value, abs_tol=1e-6)
    ]
    if len(fit) < len(values):
        return Value(mean, None, None, None, results)

    interval = bootstrap_groups([{metric: group} for group in fit])[metric]
    return Value(mean, interval.low, interval.high, interval.n, results)
