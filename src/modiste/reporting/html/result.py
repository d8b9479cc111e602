"""A result as a section of a page: galleries first, then figures, then tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from modiste.reporting import tables
from modiste.reporting.figures import (
    confused_classes,
    drawn_methods,
    few_shot_curves,
    file_word,
    interval_plots,
    is_by_phrase,
    most_confused,
    phrase_bars,
)
from modiste.reporting.figures.few_shot import is_few_shot
from modiste.reporting.html.blocks import (
    Code,
    Confusion,
    Fold,
    Heading,
    Note,
    Pictures,
    Section,
    Table,
    Td,
    plain,
    plain_table,
)
from modiste.reporting.html.gallery import Thumbs, gallery, is_example
from modiste.reporting.html.run import Run
from modiste.reporting.tables.blocks import cautions
from modiste.reporting.words import chance, headline, measure_words, part_words, task_title

OPEN = 2  # galleries that start open
WORST = 10  # rows of a table that are not folded
LONGEST_TABLE = 500
MOST_CLASSES = 30
QUALITY = ("f1", "recall", "accuracy")  # columns that order a table, by preference
TILES = 4


def tiles(result: Mapping[str, Any], most: int = TILES) -> list[dict[str, str]]:
    """Tiles of the main metric of each part, at most ``most``, with interval and chance level."""
    metrics, primary = result["metrics"], result.get("primary") or next(iter(result["metrics"]))
    measure = tables.split_name(primary)[1]
    parts = tables.ordered(name for name in metrics if tables.split_name(name)[1] == measure)
    first = [primary, *(name for name in parts if name != primary)]
    if not any(chance(result, name) for name in first):  # an accuracy has a chance level, F1 has none
        accuracy = [f"{tables.split_name(name)[0]}/accuracy".lstrip("/") for name in first]
        first = accuracy if all(name in metrics and chance(result, name) is not None for name in accuracy) else first
    shown = []
    for name in [name for name in first if name in metrics][:most]:
        cell, guess = tables.cell_of(metrics[name], name), chance(result, name)
        if cell is None:
            continue
        details = [tables.show(name, cell).partition(" ")[2], f"chance {guess:.2f}" if guess is not None else ""]
        where = " · ".join(word for word in (result["data"], result["split"], result.get("variant")) if word)
        value = f"{cell.value:.2f}" if cell.value <= 1 else tables.show(name, cell, interval=False)
        shown.append({"title": headline(result, name), "value": value, "where": where,
                      "details": " · ".join(word for word in details if word)})  # fmt: skip
    return shown


def result_section(run: Run, stem: str, result: Mapping[str, Any], published: Sequence[Mapping[str, str]]) -> Section:
    """Section with all content of a result."""
    variant = f", {result['variant']}" if result.get("variant") else ""
    title = f"{task_title(result['task'])} on {result['data']} ({result['split']}{variant})"
    block = tables.summaries(tables.build_blocks([result], published))[0]
    seconds = (
        [f"evaluated in {tables.duration(result['seconds'])}"]
        if isinstance(result.get("seconds"), (int, float))
        else []
    )
    about = [", ".join([*([block.size] if block.size else []), *seconds])]
    about += [tables.DAGGER_NOTE] if tables.in_domain(result) else []
    parts = list(dict.fromkeys(tables.split_name(name)[0] for name in result["metrics"]))
    warnings = cautions([result], parts)
    about += [tables.overlap_note(result), *(note for note in block.notes if note not in warnings)]
    blocks: list[Any] = [Note(text, warning=True) for text in warnings] + [Note(text) for text in about if text]
    blocks += [Note(str(finding)) for finding in result.get("findings") or []]
    blocks += _galleries(run, stem, result)
    blocks += _pictures(run, result)
    blocks += _figures(run, stem, result)
    blocks += _phrases(run, stem, result)
    blocks += _published(block)
    blocks += [Heading("All metrics"), metric_table(result, f"{stem.replace('.', '-')}-metric")]
    blocks += _classes(result.get("tables") or {}, result.get("confusion") or {})
    if result.get("counts"):
        blocks.append(Fold("Counts", [plain_table(["", ""], [list(item) for item in result["counts"].items()])]))
    if result.get("protocol"):
        blocks.append(Fold("Protocol", [Code(dump(result["protocol"]))]))
    return Section(stem.replace(".", "-"), title, blocks)


def dump(value: object) -> str:
    """Format as YAML."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _galleries(run: Run, stem: str, result: Mapping[str, Any]) -> list[Any]:
    """Hits and misses of every search (t2i, i2t, an attribute, a task of Marqo's)."""
    searches: dict[str, list[Mapping[str, Any]]] = {}
    for example in filter(is_example, result.get("examples") or []):
        searches.setdefault(str(example.get("search") or example["kind"]), []).append(example)
    if not searches:
        return []
    thumbs = Thumbs.of(run.path / "figures", result, run.catalogues.get(stem))
    shown = [gallery(search, examples, thumbs) for search, examples in searches.items()]
    thumbs.keep()
    missing = [Note(f"Images are not shown: those of {result['data']} are not available.")] if not thumbs.kept else []
    folds = [Fold(block.title, [block], open=place < OPEN) for place, block in enumerate(shown)]
    return [Heading("What a search finds"), *missing, *folds]


def _pictures(run: Run, result: Mapping[str, Any]) -> list[Any]:
    """PNGs of the task, such as heat map sheets; files outside the run directory are skipped."""
    blocks: list[Any] = []
    for title, file in (result.get("pictures") or {}).items():
        path = (run.path / str(file)).resolve()
        if path.is_file() and path.suffix == ".png" and path.is_relative_to(run.path.resolve()):
            blocks += [Heading(str(title)), Pictures([(path, str(title))])]
    return blocks


def _figures(run: Run, stem: str, result: Mapping[str, Any]) -> list[Any]:
    folder, metrics = run.path / "figures", result["metrics"]
    chances = {name: level for name in metrics if (level := chance(result, name)) is not None}
    plots = interval_plots(metrics, folder / f"{stem}.metrics", result.get("summary") or (), chances)
    ticks = " Ticks: chance." if chances else ""
    blocks: list[Any] = []
    if plots:
        blocks = [
            Heading("Metrics with 95 % intervals"),
            Pictures([(path, path.stem) for path in plots], f"Dots: values, bars: intervals.{ticks}"),
        ]
    curve = few_shot_curves(result.get("tables") or {}, folder / f"{stem}.few_shot.svg")
    if curve is None:
        return blocks
    tables_of_shots = {name: table for name, table in (result.get("tables") or {}).items() if is_few_shot(table)}
    shots = [block for name, table in tables_of_shots.items() for block in (Heading(name), *_table(table))]
    return [*blocks, Pictures([(curve, "few-shot accuracy")]), Fold("Few-shot tables", shots)]


def _phrases(run: Run, stem: str, result: Mapping[str, Any]) -> list[Any]:
    """One figure of pointing by phrase per method."""
    drawn = []
    for table in filter(is_by_phrase, (result.get("tables") or {}).values()):
        for method in drawn_methods(table):
            path = run.path / "figures" / f"{stem}.phrases.{file_word(method)}.svg"
            drawn.append((phrase_bars(table, method, path), f"{method}: pointing by phrase"))
    return [Heading("By phrase"), Pictures(drawn)] if drawn else []


def _published(block: tables.Block) -> list[Any]:
    """The result's summary with published rows; empty without any."""
    if not block.sources:
        return []
    rows, published = [], []
    for place, row in enumerate(block.rows):
        cells = [_interval(column, row.cells.get(column)) for column in block.columns]
        rows.append([Td(row.label, words=True), *cells, Td(tables.origin(block, row), words=True)])
        published += [place] if row.source else []
    heads = [Td("model", words=True), *(Td(tables.heading(block, column)) for column in block.columns), Td("origin")]
    notes = [Note(f"[{i}] {source}") for i, source in enumerate(block.sources, 1)]
    return [Heading("Next to published numbers"), Table(heads, rows, published=published), *notes]


def metric_table(result: Mapping[str, Any], key: str) -> Table:
    """Metrics as rows, parts (directions, attributes, …) as columns; transposed if there are more parts."""
    metrics = result["metrics"]
    names = tables.ordered(metrics)
    parts = list(dict.fromkeys(tables.split_name(name)[0] for name in names))
    measures = tables.ordered(tables.split_name(name)[1] for name in names)
    cells = {
        (part, measure): _interval(
            measure, tables.cell_of(metrics.get(f"{part}/{measure}" if part else measure), measure)
        )
        for part in parts
        for measure in measures
    }
    said = (result.get("protocol") or {}).get("metrics")
    definitions = (
        {measure: str(said[measure]) for measure in measures if measure in said} if isinstance(said, Mapping) else {}
    )
    sizes = {part: _size(metrics, part) for part in parts}
    if len(parts) > len(measures):
        heads = [Td("", words=True), *(Td(measure_words(measure), sort=measure) for measure in measures)]
        rows = [[Td(part_words(part), sizes[part], words=True), *(cells[part, m] for m in measures)] for part in parts]
    else:
        heads = [Td("metric", words=True), *(Td(part_words(part), sizes[part]) for part in parts)]
        rows = [[Td(measure_words(m), words=True, sort=m), *(cells[part, m] for part in parts)] for m in measures]
    return Table(heads, rows, {measure_words(measure): text for measure, text in definitions.items()}, key=key)


def _size(metrics: Mapping[str, Any], part: str) -> str:
    found = {metric.get("n") for name, metric in metrics.items() if tables.split_name(name)[0] == part}
    return f"n = {found.pop():,}" if len(found) == 1 and None not in found else ""


def _interval(name: str, cell: tables.Cell | None) -> Td:
    value, _, interval = tables.show(name, cell).partition(" ")
    return Td(value, interval, sort=cell.value if cell else None)


def _classes(found: Mapping[str, Any], confusion: Mapping[str, Any]) -> list[Any]:
    """Worst classes and confusion matrix of each attribute."""
    folds: list[Fold] = []
    for name in dict.fromkeys([*found, *confusion]):
        if name in found and is_few_shot(found[name]):
            continue
        blocks = _table(found[name]) if name in found else []
        blocks += _confusion(confusion[name]) if name in confusion else []
        folds.append(Fold(f"{name}: classes" if name in confusion else name, blocks, open=not folds))
    return [Heading("Classes"), *folds] if folds else []


def _table(table: Mapping[str, Any]) -> list[Any]:
    """A result's table: first rows, the worst ones if a `QUALITY` column orders them, then all in a fold."""
    columns, rows = list(table["columns"]), list(table["rows"])
    by = next((column for word in QUALITY for column in columns if str(column).rpartition("/")[2] == word), None)
    if by is not None and not is_few_shot(table):
        at = columns.index(by)
        rows.sort(key=lambda row: (row[at] is None, row[at]))
    title = [Note(f"The worst {WORST} of {len(rows)} by {by}.")] if by and len(rows) > WORST else []
    blocks = [*title, plain_table(columns, rows[:WORST])]
    if len(rows) > WORST:
        cut = f" (the first {LONGEST_TABLE})" if len(rows) > LONGEST_TABLE else ""
        blocks.append(Fold(f"All {len(rows)} rows{cut}", [plain_table(columns, rows[:LONGEST_TABLE])]))
    return blocks


def _confusion(found: Mapping[str, Any]) -> list[Any]:
    labels, matrix = found["labels"], found["matrix"]
    kept = confused_classes(matrix) if len(labels) > MOST_CLASSES else list(range(len(labels)))
    totals = [max(sum(row), 1) for row in matrix]
    blocks: list[Any] = []
    if len(kept) < len(labels):
        blocks.append(Note(f"{len(kept)} of {len(labels)} classes: those with the most errors."))
    counts = [[matrix[i][j] for j in kept] for i in kept]
    fractions = [[matrix[i][j] / totals[i] for j in kept] for i in kept]
    blocks.append(Confusion([plain(labels[i]) for i in kept], counts, fractions))
    pairs = [list(pair) for pair in most_confused(labels, matrix)]
    if pairs:
        table = plain_table(["true", "predicted", "count", "fraction of true"], pairs)
        blocks.append(Fold("Most confused pairs", [table]))
    return blocks
