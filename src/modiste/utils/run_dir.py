"""The run directory: its files, and checks of untrusted ones."""

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
"""Entries of a run directory that an evaluation reads and never writes."""
log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Folder of the scans and embeddings cached across runs: ``MODISTE_CACHE``, or ``~/.cache/modiste``."""
    return Path(os.environ.get("MODISTE_CACHE") or Path.home() / ".cache" / "modiste")


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; an empty dictionary if it does not exist.

    Raises:
        ModisteError: The file is damaged, or see `read_text`.
    """
    if not path.exists() or path.is_dir():
        return {}
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ModisteError(f"'{path}' is not readable JSON ({error}). Repair or delete the file.") from None


def read_text(path: Path) -> str:
    """Read a regular file as UTF-8.

    Raises:
        ModisteError: ``path`` is a pipe or a device, on which reading could block forever.
        OSError: The file does not exist or cannot be read.
        UnicodeDecodeError: The file is not UTF-8.

    >>> read_text(Path("/dev/zero"))
    Traceback (most recent call last):
    modiste.errors.ModisteError: '/dev/zero' is a pipe or a device: delete it.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ModisteError(f"'{path}' is a pipe or a device: delete it.")
    return path.read_text(encoding="utf-8")


def is_intact(checkpoint: Path) -> bool:
    """Whether a checkpoint is complete, uncompressed and matches its checksums; if not, log a warning."""
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
"""Logs that wandb links from its cache into the folder of each of its runs; nothing else writes to these names."""


def check_links(folder: Path, read: Collection[str] = ()) -> None:
    """Check that files written below ``folder``, which may be untrusted, end up there.

    Args:
        folder: A run directory or a folder of runs; it need not exist.
        read: Names of its entries that are only read.

    Raises:
        ModisteError: It contains a link that leads out of it, a pipe or a device.
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
    """Raise ModisteError if a path contains ``${``: Hydra would resolve it and write elsewhere."""
    whole = str(path.absolute())
    if "${" in whole:
        raise ModisteError(f"The path '{whole}' contains '${{', which Hydra would resolve: rename the folder.")


HYDRA = ".hydra"
"""Hydra's folder in a run directory; it contains a config.yaml, too, but is not a run."""


class RunDir:
    """A run directory and the paths in it.

    ``config.yaml`` (resolved), ``overrides.yaml``, ``checkpoints/``, ``csv/``, ``results/``, ``figures/``,
    ``report.html``, ``environment.json``, ``cost.json``, ``start.json`` (``init`` and ``resume``), ``status.json``
    (whether training has finished) and ``logger.json`` (ids of the logger's run). ``start.ckpt`` exists if a term uses
    the starting weights as its teacher.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def find(cls, path: str | Path) -> RunDir:
        """Return the run directory ``path``. Raises ModisteError if it is not one, or see `check_name`."""
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
        """Return ``value`` as an existing run directory; None for anything else, such as a hub id or a model."""
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
        """Path of a checkpoint: ``best`` by the monitor, else the newest; or ``last``, the newest to resume.

        Raises:
            ModisteError: The run has no intact checkpoint, or ``kind`` is unknown.
        """
        if kind not in ("best", "last"):
            raise ModisteError(f"checkpoint={kind} is not known: choose best or last.")
        best = self.checkpoints / "best.ckpt"
        if kind == "best" and best.is_file() and is_intact(best):
            return best
        state = self.latest_state()
        if state is None:
            raise ModisteError(
                f"{self.path} has no complete checkpoint, as it was stopped before one was saved: start over with "
                f"modiste train continue={shlex.quote(str(self.path))}."
            )
        return state

    def latest_state(self) -> Path | None:
        """The newest intact checkpoint that training can resume from; ``best.ckpt`` holds weights only."""
        found = (path for path in self.checkpoints.glob("*.ckpt") if path.name != "best.ckpt")
        newest_first = sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return next(filter(is_intact, newest_first), None)

    @property
    def unfinished(self) -> bool:
        """Whether training was stopped or is still running; False without a record of it."""
        return self.read_json("status").get("finished") is False

    @property
    def finished(self) -> bool:
        """Whether training was recorded as done to the end."""
        return self.read_json("status").get("finished") is True

    def write_json(self, name: str, value: object) -> None:
        """Write ``<name>.json`` into the directory."""
        write_json(self.path / f"{name}.json", value)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read ``<name>.json`` of the directory; an empty dictionary if it does not exist."""
        return read_json(self.path / f"{name}.json")

    def origin(self, config: Mapping[str, Any]) -> dict[str, str | None]:
        """``init`` and ``resume`` of the run's first start, which ``continue=`` leaves unchanged.

        Args:
            config: The run's configuration, used if ``start.json`` does not exist.
        """
        recorded = self.read_json("start") or config
        return {name: recorded.get(name) for name in ("init", "resume")}
