"""Result files: one JSON per (model, data set, split, task), values per query and pictures next to it."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from omegaconf import OmegaConf

from modiste.config.stored import parts_of
from modiste.data.corruptions import corruptions_of
from modiste.errors import ModisteError
from modiste.tasks.result import Result
from modiste.utils.atomic import atomic, write_image
from modiste.utils.hardware import environment
from modiste.utils.run_dir import EVALUATED, RunDir, check_links, read_text, write_json

if TYPE_CHECKING:
    from modiste.evaluation.spec import Evaluation
    from modiste.tasks.result import Embedder


MOST_FILES = 100_000
"""Maximum number of entries of a folder whose content is part of a result's identity."""


def identity(evaluation: Evaluation, task: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Identity of a result: equal identities give equal numbers.

    Args:
        evaluation: The data set and its tasks.
        task: Name of one of them; the content of the files that its ``files`` name is included.
        facts: Facts of `modiste.evaluation.subject.Subject.embedder`.
    """
    cfg = evaluation.spec.config
    known = task in (cfg.get("task") or {})
    config = cast("dict[str, Any]", OmegaConf.to_container(cfg.task[task], resolve=True)) if known else {}
    # Only files that the task reads: an untrusted configuration must not obtain the digests of others.
    named = [config.get(key) for key in getattr(evaluation.tasks[task], "files", ())]
    files = {word: digest for word in strings(named) if (digest := file_digest(Path(word)))}
    return corrupted(evaluation) | {
        "model": facts,
        "data_fingerprint": evaluation.catalogue.fingerprint(),
        "config": config,
        "files": files,
        "seed": cfg.seed,
    }


@dataclass(frozen=True)
class ResultStore:
    """The results of a run directory.

    Attributes:
        run: The run directory.
        command: The command line that computes them, to be recorded.

    Raises:
        ModisteError: See `modiste.utils.run_dir.check_links`.
    """

    run: RunDir
    command: str = ""

    def __post_init__(self) -> None:
        check_links(self.run.path, EVALUATED)

    def path(self, evaluation: Evaluation, task: str) -> Path:
        """The file of a result: ``<data>.<split>.<task>[.<variant>].json``.

        Raises:
            ModisteError: One of these words holds a slash.
        """
        cfg = evaluation.spec.config
        variant = variant_of(evaluation)
        words = [cfg.data.name, str(cfg.split), task, *([variant] if variant else [])]
        name = ".".join(words)
        if Path(name).name != name:
            raise ModisteError(f"'{name}' names a result's file: remove the / from variant, split and data.name.")
        return self.run.results / f"{name}.json"

    def write(self, path: Path, result: Result, facts: dict[str, Any]) -> None:
        """Write a result: JSON, values per query next to it as ``.npz``, and pictures in ``figures/``.

        Args:
            path: Path of the JSON file.
            result: Result of the task.
            facts: `identity` and further entries of the file.
        """
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        content = {"schema": 1, **result.to_json(), **facts, "created": created, "command": self.command}
        content["pictures"] = write_pictures(path, result)
        with atomic(path.with_suffix(".npz")) as unfinished, unfinished.open("wb") as file:
            np.savez_compressed(file, **result.per_query)  # type: ignore[arg-type]
        write_json(path, content | {"environment": environment()})


def variant_of(evaluation: Evaluation) -> str:
    """Part of a result's file name for settings that are not the default.

    Without the key ``variant``, corrupted images are named by the classes of their transforms: ``corrupted_Thumbnail``,
    with ``dim=64`` ``corrupted_Thumbnail_dim64``.
    """
    cfg, names = evaluation.spec.config, [type(each).__name__ for each in corruptions_of(evaluation.catalogue)]
    variant = cfg.get("variant") or "_".join(["corrupted", *names] if names else [])
    return "_".join(word for word in (variant, f"dim{cfg.dim}" if cfg.get("dim") else "") if word)


def corrupted(evaluation: Evaluation) -> dict[str, str]:
    """The entry ``corruptions`` of a protocol, the transforms of the images; empty for original images."""
    transforms = corruptions_of(evaluation.catalogue)
    return {"corruptions": ", ".join(map(repr, transforms))} if transforms else {}


def holds(path: Path, expected: dict[str, Any]) -> bool:
    """Whether ``path`` holds a result of the same model, data and protocol."""
    try:
        known = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError, ModisteError):
        return False
    return all(known.get(name) == json.loads(json.dumps(value)) for name, value in expected.items())


def run_unless_stored(
    evaluation: Evaluation,
    task: str,
    embedder: Embedder,
    path: Path | None,
    expected: dict[str, Any],
    write: Callable[[Path, Result, float], None],
    overwrite: bool = False,
) -> Result | None:
    """Run a task and write its result, unless ``path`` holds it.

    Args:
        evaluation: The data set and its tasks.
        task: Name of one of them.
        embedder: Embeddings of the model.
        path: The result file; None: not stored.
        expected: Identity of the result.
        write: Called with the path, the result and the seconds that the task took.
        overwrite: Run it in any case.

    Returns:
        The new result; None if ``path`` holds it.

    Raises:
        ModisteError: The task refuses the data or the embeddings, or returns no `Result`.
    """
    if path is not None and not overwrite and holds(path, expected):
        return None
    started = time.perf_counter()
    result = evaluation.tasks[task](embedder, evaluation.catalogue, evaluation.spec.split)
    if not isinstance(result, Result):
        raise ModisteError(f"Task {task} returned {result!r:.60}: return a modiste.tasks.result.Result.")
    result.protocol = {**result.protocol, **corrupted(evaluation)}
    if path is not None:
        write(path, result, round(time.perf_counter() - started, 2))
    return result


def write_pictures(path: Path, result: Result) -> dict[str, str]:
    """Write a result's pictures as PNG files; return the files by title, relative to the run directory."""
    folder = path.parent.parent / "figures"
    files = {}
    for title, picture in result.pictures.items():
        slug = re.sub(r"[^\w-]+", "_", title)
        file = folder / f"{path.stem}.{slug}.png"
        write_image(file, picture)
        files[title] = file.relative_to(path.parent.parent).as_posix()
    return files


def strings(value: object) -> Iterator[str]:
    """All strings in nested plain containers.

    >>> list(strings({"a": ["x", {"b": "y"}], "c": 1}))
    ['x', 'y']
    """
    return (item for _, item in parts_of(value) if isinstance(item, str))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or of the JSON and text files below a folder; empty for none or too many.

    A task's configuration may be untrusted and name any path, so a folder may have at most `MOST_FILES` entries.
    """
    found = list(islice(path.rglob("*"), MOST_FILES + 1)) if path.is_dir() else [path]
    if len(found) > MOST_FILES:
        return ""
    digest = hashlib.sha256()
    files = sorted(file for file in found if file.is_file() and (file == path or file.suffix in (".json", ".txt")))
    for file in files:
        with file.open("rb") as content:
            for block in iter(partial(content.read, 2**20), b""):
                digest.update(block)
    return digest.hexdigest() if files else ""
