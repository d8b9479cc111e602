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


def special(folder: Path) -> Iterator[Path]:
    """Links, which are not followed, pipes and devices anywhere in ``folder``, which need not exist."""
    with suppress(FileNotFoundError):  # a temporary folder of another process
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                yield from special(Path(entry.path))
            elif not entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
