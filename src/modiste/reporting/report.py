"""report.html: one page about a run that can be mailed. Pictures are inside it; nothing is fetched from anywhere."""

from __future__ import annotations

import base64
import glob
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from modiste.errors import ModisteError
from modiste.reporting import figures, tables
from modiste.utils.energy import NOT_INSTALLED
from modiste.utils.run_dir import read_json

WORST = 15  # classes shown before the fold
GALLERY = 6  # hits and misses shown of a search
OPEN = 2  # searches and attributes whose pictures are not folded away
LONGEST_TABLE = 500
QUALITY = ("f1", "recall", "accuracy")  # the columns that may order a per-class table, best first

CSS = """
:root { color-scheme: light dark; --ink: #1d2329; --faint: #5d6974; --line: #dde2e7; --paper: #ffffff; --wash: #f5f7f9;
  --accent: #0072b2; --bar: #cfe3f1; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e7eb; --faint: #9aa6b1; --line: #343c44; --paper: #15191d;
  --wash: #1d2328; --accent: #56b4e9; --bar: #23455c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p, .note { margin: .4rem 0; } .note, figcaption, .faint { color: var(--faint); font-size: .87rem; }
nav a { color: var(--accent); margin-right: 1rem; text-decoration: none; } nav { margin: .75rem 0; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: 1rem 0; }
.facts dt { color: var(--faint); } .facts dd { margin: 0; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0; }
.tile { flex: 1 1 13rem; padding: .75rem 1rem; background: var(--wash); border: 1px solid var(--line);
  border-radius: 8px; }
.tile b { display: block; font-size: 1.6rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; white-space: normal; }
.dense td small { display: block; } .dense th, .dense td { padding: .28rem .5rem; }
th small, td small { color: var(--faint); font-weight: 400; }
th:first-child, td:first-child, .text { text-align: left; }
.words td:last-child { white-space: normal; overflow-wrap: anywhere; }
tr.published td { color: var(--faint); font-style: italic; }
td.bar { background: linear-gradient(90deg, var(--bar) var(--part), transparent var(--part)); min-width: 6rem; }
figure { margin: .75rem 0; } figure img { max-width: 100%; height: auto; background: #fff; border-radius: 8px;
  border: 1px solid var(--line); display: block; }
details { margin: .75rem 0; } summary { cursor: pointer; color: var(--accent); }
pre { overflow-x: auto; background: var(--wash); border: 1px solid var(--line); border-radius: 8px;
  padding: .75rem 1rem; font-size: .8rem; line-height: 1.4; } code { font-size: .9em; }
@media print { details { display: none; } body { max-width: none; } }
"""


@dataclass
class _Run:
    """What a run directory holds, read once."""

    path: Path
    results: dict[str, dict[str, Any]]  # file stem → content
    catalogues: Mapping[str, figures.Pictures]
    config_text: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    suites: list[dict[str, Any]] = field(default_factory=list)


def write_report(run_dir: Path, catalogue: figures.Pictures | Mapping[str, figures.Pictures] | None = None) -> Path:
    """Write ``report.html`` and ``figures/*.png`` from what the run directory holds, and return the page's path.

    Args:
        run_dir: A run directory; whatever it lacks is left out of the page.
        catalogue: The full catalogue that the retrieval examples refer to, or ``{result's file stem: catalogue}`` for
            a run that was evaluated on several. For others, galleries that were drawn before are used again.

    Raises:
        ModisteError: there is no such directory, nothing to report, or a malformed file in it.
    """
    run = _read(Path(run_dir), catalogue)
    curves = figures.training_curves(figures.read_metrics(run.path), run.path / "figures" / "curves.png")
    if not curves and not run.results:
        raise ModisteError(f"'{run_dir}' has neither metrics.csv nor results. Train or evaluate into it first.")
    sections: list[tuple[str, str, str]] = []  # id, title, HTML
    if curves:
        sections.append(("training", "Training", _picture(curves, "training curves")))
    if (run.path / "figures" / "selection.png").is_file():
        title = "Which epoch each criterion chooses"
        sections.append(("selection", title, _picture(run.path / "figures" / "selection.png", title)))
    published = tables.read_published()
    for stem, result in run.results.items():
        variant = f", {result['variant']}" if result.get("variant") else ""
        title = f"{result['task']} on {result['data']} ({result['split']}{variant})"
        sections.append((stem.replace(".", "-"), title, _result(run, stem, result, published)))
    if run.cost:
        sections.append(("cost", "Cost of training", _costs(run.cost)))
    if run.suites:
        sections.append(("suites", "What was not run", _missing(run.suites)))
    if run.data:
        sections.append(("data", "Data", _data(run.data)))
    sections.append(("config", "Configuration and environment", _config(run)))
    page = run.path / "report.html"
    page.write_text(_page(run, sections), encoding="utf-8")
    return page


def _read(path: Path, catalogue: figures.Pictures | Mapping[str, figures.Pictures] | None) -> _Run:
    if not path.is_dir():
        raise ModisteError(f"There is no run directory '{path}'. Give the folder that a run wrote.")
    results = {file.stem: tables.read_result(file) for file in sorted((path / "results").glob("*.json"))}
    catalogues = catalogue if isinstance(catalogue, Mapping) else {}
    if catalogue is not None and not isinstance(catalogue, Mapping):
        catalogues = {stem: catalogue for stem, result in results.items() if result["data"] == catalogue.card.name}
    config_text = (path / "config.yaml").read_text(encoding="utf-8") if (path / "config.yaml").is_file() else ""
    facts = {name: _json(path / f"{name}.json") for name in ("environment", "cost", "data")}
    suites = [_json(file) for file in sorted(path.glob("suite.*.json"))]
    return _Run(path, results, catalogues, config_text, _yaml(config_text, path), **facts, suites=suites)


def _json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    return content if isinstance(content, dict) else {path.stem: content}


def _yaml(text: str, path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ModisteError(f"'{path / 'config.yaml'}' is not readable YAML ({error}). Repair the file.") from None
    return content if isinstance(content, dict) else {}


# --- the page ----------------------------------------------------------------------------------------------------


def _page(run: _Run, sections: Sequence[tuple[str, str, str]]) -> str:
    name = escape(_title(run))
    links = "".join(f'<a href="#{escape(key)}">{escape(title)}</a>' for key, title, _ in sections)
    body = "".join(f'<h2 id="{escape(key)}">{escape(title)}</h2>{html}' for key, title, html in sections)
    # The policy makes "no external requests" a fact, whatever a config or a caption holds.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name} · Modiste</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{CSS}</style></head><body>'
        f"<header><h1>{name}</h1>{_facts(_header(run))}</header><nav>{links}</nav>{_tiles(run)}{body}"
        '<p class="note">Intervals are 95 % bootstrap intervals over queries or images. Written by Modiste.</p>'
        "</body></html>\n"
    )


def _title(run: _Run) -> str:
    folder, name = run.path.resolve().name, str(run.config.get("name") or "")
    return folder if name in ("", folder) else f"{name} · {folder}"


def _header(run: _Run) -> dict[str, str]:
    results = list(run.results.values())

    def distinct(read: Callable[[dict[str, Any]], Any]) -> str:
        return ", ".join(dict.fromkeys(str(read(result)) for result in results if read(result)))

    data = run.config.get("data")
    facts = {
        "model": distinct(lambda r: r["model"]["name"]) or _targets(run.config),
        "weights": distinct(lambda r: str(r["model"].get("fingerprint") or "")[:16]),
        "trained on": str(data.get("name", "")) if isinstance(data, Mapping) and _trained(run) else "",
        "evaluated on": distinct(lambda r: f"{r['data']} ({r['split']})"),
        "date": _date(run),
        "trained with": str(run.environment.get("command", "")),
        "evaluated with": distinct(lambda r: r.get("command")),
        "machine": _machine(run.environment or next((r["environment"] for r in results if r.get("environment")), {})),
        "cost": _cost(run.cost),
        "run directory": str(run.path),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _date(run: _Run) -> str:
    """When it was last evaluated, or when its configuration was written."""
    created = max((str(result.get("created") or "") for result in run.results.values()), default="")
    if created or not run.config_text:
        return created
    written = datetime.fromtimestamp((run.path / "config.yaml").stat().st_mtime, tz=timezone.utc)
    return written.isoformat(timespec="seconds")


def _trained(run: _Run) -> bool:
    return bool(run.cost) or (run.path / "checkpoints").is_dir()


def _targets(config: Mapping[str, Any]) -> str:
    model = config.get("model")
    return str(model.get("_target_", "")) if isinstance(model, Mapping) else ""


def _machine(environment: Mapping[str, Any]) -> str:
    plain = {
        k: v for k, v in environment.items() if isinstance(v, (str, int, float)) and k not in ("created", "command")
    }
    return ", ".join(f"{name} {value}" for name, value in plain.items())


def _cost(cost: Mapping[str, Any]) -> str:
    """In a line: the wall time without its name, a number without a unit with it."""
    words = tables.cost_words(cost)
    first = [words.pop("wall time")] if "wall time" in words else []
    counts = [f"{words.pop(name)} {name}" for name in ("pairs", "pairs/s", "steps") if name in words]
    return ", ".join([*first, *counts, *(f"{name} {word}" for name, word in words.items())])


def _costs(cost: Mapping[str, Any]) -> str:
    """As a table, and what is to be known of it."""
    notes = tables.cost_notes(cost) or [NOT_INSTALLED]
    rows = [list(item) for item in tables.cost_words(cost).items()]
    return _grid(["", ""], rows) + "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _tiles(run: _Run) -> str:
    tiles = []
    for result in run.results.values():
        name = result.get("primary") or next(iter(tables.summary_metrics(result, result["metrics"])), "")
        cell = tables.cell_of(result["metrics"].get(name))
        if cell is None:
            continue
        interval = tables.show(name, cell).partition(" ")[2]
        tiles.append(
            f'<div class="tile"><span class="faint">{escape(result["data"])} · {escape(name)}</span>'
            f'<b>{tables.show(name, cell, interval=False)}</b><span class="faint">{interval}</span></div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


# --- one result --------------------------------------------------------------------------------------------------


def _result(run: _Run, stem: str, result: dict[str, Any], published: Sequence[Mapping[str, str]]) -> str:
    block = tables.summaries(tables.build_blocks([result], published))[0]
    seconds = [f"took {tables.duration(result['seconds'])}"] if isinstance(result.get("seconds"), (int, float)) else []
    dagger = [tables.DAGGER_NOTE] if tables.in_domain(result) else []
    first = ", ".join([*([block.size] if block.size else []), *seconds])
    every = [first, *dagger, tables.overlap_note(result), *block.notes]
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in every if note)
    plot = figures.interval_plot(result["metrics"], run.path / "figures" / f"{stem}.metrics.png")
    return "".join(
        [
            notes,
            _beside_published(block),
            _metrics(result["metrics"]),
            _picture(plot, "metrics with 95 % intervals") if plot else "",
            _galleries(run, stem, result),
            _pictures(run, result),
            _classes(run, stem, result.get("tables") or {}, result.get("confusion") or {}),
            _details("Counts", _grid(["", ""], [list(i) for i in result["counts"].items()]))
            if result.get("counts")
            else "",
            _details("Protocol", f"<pre>{escape(_dump(result['protocol']))}</pre>") if result.get("protocol") else "",
        ]
    )


def _beside_published(block: tables.Block) -> str:
    """The result's summary with the publications' rows, where there are any."""
    if not block.sources:
        return ""
    rows = []
    for row in block.rows:
        cells = [_interval(column, row.cells.get(column)) for column in block.columns]
        kind = ' class="published"' if row.source else ""
        origin = f"<td>{escape(tables.origin(block, row))}</td>"
        rows.append(f"<tr{kind}><td>{escape(row.label)}</td>{''.join(cells)}{origin}</tr>")
    heads = ["model", *(tables.heading(block, column) for column in block.columns), "origin"]
    head = "".join(f"<th>{escape(head).replace('/', ' / ')}</th>" for head in heads)
    notes = "".join(f'<p class="note">[{i}] {escape(source)}</p>' for i, source in enumerate(block.sources, 1))
    table = f'<div class="scroll"><table class="dense"><tr>{head}</tr>{"".join(rows)}</table></div>'
    return f"<h3>Beside published numbers</h3>{table}{notes}"


def _metrics(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows are metrics, columns the parts (directions, attributes, Marqo's tasks)."""
    names = tables.ordered(metrics)
    parts = list(dict.fromkeys(tables.split_name(name)[0] for name in names))
    measures = tables.ordered(tables.split_name(name)[1] for name in names)
    head = "<th>metric</th>"
    for part in parts:
        sizes = {metrics[name].get("n") for name in names if tables.split_name(name)[0] == part}
        size = f"<br><small>n = {sizes.pop():,}</small>" if len(sizes) == 1 and None not in sizes else ""
        head += f"<th>{escape(part or 'value')}{size}</th>"
    rows = ""
    for measure in measures:
        cells = [tables.cell_of(metrics.get(f"{part}/{measure}" if part else measure)) for part in parts]
        rows += f"<tr><td>{escape(measure)}</td>{''.join(_interval(measure, cell) for cell in cells)}</tr>"
    dense = ' class="dense"' if len(parts) > 3 else ""
    return f'<h3>All metrics</h3><div class="scroll"><table{dense}><tr>{head}</tr>{rows}</table></div>'


def _interval(name: str, cell: tables.Cell | None) -> str:
    value, _, interval = tables.show(name, cell).partition(" ")
    return f"<td>{escape(value)} <small>{escape(interval)}</small></td>"


def _galleries(run: _Run, stem: str, result: Mapping[str, Any]) -> str:
    """Hits and misses of every search (t2i, i2t, an attribute, a task of Marqo's)."""
    searches: dict[str, list[Mapping[str, Any]]] = {}
    for example in result.get("examples") or []:
        searches.setdefault(str(example.get("search") or example["kind"]), []).append(example)
    shown = {
        f"Retrieval, {search}: hits and misses": "".join(
            _gallery(run, stem, result["data"], search, chosen, hits) for hits in (True, False)
        )
        for search, chosen in searches.items()
    }
    return _fold(shown)


def _pictures(run: _Run, result: Mapping[str, Any]) -> str:
    """The pictures that the task made, such as heat-map sheets."""
    found = {title: run.path / file for title, file in (result.get("pictures") or {}).items()}
    return "".join(
        f"<h3>{escape(title)}</h3>{_picture(file, title)}" for title, file in found.items() if file.is_file()
    )


def _fold(shown: Mapping[str, str]) -> str:
    """The first few as they are, the others behind their titles."""
    return "".join(html if i < OPEN else _details(title, html) for i, (title, html) in enumerate(shown.items()))


def _gallery(run: _Run, stem: str, data: str, search: str, examples: Sequence[Mapping[str, Any]], hits: bool) -> str:
    """The picture of the hits or of the misses; drawn when the catalogue is there, else as it was drawn before."""
    chosen = [example for example in examples if figures.is_hit(example) == hits][:GALLERY]
    if not chosen:
        return ""
    word = "hits" if hits else "misses"
    title = f"<h3>Retrieval, {escape(search)}: {word}</h3>"
    # The name says which examples are on the picture, so that a new evaluation never shows an old picture.
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]
    prefix = f"{stem}.{_file_name(search)}.{word}-"
    path = run.path / "figures" / f"{prefix}{digest}.png"
    catalogue = run.catalogues.get(stem)
    if catalogue is not None:
        for old in path.parent.glob(f"{glob.escape(prefix)}*.png"):
            old.unlink()
        figures.retrieval_gallery(chosen, catalogue, path)
    if not path.is_file():
        return f'{title}<p class="note">Not drawn: the images of {escape(data)} were not at hand.</p>'
    legend = "Green and ticked: relevant. Orange: the wrong first result. Grey: not relevant. Numbers are cosines."
    return title + _picture(path, f"retrieval {word}", legend)


def _file_name(word: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in word)


def _classes(run: _Run, stem: str, found: Mapping[str, Any], confusion: Mapping[str, Any]) -> str:
    """Per attribute: the worst classes, and what is taken for what."""
    shown = {}
    for name in dict.fromkeys([*found, *confusion]):
        html = _table(name, found[name]) if name in found else ""
        html += _confusion(run, stem, name, confusion[name]) if name in confusion else ""
        shown[f"{name}: classes and confusion"] = html
    return _fold(shown)


def _table(name: str, table: Mapping[str, Any]) -> str:
    """A result's table: the worst rows first and open where a column says what worst is, all rows behind a fold."""
    columns, rows = list(table["columns"]), list(table["rows"])
    by = next((column for word in QUALITY for column in columns if str(column).rpartition("/")[2] == word), None)
    if by is not None:
        at = columns.index(by)
        rows.sort(key=lambda row: (row[at] is None, row[at]))
    title = f"{name}: worst {min(WORST, len(rows))} of {len(rows)} by {by}" if by and len(rows) > WORST else name
    html = f"<h3>{escape(title)}</h3>{_grid(columns, rows[:WORST])}"
    if len(rows) > WORST:
        cut = f" (the first {LONGEST_TABLE})" if len(rows) > LONGEST_TABLE else ""
        html += _details(f"All {len(rows)} rows{cut}", _grid(columns, rows[:LONGEST_TABLE]))
    return html


def _confusion(run: _Run, stem: str, name: str, found: Mapping[str, Any]) -> str:
    labels, matrix = found["labels"], found["matrix"]
    path = run.path / "figures" / f"{stem}.confusion-{_file_name(name)}.png"
    figures.confusion_matrix(labels, matrix, path, name)
    pairs = [[true, guess, count, part] for true, guess, count, part in figures.most_confused(labels, matrix)]
    confused = _grid(["true", "predicted", "count", "part of true"], pairs) if pairs else ""
    heading = f"<h3>{escape(name)}: most confused pairs</h3>" if pairs else ""
    return f"<h3>{escape(name)}: confusion</h3>{_picture(path, f'confusion of {name}')}{heading}{confused}"


# --- data and configuration --------------------------------------------------------------------------------------


def _data(data: Mapping[str, Any]) -> str:
    """data.json: plain facts, then a table for every mapping; bad rows with their ids."""
    facts = {
        name: _plain(value)
        for name, value in data.items()
        if name != "schema" and not isinstance(value, (Mapping, list))
    }
    html = _facts(facts) if facts else ""
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            rows = [[key, _members(member)] for key, member in value.items()]
            html += f"<h3>{escape(str(name))}</h3>{_grid(['', ''], rows[:LONGEST_TABLE], words=True)}"
        elif isinstance(value, list) and value:
            html += f"<h3>{escape(str(name))}</h3><p>{escape(_members(value))}</p>"
    return html


def _members(value: Any) -> str:
    """A value in a line: a list's length and first members, a list of pairs or a mapping as ``name value``."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_members(member)}" for name, member in value.items())
    if not isinstance(value, list):
        return _plain(value)
    if value and all(isinstance(member, list) and len(member) == 2 for member in value):
        return "(" + ", ".join(f"{name} {_plain(number)}" for name, number in value) + ")"
    shown = ", ".join(str(member) for member in value[:12])
    return f"{len(value):,}: {shown}{', …' if len(value) > 12 else ''}" if value else "0"


def _missing(suites: Sequence[Mapping[str, Any]]) -> str:
    """What the suites name and could not run, with the reason."""
    rows = [
        [suite["suite"], outcome["entry"], outcome["task"], outcome["why"]]
        for suite in suites
        for outcome in suite["outcomes"]
        if outcome["status"] == "missing"
    ]
    names = ", ".join(str(suite["suite"]) for suite in suites)
    if not rows:
        return f"<p>Everything that {escape(names)} names was run.</p>"
    return _grid(["suite", "entry", "task", "why"], rows, words=True)


def _config(run: _Run) -> str:
    parts = {
        "config.yaml": run.config_text,
        "environment.json": _dump(run.environment) if run.environment else "",
    }
    folds = [_details(name, f"<pre>{escape(text)}</pre>") for name, text in parts.items() if text]
    return "".join(folds) or '<p class="note">The run directory holds neither.</p>'


# --- pieces ------------------------------------------------------------------------------------------------------


def _facts(facts: Mapping[str, str]) -> str:
    items = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items())
    return f'<dl class="facts">{items}</dl>'


def _grid(columns: Sequence[Any], rows: Sequence[Sequence[Any]], words: bool = False) -> str:
    text = [bool(rows) and isinstance(rows[0][i], str) for i in range(len(columns))]
    head = "".join(f"<th{_text(t)}>{escape(str(column))}</th>" for column, t in zip(columns, text, strict=True))
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    kind = ' class="words"' if words else ""
    return f'<div class="scroll"><table{kind}><tr>{head}</tr>{body}</table></div>'


def _text(is_text: bool) -> str:
    return ' class="text"' if is_text else ""


def _cell(value: Any) -> str:
    """A value; words to the left, a fraction also as a bar."""
    shown = escape(_plain(value))
    if isinstance(value, float) and 0 <= value <= 1:
        return f'<td class="bar" style="--part: {100 * value:.0f}%">{shown}</td>'
    return f"<td{_text(isinstance(value, str))}>{shown}</td>"


def _plain(value: Any) -> str:
    if value is None:
        return tables.EMPTY
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)


def _picture(path: Path, alt: str, caption: str = "") -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    with Image.open(path) as image:  # matplotlib writes its resolution; shown at the size it was laid out for
        width = round(image.width * 96 / image.info.get("dpi", (96, 96))[0])
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img width="{width}" alt="{escape(alt)}" src="data:image/png;base64,{data}">{below}</figure>'


def _details(title: str, html: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{html}</details>"


def _dump(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
