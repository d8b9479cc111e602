"""A served index, which is reloaded when a new version appears, without interrupting requests."""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from torch import Tensor

from modiste.data.sources import image_format
from modiste.errors import ModisteError
from modiste.search import where as conditions
from modiste.search.engines.memory import Snapshot
from modiste.search.index import Index
from modiste.search.opened import read_facts
from modiste.search.planner import EXACT
from modiste.serve.facets import facet_columns
from modiste.serve.metrics import Metrics
from modiste.serve.settings import Settings
from modiste.serve.towers import EXAMPLES, Towers, Words

log = logging.getLogger(__name__)
Open = Callable[[Path], Any]
KEPT_PHOTOS = 1024
"""Number of encoded photos cached in memory per version."""
LARGE = 800
"""Longer side in pixels of a photo in the detail view."""


class Scored(Snapshot):
    """A snapshot with precomputed scores of one request.

    They were computed in a batch with those of other requests.

    Attributes:
        known: Dot products (N,) of the query with all rows; None: not computed.
    """

    known: np.ndarray | None = None

    def scores(self, query: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Return the dot products (N,) of ``query`` with all rows, or with those at ``positions``."""
        if positions is None and self.known is not None:
            return self.known
        return super().scores(query, positions)


class Held:
    """One version of an index, with the towers of its model.

    Attributes:
        index: The index.
        towers: The towers of its model.
        version: Its version.
        scored: Its snapshot.
    """

    def __init__(self, index: Index, towers: Towers) -> None:
        self.index, self.towers, self.version = index, towers, int(index.version)
        self.scored = index.snapshot = Scored(index.snapshot.table, index.snapshot.vectors)
        self.scored.code()  # computed once here, not in the copy of each request
        # A cache of a method would be a cycle, and frozen objects (`modiste.serve.running`) are freed by counts alone.
        self._photos = functools.lru_cache(KEPT_PHOTOS)(encoded_photo)

    async def asked(self, texts: Sequence[str], pixels: Sequence[Tensor] = (), alone: bool = False) -> Index:
        """Embed the texts and photos of one request without blocking a thread; return an index that uses them.

        Args:
            texts: Texts of the request.
            pixels: Its preprocessed photos, each (3, S, S).
            alone: Whether the query is a single text, which is then scored in a batch with those of other requests.

        Raises:
            Busy: A tower's queue is full.
        """
        index = copy.copy(self.index)
        together = alone and index.plan_in_use.choice == EXACT
        words = [Words(text, self.scored if together else None) for text in texts]
        index.embedder = await self.towers.soon(words, pixels)
        if together:
            index.snapshot = scored = copy.copy(self.scored)
            scored.known = words[0].scores
        return index

    @functools.cached_property
    def edition(self) -> str:
        """Version and a digest of its origin: version numbers repeat in a rebuilt index."""
        facts = self.index.facts
        origin = f"{facts['engine'].get('id')} {facts['commits'][-1]['created']}"
        return f"{self.version}-{hashlib.sha1(origin.encode(), usedforsecurity=False).hexdigest()[:8]}"

    @functools.cached_property
    def facets(self) -> list[str]:
        """The text columns that are facets, in order; they do not depend on filters."""
        return facet_columns(self.index)

    def row_of(self, product_id: str) -> int | None:
        """The first row of a product; None if the index does not contain it."""
        found = self.index.snapshot.of_product(product_id)
        return int(self.index.snapshot.rows[found[0]]) if len(found) else None

    def take(self, rows: list[int]) -> pa.Table:
        """Return the columns of these rows. Raises KeyError if a row does not exist."""
        positions = self.index.snapshot.positions(np.asarray(rows, np.int64))
        if (positions < 0).any():
            raise KeyError(f"{self.index.path} does not have all of these rows")
        return self.index.snapshot.table.take(positions)

    def vectors(self, where: str | None) -> tuple[pa.Table, np.ndarray]:
        """Return the columns and the image embeddings (N, D) of the rows that pass a filter."""
        snapshot = self.index.snapshot
        positions = snapshot.passing(conditions.parse(where, self.index.types, self.index._distinct))
        if positions is None:
            return snapshot.table, np.asarray(snapshot.vectors)
        return snapshot.table.take(positions), snapshot.vectors[positions]

    def range(self, column: str) -> tuple[float | None, float | None]:
        """Return the smallest and largest value of a numeric column; None if it has no values."""
        found = pc.min_max(self.index.snapshot.table.column(column)).as_py()
        return found["min"], found["max"]

    def photo(self, row: int, large: bool) -> tuple[bytes, str]:
        """Return a photo as `encoded_photo` does, from memory if it was asked for lately."""
        return self._photos(self.index, row, large)


def encoded_photo(index: Index, row: int, large: bool) -> tuple[bytes, str]:
    """Return an encoded photo, a thumbnail or one of at most `LARGE` pixels, and its media type.

    Raises KeyError if the row does not exist.
    """
    if not large:
        content = index.thumbnail(row)
        return content, f"image/{image_format(content).lower()}"
    image = index.image(row).convert("RGB")
    image.thumbnail((LARGE, LARGE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue(), "image/jpeg"


class Live:
    """Serve the newest version of an index, watched by a thread.

    Args:
        name: ``main`` or ``compare``.
        path: Folder of the index.
        open_index: Opens an index by its path, like `modiste.search.open`.
        settings: The server's settings.
        metrics: The server's metrics.

    Raises:
        ModisteError: The index cannot be opened or is on a Qdrant server, or see `Towers`.
    """

    def __init__(self, name: str, path: Path, open_index: Open, settings: Settings, metrics: Metrics) -> None:
        self.name, self.path, self.settings, self.metrics = name, path, settings, metrics
        self._open = open_index
        self._lock = threading.Lock()
        self._users: dict[Held, int] = {}
        self._held = self._load(None)
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name=f"watch {name}", daemon=True)
        self._watcher.start()

    @contextmanager
    def use(self) -> Iterator[Held]:
        """Yield the newest version, which stays open until the end of the block."""
        with self._lock:
            held = self._held
            self._users[held] = self._users.get(held, 0) + 1
        try:
            yield held
        finally:
            with self._lock:
                self._users[held] -= 1
            self._sweep()

    def refresh(self) -> bool:
        """Load and serve a newer version, if there is one; return whether there was."""
        if read_facts(self.path) == self._held.index.facts:
            return False
        fresh = self._load(self._held)
        with self._lock:
            old, self._held = self._held, fresh
            self._users.setdefault(old, 0)
        log.info("%s: now serving version %s, previously %s.", self.path, fresh.version, old.version)
        self._sweep()
        return True

    def close(self) -> None:
        """Stop watching, and wait until all queued work is done."""
        self._stopped.set()
        self._watcher.join()
        held = {self._held, *self._users}
        for towers in {one.towers for one in held}:
            towers.close()

    def _load(self, before: Held | None) -> Held:
        index = self._open(self.path)
        if index.facts["engine"]["kind"] == "qdrant":  # classification and health lists need local rows
            raise ModisteError(f"{self.path} is on a Qdrant server: modiste serve needs one made with engine=lancedb.")
        if before is not None and index.card == before.index.card:
            towers = before.towers
        else:
            photos = [index.image(row) for row in index.rows(EXAMPLES)]
            towers = Towers(index.model, photos, self.settings, self.metrics)
        index.embedder = towers
        self.metrics.index.labels(self.name).info({"path": str(self.path), "version": str(index.version)})
        return Held(index, towers)

    def _sweep(self) -> None:
        """Close versions that are no longer in use."""
        with self._lock:
            gone = [held for held, users in self._users.items() if not users and held is not self._held]
            for held in gone:
                del self._users[held]
            kept = {held.towers for held in [self._held, *self._users]}
        for towers in {held.towers for held in gone} - kept:
            towers.close()

    def _watch(self) -> None:
        while not self._stopped.wait(self.settings.poll_seconds):
            try:
                self.refresh()
            except Exception as error:  # the thread must outlive any of them
                trace = None if isinstance(error, (ModisteError, OSError)) else error
                said = "%s: the new version cannot be opened, still serving the old one: %s"
                log.error(said, self.path, error, exc_info=trace)
