"""Locks that let one process at a time write to a directory."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from modiste.errors import ModisteError
from modiste.utils.atomic import make_folder
from modiste.utils.run_dir import check_links

log = logging.getLogger(__name__)
LOCK, OWNER = ".lock", ".in_use.json"
RANKS = ("LOCAL_RANK", "RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``folder``; the operating system releases it when this process dies.

    The other processes of a multi-device run (see `is_further_process`) rely on the lock of the first one.

    Raises:
        ModisteError: See `held`.
    """
    if is_further_process():
        yield
        return
    with held(folder):
        yield


@contextmanager
def held(folder: Path, patience: float = 0.0, name: str = LOCK) -> Iterator[None]:
    """Hold a lock on ``folder``, which is created if needed.

    Args:
        folder: The folder to lock.
        patience: Seconds to wait for another process to release it; a warning is logged while waiting.
        name: Name of the lock file.

    Raises:
        ModisteError: Another process still holds the lock after ``patience``, ``folder`` is a file or cannot be
            created, or `modiste.utils.run_dir.check_links` refuses it.
    """
    check_links(folder)
    make_folder(folder)
    lock = FileLock(folder / name)
    try:
        _acquire(lock, folder, patience)
    except Timeout:
        raise ModisteError(
            f"{folder} is in use by {owner(folder)}: wait for it to end, or choose another directory."
        ) from None
    try:
        (folder / OWNER).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")
        yield
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        lock.release()  # the file stays: another process may already wait for the lock on it


def _acquire(lock: FileLock, folder: Path, patience: float) -> None:
    try:
        lock.acquire(timeout=min(patience, 1.0))
    except Timeout:
        if not patience:
            raise
        log.warning("%s is in use by %s: waiting for it to end.", folder, owner(folder))
        lock.acquire(timeout=patience)


def is_further_process() -> bool:
    """Whether this process is a further one of a multi-device run: a rank in `RANKS` is above 0."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in RANKS)


def owner(folder: Path) -> str:
    """Describe the owner of the lock on ``folder``, for a message."""
    try:
        who = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return f"process {who['pid']} on {who['host']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"
