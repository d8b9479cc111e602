"""An index whose rows are on a Qdrant server: it sends candidates, which are ranked locally."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modiste.errors import ModisteError
from modiste.search import where as conditions
from modiste.search.calibrate import FEWEST, NEVER
from modiste.search.engines.memory import Snapshot, top
from modiste.search.engines.qdrant import QdrantStore
from modiste.search.index import Index, Near, hybrid_ranking
from modiste.search.opened import read_facts, snapshot_of
from modiste.search.planner import Best
from modiste.search.query import Query
from modiste.search.results import Exactness

if TYPE_CHECKING:
    import pyarrow as pa

    from modiste.search.planner import Measured

CANDIDATES = 256
"""Minimum number of rows that the server sends for a search."""
NO_VERSIONS = "engine=qdrant keeps only the newest version: restore one of the server's own snapshots."


class RemoteIndex(Index):
    """`Index` on a Qdrant server, which has only the newest version.

    The server scores the rows that pass the filter exactly (its ``exact=true``) and sends the best ones with their
    vectors; they are ranked locally, with all views of their products. A hybrid search ranks the nearest rows and the
    best by full text, so that it is not exact if more rows pass.
    """

    store: QdrantStore

    def __len__(self) -> int:
        return self.store.count()

    def count(self, where: str | None = None) -> int:
        return self.store.count(self._condition(where))

    def count_products(self, where: str | None = None) -> int:
        return len(set(self.store.read(["product_id"], self._condition(where)).column("product_id").to_pylist()))

    def rows(self, count: int | None = None) -> list[int]:
        return self.store.read(["row"]).column("row").to_pylist()[:count]

    def facets(self, where: str | None = None) -> dict[str, dict[Any, int]]:
        table = self.store.read(self.attributes, self._condition(where))
        counted = {name: Counter(table.column(name).drop_null().to_pylist()) for name in self.attributes}
        return {name: dict(values.most_common()) for name, values in counted.items()}

    def browse(self, where: str | None = None, k: int = 10, group: bool = True) -> pa.Table:
        rows = self._rows(self._condition(where))
        local = Index(self.path, self.facts, self.version, rows)
        return local.browse(None, k, group)

    def nearest(self, vectors: np.ndarray, k: int = 10, where: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        condition = self._condition(where)
        found = [self.store.nearest(np.asarray(vector), k, condition) for vector in vectors]
        return np.stack([rows for rows, _ in found]), np.stack([scores for _, scores in found])

    def refresh(self) -> bool:
        facts, embedder = read_facts(self.path), self.embedder
        changed = facts != self.facts
        self.__init__(self.path, facts, facts["commits"][-1]["version"])  # type: ignore[misc]
        self.embedder = embedder
        return changed

    def at(self, version: int) -> Index:
        if version == self.version:
            return self
        raise ModisteError(NO_VERSIONS)

    def restore(self, version: int) -> None:
        raise ModisteError(NO_VERSIONS)

    def plan(self, choices: Sequence[str] | None = None, recall_floor: float = 0.99) -> list[Measured]:
        raise ModisteError("engine=qdrant scores exactly on the server: there is nothing to plan.")

    def _rows(self, condition: conditions.Node | None) -> Snapshot:
        """The rows that match a condition, with their vectors."""
        return snapshot_of(_Part(self.store, condition), self.types, self.facts["columns"])

    def _vectors_of(self, product_id: str) -> np.ndarray:
        found = self._rows(conditions.Compare("product_id", "=", product_id)).vectors
        if not len(found):
            raise ModisteError(f"like={product_id}: the index has no such product.")
        return found

    def _condition(self, where: str | None) -> conditions.Node | None:
        return self._listed(super()._condition(where))

    def _listed(self, node: Any) -> Any:
        """A condition with attributes' patterns as lists of the values that match: Qdrant only matches words."""
        import pyarrow as pa

        if isinstance(node, conditions.Join):
            return replace(node, parts=tuple(map(self._listed, node.parts)))
        if isinstance(node, conditions.Not):
            return replace(node, part=self._listed(node.part))
        if not isinstance(node, conditions.Like) or node.column == "text":
            return node
        values = pa.array(self._distinct(node.column), pa.string())
        found = values.filter(conditions.mask(node, pa.table({node.column: values})))
        return conditions.In(node.column, tuple(found.to_pylist())) if len(found) else conditions.Constant(False)

    def _uncalibrated(self, kind: str) -> str:
        if kind in NEVER or "thresholds" not in self.facts:
            return super()._uncalibrated(kind)
        need = "products with two photos or more" if kind == "image" else "products"
        return f"No match threshold was calibrated for {kind} queries: calibration needs {FEWEST} {need} of a split."

    def _distinct(self, column: str) -> list[str]:
        return sorted(set(self.store.read([column]).column(column).drop_null().to_pylist()))

    def _near(self, vector: np.ndarray, query: Query, weight: float, condition: conditions.Node | None, k: int) -> Near:
        passing = self.store.count(condition)
        if not passing:
            return Near(self.snapshot, None, 0, _ranked(self.snapshot, vector), Exactness("no rows"), vector)
        lexical, scores = np.empty(0, np.int64), np.empty(0, np.float32)
        if weight:
            lexical, scores = self.store.full_text(" ".join(query.texts), condition)
        wanted, count = k + len(query.like), CANDIDATES
        while True:
            rows, _ = self.store.nearest(vector, min(count, passing), condition)
            known = self.store.take([*rows.tolist(), *lexical[:count].tolist()], ["product_id"])
            products = sorted(set(known.column("product_id").to_pylist()))
            if len(products) >= wanted or count >= passing:
                break
            count *= 4
        chosen = conditions.In("product_id", tuple(products))
        snapshot = self._rows(chosen if condition is None else conditions.Join("and", (chosen, condition)))
        rank, exactness = _ranked(snapshot, vector), Exactness(f"exact scores of {passing:,} rows, by the server")
        if weight:
            rank, exactness = hybrid_ranking(snapshot, vector, weight, lexical, scores, None)
            if count < passing:
                ranked = f"the {count:,} nearest rows and the first {count:,} of full text"
                exactness = Exactness(f"{exactness.method}, of {ranked}", measured=False)
        return Near(snapshot, None, passing, rank, exactness, vector)


class _Part:
    """View of a store through a condition."""

    def __init__(self, store: QdrantStore, condition: conditions.Node | None) -> None:
        self.store, self.condition = store, condition

    def read(self, columns: Sequence[str]) -> pa.Table:
        return self.store.read(columns, self.condition)


def _ranked(snapshot: Snapshot, vector: np.ndarray) -> Best:
    scores = snapshot.scores(vector)

    def best(count: int) -> tuple[np.ndarray, np.ndarray]:
        order = top(scores, count)
        return order, scores[order]

    return best
