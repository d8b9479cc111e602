"""Links, pipes and devices in untrusted folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import filterfalse
from pathlib import Path

from modiste.errors import ModisteError

DEEPEST = 100
"""Limit on nested folders."""


def refuse_links(folder: Path, why: str, harmless: Callable[[Path], bool] = lambda path: False) -> None:
    """Raise ModisteError if ``folder`` has links, pipes or devices, or is nested too deep (`special`).

    Args:
        folder: The folder to check; it may itself be a link.
        why: Predicate for the message, as in "would be published".
        harmless: Whether a link is permitted.
    """
    for path in filterfalse(harmless, special(folder)):
        raise ModisteError(
            f"'{path}' is a link or not a regular file, and what it leads to {why}: remove it, or put a copy of the "
            "file in its place."
        )


def refuse_outside(folder: Path, why: str) -> None:
    """Like `refuse_links`, but permit links to files within ``folder`` or its Hugging Face data set cache.

    Args:
        folder: The folder to check; it may itself be a link.
        why: Predicate for the message, as in "is not part of the data set".
    """
    for path in special(folder):
        if leads_out(path, folder):
            raise ModisteError(
                f"'{path}' leads out of its folder, or is not a regular file, and what it leads to {why}: remove it, "
                "or put a copy of the file in its place."
            )


def leads_out(path: Path, folder: Path) -> bool:
    """Whether ``path``, with links resolved, is anything but a regular file within ``folder``.

    In the Hugging Face cache, ``snapshots`` links to ``blobs``: there the whole data set's cache counts as ``folder``.
    """
    root = Path(os.path.realpath(folder))
    caches = (parent.parent for parent in root.parents if parent.name == "snapshots")
    root = next((cache for cache in caches if cache.name.startswith("datasets--")), root)
    target = Path(os.path.realpath(path))
    return not (target.is_file() and target.is_relative_to(root))


def special(folder: Path) -> Iterator[Path]:
    """Yield the links, pipes and devices below ``folder``, following no link; nothing without a folder.

    Raises:
        ModisteError: Folders are nested more than `DEEPEST` deep, where Python's own walks run out of stack.
    """
    folders = [(os.fspath(folder), 0)]
    while folders:
        place, depth = folders.pop()
        if depth > DEEPEST:
            raise ModisteError(f"'{folder}' has folders nested more than {DEEPEST} deep: remove them.")
        with suppress(FileNotFoundError, NotADirectoryError):  # another process may remove its temporary folder
            for entry in os.scandir(place):
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, depth + 1))
                elif not entry.is_file(follow_symlinks=False):
                    yield Path(entry.path)
