"""Blocks of comparable rows, measured and published, with marks and footnotes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modiste.reporting.runs import SEED, differing, label_of
from modiste.reporting.tables.names import lower_is_better, number, ordered, parts_of, split_name, summary_metrics
from modiste.reporting.tables.pairs import Cache, Entry, Marks, mark
from modiste.reporting.tables.published import Naming, as_printed, named_lines
from modiste.reporting.tables.results import (
    StoredResult,
    coordinates,
    corruptions,
    fingerprint,
    in_domain,
    overlap_note,
    sizes,
)

EMPTY = "—"
SEEDS_NOTE = "±: sample standard deviation over training seeds."
DAGGER = "†"
DAGGER_NOTE = f"{DAGGER} in-domain: trained on this data set's own training part, so not a zero-shot number."
COLUMNS_PER_TABLE = 7  # wider tables are unreadable; the other columns follow in the next table
# A few documents may be unreadable; a larger relative difference means another benchmark.
SAME_SIZE = 0.01
FEW_QUERIES = 50


@dataclass(frozen=True)
class Cell:
    """A number: measured, with its 95 % interval, or as printed in a publication (``text``).

    With a ``deviation``, it is the mean over training seeds.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    text: str = ""
    deviation: float | None = None


@dataclass
class Row:
    """A model in a block; ``source`` names the publication and is empty for a measured row."""

    model: str
    cells: dict[str, Cell]
    source: str = ""
    fingerprint: str = ""
    in_domain: bool = False
    overlap: str = ""
    result: Mapping[str, Any] | None = None
    seeds: int = 1

    @property
    def label(self) -> str:
        """The model's name, the number of seeds if several, and a dagger if it was trained in domain."""
        name = f"{self.model}, n = {self.seeds} seeds" if self.seeds > 1 else self.model
        return f"{name} {DAGGER}" if self.in_domain else name


@dataclass
class Block:
    """Comparable rows: one data set, split, task and part (or ``"summary"``), and the same sizes."""

    data: str
    split: str
    task: str
    variant: str
    part: str
    sizes: dict[str, int]
    columns: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    group: int = 0  # blocks of the same results, the summary first
    marks: Marks = field(default_factory=Marks)
    lower: frozenset[str] = frozenset()  # columns that are better when lower

    @property
    def title(self) -> str:
        """``data · task · split · part``."""
        words = (self.data, self.task, self.split, self.variant, self.part)
        return " · ".join(word for word in words if word)

    @property
    def size(self) -> str:
        """The sizes in words: ``queries 2,000, gallery 44,434``."""
        return ", ".join(f"{name} {number:,}" for name, number in self.sizes.items())

    @property
    def sources(self) -> list[str]:
        """Publications in the order of the rows; a row's footnote number is its source's position + 1."""
        return list(dict.fromkeys(row.source for row in self.rows if row.source))

    @property
    def overlaps(self) -> list[str]:
        """Notes on overlap with training images; their footnotes are letters."""
        return list(dict.fromkeys(row.overlap for row in self.rows if row.overlap))

    def label(self, row: Row) -> str:
        """The row's name with the letter of its footnote."""
        return f"{row.label} [{letter(self.overlaps.index(row.overlap))}]" if row.overlap else row.label

    def remarks(self) -> list[str]:
        """Notes on daggers, seeds, overlaps and marks, and the block's notes."""
        daggers = [DAGGER_NOTE] if any(row.in_domain for row in self.rows) else []
        daggers += [SEEDS_NOTE] if any(row.seeds > 1 for row in self.rows) else []
        overlaps = [f"[{letter(i)}] {note}" for i, note in enumerate(self.overlaps)]
        return [*daggers, *overlaps, *self.marks.notes(), *self.notes]

    def footnotes(self) -> list[str]:
        """The sources and the remarks."""
        return [f"[{i}] {source}" for i, source in enumerate(self.sources, 1)] + self.remarks()


def letter(position: int) -> str:
    """A footnote's letter: a, b, …, z, a2, …

    >>> letter(0), letter(27)
    ('a', 'b2')
    """
    again, place = divmod(position, 26)
    return chr(ord("a") + place) + (str(again + 1) if again else "")


def cell_of(metric: Mapping[str, Any] | None, name: str = "") -> Cell | None:
    """The cell of a result file's metric; None for a metric that is missing or has no finite value.

    If every query has the same value, 0 or 1, the bootstrap interval is degenerate: it is replaced by the exact one of
    a proportion (Clopper & Pearson, Biometrika 26, 1934). ``name`` excludes ranks, which are not proportions.

    >>> show("accuracy", cell_of({"value": 1.0, "low": 1.0, "high": 1.0, "n": 20}))
    '1.000 [0.832, 1.000]'
    """
    value = number((metric or {}).get("value"))
    if metric is None or value is None:
        return None
    low, high, n = number(metric.get("low")), number(metric.get("high")), metric.get("n")
    if low == high == value and value in (0, 1) and n and digits_of(name) > 1:
        beyond = 0.025 ** (1 / n)
        low, high = (beyond, 1.0) if value else (0.0, 1 - beyond)
    return Cell(value, low, high, n)


def show(metric: str, cell: Cell | None, interval: bool = True) -> str:
    """Format a cell.

    >>> show("t2i/mrr", Cell(0.26349, 0.25, 0.28)), show("t2i/mrr", None), show("t2i/median_rank", Cell(12))
    ('0.263 [0.250, 0.280]', '—', '12.0')
    """
    if cell is None:
        return EMPTY
    if cell.text:
        return cell.text
    digits = digits_of(metric)
    shown = f"{cell.value:.{digits}f}"
    if cell.deviation is not None:
        return f"{shown} ± {cell.deviation:.{digits}f}" if interval else shown
    if interval and cell.low is not None and cell.high is not None:
        shown += f" [{cell.low:.{digits}f}, {cell.high:.{digits}f}]"
    return shown


def digits_of(metric: str) -> int:
    """Number of decimals of a metric.

    >>> digits_of("t2i/median_rank"), digits_of("colour/rank_correlation")
    (1, 3)
    """
    return 1 if split_name(metric)[1] == "median_rank" else 3


def build_blocks(
    results: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, str]] = (), aggregate: bool = True
) -> list[Block]:
    """One block per (data, split, task, variant) and part, summaries first.

    Results with different corruptions of the images, or numbers of queries, documents or classes, never share a block.

    Args:
        results: Contents of result files.
        published: Rows of `modiste.reporting.tables.read_published`.
        aggregate: Merge runs that differ only in their seed into one row, mean ± standard deviation.
    """
    groups: list[list[Mapping[str, Any]]] = []
    for result in sorted(results, key=coordinates):
        fits = [group for group in groups if all(_comparable(result, other) for other in group)]
        if fits:
            fits[0].append(result)
        else:
            groups.append([result])
    return [
        block for number, group in enumerate(groups) for block in _group_blocks(number, group, published, aggregate)
    ]


def _comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    parts = set(parts_of(one["metrics"])) & set(parts_of(other["metrics"]))
    same = coordinates(one) == coordinates(other) and corruptions(one) == corruptions(other)
    return same and all(sizes(one, part) == sizes(other, part) for part in parts)


def _group_blocks(
    number: int, group: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, str]], aggregate: bool
) -> list[Block]:
    first = group[0]
    names = ordered(name for result in group for name in result["metrics"])
    references, notes = _published_rows(group, published)
    rows = [*_measured_rows(group, aggregate), *references]
    lower = frozenset(
        name for name in names for result in group if name in result["metrics"] and lower_is_better(result, name)
    )
    parts = parts_of(names)
    columns = {part: [name for name in names if split_name(name)[0] == part] for part in parts}
    if len(parts) > 1 or len(names) > COLUMNS_PER_TABLE:
        columns = {"summary": summary_metrics(first, names), **columns}
    blocks, cache = [], Cache()
    for part, shown in columns.items():
        covered = parts_of(shown)
        wanted = [
            *(note for where, note in notes if where in covered),
            *_training_notes(group, covered),
            *cautions(group, covered),
        ]
        kept = [row for row in rows if not row.source or set(shown) & set(row.cells)]
        common = _common_sizes(group, covered)
        marks = mark({column: _entries(column, kept, column in lower) for column in shown}, cache)
        notes_of_part = list(dict.fromkeys(wanted))
        blocks.append(Block(*coordinates(first), part, common, shown, kept, notes_of_part, number, marks, lower))
    return blocks


def _entries(column: str, rows: Sequence[Row], lower: bool) -> list[Entry]:
    measured = (row for row in rows if not row.source and column in row.cells)
    return [Entry(row.model, row.cells[column].value, column, row.result, lower) for row in measured]


def _common_sizes(group: Sequence[Mapping[str, Any]], parts: Sequence[str]) -> dict[str, int]:
    """The sizes that are equal in all ``parts`` and results."""
    every = [sizes(result, part) for part in parts for result in group if part in parts_of(result["metrics"])]
    return {word: number for word, number in every[0].items() if all(size.get(word) == number for size in every)}


def _training_notes(group: Sequence[Mapping[str, Any]], parts: Sequence[str]) -> list[str]:
    """Notes on the relevant items in the train split of in-domain models, if the result counts them."""
    notes = []
    for result in filter(in_domain, group):
        counts = result.get("counts") or {}
        seen = {part: counts.get(f"{part}/relevant_in_train") for part in parts}
        words = [f"{part} {seen[part]:,} of {counts.get(f'{part}/relevant', 0):,}" for part in parts if seen[part]]
        if words:
            model = result["model"]["name"]
            notes.append(f"Relevant (query, product) pairs in the training part of {model}: {', '.join(words)}.")
    return notes


def cautions(results: Sequence[Mapping[str, Any]], parts: Sequence[str]) -> list[str]:
    """Caveats: corrupted images, and parts with few queries, or with one class.

    >>> cautions([{"metrics": {"fit/accuracy": {"value": 1, "n": 9}}, "counts": {"fit/classes": 1}}], ["fit"])
    ['Fewer than 50 queries: fit (9). Read the intervals.', 'Only one class, so nothing to tell apart: fit.']
    """
    few: dict[str, int] = {}
    alone: dict[str, None] = {}
    for result in results:
        for name, metric in result["metrics"].items():
            part, n = split_name(name)[0], metric.get("n")
            if part in parts and n and n < FEW_QUERIES:
                few[part or result["task"]] = n
            if part in parts and (result.get("counts") or {}).get(f"{part}/classes" if part else "classes") == 1:
                alone[part or result["task"]] = None
    words = ", ".join(f"{part} ({n})" for part, n in few.items())
    found = dict.fromkeys(filter(None, map(corruptions, results)))
    notes = [f"Every image was corrupted by {transforms}." for transforms in found]
    notes += [f"Fewer than {FEW_QUERIES} queries: {words}. Read the intervals."] if few else []
    return notes + ([f"Only one class, so nothing to tell apart: {', '.join(alone)}."] if alone else [])


def _measured_rows(group: Sequence[Mapping[str, Any]], aggregate: bool) -> list[Row]:
    rows = []
    for result in group:
        found = {name: cell_of(metric, name) for name, metric in result["metrics"].items()}
        cells = {name: cell for name, cell in found.items() if cell is not None}
        row = Row(result["model"]["name"], cells, "", fingerprint(result), in_domain(result))
        row.overlap, row.result = overlap_note(result), result
        rows.append(row)
    for name in dict.fromkeys(row.model for row in rows):
        of_name = [row for row in rows if row.model == name]
        if len(of_name) > 1:
            rows = _told_apart(rows, of_name, aggregate)
    # Number results of the same weights that differ (another seed, other prompts).
    names = [row.model for row in rows]
    for i, row in enumerate(rows):
        if names.count(names[i]) > 1:
            row.model += f" #{names[: i + 1].count(names[i])}"
    return rows


def _told_apart(rows: list[Row], of_name: Sequence[Row], aggregate: bool) -> list[Row]:
    """Label rows that share a name by the settings in which their runs differ, or by their weights.

    With ``aggregate``, those that differ only in the seed become one row.
    """
    runs = [row.result.path.parent.parent for row in of_name if isinstance(row.result, StoredResult)]
    settings = differing(runs) if len(runs) == len(of_name) else []
    labels: dict[str, list[Row]] = {}
    for row, found in zip(of_name, settings or [{} for _ in of_name], strict=True):
        labels.setdefault(label_of(found, [SEED] if aggregate and SEED in found else []), []).append(row)
    seeds = dict(zip(map(id, of_name), (found.get(SEED) for found in settings), strict=False))
    for label, alike in labels.items():
        for row in alike:
            row.model += f" ({label})" if label else ""
        distinct = {seeds.get(id(row)) for row in alike} - {None}
        if aggregate and len(alike) > 1 and len(distinct) == len(alike):
            mean = _over_seeds(alike)
            rows = [mean if row is alike[0] else row for row in rows if row is alike[0] or row not in alike]
        elif len(alike) > 1 or not label:
            for row in alike:
                row.model += f" ({row.fingerprint[:8]})"
    return rows


def _over_seeds(rows: Sequence[Row]) -> Row:
    """Mean and sample standard deviation of the metrics that all rows have."""
    cells = {}
    for name in rows[0].cells:
        of_all = [row.cells[name] for row in rows if name in row.cells]
        if len(of_all) == len(rows):
            values = [cell.value for cell in of_all]
            cells[name] = Cell(statistics.fmean(values), n=of_all[0].n, deviation=statistics.stdev(values))
    mean = Row(rows[0].model, cells, in_domain=any(row.in_domain for row in rows), seeds=len(rows))
    mean.overlap = next((row.overlap for row in rows if row.overlap), "")
    return mean


def _published_rows(
    group: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, str]]
) -> tuple[list[Row], list[tuple[str, str]]]:
    """Rows of publications on the same benchmark, and (part, note) pairs where a size differs."""
    rows: dict[tuple[str, str, int], Row] = {}
    notes: dict[tuple[str, str], None] = {}
    seen: dict[tuple[str, str, str], int] = {}
    for naming, name, line in named_lines(group[0], published):
        same, note = _same_size(naming, split_name(name)[0], group)
        if note:
            notes[note] = None
        if same:
            who = (line["source"], line["model"])
            # A publication may list a model several times, with different settings: one row each.
            again = seen[(*who, name)] = seen.get((*who, name), 0) + 1
            label = f"{line['model']} #{again}" if again > 1 else line["model"]
            row = rows.setdefault((*who, again), Row(label, {}, line["source"]))
            row.cells[name] = Cell(float(line["value"]), text=as_printed(line["value"]))
    return list(rows.values()), list(notes)


def _same_size(naming: Naming, part: str, group: Sequence[Mapping[str, Any]]) -> tuple[bool, tuple[str, str] | None]:
    """Whether the group's ``part`` has the published sizes, and a (part, note) if they differ."""
    ours = {m.get("n") or 0 for r in group for name, m in r["metrics"].items() if split_name(name)[0] == part}
    pairs = [("queries", naming.queries.get(part), n) for n in sorted(ours)]
    gallery = next((size["gallery"] for size in (sizes(result, part) for result in group) if "gallery" in size), 0)
    for what, theirs, n in [*pairs, ("documents", naming.documents(part), gallery)]:
        if theirs is None or n == theirs or n == 0:  # 0: not recorded
            continue
        note = f"{part}: the published numbers are of {theirs:,} {what}, here there are {n:,}"
        if abs(n - theirs) > SAME_SIZE * theirs:
            return False, (part, f"{note}; they are not shown.")
        return True, (part, f"{note}.")
    return True, None


def summaries(blocks: Sequence[Block]) -> list[Block]:
    """The first block of every group: its summary, or its only block."""
    return [block for i, block in enumerate(blocks) if i == 0 or block.group != blocks[i - 1].group]
