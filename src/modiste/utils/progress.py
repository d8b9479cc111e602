"""Progress bars of long work, which callers pass in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Progress = Callable[[Iterable[Item], int, str], Iterable[Item]]


def silent(items: Iterable[Item], total: int, title: str) -> Iterable[Item]:
    """No progress bar."""
    return items


def progress_bar(items: Iterable[Item], total: int, title: str) -> Iterable[Item]:
    """A rich progress bar over ``items``."""
    from rich.progress import track

    return track(items, description=title, total=total)
