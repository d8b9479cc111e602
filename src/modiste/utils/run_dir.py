"""The run directory: its files, and how to find one."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from modiste.errors import ModisteError, did_you_mean
from modiste.utils.archives import BROKEN, check_stored
from modiste.utils.atomic import write_text
from modiste.utils.links import special

CONFIG = "config.yaml"
EVALUATED = (CONFIG, "checkpoints")
"""What an evaluation of a run reads, and does not write."""
log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Folder of scans and embeddings that are kept between runs: ``MODISTE_CACHE``, or ``~/.cache/modiste``."""
    return Path(os.environ.get("MODISTE_CACHE") or Path.home() / ".cache" / "modiste")


def write_json(path: Path, value: object) -> None:
    """Write ``value`` whole or not at all, even when the process is killed meanwhile."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds, or an empty dictionary when there is none.

    Raises:
        ModisteError: It is damaged, or see `read_text`.
    """
    if not path.exists() or path.is_dir():
        return {}
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ModisteError(f"'{path}' is not readable JSON ({error}). Repair or delete the file.") from None


def read_text(path: Path) -> str:
    """The text of a regular file in UTF-8.

    Raises:
        ModisteError: It is a pipe or a device, which one would wait for.
        OSError: There is none.
        UnicodeDecodeError: It is not in UTF-8.

    >>> read_text(Path("/dev/zero"))
    Traceback (most recent call last):
    modiste.errors.ModisteError: '/dev/zero' is a pipe or a device: delete it.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ModisteError(f"'{path}' is a pipe or a device: delete it.")
    return path.read_text(encoding="utf-8")


def is_intact(checkpoint: Path) -> bool:
    """Whether a checkpoint is complete, not compressed, and its checksums hold (CRC-32); a line of log where not."""
    try:
        check_stored(checkpoint)
        with zipfile.ZipFile(checkpoint) as file:
            damaged = file.testzip() is not None
    except (*BROKEN, ValueError):
        damaged = True
    if damaged:
        log.warning("%s is damaged and will not be used.", checkpoint)
    return not damaged


WANDB_LOG = re.compile(r"(trial_\d+/)?(seed_\d+/)?wandb/(offline-)?run-[\w-]+/logs/debug[\w-]*\.log")
"""What wandb links from its cache into the folder of each of its runs, and never writes to again; nobody else writes to
a file of this name."""


def check_links(folder: Path, read: Collection[str] = ()) -> None:
    """Check that what is written below ``folder`` lands there: it may be somebody else's.

    Args:
        folder: A run directory or one of several runs, which need not exist.
        read: Names in it that are only read.

    Raises:
        ModisteError: Something in it is a link that leads out of it, a pipe or a device.
    """
    for path in special(folder):
        inside = path.relative_to(folder)
        if inside.parts[0] in read or (WANDB_LOG.fullmatch(inside.as_posix()) and not path.is_dir()):
            continue
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise ModisteError(f"{path} leads out of {folder}: put what it points to in its place.")
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ModisteError(f"{path} is a pipe or a device: delete it.")


def check_name(path: Path) -> None:
    """Raise ModisteError where a path holds ``${``, as a stranger's folder may.

    Hydra would resolve it in what it makes of the path, and write elsewhere.
    """
    whole = str(path.absolute())
    if "${" in whole:
        raise ModisteError(f"The path '{whole}' holds '${{', which would be read as a key: rename the folder.")


HYDRA = ".hydra"
"""Hydra's own record in a run directory, which holds a config.yaml, too."""


class RunDir:
    """A run directory and the places in it.

    ``config.yaml`` (resolved), ``overrides.yaml``, ``checkpoints/``, ``csv/``, ``results/``, ``figures/``,
    ``report.html``, ``environment.json``, ``cost.json``, ``start.json`` (what it began with), ``status.json``
    (whether training came to its end) and ``logger.json`` (ids of the logger's run); ``start.ckpt`` where a term has
    the starting weights as its teacher.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def find(cls, path: str | Path) -> RunDir:
        """The existing run directory ``path``. Raises ModisteError when it is none, or see `check_name`."""
        run = cls(Path(path).expanduser())
        check_name(run.path)
        if run.is_run:
            return run
        if run.path.exists():
            inside = sorted(p for p in run.path.glob("*") if cls(p).is_run) if run.path.is_dir() else []
            newest = f" It holds runs; the newest is {inside[-1]}." if inside else ""
            raise ModisteError(f"{path} is not a run directory: it has no {CONFIG}.{newest}")
        siblings = [p.name for p in run.path.parent.glob("*") if cls(p).is_run] if run.path.parent.is_dir() else []
        hint = did_you_mean(run.path.name, siblings, Path(path).parent) if siblings else "Runs are written under runs/."
        raise ModisteError(f"There is no run directory {path}. {hint}")

    @classmethod
    def of(cls, value: object) -> RunDir | None:
        """``value`` as an existing run directory; None when it is something else, such as a hub id or a model."""
        if isinstance(value, RunDir):
            return value
        run = cls(Path(value).expanduser()) if isinstance(value, (str, Path)) else None
        return run if run is not None and run.is_run else None

    @property
    def is_run(self) -> bool:
        return (self.path / CONFIG).is_file() and self.path.name != HYDRA

    @property
    def config(self) -> Path:
        return self.path / CONFIG

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    def checkpoint(self, kind: str = "best") -> Path:
        """``best`` by the monitor (the newest, where there is none), or ``last``: the newest state to resume from.

        Raises:
            ModisteError: The run has no such checkpoint.
        """
        best = self.checkpoints / "best.ckpt"
        if kind == "best" and best.is_file() and is_intact(best):
            return best
        state = self.latest_state()
        if state is None:
            raise ModisteError(
                f"{self.path} has no complete checkpoint: it was stopped before one was saved. Start over with modiste "
                f"train continue={shlex.quote(str(self.path))}."
            )
        return state

    def latest_state(self) -> Path | None:
        """The newest intact checkpoint that training can resume from; ``best.ckpt`` holds weights only."""
        found = (path for path in self.checkpoints.glob("*.ckpt") if path.name != "best.ckpt")
        newest_first = sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return next(filter(is_intact, newest_first), None)

    @property
    def unfinished(self) -> bool:
        """Whether training has not come to its end: it was stopped, or still runs. False where nothing says."""
        return self.read_json("status").get("finished") is False

    def write_json(self, name: str, value: object) -> None:
        """Write ``<name>.json`` into the directory."""
        write_json(self.path / f"{name}.json", value)

    def read_json(self, name: str) -> dict[str, Any]:
        """``<name>.json`` of the directory, or an empty dictionary when there is none."""
        return read_json(self.path / f"{name}.json")

    def origin(self, config: Mapping[str, Any]) -> dict[str, str | None]:
        """``init`` and ``resume`` that the run began with: of ``start.json``, which a continuation does not touch.

        Args:
            config: The run's configuration, which says it where ``start.json`` is missing.
        """
        recorded = self.read_json("start") or config
        return {name: recorded.get(name) for name in ("init", "resume")}
