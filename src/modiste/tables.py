"""Tables built from result files, beside published numbers. A number that was not run is not written: it is "—"."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiste.errors import ModisteError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Group

SCHEMA = 1
EMPTY = "—"
DAGGER = "†"
DAGGER_NOTE = f"{DAGGER} in-domain: trained on this data set's own training part, so not a zero-shot number."
PACKAGED = Path(__file__).parent / "reference" / "published.csv"

SIZES = ("queries", "gallery", "classes")
PART_ORDER = (
    *("t2i", "i2t", "text-to-image", "category-to-product", "sub-category-to-product", "fine-category-to-product"),
    *("color-to-product", "season-to-product", "usage-to-product"),
)
METRIC_ORDER = (
    *("avg_recall", "avg_precision", "recall", "hit_rate", "precision", "mrr", "map", "ndcg", "median_rank"),
    *("accuracy", "weighted_f1", "macro_f1", "mean_per_class_recall"),
)
COLUMNS_PER_TABLE = 7  # wider tables cannot be read; the rest of the columns follow in the next table


@dataclass(frozen=True)
class Naming:
    """How the published numbers of one benchmark are named here, and what they were measured on.

    Attributes:
        data: Our name of the data set.
        task: Our name of the task.
        dataset: The data set's name in the reference file.
        part: Published task name → our part, the text before "/" in a metric's name.
        metrics: Published metric → our metric.
        queries: Our part → number of published queries.
        gallery: Number of documents; None where it does not apply.
    """

    data: str
    task: str
    dataset: str
    part: Callable[[str], str]
    metrics: Mapping[str, str]
    queries: Mapping[str, int]
    gallery: int | None = None


NAMINGS = (
    Naming(
        data="kagl",
        task="marqo",
        dataset="KAGL",
        part=str.lower,
        metrics={
            "AvgRecall": "avg_recall",
            "AvgP": "avg_precision",
            "Recall@1": "recall@1",
            "Recall@10": "recall@10",
            "R@1": "recall@1",
            "R@10": "recall@10",
            "P@1": "precision@1",
            "P@10": "precision@10",
            "MRR": "mrr@10",
            "MAP@1": "map@1",
            "MAP@10": "map@10",
            "nDCG@1": "ndcg@1",
            "nDCG@10": "ndcg@10",
        },
        queries={
            "text-to-image": 2000,
            "category-to-product": 7,
            "sub-category-to-product": 45,
            "fine-category-to-product": 142,
            "color-to-product": 46,
            "season-to-product": 4,
            "usage-to-product": 8,
        },
        gallery=44434,
    ),
    Naming(
        data="fashion_mnist",
        task="zeroshot",
        dataset="fashion_mnist",
        part=lambda task: "category",
        metrics={"weighted_f1": "weighted_f1"},
        queries={"category": 10000},
    ),
)
# A few documents may be unreadable; beyond this part of the published number the two are not the same benchmark.
SAME_SIZE = 0.01


@dataclass(frozen=True)
class Cell:
    """One number: as measured, with its 95 % interval, or as printed in a publication (``text``)."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    text: str = ""


@dataclass
class Row:
    """A model in a block. ``source`` is empty for a measured row and names the publication otherwise."""

    model: str
    cells: dict[str, Cell]
    source: str = ""
    fingerprint: str = ""
    in_domain: bool = False

    @property
    def label(self) -> str:
        """The model's name, with a dagger when it was trained in domain."""
        return f"{self.model} {DAGGER}" if self.in_domain else self.model


@dataclass
class Block:
    """Rows that may be compared: one data set, split, task and part (or ``"summary"``), the same sizes."""

    data: str
    split: str
    task: str
    part: str
    sizes: dict[str, int]
    columns: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    group: int = 0  # blocks of the same results, the summary first

    @property
    def title(self) -> str:
        """``data · task · split · part``."""
        return " · ".join(word for word in (self.data, self.task, self.split, self.part) if word)

    @property
    def size(self) -> str:
        """The sizes in words: ``queries 2,000, gallery 44,434``."""
        return ", ".join(f"{name} {number:,}" for name, number in self.sizes.items())

    @property
    def sources(self) -> list[str]:
        """The publications, in the order of the rows; a row's footnote is its source's position + 1."""
        return list(dict.fromkeys(row.source for row in self.rows if row.source))

    def footnotes(self) -> list[str]:
        """Sources, the dagger and the notes."""
        daggers = [DAGGER_NOTE] if any(row.in_domain for row in self.rows) else []
        return [f"[{i}] {source}" for i, source in enumerate(self.sources, 1)] + daggers + self.notes


# --- reading -----------------------------------------------------------------------------------------------------


def find_results(path: str | Path) -> list[Path]:
    """The result files of a run directory, an experiment folder, or a file itself.

    Raises:
        ModisteError: there is no such path, or no result file under it.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ModisteError(f"There is no run directory or result file '{path}'. Give the folder that a run wrote.")
    found = sorted(f for f in path.rglob("*.json") if "results" in f.relative_to(path.parent).parts[:-1])
    if not found:
        raise ModisteError(f"'{path}' has no results/*.json. Run `modiste evaluate run={path}` first.")
    return found


def read_result(path: Path) -> dict[str, Any]:
    """One result file, checked.

    Raises:
        ModisteError: it is not a readable result file; the message says what is wrong with it.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModisteError(
            f"'{path}' is not a readable JSON file ({error}). Evaluate again to write it anew."
        ) from None
    problem = _problem(result)
    if problem:
        raise ModisteError(f"'{path}' is not a Modiste result: {problem}. Evaluate again to write it anew.")
    return result


def load_results(paths: str | Path | Iterable[str | Path]) -> list[dict[str, Any]]:
    """Every result under ``paths``; a file that is reached twice, or copied, counts once.

    Raises:
        ModisteError: no paths, a path without results, or a malformed result.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise ModisteError("A table needs run directories: `modiste table runs/a runs/b`.")
    results: dict[str, dict[str, Any]] = {}
    for file in (file for path in paths for file in find_results(path)):
        result = read_result(file)
        same = [*coordinates(result), result.get("counts"), result["model"], result["metrics"]]
        key = json.dumps(same, sort_keys=True)
        results.setdefault(key, result)
    return list(results.values())


def read_published(path: str | Path | None = None) -> list[dict[str, str]]:
    """The rows of a reference file (columns source, dataset, task, model, metric, value); None is the packaged one.

    Raises:
        ModisteError: the file is missing, lacks a column, or holds a value that is not a number.
    """
    path = Path(path) if path else PACKAGED
    if not path.is_file():
        raise ModisteError(f"There is no file of published numbers '{path}'. `published=null` uses the packaged one.")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"source", "dataset", "task", "model", "metric", "value"} - set(reader.fieldnames or ())
        if missing:
            raise ModisteError(
                f"'{path}' lacks the column(s) {', '.join(sorted(missing))}. Add them to its first line."
            )
        rows = list(reader)
    for line, row in enumerate(rows, 2):
        if _number(row["value"]) is None:
            raise ModisteError(f"'{path}', line {line}: the value '{row['value']}' is not a number. Correct the line.")
    return rows


def coordinates(result: Mapping[str, Any]) -> tuple[str, str, str]:
    """What two results must share to stand in one table: data, split and task."""
    return result["data"], result["split"], result["task"]


def sizes(result: Mapping[str, Any], part: str) -> dict[str, int]:
    """The counts that decide whether numbers of a part may be compared, without those that only inform.

    >>> sizes({"counts": {"t2i/queries": 9, "t2i/gallery": 5, "t2i/relevant": 7}}, "t2i")
    {'queries': 9, 'gallery': 5}
    """
    counts = result.get("counts") or {}
    found = {word: counts.get(f"{part}/{word}", counts.get(word)) for word in SIZES}
    return {word: number for word, number in found.items() if number is not None}


def _problem(result: Any) -> str:
    """What keeps ``result`` from being a result; empty when nothing does."""
    if not isinstance(result, dict):
        return "it is not an object"
    for key, kind in {"task": str, "data": str, "split": str, "model": dict, "metrics": dict}.items():
        if not isinstance(result.get(key), kind):
            return f"'{key}' is missing or not a {kind.__name__}"
    if result.get("schema") != SCHEMA:
        return f"its schema is {result.get('schema')!r} and this version reads {SCHEMA}"
    if not isinstance(result["model"].get("name"), str):
        return "'model' has no name"
    if not result["metrics"]:
        return "it has no metrics"
    for name, interval in result["metrics"].items():
        if not isinstance(interval, dict) or "value" not in interval:
            return f"the metric '{name}' has no value"
        if any(not isinstance(interval.get(k), (int, float, type(None))) for k in ("value", "low", "high")):
            return f"the metric '{name}' holds something that is not a number"
    return ""


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


# --- names -------------------------------------------------------------------------------------------------------


def split_name(name: str) -> tuple[str, str]:
    """The part and the metric of a metric's name.

    >>> split_name("text-to-image/recall@1"), split_name("auc")
    (('text-to-image', 'recall@1'), ('', 'auc'))
    """
    part, _, metric = name.rpartition("/")
    return part, metric


def ordered(names: Iterable[str]) -> list[str]:
    """Metric names in reading order: by part, by family of metric, by k; unknown ones last, as they come.

    >>> ordered(["i2t/mrr", "t2i/recall@10", "t2i/recall@5", "t2i/avg_recall"])
    ['t2i/avg_recall', 't2i/recall@5', 't2i/recall@10', 'i2t/mrr']
    """

    def place(word: str, order: Sequence[str]) -> int:
        return order.index(word) if word in order else len(order)

    names = list(dict.fromkeys(names))
    seen = list(dict.fromkeys(split_name(name)[0] for name in names))

    def key(name: str) -> tuple[float, ...]:
        part, metric = split_name(name)
        family, _, k = metric.partition("@")
        return place(part, PART_ORDER), seen.index(part), place(family, METRIC_ORDER), _number(k) or math.inf

    return sorted(names, key=key)


def summary_metrics(result: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The metrics that a summary of ``result`` shows, among ``names``; its primary one where it declares none."""
    names, primary = ordered(names), result.get("primary", "")
    chosen = [name for name in names if split_name(name)[1] in (result.get("summary") or ())]
    return chosen or [name for name in names if name == primary] or names[:1]


def in_domain(result: Mapping[str, Any]) -> bool:
    """Whether the result's protocol or model says that the model was trained on this data."""
    model = result["model"]
    places = (result.get("protocol"), model, model.get("describe"))
    return any(place.get("in_domain") is True for place in places if isinstance(place, Mapping))


def cell_of(metric: Mapping[str, Any] | None) -> Cell | None:
    """The cell of a result file's metric; None for a metric that is absent or has no finite value."""
    value = _number((metric or {}).get("value"))
    if metric is None or value is None:
        return None
    return Cell(value, _number(metric.get("low")), _number(metric.get("high")), metric.get("n"))


def show(metric: str, cell: Cell | None, interval: bool = True) -> str:
    """A cell in words.

    >>> show("t2i/mrr", Cell(0.26349, 0.25, 0.28)), show("t2i/mrr", None), show("t2i/median_rank", Cell(12))
    ('0.263 [0.250, 0.280]', '—', '12.0')
    """
    if cell is None:
        return EMPTY
    if cell.text:
        return cell.text
    digits = 1 if "rank" in split_name(metric)[1] else 3
    shown = f"{cell.value:.{digits}f}"
    if interval and cell.low is not None and cell.high is not None:
        shown += f" [{cell.low:.{digits}f}, {cell.high:.{digits}f}]"
    return shown


# --- blocks ------------------------------------------------------------------------------------------------------


def build_blocks(results: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, str]] = ()) -> list[Block]:
    """One block a (data, split, task) and part, summaries first.

    Results that were measured on another number of queries, documents or classes never share a block.
    """
    groups: list[list[Mapping[str, Any]]] = []
    for result in sorted(results, key=coordinates):
        fits = [group for group in groups if all(_comparable(result, other) for other in group)]
        if fits:
            fits[0].append(result)
        else:
            groups.append([result])
    return [block for number, group in enumerate(groups) for block in _group_blocks(number, group, published)]


def _comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    parts = set(_parts(one["metrics"])) & set(_parts(other["metrics"]))
    return coordinates(one) == coordinates(other) and all(sizes(one, part) == sizes(other, part) for part in parts)


def _parts(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(split_name(name)[0] for name in names))


def _group_blocks(
    number: int, group: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, str]]
) -> list[Block]:
    first = group[0]
    names = ordered(name for result in group for name in result["metrics"])
    references, notes = _published_rows(group, published)
    rows = [*_measured_rows(group), *references]
    parts = _parts(names)
    columns = {part: [name for name in names if split_name(name)[0] == part] for part in parts}
    if len(parts) > 1 or len(names) > COLUMNS_PER_TABLE:
        columns = {"summary": summary_metrics(first, names), **columns}
    blocks = []
    for part, shown in columns.items():
        covered = _parts(shown)
        wanted = [*(note for where, note in notes if where in covered), *_training_notes(group, covered)]
        kept = [row for row in rows if not row.source or set(shown) & set(row.cells)]
        common = _common_sizes(group, covered)
        blocks.append(Block(*coordinates(first), part, common, shown, kept, list(dict.fromkeys(wanted)), number))
    return blocks


def _common_sizes(group: Sequence[Mapping[str, Any]], parts: Sequence[str]) -> dict[str, int]:
    """The sizes that all ``parts`` have in common."""
    every = [sizes(result, part) for part in parts for result in group if part in _parts(result["metrics"])]
    return {word: number for word, number in every[0].items() if all(size.get(word) == number for size in every)}


def _training_notes(group: Sequence[Mapping[str, Any]], parts: Sequence[str]) -> list[str]:
    """How many relevant products an in-domain model may have been trained on, where the result counts them."""
    notes = []
    for result in filter(in_domain, group):
        counts = result.get("counts") or {}
        seen = {part: counts.get(f"{part}/relevant_in_train") for part in parts}
        words = [f"{part} {seen[part]:,} of {counts.get(f'{part}/relevant', 0):,}" for part in parts if seen[part]]
        if words:
            model = result["model"]["name"]
            notes.append(f"Relevant (query, product) pairs in the training part of {model}: {', '.join(words)}.")
    return notes


def _measured_rows(group: Sequence[Mapping[str, Any]]) -> list[Row]:
    rows = []
    for result in group:
        found = {name: cell_of(metric) for name, metric in result["metrics"].items()}
        cells = {name: cell for name, cell in found.items() if cell is not None}
        model = result["model"]
        rows.append(Row(model["name"], cells, "", str(model.get("fingerprint") or ""), in_domain(result)))
    names = [row.model for row in rows]
    for row in rows:
        if names.count(row.model) > 1:
            row.model += f" ({row.fingerprint[:8]})"
    # The same weights measured twice with different outcomes (another seed, other prompts): numbered.
    names = [row.model for row in rows]
    for i, row in enumerate(rows):
        if names.count(names[i]) > 1:
            row.model += f" #{names[: i + 1].count(names[i])}"
    return rows


def _published_rows(
    group: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, str]]
) -> tuple[list[Row], list[tuple[str, str]]]:
    """Rows of the publications that measured the same thing, and (part, note) where a size differs."""
    first = group[0]
    rows: dict[tuple[str, str], Row] = {}
    notes: dict[tuple[str, str], None] = {}
    for naming in NAMINGS:
        if (naming.data, naming.task) != (first["data"], first["task"]):
            continue
        for line in published:
            part, metric = naming.part(line["task"]), naming.metrics.get(line["metric"])
            if line["dataset"] != naming.dataset or metric is None:
                continue
            same, note = _same_size(naming, part, group)
            if note:
                notes[note] = None
            if same:
                row = rows.setdefault((line["source"], line["model"]), Row(line["model"], {}, line["source"]))
                row.cells[f"{part}/{metric}"] = Cell(float(line["value"]), text=line["value"])
    return list(rows.values()), list(notes)


def _same_size(naming: Naming, part: str, group: Sequence[Mapping[str, Any]]) -> tuple[bool, tuple[str, str] | None]:
    """Whether the group's ``part`` has the published number of queries and documents; and the (part, note) to print."""
    ours = {m.get("n") or 0 for r in group for name, m in r["metrics"].items() if split_name(name)[0] == part}
    pairs = [("queries", naming.queries.get(part), n) for n in sorted(ours)]
    gallery = next((size["gallery"] for size in (sizes(result, part) for result in group) if "gallery" in size), 0)
    for what, theirs, n in [*pairs, ("documents", naming.gallery, gallery)]:
        if theirs is None or n == theirs or n == 0:  # 0: the result does not say
            continue
        note = f"{part}: the published numbers are of {theirs:,} {what}, here there are {n:,}"
        if abs(n - theirs) > SAME_SIZE * theirs:
            return False, (part, f"{note}; they are left out.")
        return True, (part, f"{note}.")
    return True, None


# --- writing -----------------------------------------------------------------------------------------------------


def chunks(columns: Sequence[str], most: int = COLUMNS_PER_TABLE) -> list[list[str]]:
    """Columns dealt over as few tables as hold ``most`` each, evenly.

    >>> [len(c) for c in chunks(list("abcdefghi"))]
    [5, 4]
    """
    tables = max(1, math.ceil(len(columns) / most))
    width = math.ceil(len(columns) / tables)
    return [list(columns[i : i + width]) for i in range(0, len(columns), width)]


def heading(block: Block, name: str) -> str:
    """A column's heading: without the part where the block's title says it."""
    return name if block.part == "summary" else split_name(name)[1]


def origin(block: Block, row: Row) -> str:
    """``measured``, or ``published [1]`` with the footnote of its source."""
    return f"published [{block.sources.index(row.source) + 1}]" if row.source else "measured"


def to_markdown(blocks: Sequence[Block]) -> str:
    """GitHub Markdown: measured rows with 95 % intervals, published rows in italics with their source."""

    def escape(text: str) -> str:
        return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("\n", " ")

    lines: list[str] = []
    for block in blocks:
        lines += [f"### {block.title}", ""] + ([f"{block.size}.", ""] if block.size else [])
        for columns in chunks(block.columns):
            lines.append("| " + " | ".join(["model", *(escape(heading(block, c)) for c in columns), "origin"]) + " |")
            lines.append("| --- |" + " ---: |" * len(columns) + " --- |")
            for row in block.rows:
                label = f"*{escape(row.label)}*" if row.source else escape(row.label)
                cells = [show(column, row.cells.get(column)) for column in columns]
                lines.append("| " + " | ".join([label, *cells, origin(block, row)]) + " |")
            lines.append("")
        for note in block.footnotes():
            lines += [escape(note), ""]
    return "\n".join(lines).rstrip() + "\n"


def to_csv(blocks: Sequence[Block]) -> str:
    """Long form, a line a number; what was not run has no line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fixed = ("data", "split", "task", "queries", "gallery", "model", "fingerprint", "origin", "source", "in_domain")
    writer.writerow([*fixed, "metric", "value", "low", "high", "n"])
    for block in (block for block in blocks if block.part != "summary"):
        where = [block.data, block.split, block.task, block.sizes.get("queries"), block.sizes.get("gallery")]
        for row in block.rows:
            who = [row.model, row.fingerprint, "published" if row.source else "measured", row.source, row.in_domain]
            for column in (column for column in block.columns if column in row.cells):
                cell = row.cells[column]
                writer.writerow([*where, *who, column, cell.text or cell.value, cell.low, cell.high, cell.n])
    return text.getvalue()


def to_latex(blocks: Sequence[Block]) -> str:
    r"""LaTeX tables (``\usepackage{booktabs}``), published rows in italics."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", EMPTY: "---"}
    special |= {c: f"\\{c}" for c in "&%$#_{}"} | {DAGGER: r"$\dagger$", "[": "{[}", "·": r"$\cdot$"}

    def escape(text: str) -> str:
        return "".join(special.get(character, character) for character in text)

    lines = [r"% needs \usepackage{booktabs}"]
    for block in blocks:
        lines += [r"\begin{table}", r"\centering\small"]
        caption = f"{block.title}: {block.size}." if block.size else f"{block.title}."
        lines.append(rf"\caption{{{escape(' '.join([caption, *block.footnotes()]))}}}")
        for columns in chunks(block.columns):
            lines += [rf"\begin{{tabular}}{{@{{}}l{'r' * len(columns)}l@{{}}}}", r"\toprule"]
            heads = ["model", *(heading(block, column) for column in columns), "origin"]
            lines += [" & ".join(escape(head) for head in heads) + r" \\", r"\midrule"]
            for row in block.rows:
                label = rf"\textit{{{escape(row.label)}}}" if row.source else escape(row.label)
                cells = [escape(show(column, row.cells.get(column))) for column in columns]
                lines.append(" & ".join([label, *cells, escape(origin(block, row))]) + r" \\")
            lines += [r"\bottomrule", r"\end{tabular}", ""]
        lines += [r"\end{table}", ""]
    return "\n".join(lines)


FORMATS = {"markdown": to_markdown, "csv": to_csv, "latex": to_latex}


def format_table(
    results: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, str]] = (), style: str = "markdown"
) -> str:
    """The whole table as text.

    Args:
        results: Contents of result files.
        published: Rows of `read_published`.
        style: A key of `FORMATS`.

    Raises:
        ModisteError: unknown style.
    """
    if style not in FORMATS:
        raise ModisteError(f"There is no table format '{style}'. {did_you_mean(style, FORMATS)}")
    return FORMATS[style](build_blocks(results, published))


def rich_table(results: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, str]] = ()) -> Group:
    """The summaries for a terminal: a line a metric, a column a measured model, and the best published number."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    tables = []
    for block in summaries(build_blocks(results, published)):
        best = {column: _best_published(block, column) for column in block.columns}
        table = Table(title=block.title, caption="\n".join(_terminal_notes(block)), title_justify="left")
        table.caption_justify = "left"
        table.add_column("metric")
        measured = [row for row in block.rows if not row.source]
        for row in measured:
            table.add_column(Text(row.label), justify="right")
        if any(best.values()):
            table.add_column("best published", justify="right")
        for column in block.columns:
            cells = [column, *(show(column, row.cells.get(column)) for row in measured)]
            cells += [best[column] or EMPTY] if any(best.values()) else []
            table.add_row(*(Text(cell) for cell in cells))
        tables.append(table)
    return Group(*tables)


def print_results(paths: Iterable[str | Path]) -> None:
    """Print the summaries of result files to the terminal, beside the packaged published numbers."""
    from rich.console import Console

    Console().print(rich_table(load_results(paths), read_published()))


def summaries(blocks: Sequence[Block]) -> list[Block]:
    """The first block of every group: its summary, or its only block where it has no summary."""
    return [block for i, block in enumerate(blocks) if i == 0 or block.group != blocks[i - 1].group]


def _best_published(block: Block, column: str) -> str:
    """``0.334 (Marqo-FashionSigLIP)``; empty when nobody published it. Every mapped metric is better when higher."""
    rows = [row for row in block.rows if row.source and column in row.cells]
    if not rows:
        return ""
    best = max(rows, key=lambda row: row.cells[column].value)
    return f"{best.cells[column].text} ({best.model})"


def _terminal_notes(block: Block) -> list[str]:
    daggers = [DAGGER_NOTE] if any(row.in_domain for row in block.rows) else []
    return [*([block.size] if block.size else []), *daggers, *block.notes]
