"""Progress of long-running work: a bar on a terminal, occasional log lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

Item = TypeVar("Item")
QUIET = 2.0
"""Seconds before progress is shown, so that short jobs print nothing."""
BETWEEN = 10.0
"""Seconds between two lines when stderr is not a terminal."""


class Progress(Protocol):
    """Protocol of a progress wrapper: takes items, their number and a title; yields the items."""

    def __call__(self, items: Iterable[Item], total: int, title: str, /) -> Iterable[Item]: ...


def silent(items: Iterable[Item], total: int, title: str) -> Iterable[Item]:
    """Return ``items`` unchanged, without progress."""
    return items


def progress_bar(items: Iterable[Item], total: int, title: str) -> Iterator[Item]:
    """Show progress over ``items`` on stderr once they have taken longer than two seconds.

    Args:
        items: The items to iterate over.
        total: Their number.
        title: Label of the bar.

    >>> list(progress_bar(["a", "b"], 2, "Embedding"))
    ['a', 'b']
    """
    started = shown = time.monotonic()
    bar = _bar(total, title) if sys.stderr.isatty() else None
    try:
        for done, item in enumerate(items):
            now = time.monotonic()
            if bar is not None and now - started > QUIET:
                bar.start()
                bar.update(bar.task_ids[0], completed=done)
            elif bar is None and now - started > QUIET and now - shown > BETWEEN:
                shown = now
                left = (now - started) / max(done, 1) * (total - done)
                line = f"{title}: {done:,}/{total:,} in {now - started:.0f} s, about {left:.0f} s left"
                print(line, file=sys.stderr, flush=True)
            yield item
    finally:
        if bar is not None:
            bar.stop()


def _bar(total: int, title: str) -> Bar:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    bar.add_task(title, total=total)
    return bar
