"""Published numbers: the reference file, and their names here."""

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
    """How the published numbers of one benchmark are named here, and what they were measured on.

    Attributes:
        data: Our name of the data set.
        task: Our name of the task.
        datasets: The data set's names in the reference file.
        metrics: Published metric → our metric.
        queries: Our part, the text before the last "/" of a metric's name → number of published queries.
        gallery: Number of documents, of every part or of each; None where it does not apply.
        part: Published data set and task → what stands before our metric.
        protocol: What the result's protocol must say.
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
        """Our name of the number in a line of the reference file; None for a number of another benchmark."""
        metric = self.metrics.get(line["metric"])
        if line["dataset"] not in self.datasets or metric is None:
            return None
        return "/".join(word for word in (self.part(line["dataset"], line["task"]), metric) if word)

    def covers(self, result: Mapping[str, Any]) -> bool:
        """Whether ``result`` is of this benchmark, its sizes aside."""
        said = result.get("protocol") or {}
        same = all(said.get(key) == value for key, value in self.protocol.items())
        return same and (self.data, self.task) == (result["data"], result["task"])

    def documents(self, part: str) -> int | None:
        """The published gallery of a part."""
        return self.gallery.get(part) if isinstance(self.gallery, Mapping) else self.gallery


PARTS: dict[str, Callable[[str, str], str]] = {
    "": lambda dataset, task: "",
    "task": lambda dataset, task: task.lower(),
    "subset": lambda dataset, task: dataset.rpartition("/")[2],
}
"""What stands before our metric: nothing, the published task, or the published data set's subset."""


def read_namings(path: Path, load: Callable[[str], Any] = plain_yaml.load) -> list[Naming]:
    """The benchmarks of a YAML file, as those of ``reference/benchmarks``: a list of the fields of `Naming`.

    Args:
        path: Of the file, which may be a stranger's.
        load: Reads YAML; by default without aliases.

    Raises:
        ModisteError: The file is not readable, or an entry has an unknown or lacks a needed field.
    """
    try:
        entries = load(read_text(path))
        return [Naming(**{**entry, "part": PARTS[entry.get("part", "")]}) for entry in entries]
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise ModisteError(
            f"'{path}' does not name benchmarks ({' '.join(str(error).split())}): it is a list with data, task, "
            f"datasets, metrics and queries each, as the files of {BENCHMARKS}."
        ) from None


@cache
def packaged_namings() -> tuple[Naming, ...]:
    """The benchmarks of the packaged reference file: a file of ``reference/benchmarks`` each."""
    return tuple(naming for path in sorted(BENCHMARKS.glob("*.yaml")) for naming in read_namings(path, yaml.safe_load))


class Published(list[dict[str, str]]):
    """The rows of a reference file; ``namings`` are the benchmarks that say what they are called here."""

    namings: tuple[Naming, ...] = ()


def read_published(path: str | Path | None = None) -> Published:
    """The rows of a reference file (columns source, dataset, task, model, metric, value); None is the packaged one.

    A file ``mine.csv`` may bring benchmarks of its own in ``mine.yaml``, in the form of `read_namings`.

    Raises:
        ModisteError: the file is missing, lacks a column, or holds a value that is not a number.
    """
    path = Path(path) if path else PACKAGED
    if not path.is_file():
        raise ModisteError(f"There is no file of published numbers '{path}'. `published=null` uses the packaged one.")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = set(COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise ModisteError(
                f"'{path}' lacks the column(s) {', '.join(sorted(missing))}. Add them to its first line."
            )
        rows = Published(reader)
    own = path.with_suffix(".yaml")
    rows.namings = (*packaged_namings(), *(read_namings(own) if own.is_file() else ()))
    for line, row in enumerate(rows, 2):
        if number(row["value"]) is None:
            raise ModisteError(f"'{path}', line {line}: the value '{row['value']}' is not a number. Correct the line.")
    return rows


def as_printed(value: str) -> str:
    """A published value in the digits of its publication.

    >>> as_printed("0.290"), as_printed("0.49810000000000004")
    ('0.290', '0.4981')
    """
    return value if len(value) < 12 else f"{float(value):.10g}"


def named_lines(
    result: Mapping[str, Any], published: Sequence[Mapping[str, str]]
) -> Iterator[tuple[Naming, str, Mapping[str, str]]]:
    """The published numbers of what ``result`` measured, with the benchmark and our name of each."""
    namings = published.namings if isinstance(published, Published) else packaged_namings()
    for naming in namings:
        if naming.covers(result):
            for line in published:
                name = naming.name(line)
                if name is not None:
                    yield naming, name, line
