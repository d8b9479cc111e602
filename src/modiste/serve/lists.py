"""Catalogue-health lists, computed in the background once per version of the index, and cached."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import pyarrow as pa

from modiste.reporting.tables.sheets import csv_text
from modiste.serve.batching import as_exception
from modiste.serve.live import Held
from modiste.serve.towers import Patient

Compute = Callable[[Any], pa.Table]


class Lists:
    """Tables computed on first request, one at a time.

    Args:
        compute: Name → function of an index that computes the table.
    """

    def __init__(self, compute: Mapping[str, Compute]) -> None:
        self.compute = compute
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._made: dict[str, tuple[Any, Future[Any]]] = {}

    def get(self, name: str, held: Held) -> Future[Any]:
        """Return a future of the list for this version, and start the computation if needed."""
        with self._lock:
            edition, future = self._made.get(name, (None, None))
            if future is None or edition != held.edition:
                future = Future()
                self._made[name] = (held.edition, future)
                # A daemon thread does not delay shutdown.
                threading.Thread(target=self._compute, args=(name, held, future), daemon=True).start()
            return future

    def _compute(self, name: str, held: Held, future: Future[Any]) -> None:
        with self._turn:
            try:
                index = copy.copy(held.index)
                index.embedder = Patient(held.towers)
                future.set_result(self.compute[name](index))
            except BaseException as error:  # passed to the waiting requests, which would wait forever
                future.set_exception(as_exception(error))

    def total(self, name: str, held: Held) -> int | None:
        """Number of rows of the list; None if it has not been computed."""
        edition, future = self._made.get(name, (None, None))
        done = future is not None and edition == held.edition and future.done() and not future.exception()
        return future.result().num_rows if done and future else None


def as_csv(table: pa.Table) -> str:
    """Format a table as CSV, with cells escaped that a spreadsheet would evaluate as formulas.

    >>> as_csv(pa.table({"title": ["=cmd()"], "score": [0.5]}))
    "title,score\\n'=cmd(),0.5\\n"
    """
    rows = ([_cell(value) for value in row.values()] for row in table.to_pylist())
    return csv_text([table.column_names, *rows])


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
