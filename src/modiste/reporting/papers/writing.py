"""Formatting of a paper's tables: published, measured and difference, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modiste.errors import ModisteError, did_you_mean
from modiste.reporting.papers.measure import Cells, Measured, measure
from modiste.reporting.papers.spec import PUBLISHED, Column, Model, Paper, Table
from modiste.reporting.tables.blocks import DAGGER, DAGGER_NOTE, EMPTY, SEEDS_NOTE, digits_of, letter
from modiste.reporting.tables.costs import cost_sheet
from modiste.reporting.tables.names import lower_is_better
from modiste.reporting.tables.pairs import BEST, Cache, Entry, Marks, mark
from modiste.reporting.tables.published import as_printed
from modiste.reporting.tables.results import fingerprint
from modiste.reporting.tables.sheets import Grid, Item, Sheet, csv_text, latex, markdown
from modiste.reporting.tables.writing import FORMATS, check_format, signed

Lines = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Row:
    """A row: a model and its published numbers, column label → as printed."""

    model: Model
    published: dict[str, str]


def format_papers(paths: Sequence[str | Path], published: Lines, style: str = "markdown") -> str:
    """Format the tables of papers as text.

    Args:
        paths: ``table.yaml`` files, or folders with one.
        published: Rows of `modiste.reporting.tables.read_published`.
        style: ``markdown``, ``csv`` or ``latex``.

    Raises:
        ModisteError: The style is unknown, a ``table.yaml`` is unreadable or invalid, or a result is damaged.
    """
    check_format(style, FORMATS[1:])
    if style == "csv":
        return csv_text(_csv_lines([_Filled(Paper.read(path), published) for path in paths]))
    return (markdown if style == "markdown" else latex)(paper_sheets(paths, published))


def paper_sheets(paths: Sequence[str | Path], published: Lines) -> list[Sheet]:
    """The tables of papers. Raises ModisteError as `format_papers`."""
    filled = [_Filled(Paper.read(path), published) for path in paths]
    return [sheet for paper in filled for sheet in paper.sheets()]


class _Filled:
    """A paper with its published and its measured numbers."""

    def __init__(self, paper: Paper, published: Lines) -> None:
        self.paper = paper
        self.numbers = _Published(paper, published)
        self.cells: Cells = measure(paper)
        self.tests: Cache = {}

    def rows(self, table: Table) -> list[Row]:
        """Rows of a table: the paper's, then with ``rest`` all others of the publication."""
        rows = [Row(model, self.numbers.of(model.published, table)) for model in self.paper.rows]
        named = {name for model in self.paper.rows for name in model.published}
        if table.rest:
            rows += [Row(_published_only(label), cells) for label, cells in self.numbers.rest(table, named)]
        return [row for row in rows if row.published or row.model.measurable]

    def measured(self, table: Table, row: Row) -> dict[str, Measured]:
        """Column label → measured cell of a row."""
        found = self.cells.found
        keys = {column.label: (table.name, row.model.label, column.label) for column in table.columns}
        return {label: found[key] for label, key in keys.items() if key in found}

    def marks(self, table: Table) -> Marks:
        """Marks of the measured values against the best one of each column."""
        columns: dict[str, list[Entry]] = {column.label: [] for column in table.columns}
        for row in self.rows(table):
            for column in table.columns:
                cell = self.measured(table, row).get(column.label)
                if cell is not None:
                    result = cell.results[0] if len(cell.results) == 1 else None
                    lower = lower_is_better(cell.results[0], column.metric)
                    columns[column.label].append(Entry(row.model.label, cell.value, column.metric, result, lower))
        return mark(columns, self.tests)

    def sheets(self) -> Iterator[Sheet]:
        """The title, one sheet per table, the training costs and the commands."""
        yield Sheet(self.paper.title, [], notes=[self.paper.about] if self.paper.about else [], level=2)
        for table in self.paper.tables:
            yield self.sheet(table)
        yield from cost_sheet(
            (row, result) for (_, row, _), cell in self.cells.found.items() for result in cell.results
        )
        commands = [(row.label, row.command) for row in self.paper.rows if row.command]
        if commands:
            yield Sheet("Commands that measure the rows", [], commands=commands)

    def sheet(self, table: Table) -> Sheet:
        rows, marks = self.rows(table), self.marks(table)
        measured = [self.measured(table, row) for row in rows]
        overlaps = list(dict.fromkeys(c.overlap for cells in measured for c in cells.values() if c.overlap))
        printed = _decimals(rows)
        digits = {column.label: max(printed, digits_of(column.metric)) for column in table.columns}
        grid = Grid(["model", "", *digits], f"ll{'r' * len(digits)}", [])
        for row, cells in zip(rows, measured, strict=True):
            lines = []
            if row.published:
                lines.append([Item("published"), *(Item(_published(row, label, printed)) for label in digits)])
            if row.model.measurable:
                signs = {label: marks.signs.get((row.model.label, label), "") for label in digits}
                shown = [signed(_measured(cells.get(label), d), signs[label]) for label, d in digits.items()]
                lines.append([Item(_origin(cells, overlaps)), *shown])
            differences = [_difference(row, label, cells.get(label), d) for label, d in digits.items()]
            if any(differences):
                lines.append([Item("difference"), *(Item(text or EMPTY) for text in differences)])
            if row.model.measurable:  # a rule before and after the rows of a measured model
                grid.rules |= {len(grid.rows), len(grid.rows) + len(lines)}
            style = "" if row.model.measurable else "italic"
            grid.rows += [[Item(row.model.label if i == 0 else "", style), *line] for i, line in enumerate(lines)]
        grid.rules.discard(0)
        return Sheet(table.title, [grid], _caption(table), self.notes(table, rows, measured, overlaps, marks))

    def notes(
        self,
        table: Table,
        rows: Sequence[Row],
        measured: Sequence[Mapping[str, Measured]],
        overlaps: Sequence[str],
        marks: Marks,
    ) -> list[str]:
        """Footnotes: sources, meaning of the signs, and results that were not used."""
        sources = dict.fromkeys(column.published["source"] for column in table.columns if column.published)
        notes = [f"Published: {source}." for source in sources]
        cells = [cell for row in measured for cell in row.values()]
        if any(cell.in_domain for cell in cells):
            notes.append(DAGGER_NOTE)
        if any(cell.deviation is not None for cell in cells):
            notes.append(SEEDS_NOTE)
        notes += [f"[{letter(i)}] {text}" for i, text in enumerate(overlaps)]
        for row, found in zip(rows, measured, strict=True):
            counts = [len(cell.seeds) for cell in found.values()]
            if counts and min(counts) < len(row.model.seeds):
                notes.append(f"{row.model.label}: {min(counts)} of {len(row.model.seeds)} seeds were measured.")
        return [*notes, *marks.notes(), *self.cells.notes(table, [row.model for row in rows])]


class _Published:
    """Published numbers of a paper's columns.

    Raises:
        ModisteError: A column names an entry that the reference file lacks, or a row names an unknown model.
    """

    def __init__(self, paper: Paper, lines: Lines) -> None:
        self.paper = paper
        self.index: dict[tuple[str, ...], dict[str, list[str]]] = {}
        for line in lines:
            place = tuple(line[key] for key in PUBLISHED)
            self.index.setdefault(place, {}).setdefault(line["model"], []).append(as_printed(line["value"]))
        columns = [column for table in paper.tables for column in table.columns if column.published]
        for column in columns:
            self._check(column)
        sources = {column.published["source"] for column in columns}
        known = {line["model"] for line in lines if line["source"] in sources}
        for row in paper.rows:
            for name in row.published:
                if name not in known:
                    raise ModisteError(
                        f"{paper.path}: the row '{row.label}' is published as '{name}', which the columns' "
                        f"sources do not have. {did_you_mean(name, known)}"
                    )

    def _check(self, column: Column) -> None:
        """Raise an error that names the first of source, dataset, task and metric that is unknown."""
        known = set(self.index)
        for i, key in enumerate(PUBLISHED):
            word = column.published.get(key, "")
            options = {place[i] for place in known}
            known = {place for place in known if place[i] == word}
            if not known:
                raise ModisteError(
                    f"{self.paper.path}: the column '{column.label}' is published under the {key} '{word}', which the "
                    f"reference file does not have there. {did_you_mean(word, options)}"
                )

    def at(self, column: Column) -> dict[str, list[str]]:
        """Model → its numbers; several if the publication lists it several times."""
        return self.index[tuple(column.published[key] for key in PUBLISHED)] if column.published else {}

    def of(self, names: Sequence[str], table: Table) -> dict[str, str]:
        """Column label → number of the model with one of these names."""
        found = {}
        for column in table.columns:
            numbers = [number for name in names for number in self.at(column).get(name, [])]
            if numbers:
                found[column.label] = numbers[0]
        return found

    def rest(self, table: Table, named: set[str]) -> list[tuple[str, dict[str, str]]]:
        """Models that no row names, in the publication's order; one that is listed twice has two rows."""
        rows: dict[tuple[str, int], dict[str, str]] = {}
        for column in table.columns:
            for name, numbers in self.at(column).items():
                for i, number in enumerate(numbers):
                    if name not in named:
                        rows.setdefault((name, i), {})[column.label] = number
        several = {name for name, i in rows if i}
        return [
            (_without_tex(name) + (f" #{i + 1}" if name in several else ""), cells) for (name, i), cells in rows.items()
        ]


def _without_tex(name: str) -> str:
    r"""Remove TeX math delimiters from a model's name.

    >>> _without_tex(r"MCEM (\(L_CE\))")
    'MCEM (L_CE)'
    """
    return name.replace("\\(", "").replace("\\)", "")


def _published_only(label: str) -> Model:
    return Model(label, "", (), "", (), {}, (), (), "")


def _caption(table: Table) -> str:
    """Numbers of queries and documents, if equal for all columns."""
    words = []
    for word in ("queries", "gallery"):
        found = {getattr(column, word) for column in table.columns}
        if len(found) == 1 and None not in found:
            words.append(f"{word} {found.pop():,}")
    return ", ".join(words)


def _decimals(rows: Sequence[Row]) -> int:
    """Decimals of the publication: the maximum, since the reference file drops trailing zeros."""
    printed = [text for row in rows for text in row.published.values()]
    return max((len(text.partition(".")[2]) for text in printed), default=0)


def _published(row: Row, label: str, digits: int) -> str:
    return f"{float(row.published[label]):.{digits}f}" if label in row.published else EMPTY


def _origin(cells: Mapping[str, Measured], overlaps: Sequence[str]) -> str:
    """``measured``, with a dagger for an in-domain model and the letters of its footnotes."""
    words = ["measured", *([DAGGER] if any(cell.in_domain for cell in cells.values()) else [])]
    notes = dict.fromkeys(cell.overlap for cell in cells.values() if cell.overlap)
    return " ".join([*words, *(f"[{letter(overlaps.index(note))}]" for note in notes)])


def _measured(cell: Measured | None, digits: int) -> str:
    """The value with its interval, or mean ± standard deviation over seeds."""
    if cell is None:
        return EMPTY
    shown = f"{cell.value:.{digits}f}"
    if cell.deviation is not None:
        return f"{shown} ± {cell.deviation:.{digits}f}"
    low, high = (cell.only.low, cell.only.high) if cell.only else (None, None)
    return shown if low is None or high is None else f"{shown} [{low:.{digits}f}, {high:.{digits}f}]"


def _difference(row: Row, label: str, cell: Measured | None, digits: int) -> str:
    """Measured − published, signed; empty if one of them is missing."""
    if cell is None or label not in row.published:
        return ""
    return f"{cell.value - float(row.published[label]):+.{digits}f}".replace("-", "−")


def _csv_lines(papers: Sequence[_Filled]) -> Iterator[list[object]]:
    """Long-form CSV rows: a header, then one per row and column that is published or measurable."""
    yield [
        *("paper", "table", "model", "column", "data", "split", "task", "metric", "queries", "gallery"),
        *("published", "measured", "low", "high", "sd", "seeds", "n", "difference", "best", "p_holm"),
        *("in_domain", "fingerprint", "source", "command"),
    ]
    for filled in papers:
        for table in filled.paper.tables:
            marks = filled.marks(table)
            for row in filled.rows(table):
                cells = filled.measured(table, row)
                for column in table.columns:
                    if column.label in row.published or row.model.measurable:
                        who = [filled.paper.title, table.title, row.model.label]
                        yield [*who, *_csv_line(row, column, cells.get(column.label), marks)]


def _csv_line(row: Row, column: Column, cell: Measured | None, marks: Marks) -> list[object]:
    published, key = row.published.get(column.label), (row.model.label, column.label)
    where = [column.label, column.data, column.split, column.task, column.metric, column.queries, column.gallery]
    numbers: list[object] = [published, *[None] * 9]
    prints = ""
    if cell is not None:
        only = cell.only
        interval = [only.low, only.high] if only else [None, None]
        difference = cell.value - float(published) if published is not None else None
        numbers = [published, cell.value, *interval, cell.deviation, len(cell.seeds), only.n if only else None]
        numbers += [difference, marks.signs.get(key) == BEST, marks.p.get(key)]
        prints = " ".join(dict.fromkeys(map(fingerprint, cell.results)))
    domain = cell.in_domain if cell is not None else None
    return [*where, *numbers, domain, prints, column.published.get("source"), row.model.command]
