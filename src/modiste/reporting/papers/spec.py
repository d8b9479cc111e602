"""Schema of ``table.yaml``: rows (models), columns (data set, split, task, metric), published numbers.

A table of your own runs needs only this; ``modiste table FOLDER`` builds it, in a terminal or with
``out=table.tex``. Paths are relative to the file::

    title: Our ablation
    rows:
      - {label: InfoNCE, run: runs/clip}
      - {label: sigmoid, run: "runs/siglip/{seed}", seeds: [0, 1, 2]}   # mean ± s.d. over three runs
    tables:
      kagl:
        title: KAGL, text-to-image
        data: kagl
        split: test
        task: retrieval
        part: t2i                   # the text before "/" in a metric's name
        columns: {MRR: mrr, Recall@10: recall@10}

All keys, with a publication's numbers next to the measured ones::

    title: Marqo's leaderboard
    about: One or two sentences, printed above the tables.
    results: [results/{model}, ../../runs/evaluate/{model}]   # a row's results, relative to this file
    command: modiste evaluate model={model} suite=marqo_2024  # command that makes a row's results
    defaults:                       # of every column; tables and columns override them
      split: test
      task: marqo
      config: {query_prefix: ""}    # results with another config are not used
      published: {source: …, task: Text-To-Image}   # in published.csv
    rows:
      - label: FashionCLIP 2.0
        model: fashionclip_2        # the model's name in its results; missing: the row is published only
        published: FashionCLIP2.0   # its name, or names, in the publication
        fingerprint: 3fa9           # optional: prefix of the weights' fingerprint
        overrides: [model.revision=…]     # added to the command; model.… must match the results
        config: {marqo: {query_prefix: "a photo of a "}}   # overrides the columns' config for this row
        results: ../../runs/mine/{seed}   # instead of the results above; run: DIR for one run directory
        seeds: [0, 1, 2]            # the mean ± s.d. over them is shown
        command: modiste train …    # instead of the command above
    columns:                        # sets of columns for several tables: published metric → Modiste's
      recall: {Recall@1: recall@1, MRR: mrr@10}
    tables:
      atlas:
        title: Atlas, text-to-image
        data: marqo_atlas
        part: text-to-image         # the text before "/" in a metric's name
        queries: 2000               # results with other numbers are not used
        gallery: 78370
        published: {dataset: Atlas}
        columns: recall             # a set, or label → metric or a mapping of the keys above
      mean:
        mean_of: [atlas, …]         # mean of these tables' columns of the same labels
        columns: recall
      board:
        rest: true                  # all other models of the publication follow
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from modiste.errors import ModisteError, did_you_mean
from modiste.reporting.tables.names import split_name
from modiste.utils import plain_yaml
from modiste.utils.run_dir import RunDir, read_text

FILE = "table.yaml"
PUBLISHED = ("source", "dataset", "task", "metric")
OF_COLUMN = ("data", "split", "task", "part", "metric", "queries", "gallery", "data_fingerprint", "config", "published")
OF_TABLE = ("title", "columns", "mean_of", "rest", *OF_COLUMN)
OF_ROW = ("label", "model", "run", "published", "fingerprint", "overrides", "config", "results", "seeds", "command")
OF_PAPER = ("title", "about", "results", "command", "defaults", "rows", "columns", "tables")
RESULTS = ("results/{model}", "../../runs/evaluate/{model}")


@dataclass(frozen=True)
class Column:
    """The data, task and metric of a column.

    Attributes:
        label: Heading of the column.
        data: Data set.
        split: Split of the data set.
        task: Task.
        metric: Full name of the metric in a result.
        queries: Number of queries; None: any.
        gallery: Number of documents; None: any.
        data_fingerprint: Prefix of the data's fingerprint; empty: that of the first measured row.
        config: Values that a result's ``config`` must have; a key may be a path, ``prompts.category``.
        published: ``source``, ``dataset``, ``task`` and ``metric`` in the reference file; empty: not published.
        mean_of: Tables whose columns of the same label are averaged; empty: the column is measured.
    """

    label: str
    data: str = ""
    split: str = ""
    task: str = ""
    metric: str = ""
    queries: int | None = None
    gallery: int | None = None
    data_fingerprint: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)
    mean_of: tuple[str, ...] = ()

    @property
    def part(self) -> str:
        """Part of the metric's name, the text before the last "/"."""
        return split_name(self.metric)[0]


@dataclass(frozen=True)
class Table:
    """Columns under a title; ``rest``: all other models of the publication follow as rows."""

    name: str
    title: str
    columns: list[Column]
    rest: bool = False


@dataclass(frozen=True)
class Model:
    """A row (see the module); ``results`` are paths that may contain ``{seed}``; empty: published only."""

    label: str
    model: str
    published: tuple[str, ...]
    fingerprint: str
    overrides: tuple[str, ...]
    config: Mapping[str, Mapping[str, Any]]
    results: tuple[str, ...]
    seeds: tuple[int | str, ...]
    command: str

    @property
    def measurable(self) -> bool:
        """Whether the row has results to read."""
        return bool(self.results)


@dataclass(frozen=True)
class Paper:
    """The tables of a paper."""

    path: Path
    title: str
    about: str
    rows: list[Model]
    tables: list[Table]

    @property
    def folder(self) -> Path:
        """Folder of ``table.yaml``; result paths are relative to it."""
        return self.path.parent

    @classmethod
    def read(cls, path: str | Path) -> Paper:
        """Read ``table.yaml``, or the folder that holds it.

        Raises:
            ModisteError: The file is not readable, or a key or value is missing, unknown or of the wrong type.
        """
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        try:
            content = plain_yaml.load(read_text(path))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ModisteError(f"'{path}' is not a readable table: {' '.join(str(error).split())}.") from None
        reader = _Reader(path)
        return reader.paper(reader.mapping(content, OF_PAPER, "the file"))


def is_paper(path: str | Path) -> bool:
    """Whether ``path`` is a YAML file or a folder with ``table.yaml``; a run directory never is one."""
    path = Path(path)
    return path.suffix in (".yaml", ".yml") or ((path / FILE).is_file() and not RunDir(path).is_run)


class _Reader:
    """Reader whose errors name the file and the place."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def wrong(self, message: str) -> ModisteError:
        return ModisteError(f"{self.path}: {message}")

    def mapping(self, value: Any, keys: Iterable[str] | None, where: str) -> dict[str, Any]:
        """Return a mapping that has only these keys; None: any keys."""
        if not isinstance(value, Mapping):
            raise self.wrong(f"{where} must be a mapping, not {value!r}.")
        for key in value:
            if keys is not None and key not in keys:
                raise self.wrong(f"{where} has the unknown key '{key}'. {did_you_mean(str(key), keys)}")
        return dict(value)

    def paper(self, content: dict[str, Any]) -> Paper:
        for key in ("title", "rows", "tables"):
            if not content.get(key):
                raise self.wrong(f"the key '{key}' is missing.")
        defaults = self.mapping(content.get("defaults") or {}, OF_COLUMN, "defaults")
        sets = self.mapping(content.get("columns") or {}, None, "columns")
        rows = [self.row(row, content) for row in content["rows"]]
        labels = [row.label for row in rows]
        twice = [label for label in labels if labels.count(label) > 1]
        if twice:
            raise self.wrong(f"two rows are called '{twice[0]}': give them different labels.")
        named = self.mapping(content["tables"], None, "tables")
        tables = [self.table(str(name), table, defaults, sets, named) for name, table in named.items()]
        return Paper(self.path, str(content["title"]), str(content.get("about") or ""), rows, tables)

    def row(self, value: Any, content: Mapping[str, Any]) -> Model:
        row = self.mapping(value, OF_ROW, "a row")
        if not row.get("label"):
            raise self.wrong("a row has no label.")
        where, model = f"the row '{row['label']}'", str(row.get("model") or "")
        run = str(row.get("run") or "")
        if run and row.get("results"):
            raise self.wrong(f"{where} has run and results: the results of a run are in it, keep one of the two.")
        default = content.get("results") or RESULTS if model else ()
        seeds = tuple(_listed(row.get("seeds")))
        if run and not seeds and not (self.path.parent / Path(run).expanduser()).exists():
            raise self.wrong(
                f"{where} has the run '{run}', which does not exist: give its directory, relative to the file."
            )
        results = tuple(str(path) for path in _listed(run or row.get("results") or default))
        if seeds and not all("{seed}" in path for path in results):
            raise self.wrong(f"{where} has seeds: write {{seed}} into its results, for instance runs/x/{{seed}}.")
        of_all = content.get("command") if results and not run else ""
        command = str(row.get("command") or of_all or (f"modiste evaluate run={shlex.quote(str(run))}" if run else ""))
        overrides = tuple(str(override) for override in _listed(row.get("overrides")))
        return Model(
            label=str(row["label"]),
            model=model,
            published=tuple(str(name) for name in _listed(row.get("published"))),
            fingerprint=str(row.get("fingerprint") or ""),
            overrides=overrides,
            config={
                task: self.mapping(settings, None, f"config.{task} of {where}")
                for task, settings in self.mapping(row.get("config") or {}, None, f"config of {where}").items()
            },
            results=tuple(path.replace("{model}", model) for path in results),
            seeds=seeds,
            command=" ".join([command.replace("{model}", model), *map(_quoted, overrides)]) if command else "",
        )

    def table(
        self,
        name: str,
        value: Any,
        defaults: Mapping[str, Any],
        sets: Mapping[str, Any],
        named: Mapping[str, Any],
    ) -> Table:
        where = f"the table '{name}'"
        table = self.mapping(value, OF_TABLE, where)
        columns = table.get("columns")
        if isinstance(columns, str):
            if columns not in sets:
                raise self.wrong(f"{where} has the columns '{columns}'. {did_you_mean(columns, map(str, sets))}")
            columns = sets[columns]
        mean_of = tuple(str(other) for other in _listed(table.get("mean_of")))
        for other in mean_of:
            if other not in named or other == name:
                raise self.wrong(f"{where} is the mean of '{other}'. {did_you_mean(other, map(str, named))}")
        own = {key: table[key] for key in OF_COLUMN if key in table}
        return Table(
            name,
            str(table.get("title") or name),
            [
                self.column(str(label), column, [defaults, own], mean_of, where)
                for label, column in self.mapping(columns, None, f"columns of {where}").items()
            ],
            bool(table.get("rest")),
        )

    def column(
        self, label: str, value: Any, outer: Sequence[Mapping[str, Any]], mean_of: tuple[str, ...], where: str
    ) -> Column:
        where = f"the column '{label}' of {where}"
        own = {"metric": value} if isinstance(value, str) else self.mapping(value, OF_COLUMN, where)
        merged: dict[str, Any] = {}
        for layer in (*outer, own):
            for key, setting in layer.items():
                if key in ("config", "published"):
                    inner = self.mapping(setting or {}, None, f"{key} of {where}")
                    merged[key] = {**merged.get(key, {}), **inner}
                else:
                    merged[key] = setting
        published = self.mapping(merged.pop("published", {}), PUBLISHED, f"published of {where}")
        part, metric = str(merged.pop("part", "") or ""), str(merged.pop("metric", "") or "")
        needed = () if mean_of else ("data", "split", "task")
        missing = [key for key in needed if not merged.get(key)] + ([] if metric else ["metric"])
        if missing:
            raise self.wrong(f"{where} does not say its {' and '.join(missing)}.")
        place = {"metric": label, **published} if published.get("dataset") else {}
        return Column(
            label=label,
            metric="/".join(word for word in (part, metric) if word),
            published={key: str(word) for key, word in place.items()},
            mean_of=mean_of,
            **{key: setting for key, setting in merged.items() if setting is not None},
        )


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _quoted(override: str) -> str:
    """Quote an override for a shell."""
    plain = all(character.isalnum() or character in "=._-/:@+" for character in override)
    return override if plain else f"'{override}'"
