"""One process at a time in a directory."""

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
from modiste.utils.run_dir import check_links

log = logging.getLogger(__name__)
LOCK, OWNER = ".lock", ".in_use.json"
RANKS = ("LOCAL_RANK", "RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``folder``; the operating system releases it when this process dies.

    The other processes of a multi-device run (``LOCAL_RANK`` or ``RANK`` above 0) belong to the one that has it.

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
    """Hold a lock on ``folder``, which is made where it does not exist.

    Args:
        folder: What only one process writes to.
        patience: Seconds to wait for another process, after a line that says so.
        name: Of the lock's file.

    Raises:
        ModisteError: Another process is in it, still after ``patience``; it is a file, or cannot be made; or see
            `modiste.utils.run_dir.check_links`.
    """
    check_links(folder)
    if folder.exists() and not folder.is_dir():
        raise ModisteError(f"{folder} is a file: choose another directory.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModisteError(f"{folder} cannot be made: {error.strerror}: choose another directory.") from error
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
        lock.release()  # the file stays: deleting it, another process could lock what is gone


def _acquire(lock: FileLock, folder: Path, patience: float) -> None:
    try:
        lock.acquire(timeout=min(patience, 1.0))
    except Timeout:
        if not patience:
            raise
        log.warning("%s is in use by %s: waiting for it to end.", folder, owner(folder))
        lock.acquire(timeout=patience)


def is_further_process() -> bool:
    """Whether this is a process of a multi-device run other than its first."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in RANKS)


def owner(folder: Path) -> str:
    """The owner of the lock on ``folder``, for a message."""
    try:
        who = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return f"process {who['pid']} on {who['host']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"
