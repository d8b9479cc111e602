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
"""Besides SIGINT, which Python turns into a KeyboardInterrupt itself."""


class Stopped(KeyboardInterrupt):
    """A signal other than Ctrl-C.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Stopped` in the block, a KeyboardInterrupt as Ctrl-C raises.

    A signal that is ignored stays so: ``nohup`` has SIGHUP ignored. Forks of this process end as without the block.
    Outside of the main thread, which alone may set handlers, nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = _handler(os.getpid())
    previous: dict[int, Any] = {}
    for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def end_at_once() -> None:
    """Have a further Ctrl-C, SIGTERM or SIGHUP end this process at once: it has been told and is on its way out."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (getattr(signal, name) for name in ("SIGINT", *NAMES) if hasattr(signal, name)):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _handler(owner: int) -> Any:
    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a fork inherits the handler, and has nothing to say
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise Stopped(number)

    return interrupt
