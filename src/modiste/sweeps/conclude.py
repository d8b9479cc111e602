"""Output of a sweep: tables, figures and an HTML report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiste.errors import ModisteError
from modiste.reporting.html.blocks import Note, Pictures, Section, Table, Td, plain_table
from modiste.reporting.html.page import write_page
from modiste.reporting.tables.sheets import Sheet, csv_text, plain, plain_grid
from modiste.sweeps.pictures import history_plot, importance, importance_plot, parallel_coordinates
from modiste.sweeps.study import Objective, best_first, finished, over_seeds, plus_minus, rows
from modiste.utils.atomic import write_text
from modiste.utils.run_dir import check_links, write_json

if TYPE_CHECKING:
    from optuna import Study

FEW = 30
"""Number of complete trials below which the importance comes with a caution."""


def conclude(study: Study, objectives: Sequence[Objective], names: Sequence[str], folder: Path) -> list[Sheet]:
    """Write ``trials.csv``, ``sweep.json``, the figures and ``report.html``; returns the tables to print.

    With several seeds per trial, ``seeds.csv`` has the mean and standard deviation of every metric, and a second table
    shows those of the best trial.

    Raises:
        ModisteError: No trial is complete; or see `modiste.utils.run_dir.check_links`.
    """
    check_links(folder)
    table = rows(study, objectives)
    write_rows(folder / "trials.csv", table)
    ordered = best_first(table, objectives)
    seeds = {trial.number: over_seeds(trial.user_attrs.get("seeds", {})) for trial in finished(study)}
    if any(seeds.values()):
        lines = [{"trial": row["trial"], **line} for row in ordered for line in seeds[row["trial"]]]
        write_rows(folder / "seeds.csv", lines)
    content = {"objectives": [vars(objective) for objective in objectives], "trials": ordered}
    write_json(folder / "sweep.json", content)
    best = plus_minus(seeds[ordered[0]["trial"]]) if ordered else []
    write_report(study, objectives, names, folder, best)
    if not any(row["state"] == "complete" for row in table):
        failed = [row for row in table if row["state"] == "fail"]
        why = f"trial {failed[0]['trial']} failed with: {failed[0]['error']}" if failed else "all were pruned."
        raise ModisteError(
            f"No trial of the sweep completed: correct its settings and start a new one in another directory; {why}"
        )
    sheets = [Sheet(f"{len(table)} trials, the best by {objectives[0].metric} first", [plain_grid(_shown(ordered))])]
    if best:
        sheets.append(Sheet(f"Trial {ordered[0]['trial']} over its seeds", [plain_grid(best)]))
    return sheets


def _shown(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Drop the column of errors if no trial failed."""
    failed = any(row.get("error") for row in table)
    return [{name: value for name, value in row.items() if failed or name != "error"} for row in table]


def write_rows(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, with the columns of all rows."""
    columns = list(dict.fromkeys(name for row in table for name in row))
    write_text(path, csv_text([columns, *([row.get(name) for name in columns] for row in table)]))


def write_report(
    study: Study,
    objectives: Sequence[Objective],
    names: Sequence[str],
    folder: Path,
    seeds: Sequence[Mapping[str, Any]],
) -> Path:
    """Write ``report.html`` and ``figures/``; ``seeds``: the best trial's metrics over its seeds."""
    table = rows(study, objectives)
    complete = [row for row in table if row["state"] == "complete"]
    ordered, first = best_first(table, objectives), objectives[0]
    sections = [Section("trials", "Trials", [_trials(_shown(ordered), folder)])]
    if seeds:
        lines = [list(row.values()) for row in seeds]
        sections.append(Section("seeds", "The best trial over its seeds", [plain_table(list(seeds[0]), lines)]))
    if len(complete) > 1:
        history = history_plot(table, first, folder / "figures" / "history.svg")
        caption = "Dots: complete trials in the order in which they ran. Line: the best so far."
        sections.append(
            Section("history", "Optimisation history", [Pictures([(history, "optimisation history")], caption)])
        )
    if len(complete) > 1 and names:
        parallel = parallel_coordinates(table, names, first, folder / "figures" / "parallel.svg")
        caption = "One line per complete trial. Orange: the best. Grey: the others, darker is better."
        sections.append(
            Section("parallel", "Parameters and results", [Pictures([(parallel, "parallel coordinates")], caption)])
        )
    sections += _importance(study, objectives, folder, len(complete))
    facts = {
        "objectives": ", ".join(f"{objective.metric} ({objective.mode})" for objective in objectives),
        "trials": f"{len(table)}, {len(complete)} of them complete",
        "sweep directory": str(folder),
    }
    if complete:
        facts["best"] = f"trial {ordered[0]['trial']}, {first.metric} {plain(ordered[0][first.metric])}"
    return write_page(
        folder / "report.html", "report.html", title=f"Sweep {folder.name}", facts=facts, tiles=[], sections=sections,
        footer="Written by Modiste.",
    )  # fmt: skip


def _importance(study: Any, objectives: Sequence[Objective], folder: Path, complete: int) -> list[Section]:
    shares = importance(study, objectives)
    if not shares:
        return []
    path = importance_plot(shares, folder / "figures" / "importance.svg")
    few = f"From {complete} trials: read it as a hint, not as a finding." if complete < FEW else ""
    caption = "Bars: fraction of the objective's variance due to each parameter (fANOVA)."
    blocks = [*([Note(few, warning=True)] if few else []), Pictures([(path, "importance")], caption)]
    return [Section("importance", f"What decides {objectives[0].metric}", blocks)]


def _trials(table: Sequence[Mapping[str, Any]], folder: Path) -> Table:
    """Table of all trials; a trial's number links to its report or its directory."""
    columns = list(dict.fromkeys(name for row in table for name in row))
    lines = []
    for row in table:
        trial = f"trial_{row['trial']:03}"
        page = next((place for place in (f"{trial}/report.html", f"{trial}/") if (folder / place).exists()), "")
        cells = [_cell(row.get(name)) for name in columns[1:]]
        lines.append([Td(str(row["trial"]), sort=row["trial"], href=page), *cells])
    words = {name for row in table for name, value in row.items() if isinstance(value, str)}
    return Table([Td(name, words=name in words) for name in columns], lines)


def _cell(value: Any) -> Td:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return Td(plain(value), words=isinstance(value, str), sort=value if is_number else None)
