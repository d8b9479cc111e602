"""The lists of catalogue health: computed once for a version, in the background, and kept."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import pyarrow as pa

from modiste.reporting.tables.sheets import csv_text
from modiste.serve.live import Held
from modiste.serve.towers import Patient

Compute = Callable[[Any], pa.Table]


class Lists:
    """Tables that are computed when they are first asked for, one at a time.

    Args:
        compute: Name to function of an index.
    """

    def __init__(self, compute: Mapping[str, Compute]) -> None:
        self.compute = compute
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._made: dict[str, tuple[Any, Future[Any]]] = {}

    def get(self, name: str, held: Held) -> Future[Any]:
        """The list for this version, to be waited for."""
        with self._lock:
            version, future = self._made.get(name, (None, None))
            if future is None or version != held.version:
                future = Future()
                self._made[name] = (held.version, future)
                # A daemon: it does not keep the server from shutting down.
                threading.Thread(target=self._compute, args=(name, held, future), daemon=True).start()
            return future

    def _compute(self, name: str, held: Held, future: Future[Any]) -> None:
        with self._turn:
            try:
                index = copy.copy(held.index)
                index.embedder = Patient(held.towers)
                future.set_result(self.compute[name](index))
            except Exception as error:  # belongs to those who wait for it
                future.set_exception(error)

    def total(self, name: str, held: Held) -> int | None:
        """Number of rows of the list, or None where it was not computed yet."""
        version, future = self._made.get(name, (None, None))
        done = future is not None and version == held.version and future.done() and not future.exception()
        return future.result().num_rows if done and future else None


def as_csv(table: pa.Table) -> str:
    """A table as CSV that a spreadsheet does not take for formulas.

    >>> as_csv(pa.table({"title": ["=cmd()"], "score": [0.5]}))
    "title,score\\n'=cmd(),0.5\\n"
    """
    rows = ([_cell(value) for value in row.values()] for row in table.to_pylist())
    return csv_text([table.column_names, *rows])


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
