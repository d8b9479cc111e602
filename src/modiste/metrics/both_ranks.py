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
"""Side of a tile of scores that is counted both ways: in a processor's cache, and worth a GPU's launches."""


@torch.no_grad()
def both_ranks(queries: Tensor, gallery: Tensor, relevance: Relevance, tile: int | None = None) -> tuple[Ints, Ints]:
    """`relevant_ranks` of the queries in the gallery, and of its items among the queries, from one product.

    A tile of scores is counted along its rows and along its columns. The scores of the relevant items have to be known
    before: their tiles are formed twice, which costs a tile per row of tiles where rows of a product stand together, as
    they are put here.

    Args:
        queries: (Q, D).
        gallery: (G, D), on the same device.
        relevance: Of the Q queries.
        tile: Largest side of a tile; speed and memory only, never the result. None: `TILE`, or `GPU_TILE` on a GPU.

    Returns:
        Ranks (P,) in the order of ``relevance.items``, and ranks (P,) in that of ``relevance.transposed(G).items``.

    Raises:
        ModisteError: As `relevant_ranks`.

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
    # Many relevant items are sorted rather than counted; and a product need not round equally twice on every device.
    return relevant_ranks(queries, gallery, relevance), relevant_ranks(gallery, queries, back)


def _order(relevance: Relevance) -> Ints:
    """Most relevant items first, so that those with more than j are a prefix; then by the first of them."""
    first = np.append(relevance.items, 0)[np.minimum(relevance.starts[:-1], len(relevance.items))]
    return np.lexsort([first, -relevance.counts]).astype(np.int64)


def _arranged(x: Tensor, order: Ints) -> Tensor:
    in_order = bool((order == np.arange(len(order))).all())
    return x if in_order else x[torch.from_numpy(order).to(x.device)]


@dataclass(frozen=True)
class _Tiles:
    """Scores (Q, G) tile by tile, in one buffer."""

    queries: Tensor
    gallery: Tensor
    size: int

    def scores(self, rows: Ints, cols: Ints) -> Tensor:
        """The scores at (rows, cols), both (P,), of the tiles that hold them."""
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
        """Every tile, scratch of its shape, and its rows and columns."""
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
    """Counts of one direction: its queries are rows in ``order``, the items columns in ``item_order``."""

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
        """The scores (P,) of the relevant items."""

        def on_device(parts: list[Ints]) -> list[Tensor]:
            return [torch.from_numpy(part).to(scores.device) for part in parts]

        self.own = [scores[slots] for slots in on_device(self.slots)]
        self.own_item, self.own_column = on_device(self.items), on_device(self.columns)
        self.item_index = torch.from_numpy(self.index).to(scores.device)
        self.higher = [torch.zeros_like(items) for items in self.own_item]

    def count(self, tile: Tensor, spare: Tensor, rows: slice, cols: slice) -> bool:
        """Take in a tile; False if a relevant item's score is not the one that was taken."""
        for own, item, column, higher in zip(self.own, self.own_item, self.own_column, self.higher, strict=True):
            part = slice(rows.start, min(rows.stop, len(own)))
            n = part.stop - part.start
            if n <= 0:
                break
            # As 0 and 1 in float32, several times faster than as booleans; a tile's sums are exact.
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
        """(P,) in the order of the relevant items."""
        ranks = np.empty(sum(map(len, self.slots)), dtype=np.int64)
        for slots, higher in zip(self.slots, self.higher, strict=True):
            ranks[slots] = higher.cpu().numpy() + 1
        return ranks
