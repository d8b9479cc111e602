"""Micro-batching: one thread runs a function on the items of several concurrent requests."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

Run = Callable[[list[Any]], Any]


class Busy(Exception):  # noqa: N818 (a state of the server, not a defect)
    """Raised when the queue is full.

    Attributes:
        retry_after: Estimated seconds until the queue has room, rounded up.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many requests are waiting: try again in {retry_after} s.")
        self.retry_after = retry_after


def as_exception(error: BaseException) -> Exception:
    """Return an error of a worker thread in a form that a request answers with status 500.

    A panic of a Rust library, such as tokenizers, is no Exception: raised again in a request, it would pass the
    server's error handlers.

    >>> as_exception(SystemExit(3)), as_exception(ValueError("x"))
    (RuntimeError('SystemExit: 3'), ValueError('x'))
    """
    return error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")


class Batcher:
    """Collect items of many callers in a thread, and run them in batches.

    ``run`` gets up to ``max_items`` of them at a time.

    The first item of a batch waits at most ``max_wait`` seconds for others, including its time in the queue.

    Args:
        run: Maps a list of items to their results, in order; it is called by one thread only.
        max_items: Maximum batch size.
        max_wait: Maximum wait in seconds.
        max_queue: Maximum number of waiting items.
        name: Name of the thread.
        observe: Called with the number of items and the seconds of each batch.

    >>> with Batcher(lambda texts: [text.upper() for text in texts]) as batcher:
    ...     [future.result() for future in batcher.submit(["red", "dress"])]
    ['RED', 'DRESS']
    """

    def __init__(
        self,
        run: Run,
        max_items: int = 32,
        max_wait: float = 0.005,
        max_queue: int = 512,
        name: str = "batcher",
        observe: Callable[[int, float], None] = lambda items, seconds: None,
    ) -> None:
        self.run, self.max_items, self.max_wait, self.max_queue = run, max_items, max_wait, max_queue
        self.observe = observe
        self._waiting: deque[tuple[float, Any, Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._item_seconds = 0.01  # moving average, from which Retry-After is estimated
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, items: Sequence[Any]) -> list[Future[Any]]:
        """Queue items; return one future per item.

        Raises:
            Busy: The items do not all fit into the queue; none is queued.
            RuntimeError: The batcher is closed.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("The batcher is closed.")
            if len(self._waiting) + len(items) > self.max_queue:
                raise Busy(max(1, math.ceil(len(self._waiting) * self._item_seconds)))
            now = time.monotonic()
            entries: list[tuple[float, Any, Future[Any]]] = [(now, item, Future()) for item in items]
            self._waiting.extend(entries)
            self._changed.notify()
        return [future for _, _, future in entries]

    def __len__(self) -> int:
        """Number of waiting items."""
        return len(self._waiting)

    def close(self) -> None:
        """Refuse new items, and wait until all queued ones are done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self.__dict__.pop("run", None)  # else, as a method of its owner, it would be a cycle

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while batch := self._next():
            wanted = [(item, future) for _, item, future in batch if future.set_running_or_notify_cancel()]
            if not wanted:
                continue  # all were cancelled
            start = time.monotonic()
            try:
                results = self.run([item for item, _ in wanted])
                for (_, future), result in zip(wanted, results, strict=True):
                    future.set_result(result)
            except BaseException as error:  # passed to the callers; it must not end the thread
                for _, future in wanted:
                    if not future.done():
                        future.set_exception(as_exception(error))
            seconds = time.monotonic() - start
            self._item_seconds += 0.1 * (seconds / len(wanted) - self._item_seconds)
            self.observe(len(wanted), seconds)

    def _next(self) -> list[tuple[float, Any, Future[Any]]]:
        """Wait for the next batch; empty once closed and drained."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._waiting:
                left = self._waiting[0][0] + self.max_wait - time.monotonic()
                self._changed.wait_for(lambda: len(self._waiting) >= self.max_items or self._closed, max(0.0, left))
            return [self._waiting.popleft() for _ in range(min(self.max_items, len(self._waiting)))]
