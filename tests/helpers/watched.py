"""What a block of a test opens, contacts and starts, to show that reading a stranger's files does neither."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reliability.hostile import NETWORK, PROCESSES, Opened

_seen: list[list[str]] = []
"""One list per active block; an audit hook cannot be removed."""


def _hook(event: str, arguments: tuple) -> None:
    if _seen and event in (*NETWORK, *PROCESSES):
        _seen[-1].append(f"{event}: {arguments}")


@contextmanager
def watched(outside: Path) -> Iterator[list[str]]:
    """Yields a list that holds, after the block, sockets, processes, and the names in ``outside`` that were opened.

    Args:
        outside: A folder with no sub-folders; what libraries in C open is seen, too.
    """
    if not getattr(_hook, "installed", False):
        sys.addaudithook(_hook)
        _hook.installed = True
    opened = Opened(outside)
    found: list[str] = []
    _seen.append(found)
    try:
        yield found
    finally:
        _seen.pop()
        found += [f"opened: {name}" for name in opened.names()]
        os.close(opened.descriptor)
