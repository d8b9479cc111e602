"""Published numbers: the reference file, and the mapping to Modiste's names."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from modiste.errors import ModisteError
from modiste.reporting.tables.names import number
from modiste.utils import plain_yaml
from modiste.utils.run_dir import read_text

PACKAGED = Path(__file__).parents[1] / "reference" / "published.csv"
BENCHMARKS = PACKAGED.parent / "benchmarks"
COLUMNS = ("source", "dataset", "task", "model", "metric", "value")


@dataclass(frozen=True)
class Naming:
    """Mapping of a benchmark's published numbers to Modiste's names, and the sizes they were measured on.

    Attributes:
        data: Modiste's name of the data set.
        task: Modiste's name of the task.
        datasets: The data set's names in the reference file.
        metrics: Published metric → Modiste's metric.
        queries: Part (the text before the last "/" of a metric's name) → number of published queries.
        gallery: Number of documents, for all parts or per part; None where it does not apply.
        part: (published data set, published task) → part of the metric's name.
        protocol: Values that a result's protocol must have.
    """

    data: str
    task: str
    datasets: Sequence[str]
    metrics: Mapping[str, str]
    queries: Mapping[str, int] = field(default_factory=dict)
    gallery: int | Mapping[str, int] | None = None
    part: Callable[[str, str], str] = lambda dataset, task: ""
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def name(self, line: Mapping[str, str]) -> str | None:
        """Modiste's metric name for a line of the reference file; None if it is of another benchmark."""
        metric = self.metrics.get(line["metric"])
        if line["dataset"] not in self.datasets or metric is None:
            return None
        return "/".join(word for word in (self.part(line["dataset"], line["task"]), metric) if word)

    def covers(self, result: Mapping[str, Any]) -> bool:
        """Whether ``result`` is of this benchmark, regardless of its sizes."""
        said = result.get("protocol") or {}
        same = not said.get("corruptions") and all(said.get(key) == value for key, value in self.protocol.items())
        return same and (self.data, self.task) == (result["data"], result["task"])

    def documents(self, part: str) -> int | None:
        """Published gallery size of a part; None if unknown."""
        return self.gallery.get(part) if isinstance(self.gallery, Mapping) else self.gallery


PARTS: dict[str, Callable[[str, str], str]] = {
    "": lambda dataset, task: "",
    "task": lambda dataset, task: task.lower(),
    "subset": lambda dataset, task: dataset.rpartition("/")[2],
}
"""Part of a metric's name: none, the published task, or the published data set's subset."""


def read_namings(path: Path, load: Callable[[str], Any] = plain_yaml.load) -> list[Naming]:
    """Read benchmarks from a YAML file: a list of the fields of `Naming`, as in ``reference/benchmarks``.

    Args:
        path: Path of the file, which is not trusted.
        load: YAML loader; the default rejects aliases.

    Raises:
        ModisteError: The file is not readable, or an entry has an unknown field or lacks a required one.
    """
    try:
        entries = load(read_text(path))
        return [Naming(**{**entry, "part": PARTS[entry.get("part", "")]}) for entry in entries]
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise ModisteError(
            f"'{path}' does not name benchmarks ({' '.join(str(error).split())}): give a list with data, task, "
            f"datasets, metrics and queries each, as in the files of {BENCHMARKS}."
        ) from None


@cache
def packaged_namings() -> tuple[Naming, ...]:
    """The benchmarks of the packaged reference file, from ``reference/benchmarks``."""
    return tuple(naming for path in sorted(BENCHMARKS.glob("*.yaml")) for naming in read_namings(path, yaml.safe_load))


class Published(list[dict[str, str]]):
    """Rows of a reference file; ``namings`` maps its benchmarks to Modiste's names."""

    namings: tuple[Naming, ...] = ()


def read_published(path: str | Path | None = None) -> Published:
    """Read a reference file (columns source, dataset, task, model, metric, value); None: the packaged one.

    A file ``mine.csv`` may add benchmarks in ``mine.yaml``, in the form of `read_namings`.

    Raises:
        ModisteError: The file is missing, lacks a column, or holds a value that is not a number.
    """
    path = Path(path) if path else PACKAGED
    if not path.is_file():
        raise ModisteError(f"There is no file of published numbers '{path}': set published=null for the packaged one.")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = set(COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise ModisteError(
                f"'{path}' lacks the column(s) {', '.join(sorted(missing))}: add them to its first line."
            )
        rows = Published(reader)
    own = path.with_suffix(".yaml")
    rows.namings = (*packaged_namings(), *(read_namings(own) if own.is_file() else ()))
    for line, row in enumerate(rows, 2):
        if number(row["value"]) is None:
            raise ModisteError(f"'{path}', line {line}: the value '{row['value']}' is not a number: correct the line.")
    return rows


def as_printed(value: str) -> str:
    """A published value with the digits of its publication.

    >>> as_printed("0.290"), as_printed("0.49810000000000004")
    ('0.290', '0.4981')
    """
    return value if len(value) < 12 else f"{float(value):.10g}"


def named_lines(
    result: Mapping[str, Any], published: Sequence[Mapping[str, str]]
) -> Iterator[tuple[Naming, str, Mapping[str, str]]]:
    """Published numbers of what ``result`` measured, each with its benchmark and Modiste's name."""
    namings = published.namings if isinstance(published, Published) else packaged_namings()
    for naming in namings:
        if naming.covers(result):
            for line in published:
                name = naming.name(line)
                if name is not None:
                    yield naming, name, line
