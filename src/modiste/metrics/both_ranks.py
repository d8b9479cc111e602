"""Exact ranks in both directions, counted from one pass over tiles of the scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modiste.metrics.ranks import SORT_FROM, check_embeddings, relevant_ranks
from modiste.metrics.relevance import Ints, Relevance

TILE, GPU_TILE = 512, 8192
"""Side of a tile of scores: fits a CPU's cache, and is large enough for a GPU's kernel launches."""


@torch.no_grad()
def both_ranks(queries: Tensor, gallery: Tensor, relevance: Relevance, tile: int | None = None) -> tuple[Ints, Ints]:
    """`relevant_ranks` in both directions, of queries and of gallery items, from one score matrix.

    Each tile of scores is counted along its rows and along its columns. The scores of the relevant items are needed
    first, so their tiles are computed twice; rows are sorted by product, so this is about one tile per row of tiles.

    Args:
        queries: Embeddings (Q, D).
        gallery: Embeddings (G, D), on the same device.
        relevance: Relevance of the Q queries.
        tile: Maximum side of a tile; affects speed and memory, not the result. None: `TILE`, or `GPU_TILE` on a GPU.

    Returns:
        Ranks (P,) in the order of ``relevance.items``, and ranks (P,) in that of ``relevance.transposed(G).items``.

    Raises:
        ModisteError: See `relevant_ranks`.

    >>> both_ranks(torch.eye(2), torch.tensor([[0.5, 1.0], [1.0, 0.0]]), Relevance.from_ids([0, 1], [0, 1]))
    (array([2, 2]), array([2, 2]))
    """
    check_embeddings(queries, gallery, relevance)
    queries, gallery = queries.float(), gallery.float()
    back = relevance.transposed(len(gallery))
    if max(relevance.counts.max(), back.counts.max()) < SORT_FROM:
        rows, cols = _order(relevance), _order(back)
        forth_side, back_side = _Side(relevance, rows, cols), _Side(back, cols, rows)
        size = tile or (GPU_TILE if gallery.device.type == "cuda" else TILE)
        tiles = _Tiles(_arranged(queries, rows), _arranged(gallery, cols), size)
        scores = tiles.scores(forth_side.place[relevance.queries], back_side.place[relevance.items])
        forth_side.take(scores)
        back_side.take(scores[torch.from_numpy(np.argsort(relevance.items, kind="stable")).to(scores.device)])
        if all(
            forth_side.count(tile, spare, i, j) and back_side.count(tile.T, spare.T, j, i)
            for tile, spare, i, j in tiles.all()
        ):
            return forth_side.ranks(), back_side.ranks()
    # Many relevant items are sorted instead of counted; and some devices round a repeated matmul differently.
    return relevant_ranks(queries, gallery, relevance), relevant_ranks(gallery, queries, back)


def _order(relevance: Relevance) -> Ints:
    """Order by most relevant items, so that queries with more than j are a prefix, then by first item."""
    first = np.append(relevance.items, 0)[np.minimum(relevance.starts[:-1], len(relevance.items))]
    return np.lexsort([first, -relevance.counts]).astype(np.int64)


def _arranged(x: Tensor, order: Ints) -> Tensor:
    in_order = bool((order == np.arange(len(order))).all())
    return x if in_order else x[torch.from_numpy(order).to(x.device)]


@dataclass(frozen=True)
class _Tiles:
    """Tiles of the scores (Q, G), in one buffer."""

    queries: Tensor
    gallery: Tensor
    size: int

    def scores(self, rows: Ints, cols: Ints) -> Tensor:
        """Scores at (rows, cols), both (P,), computed in their tiles."""
        found = self.queries.new_empty(len(rows))
        width = -(-len(self.gallery) // self.size)
        number = rows // self.size * width + cols // self.size
        by_tile = np.argsort(number, kind="stable")
        buffer = self._buffer()
        for pairs in np.split(by_tile, np.flatnonzero(np.diff(number[by_tile])) + 1) if len(rows) else []:
            i, j = self._span(*divmod(int(number[pairs[0]]), width))
            place = (rows[pairs] - i.start) * (j.stop - j.start) + cols[pairs] - j.start
            flat = self._product(buffer, i, j).view(-1)
            found[torch.from_numpy(pairs).to(found.device)] = flat[torch.from_numpy(place).to(found.device)]
        return found

    def all(self) -> Iterator[tuple[Tensor, Tensor, slice, slice]]:
        """Iterate over all tiles: scores, a scratch buffer of their shape, rows and columns."""
        buffer, spare = self._buffer(), self._buffer()
        for row in range(-(-len(self.queries) // self.size)):
            for col in range(-(-len(self.gallery) // self.size)):
                i, j = self._span(row, col)
                tile = self._product(buffer, i, j)
                yield tile, spare[: tile.numel()].view(tile.shape), i, j

    def _span(self, row: int, col: int) -> tuple[slice, slice]:
        rows, cols = (min((i + 1) * self.size, len(x)) for i, x in ((row, self.queries), (col, self.gallery)))
        return slice(row * self.size, rows), slice(col * self.size, cols)

    def _buffer(self) -> Tensor:
        return self.queries.new_empty(min(self.size, len(self.queries)) * min(self.size, len(self.gallery)))

    def _product(self, buffer: Tensor, i: slice, j: slice) -> Tensor:
        shape = (i.stop - i.start, j.stop - j.start)
        return torch.mm(self.queries[i], self.gallery[j].T, out=buffer[: shape[0] * shape[1]].view(shape))


class _Side:
    """Counts of one direction, with queries as rows in ``order`` and items as columns in ``item_order``."""

    def __init__(self, relevance: Relevance, order: Ints, item_order: Ints) -> None:
        self.place, item_place = np.empty_like(order), np.empty_like(item_order)
        self.place[order], item_place[item_order] = np.arange(len(order)), np.arange(len(item_order))
        counts = relevance.counts[order]
        # One relevant item of each query at a time.
        self.slots = [relevance.starts[order[: (counts > j).sum()]] + j for j in range(counts.max())]
        self.items = [relevance.items[slots] for slots in self.slots]
        self.columns = [item_place[items] for items in self.items]
        self.index = item_order

    def take(self, scores: Tensor) -> None:
        """Set the scores (P,) of the relevant items."""

        def on_device(parts: list[Ints]) -> list[Tensor]:
            return [torch.from_numpy(part).to(scores.device) for part in parts]

        self.own = [scores[slots] for slots in on_device(self.slots)]
        self.own_item, self.own_column = on_device(self.items), on_device(self.columns)
        self.item_index = torch.from_numpy(self.index).to(scores.device)
        self.higher = [torch.zeros_like(items) for items in self.own_item]

    def count(self, tile: Tensor, spare: Tensor, rows: slice, cols: slice) -> bool:
        """Count a tile; False if a relevant item's score differs from that of `take`."""
        for own, item, column, higher in zip(self.own, self.own_item, self.own_column, self.higher, strict=True):
            part = slice(rows.start, min(rows.stop, len(own)))
            n = part.stop - part.start
            if n <= 0:
                break
            # 0 and 1 in float32 are several times faster than booleans, and a tile's sums are exact.
            higher[part] += torch.gt(tile[:n], own[part, None], out=spare[:n]).sum(1).long()
            equal = torch.eq(tile[:n], own[part, None], out=spare[:n])
            here = (column[part] >= cols.start) & (column[part] < cols.stop)
            others = equal.sum(1).long() - here.long()
            tied = torch.nonzero(others).squeeze(1)
            if len(tied):
                if bool((others[tied] < 0).any()):
                    return False
                before = self.item_index[cols] < item[part][tied, None]
                higher[part.start + tied] += ((equal[tied] > 0) & before).sum(1)
        return True

    def ranks(self) -> Ints:
        """Ranks (P,) in the order of the relevant items."""
        ranks = np.empty(sum(map(len, self.slots)), dtype=np.int64)
        for slots, higher in zip(self.slots, self.higher, strict=True):
            ranks[slots] = higher.cpu().numpy() + 1
        return ranks
