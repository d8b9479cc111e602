"""Which gallery items are relevant to each query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Relevance:
    """Relevant gallery items of each query, in CSR format.

    Attributes:
        starts: Offsets (Q + 1,); the relevant items of query q are ``items[starts[q]:starts[q + 1]]``.
        items: Gallery positions (P,), ascending within a query.

    >>> Relevance.from_ids(["shirt", "shoe", "hat"], ["shoe", "shirt", "shirt"]).counts
    array([2, 1, 0])
    """

    starts: Ints
    items: Ints

    @classmethod
    def from_ids(cls, query_ids: npt.ArrayLike, gallery_ids: npt.ArrayLike) -> Relevance:
        """Relevance of items with the query's id; ids (Q,) and (G,) are integers or strings."""
        queries, gallery = np.asarray(query_ids), np.asarray(gallery_ids)
        order = np.argsort(gallery, kind="stable")
        first = np.searchsorted(gallery, queries, "left", sorter=order)
        counts = np.searchsorted(gallery, queries, "right", sorter=order) - first
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(starts, order[np.repeat(first - starts[:-1], counts) + np.arange(starts[-1])].astype(np.int64))

    @classmethod
    def from_pairs(cls, queries: npt.ArrayLike, items: npt.ArrayLike, n_queries: int) -> Relevance:
        """Relevance of (query, item) pairs, both (P,) positions, in any order; duplicates count once.

        >>> Relevance.from_pairs([1, 0, 1], [5, 2, 3], n_queries=2).items
        array([2, 3, 5])
        """
        pairs = np.unique(np.stack([np.asarray(queries), np.asarray(items)], axis=1).astype(np.int64), axis=0)
        starts = np.searchsorted(pairs[:, 0], np.arange(n_queries + 1)).astype(np.int64)
        return cls(starts, np.ascontiguousarray(pairs[:, 1]))

    @property
    def counts(self) -> Ints:
        """Number of relevant items of each query, (Q,)."""
        return np.diff(self.starts)

    @property
    def queries(self) -> Ints:
        """The query of each of ``items``, (P,)."""
        return np.repeat(np.arange(len(self)), self.counts)

    def without(self, own: Ints) -> Relevance:
        """Remove one gallery position of each query, ``own`` (Q,); -1 removes nothing.

        >>> Relevance.from_ids(["shirt", "hat"], ["shirt", "shirt", "hat"]).without(np.array([0, -1])).items
        array([1, 2])
        """
        keep = self.items != own[self.queries]
        counts = np.bincount(self.queries[keep], minlength=len(self))
        return Relevance(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), self.items[keep])

    def transposed(self, n_items: int) -> Relevance:
        """Relevance of the queries to each of ``n_items`` gallery items.

        >>> Relevance.from_ids(["shirt", "hat"], ["shirt", "shirt", "hat"]).transposed(3).items
        array([0, 0, 1])
        """
        order = np.argsort(self.items, kind="stable")  # queries are already ascending
        starts = np.searchsorted(self.items[order], np.arange(n_items + 1)).astype(np.int64)
        return Relevance(starts, self.queries[order])

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.starts) - 1
