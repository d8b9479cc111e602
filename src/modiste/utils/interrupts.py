"""SIGTERM and SIGHUP handled like Ctrl-C, so that a stopped process cleans up and says how to resume."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = ("SIGTERM", "SIGHUP")
"""The signals handled in addition to SIGINT."""


class Stopped(KeyboardInterrupt):
    """Raised by a signal other than SIGINT.

    Attributes:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable() -> Iterator[list[int]]:
    """Make SIGTERM and SIGHUP raise `Stopped`, a subclass of KeyboardInterrupt, within the block.

    Ignored signals stay ignored, such as SIGHUP under ``nohup``. Forks of this process keep the default behaviour.
    Does nothing outside the main thread, since only the main thread may set handlers.

    Yields:
        The numbers of the signals received so far. A library may have turned the interrupt into another error; the
        list still tells.
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
    """Delay Ctrl-C, SIGTERM and SIGHUP to the block's end: half-started processes print tracebacks.

    Processes started in the block inherit the signal mask and never see Ctrl-C. Another thread of this process may
    still receive a signal, so the handlers are replaced, too.
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
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # delivers a pending Ctrl-C to the lambda above
        for number, handler in kept.items():
            signal.signal(number, handler)
    if seen:
        signal.raise_signal(seen[0])


def end_at_once() -> None:
    """Let the next Ctrl-C, SIGTERM or SIGHUP kill this process, which is already shutting down."""
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
        if os.getpid() != owner:  # a fork inherits the handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        seen.append(number)
        raise Stopped(number)

    return interrupt
