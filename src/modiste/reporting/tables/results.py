"""Result files: finding, reading and checking them, and their metadata."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiste.errors import ModisteError
from modiste.utils.archives import read_npz
from modiste.utils.run_dir import read_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SCHEMA = 1
SIZES = ("queries", "gallery", "classes")
FORMER = {
    "share of": "fraction of",
    "right predictions": "correct predictions",
    "left out": "excluded",
}
"""Former words of protocols → current ones; `read_result` replaces them, so that stored results still verify."""


class StoredResult(dict[str, Any]):
    """The content of a result file, with its path."""

    def __init__(self, content: Mapping[str, Any], path: Path) -> None:
        super().__init__(content)
        self.path = path

    @property
    def per_query_file(self) -> Path:
        """Path of the per-query values; the file may be missing."""
        return self.path.with_suffix(".npz")


def find_results(path: str | Path) -> list[Path]:
    """Result files of a run directory or an experiment folder, or the given file.

    Raises:
        ModisteError: The path does not exist, or the folder has no result file.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ModisteError(f"There is no run directory or result file '{path}': give the folder that a run wrote.")
    found = _below(path)
    if not found:
        raise ModisteError(
            f"'{path}' has no results/*.json: run `modiste evaluate run={shlex.quote(str(path))}` first."
        )
    return found


def _below(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*.json") if "results" in f.relative_to(folder.parent).parts[:-1])


def has_results(folder: str | Path) -> bool:
    """Whether a folder has a result file, at any depth."""
    return bool(_below(Path(folder)))


def read_result(path: Path) -> dict[str, Any]:
    """Read and check a result file.

    Raises:
        ModisteError: It is not a readable result file; the message names the problem.
    """
    return _read(path)


def _read(path: Path) -> StoredResult:
    try:
        result = _with_current_words(json.loads(read_text(path)))
    except (OSError, ValueError, RecursionError) as error:
        raise ModisteError(f"'{path}' is not a readable JSON file ({error}): evaluate again to rewrite it.") from None
    problem = _problem(result)
    if problem:
        raise ModisteError(f"'{path}' is not a Modiste result ({problem}): evaluate again to rewrite it.")
    return StoredResult(result, path)


def _with_current_words(result: Any) -> Any:
    """Return the content of a result file with current names and words in counts, settings and protocol.

    >>> _with_current_words({"counts": {"colour/values_left_out": 2}, "protocol": {"accuracy": "share of pairs"}})
    {'counts': {'colour/values_excluded': 2}, 'protocol': {'accuracy': 'fraction of pairs'}}
    """
    if not isinstance(result, dict):
        return result
    result = dict(result)
    if isinstance(counts := result.get("counts"), dict):
        result["counts"] = {
            f"{name.removesuffix('_left_out')}_excluded" if name.endswith("_left_out") else name: count
            for name, count in counts.items()
        }
    config = result.get("config")
    if isinstance(config, dict) and config.get("without_relevant") == "left_out":
        result["config"] = config | {"without_relevant": "excluded"}
    if "protocol" in result:
        result["protocol"] = _with_words(result["protocol"])
    return result


def _with_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_words(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_words(item) for item in value]
    if isinstance(value, str):
        for former, current in FORMER.items():
            value = value.replace(former, current)
    return value


def load_results(paths: str | Path | Iterable[str | Path]) -> list[StoredResult]:
    """Load every result under ``paths``; a file that is reached twice, or copied, counts once.

    Raises:
        ModisteError: There are no paths, a path has no results, or a result is malformed.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise ModisteError("A table needs run directories: `modiste table runs/a runs/b`.")
    results: dict[str, StoredResult] = {}
    for file in (file for path in paths for file in find_results(path)):
        result = _read(file)
        same = [*coordinates(result), result.get("counts"), result["model"], result["metrics"]]
        key = json.dumps(same, sort_keys=True)
        # Prefer the copy with per-query values.
        if key not in results or (result.per_query_file.is_file() and not results[key].per_query_file.is_file()):
            results[key] = result
    return list(results.values())


def per_query(result: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float64]]:
    """Per-query values by name, float64, from the ``.npz`` next to a result file; empty if missing.

    Raises:
        ModisteError: The file is damaged.
    """
    import numpy as np

    if not isinstance(result, StoredResult) or not result.per_query_file.exists():
        return {}
    try:
        return {name: values.astype(np.float64) for name, values in read_npz(result.per_query_file).items()}
    except ValueError as error:
        raise _unreadable(result.per_query_file, error) from None


def read_values(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Per-query values by name, as stored in a ``.npz``. Raises ModisteError if it is damaged."""
    try:
        return read_npz(path)
    except ValueError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: ValueError) -> ModisteError:
    return ModisteError(f"The values per query in '{path}' cannot be read ({error}): evaluate again to rewrite them.")


def coordinates(result: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Data, split, task and variant of a result: what results of one table must share."""
    return result["data"], result["split"], result["task"], result.get("variant") or ""


def title_of(result: Mapping[str, Any]) -> str:
    """Title ``data · task · split``, with the variant if it has one."""
    data, split, task, variant = coordinates(result)
    return " · ".join(word for word in (data, task, split, variant) if word)


def sizes(result: Mapping[str, Any], part: str) -> dict[str, int]:
    """The counts of a part that must agree for its numbers to be comparable.

    >>> sizes({"counts": {"t2i/queries": 9, "t2i/gallery": 5, "t2i/relevant": 7}}, "t2i")
    {'queries': 9, 'gallery': 5}
    """
    counts = result.get("counts") or {}
    found = {word: counts.get(f"{part}/{word}", counts.get(word)) for word in SIZES}
    return {word: number for word, number in found.items() if number is not None}


def without_paths(result: Mapping[str, Any], key: str) -> Any:
    """``result[key]`` with file paths, which differ between machines, replaced by ``result["files"]``."""
    files = result.get("files") or {}

    def replaced(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: replaced(item) for name, item in value.items()}
        if isinstance(value, list):
            return [replaced(item) for item in value]
        return files.get(value, value) if isinstance(value, str) and value else value

    return replaced(result.get(key))


def differences(
    one: object, other: object, name: str = "", absent: object = "nothing"
) -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, one, other) of every leaf that differs; numbers are compared exactly.

    Args:
        one: Plain containers.
        other: Plain containers.
        name: Path of the two containers.
        absent: Value for a key that one of them lacks.

    >>> list(differences({"a": [1, 2.5], "b": "x"}, {"a": [1, 2.0], "c": None}))
    [('a.1', 2.5, 2.0), ('b', 'x', 'nothing'), ('c', 'nothing', None)]
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys([*one, *other]):
            where = f"{name}.{key}" if name else str(key)
            yield from differences(one.get(key, absent), other.get(key, absent), where, absent)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differences(a, b, f"{name}.{i}", absent)
    elif one != other and not (one != one and other != other):  # NaN is the same as NaN
        yield name, one, other


def fingerprint(result: Mapping[str, Any]) -> str:
    """Fingerprint of the model's weights; empty if not recorded."""
    return str(result["model"].get("fingerprint") or "")


def corruptions(result: Mapping[str, Any]) -> str:
    """Transforms of the evaluated images, as in ``data.corruptions``; empty for original images."""
    return str((result.get("protocol") or {}).get("corruptions") or "")


def in_domain(result: Mapping[str, Any]) -> bool:
    """Whether the protocol or the model records that the model was trained on this data set."""
    model = result["model"]
    places = (result.get("protocol"), model, model.get("describe"))
    return any(place.get("in_domain") is True for place in places if isinstance(place, Mapping))


def overlap_note(result: Mapping[str, Any]) -> str:
    """Sentence on images shared with the training set; empty if nothing is recorded or shared.

    >>> overlap_note({"overlap": {"train": "kagl", "identical": 2, "near": 5, "title": 7, "product": 0, "images": 90}})
    'Of the 90 evaluated images, the training images (kagl) hold 2 identical, 5 near-identical, 7 with the same title.'
    """
    found = result.get("overlap")
    if not isinstance(found, Mapping):
        return ""
    if "unknown" in found:
        return f"What it shares with the training images is not known: {found['unknown']}"
    words = {"identical": "identical", "near": "near-identical", "title": "with the same title"}
    words["product"] = "of the same product"
    shared = [f"{found[key]:,} {word}" for key, word in words.items() if found.get(key)]
    train = f" ({found['train']})" if found.get("train") else ""
    images = f"Of the {found['images']:,} evaluated images" if found.get("images") else "Of the evaluated images"
    return f"{images}, the training images{train} hold {', '.join(shared)}." if shared else ""


def _problem(result: Any) -> str:
    """Why ``result`` is not a valid result; empty if it is."""
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
    tables = result.get("tables") or {}
    wrong = [tables] if not isinstance(tables, dict) else [name for name in tables if not _is_table(tables[name])]
    return f"the table '{wrong[0]}' is not rows of as many cells as it has columns" if wrong else ""


def _is_table(table: object) -> bool:
    if not isinstance(table, dict):
        return False
    columns, rows = table.get("columns"), table.get("rows")
    if not isinstance(columns, list) or not isinstance(rows, list):
        return False
    return all(isinstance(name, str) for name in columns) and all(
        isinstance(row, list)
        and len(row) == len(columns)
        and all(isinstance(cell, (str, int, float, type(None))) for cell in row)
        for row in rows
    )
