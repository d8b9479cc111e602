"""Signals that ask a process to end, handled as Ctrl-C: nothing unfinished is left, and a sentence says what to do."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = ("SIGTERM", "SIGHUP")
"""Besides SIGINT."""


class Stopped(KeyboardInterrupt):
    """A signal other than Ctrl-C.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP raise `Stopped` in the block, a KeyboardInterrupt as Ctrl-C raises.

    A signal that is ignored stays so: ``nohup`` has SIGHUP ignored. Forks of this process end as without the block.
    Outside of the main thread, which alone may set handlers, nothing happens.

    Yields:
        The signals that came, also where the interrupt got lost: raised anywhere, it may have become another error.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    handler = _handler(os.getpid(), seen)
    previous: dict[int, Any] = {}
    for number in _numbers():
        before = signal.getsignal(number)
        own = number == signal.SIGINT and before is not signal.default_int_handler
        if before not in (signal.SIG_IGN, None) and not own:
            previous[number] = signal.signal(number, handler)
    try:
        yield seen
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextmanager
def delayed() -> Iterator[None]:
    """Delay Ctrl-C, SIGTERM and SIGHUP to the end of the block: half started processes would say so with tracebacks.

    Processes that are started in it never see Ctrl-C: they take over the mask. This process's other threads may still
    be handed a signal, so the handlers are replaced, too.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    seen: list[int] = []
    kept = {number: signal.getsignal(number) for number in _numbers()}
    kept = {number: handler for number, handler in kept.items() if handler not in (signal.SIG_IGN, None)}
    for number in kept:
        signal.signal(number, lambda number, frame: seen.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # one that waited is seen here
        for number, handler in kept.items():
            signal.signal(number, handler)
    if seen:
        signal.raise_signal(seen[0])


def end_at_once() -> None:
    """Have a further Ctrl-C, SIGTERM or SIGHUP end this process at once: it has been told and is on its way out."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _numbers():
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _numbers() -> list[int]:
    return [getattr(signal, name) for name in ("SIGINT", *NAMES) if hasattr(signal, name)]


def _handler(owner: int, seen: list[int]) -> Any:
    def interrupt(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            seen.append(number)
            raise KeyboardInterrupt
        if os.getpid() != owner:  # a fork inherits the handler, and has nothing to say
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        seen.append(number)
        raise Stopped(number)

    return interrupt
