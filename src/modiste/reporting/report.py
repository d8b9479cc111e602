"""report.html: a self-contained page about a run, without external requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modiste.errors import ModisteError
from modiste.reporting import tables
from modiste.reporting.figures import selection_figures, training_curves
from modiste.reporting.figures.selection import letter
from modiste.reporting.html.blocks import Code, Facts, Fold, Heading, Note, Pictures, Section, Table, Td, plain
from modiste.reporting.html.blocks import plain_table as table
from modiste.reporting.html.page import write_page
from modiste.reporting.html.result import LONGEST_TABLE, TILES, dump, result_section, tiles
from modiste.reporting.html.run import Catalogues, Run
from modiste.reporting.logs import read_metrics
from modiste.reporting.words import reading_order
from modiste.utils.energy import NOT_INSTALLED
from modiste.utils.run_dir import EVALUATED, check_links

DRAWN = ("curves.*.svg", "selection.*.svg", "*.metrics.*.svg", "*.few_shot.svg", "*.phrases.*.svg")
"""The figures that are redrawn with every report."""


def write_report(run_dir: Path, catalogue: Catalogues = None) -> Path:
    """Write ``report.html`` and ``figures/`` of a run directory, and return the page's path.

    Args:
        run_dir: A run directory; sections without content are omitted.
        catalogue: The full catalogue that the retrieval examples refer to, or ``{result's file stem: catalogue}`` for
            a run that was evaluated on several. For other data, the thumbnails of earlier reports are reused.

    Raises:
        ModisteError: The directory does not exist, has nothing to report or a malformed file; or see
            `modiste.utils.run_dir.check_links`.
    """
    check_links(Path(run_dir), EVALUATED)
    run = Run.read(Path(run_dir), catalogue)
    for old in (path for pattern in DRAWN for path in (run.path / "figures").glob(pattern)):  # of deleted results
        old.unlink()
    curves = training_curves(read_metrics(run.path), run.path / "figures")
    if not curves and not run.results:
        raise ModisteError(f"'{run_dir}' has neither metrics.csv nor results: train or evaluate into it first.")
    published = tables.read_published()
    run.results = dict(sorted(run.results.items(), key=lambda item: reading_order(item[1]["task"])))
    most = TILES if len(run.results) <= 2 else 2 if len(run.results) <= 5 else 1
    sections = [result_section(run, stem, result, published) for stem, result in run.results.items()]
    sections += [Section("training", "Training", [Pictures([(path, path.stem) for path in curves])])] if curves else []
    sections += _selection(run)
    if run.cost:
        sections.append(Section("cost", "Cost of training", _costs(run.cost)))
    if run.suites:
        sections.append(Section("suites", "What was not run", [_missing(run.suites)]))
    if run.data:
        sections.append(Section("data", "Data", _data(run.data)))
    sections.append(Section("origin", "Configuration and environment", _origin(run)))
    return write_page(
        run.path / "report.html",
        "report.html",
        title=run.title,
        facts=run.facts(),
        tiles=[tile for result in run.results.values() for tile in tiles(result, most)],
        sections=sections,
        footer="Intervals are 95 % bootstrap intervals over queries or images, exact ones where all values are equal. "
        "Written by Modiste.",
    )


def _selection(run: Run) -> list[Section]:
    """Which epoch each criterion of a training run chooses."""
    choices = run.selection.get("choices")
    if not choices:
        return []
    names = list(dict.fromkeys(choice["criterion"] for choice in choices))
    rows = []
    for number, choice in enumerate(choices):
        values = [Td(plain(choice["values"].get(name)), _worse(choice["regret"].get(name))) for name in names]
        rows.append([Td(f"{letter(number)}  {choice['criterion']}", words=True), Td(str(choice["epoch"] + 1)), *values])
    heads = [Td("chosen by", words=True), Td("epoch"), *(Td(name) for name in names)]
    figures = selection_figures(run.selection, run.path / "figures")
    caption = "Circles: the epochs that the criteria choose, by their letters."
    blocks = [Table(heads, rows), Pictures([(path, path.stem) for path in figures], caption)]
    return [Section("selection", "Which epoch each criterion chooses", blocks)]


def _worse(regret: float | None) -> str:
    return f"{regret:.2g} worse than the best" if regret else ""


def _costs(cost: Mapping[str, Any]) -> list[Any]:
    """The cost table and its notes."""
    notes = tables.cost_notes(cost) or [NOT_INSTALLED]
    return [table(["", ""], [list(item) for item in tables.cost_words(cost).items()]), *map(Note, notes)]


def _data(data: Mapping[str, Any]) -> list[Any]:
    """data.json: plain facts, a table per mapping, and lists such as the ids of bad rows."""
    facts = {
        name: plain(value)
        for name, value in data.items()
        if name != "schema" and not isinstance(value, (Mapping, list))
    }
    blocks: list[Any] = [Facts(facts)] if facts else []
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            rows = [[str(key), _members(member)] for key, member in value.items()]
            blocks += [Heading(str(name)), table(["", ""], rows[:LONGEST_TABLE], wrap=True)]
        elif isinstance(value, list) and value:
            blocks += [Heading(str(name)), Note(_members(value))]
    return blocks


def _members(value: Any) -> str:
    """A value in one line: a list as length and first members, pairs or a mapping as ``name value``."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_members(member)}" for name, member in value.items())
    if not isinstance(value, list):
        return plain(value)
    if value and all(isinstance(member, list) and len(member) == 2 for member in value):
        return "(" + ", ".join(f"{name} {plain(number)}" for name, number in value) + ")"
    shown = ", ".join(str(member) for member in value[:12])
    return f"{len(value):,}: {shown}{', …' if len(value) > 12 else ''}" if value else "0"


def _missing(suites: Sequence[Mapping[str, Any]]) -> Any:
    """The entries of the suites that could not run, with the reason."""
    rows = [
        [str(suite["suite"]), str(outcome["entry"]), str(outcome["task"]), str(outcome["why"])]
        for suite in suites
        for outcome in suite["outcomes"]
        if outcome["status"] == "missing"
    ]
    names = ", ".join(str(suite["suite"]) for suite in suites)
    return (
        table(["suite", "entry", "task", "why"], rows, wrap=True)
        if rows
        else Note(f"Everything that {names} names was run.")
    )


def _origin(run: Run) -> list[Any]:
    files = {"config.yaml": run.config_text, "environment.json": dump(run.environment) if run.environment else ""}
    folds = [Fold(name, [Code(text)]) for name, text in files.items() if text]
    return [Facts(run.origin()), *folds]
