"""Folders of somebody else's: what in them leads elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import filterfalse
from pathlib import Path

from modiste.errors import ModisteError


def refuse_links(folder: Path, why: str, harmless: Callable[[Path], bool] = lambda path: False) -> None:
    """Raise ModisteError where ``folder`` holds anything but folders and regular files: links, pipes, devices.

    Args:
        folder: May itself be a link.
        why: What using one would do, as in "would be published".
        harmless: Whether one of them may be there after all.
    """
    for path in filterfalse(harmless, special(folder)):
        raise ModisteError(
            f"'{path}' is a link or no regular file, and what it leads to {why}: remove it, or put a copy of the file "
            "in its place."
        )


def refuse_outside(folder: Path, why: str) -> None:
    """As `refuse_links`, but links to regular files within ``folder`` are fine, as are those of the hub's own cache.

    Args:
        folder: May itself be a link.
        why: What using one would do, as in "is not part of the data set".
    """
    for path in special(folder):
        if leads_out(path, folder):
            raise ModisteError(
                f"'{path}' leads out of its folder, or to no regular file, and what it leads to {why}: remove it, or "
                "put a copy of the file in its place."
            )


def leads_out(path: Path, folder: Path) -> bool:
    """Whether ``path`` is anything but a regular file within ``folder``, also through links.

    The hub's cache is one folder: there, ``snapshots`` consists of links to ``blobs``.
    """
    root = Path(os.path.realpath(folder))
    caches = (parent.parent for parent in root.parents if parent.name == "snapshots")
    root = next((cache for cache in caches if cache.name.startswith("datasets--")), root)
    target = Path(os.path.realpath(path))
    return not (target.is_file() and target.is_relative_to(root))


def special(folder: Path) -> Iterator[Path]:
    """Links, which are not followed, pipes and devices anywhere in ``folder``, which need not be one."""
    with suppress(FileNotFoundError, NotADirectoryError):  # a temporary folder of another process
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                yield from special(Path(entry.path))
            elif not entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
