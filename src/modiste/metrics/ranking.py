"""Exact ranks of every relevant item, counted slab by slab, and the metrics that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from modiste.errors import ModisteError, did_you_mean

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TIE_RULE = "equal scores (float32) are ordered by gallery index, lower first"
EMPTY_RULE = "queries without a relevant item are counted and left out"
MISS_RULE = "queries without a relevant item are misses: 0 in every metric, and a median_rank behind the whole gallery"
MAP_DENOMINATORS = {
    "relevant": "the number of relevant items (pytrec_eval map_cut)",
    "min_relevant_k": "min(number of relevant items, k)",
}
IDEALS = {
    "relevant": "the ideal order",
    "full": "k relevant items, however many there are",
}
LOWER_IS_BETTER = ("median_rank",)
SLAB_BYTES = 64 * 2**20
SLAB_ROWS = 256
"""Queries in a slab at most: beyond, a product is no faster and its scores leave the processor's cache."""
TILE, GPU_TILE = 512, 8192
"""Side of a tile of scores that is counted both ways: in a processor's cache, and worth a GPU's launches."""
SORT_FROM = 64
"""From this number of relevant items on, sorting a query's row is cheaper than counting once for each of them."""


@dataclass(frozen=True)
class Relevance:
    """Which gallery items are relevant to each query, as compressed rows (CSR).

    Attributes:
        starts: (Q + 1,); the relevant items of query q are ``items[starts[q]:starts[q + 1]]``.
        items: (P,) gallery positions, ascending within a query.

    >>> Relevance.from_ids(["shirt", "shoe", "hat"], ["shoe", "shirt", "shirt"]).counts
    array([2, 1, 0])
    """

    starts: Ints
    items: Ints

    @classmethod
    def from_ids(cls, query_ids: npt.ArrayLike, gallery_ids: npt.ArrayLike) -> Relevance:
        """Items whose id equals the query's; ids are integers or strings, (Q,) and (G,)."""
        queries, gallery = np.asarray(query_ids), np.asarray(gallery_ids)
        order = np.argsort(gallery, kind="stable")
        first = np.searchsorted(gallery, queries, "left", sorter=order)
        counts = np.searchsorted(gallery, queries, "right", sorter=order) - first
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(starts, order[np.repeat(first - starts[:-1], counts) + np.arange(starts[-1])].astype(np.int64))

    @classmethod
    def from_pairs(cls, queries: npt.ArrayLike, items: npt.ArrayLike, n_queries: int) -> Relevance:
        """Explicit (query, item) pairs in any order, both (P,) positions; a repeated pair counts once.

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
        """Without one gallery position of each query, (Q,): -1 takes nothing away.

        >>> Relevance.from_ids(["shirt", "hat"], ["shirt", "shirt", "hat"]).without(np.array([0, -1])).items
        array([1, 2])
        """
        keep = self.items != own[self.queries]
        counts = np.bincount(self.queries[keep], minlength=len(self))
        return Relevance(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), self.items[keep])

    def transposed(self, n_items: int) -> Relevance:
        """Which queries are relevant to each of ``n_items`` gallery items.

        >>> Relevance.from_ids(["shirt", "hat"], ["shirt", "shirt", "hat"]).transposed(3).items
        array([0, 0, 1])
        """
        order = np.argsort(self.items, kind="stable")  # queries ascend already
        starts = np.searchsorted(self.items[order], np.arange(n_items + 1)).astype(np.int64)
        return Relevance(starts, self.queries[order])

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.starts) - 1


@torch.no_grad()
def relevant_ranks(
    queries: Tensor, gallery: Tensor, relevance: Relevance, slab_bytes: int = SLAB_BYTES, sort_from: int = SORT_FROM
) -> Ints:
    """Rank of every relevant item in the whole gallery, exact, 1 = best.

    The rank of item p is 1 + #{g: s_g > s_p} + #{g < p: s_g = s_p}, with s the dot products in float32. The scores
    of a slab of queries with the whole gallery are held at a time, and s_p is read from the slab itself: a separate
    dot product rounds differently and moves ranks.

    Args:
        queries: (Q, D).
        gallery: (G, D), on the same device.
        relevance: Of the Q queries.
        slab_bytes: Memory of a slab; at least one query's row is held.
        sort_from: Queries with that many relevant items are ranked by a stable sort of their row.

    Returns:
        (P,) int64, in the order of ``relevance.items``.

    Raises:
        ModisteError: An embedding is not finite, there is nothing to rank, or the shapes do not fit.

    >>> relevant_ranks(torch.eye(2), torch.tensor([[0.5, 1.0], [1.0, 0.0]]), Relevance.from_ids([0, 1], [0, 1]))
    array([2, 2])
    """
    _check(queries, gallery, relevance)
    queries, gallery = queries.float(), gallery.float()
    counts = relevance.counts
    # Longest rows first: those with more than j relevant items are then a prefix of their slab, for every j.
    order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
    # A score takes four bytes and its comparison one.
    size = min(max(1, slab_bytes // (5 * len(gallery))), SLAB_ROWS)
    ranks = np.empty(len(relevance.items), dtype=np.int64)
    buffer = queries.new_empty(min(size, len(order)), len(gallery))
    for begin in range(0, len(order), size):
        rows = order[begin : begin + size]
        scores = torch.mm(queries[torch.from_numpy(rows).to(queries.device)], gallery.T, out=buffer[: len(rows)])
        n_sorted = int((counts[rows] >= sort_from).sum())
        for row, row_scores in zip(rows[:n_sorted], scores, strict=False):
            span = slice(relevance.starts[row], relevance.starts[row + 1])
            ranks[span] = _ranks_by_sorting(row_scores, relevance.items[span])
        _count_ranks(scores[n_sorted:], rows[n_sorted:], relevance, ranks)
    return ranks


@torch.no_grad()
def both_ranks(queries: Tensor, gallery: Tensor, relevance: Relevance, tile: int | None = None) -> tuple[Ints, Ints]:
    """`relevant_ranks` of the queries in the gallery, and of its items among the queries, from one product.

    A tile of scores is counted along its rows and along its columns. The scores of the relevant items have to be known
    before: their tiles are formed twice, which costs a tile a row of tiles where rows of a product stand together, as
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
    _check(queries, gallery, relevance)
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


def other_ranks(queries: Tensor, gallery: Tensor, relevance: Relevance, own: Ints) -> Ints:
    """`relevant_ranks` in the gallery without one item of each query: itself, where queries are gallery items.

    Exact: the item is ranked with the relevant ones, from the same scores, and those behind it move up by one. Other
    items that look the same stay.

    Args:
        queries: As in `relevant_ranks`.
        gallery: As in `relevant_ranks`.
        relevance: Of the Q queries, with none of ``own`` in it.
        own: (Q,) gallery position of each query's own item; -1: the gallery does not hold it.

    Returns:
        (P,) int64, in the order of ``relevance.items``.

    >>> views = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    >>> other_ranks(views, views, Relevance.from_pairs([0, 2], [2, 0], n_queries=3), np.arange(3))
    array([2, 2])
    """
    asked = np.flatnonzero((own >= 0) & (relevance.counts > 0))
    if not len(asked):
        return relevant_ranks(queries, gallery, relevance)
    query = np.concatenate([relevance.queries, asked])
    item = np.concatenate([relevance.items, own[asked]])
    order = np.lexsort([item, query])
    query, item = query[order], item[order]
    starts = np.searchsorted(query, np.arange(len(relevance) + 1)).astype(np.int64)
    ranks = relevant_ranks(queries, gallery, Relevance(starts, item))
    is_own = item == own[query]
    own_rank = np.full(len(relevance), np.iinfo(np.int64).max)
    own_rank[query[is_own]] = ranks[is_own]
    return (ranks - (own_rank[query] < ranks))[~is_own]


@torch.no_grad()
def candidate_ranks(
    queries: Tensor, gallery: Tensor, candidates: Ints, relevance: Relevance, slab_bytes: int = SLAB_BYTES
) -> Ints:
    """Rank of every relevant item among the query's own candidates, exact and tied as in `relevant_ranks`.

    Args:
        queries: (Q, D).
        gallery: (G, D), on the same device.
        candidates: (Q, C) gallery positions, ascending within a query; every relevant item is one of them.
        relevance: Of the Q queries.
        slab_bytes: Memory of the candidates' embeddings that are held at a time; at least one query's.

    Returns:
        (P,) int64, in the order of ``relevance.items``.

    Raises:
        ModisteError: As `relevant_ranks`.

    >>> gallery = torch.tensor([[0.5], [1.0], [0.7]])
    >>> candidate_ranks(torch.ones(1, 1), gallery, np.array([[0, 1]]), Relevance.from_pairs([0], [0], 1))
    array([2])
    """
    _check(queries, gallery, relevance)
    queries, gallery = queries.float(), gallery.float()
    query = relevance.queries
    size = max(1, slab_bytes // (4 * candidates.shape[1] * gallery.shape[1]))
    ranks = np.empty(len(query), dtype=np.int64)
    for begin in range(0, len(query), size):
        part = slice(begin, begin + size)
        own = candidates[query[part]]
        place = torch.from_numpy((own == relevance.items[part, None]).argmax(axis=1)).to(gallery.device)
        rows = torch.from_numpy(query[part]).to(queries.device)
        scores = torch.bmm(gallery[torch.from_numpy(own).to(gallery.device)], queries[rows][:, :, None])[:, :, 0]
        ranks[part] = _ranks_by_counting(scores, place[:, None]).cpu().numpy()
    return ranks


def _check(queries: Tensor, gallery: Tensor, relevance: Relevance) -> None:
    for name, x in (("query", queries), ("gallery", gallery)):
        if x.ndim != 2 or not len(x):
            raise ModisteError(f"The {name} embeddings have shape {tuple(x.shape)}; ranking needs (N, D) with N > 0.")
        # Part by part: the intermediate results of a whole gallery take more than its ranking.
        bad = sum(int((~torch.isfinite(part).all(dim=1)).sum()) for part in x.split(SLAB_ROWS))
        if bad:
            raise ModisteError(
                f"{bad} of {len(x)} {name} embeddings are not finite: the model has diverged or its input is invalid."
            )
    if queries.shape[1] != gallery.shape[1] or len(queries) != len(relevance):
        raise ModisteError(
            f"Queries {tuple(queries.shape)}, gallery {tuple(gallery.shape)} and the relevance of "
            f"{len(relevance)} queries do not match: embed both with one model, in the order of their ids."
        )


def _ranks_by_sorting(scores: Tensor, items: Ints) -> Ints:
    order = torch.sort(scores, descending=True, stable=True).indices
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(1, len(order) + 1, device=order.device)
    return ranks.cpu().numpy()[items]


def _count_ranks(scores: Tensor, rows: Ints, relevance: Relevance, ranks: Ints) -> None:
    """Write the ranks of ``rows`` (most relevant items first) into ``ranks``, one relevant item of each at a time."""
    counts = relevance.counts[rows]
    for j in range(int(counts[0]) if len(rows) else 0):
        n = int((counts > j).sum())
        slots = relevance.starts[rows[:n]] + j
        items = torch.from_numpy(relevance.items[slots]).to(scores.device)[:, None]
        ranks[slots] = _ranks_by_counting(scores[:n], items).cpu().numpy()


def _ranks_by_counting(scores: Tensor, items: Tensor) -> Tensor:
    """Ranks (n,) of one item (n, 1) of each row of scores (n, G)."""
    own = scores.gather(1, items)
    higher = _count(scores > own)
    tied = torch.nonzero(_count(scores == own) > 1).squeeze(1)
    if len(tied):
        before = torch.arange(scores.shape[1], device=scores.device) < items[tied]
        higher[tied] += _count((scores[tied] == own[tied]) & before)
    return higher + 1


def _count(mask: Tensor) -> Tensor:
    # Summing bytes into int32 is vectorised; summing booleans is several times slower.
    return mask.view(torch.uint8).sum(dim=1, dtype=torch.int32).long()


def check_options(ks: Iterable[int], map_denominator: str, ideal: str = "relevant") -> None:
    """Raise ModisteError for a cut-off that is not a positive integer, or an unknown denominator or ideal."""
    if map_denominator not in MAP_DENOMINATORS:
        raise ModisteError(
            f"Unknown MAP denominator '{map_denominator}'. {did_you_mean(map_denominator, MAP_DENOMINATORS)}"
        )
    if ideal not in IDEALS:
        raise ModisteError(f"Unknown ideal of nDCG '{ideal}'. {did_you_mean(ideal, IDEALS)}")
    ks = list(ks)
    if not all(isinstance(k, int) and k >= 1 for k in ks):
        raise ModisteError(f"Cut-offs must be integers of at least 1, not {ks}.")


def metric_definitions(ks: Iterable[int], map_denominator: str = "relevant", ideal: str = "relevant") -> dict[str, str]:
    """What every metric of `query_metrics` means, in words."""
    definitions: dict[str, str] = {}
    for k in ks:
        definitions |= {
            f"hit_rate@{k}": f"1 if any relevant item is in the top {k} (HITS@k; the recall@k of CLIP papers)",
            f"recall@{k}": f"|relevant in top {k}| / |relevant|",
            f"precision@{k}": f"|relevant in top {k}| / {k}",
            f"map@{k}": f"sum of the precisions at the relevant items in the top {k} / "
            f"{MAP_DENOMINATORS[map_denominator]}",
            f"ndcg@{k}": f"DCG of the top {k} (gain 1, discount log2(rank + 1)) / DCG of {IDEALS[ideal]}",
        }
    return definitions | {
        "mrr": "1 / rank of the first relevant item, whole gallery",
        "mrr@10": "1 / rank of the first relevant item, 0 beyond rank 10",
        "map": "sum of the precisions at all relevant items / number of relevant items, whole gallery",
        "median_rank": "rank of the first relevant item (1 = best); aggregated by the median, the others by the mean",
    }


def query_metrics(
    ranks: Ints,
    relevance: Relevance,
    ks: Sequence[int] = (1, 5, 10),
    map_denominator: str = "relevant",
    ideal: str = "relevant",
) -> dict[str, Floats]:
    """Every metric of `metric_definitions` for each query that has a relevant item.

    Args:
        ranks: (P,) from `relevant_ranks`.
        relevance: Of the same queries.
        ks: Cut-offs.
        map_denominator: Of MAP@k: a key of `MAP_DENOMINATORS`.
        ideal: What the DCG is divided by: a key of `IDEALS`.

    Returns:
        Metric name to (number of queries with a relevant item,) values, in the order of the queries.

    Raises:
        ModisteError: No query has a relevant item, a cut-off is below 1, or the denominator or ideal is unknown.

    >>> relevance = Relevance.from_pairs([0, 0], [3, 7], n_queries=1)
    >>> metrics = query_metrics(np.array([1, 4]), relevance, ks=[2])
    >>> metrics["recall@2"], metrics["map@2"], metrics["map"], metrics["median_rank"]
    (array([0.5]), array([0.5]), array([0.75]), array([1.]))
    """
    check_options(ks, map_denominator, ideal)
    n_relevant = relevance.counts[relevance.counts > 0]
    if not len(n_relevant):
        raise ModisteError("No query has a relevant item in the gallery: check that both use the same ids.")
    query = np.repeat(np.arange(len(n_relevant)), n_relevant)
    rank = ranks[np.lexsort([ranks, query])].astype(np.float64)
    nth = np.arange(len(rank)) - np.repeat(np.cumsum(n_relevant) - n_relevant, n_relevant) + 1.0
    best = rank[nth == 1]

    def total(values: Floats) -> Floats:
        return np.bincount(query, weights=values, minlength=len(n_relevant)).astype(np.float64)

    metrics: dict[str, Floats] = {}
    for k in ks:
        found = rank <= k
        hits = total(found.astype(np.float64))
        denominator = n_relevant if map_denominator == "relevant" else np.minimum(n_relevant, k)
        best_gains = np.cumsum(1 / np.log2(np.arange(k) + 2))
        metrics |= {
            f"hit_rate@{k}": (best <= k).astype(np.float64),
            f"recall@{k}": hits / n_relevant,
            f"precision@{k}": hits / k,
            f"map@{k}": total(found * nth / rank) / denominator,
            f"ndcg@{k}": total(found / np.log2(rank + 1))
            / (best_gains[-1] if ideal == "full" else best_gains[np.minimum(n_relevant, k) - 1]),
        }
    return metrics | {
        "mrr": 1 / best,
        "mrr@10": np.where(best <= 10, 1 / best, 0.0),
        "map": total(nth / rank) / n_relevant,
        "median_rank": best,
    }


def with_misses(metrics: dict[str, Floats], relevance: Relevance, n_gallery: int) -> dict[str, Floats]:
    """`query_metrics` for all Q queries: those without a relevant item get 0, and ``median_rank`` n_gallery + 1."""
    answerable = relevance.counts > 0
    filled = {}
    for name, values in metrics.items():
        filled[name] = np.full(len(relevance), n_gallery + 1.0 if name == "median_rank" else 0.0)
        filled[name][answerable] = values
    return filled


def summarise(metrics: dict[str, Floats]) -> dict[str, float]:
    """Means over the queries; the median for ``median_rank``.

    >>> summarise({"mrr": np.array([1.0, 0.5]), "median_rank": np.array([1.0, 2.0])})
    {'mrr': 0.75, 'median_rank': 1.5}
    """
    return {name: float(np.median(v) if name == "median_rank" else np.mean(v)) for name, v in metrics.items()}


class RankingMetrics(Metric):
    """Ranking metrics of queries against a gallery, accumulated over batches and processes.

    Queries and gallery are sharded in any way; every process holds its part and `compute` ranks against the union.
    Nothing is de-duplicated: a row that a padding sampler repeats is counted twice. Under torch.distributed every
    process calls `update` at least once, with (0, D) embeddings where it has none.

    Args:
        ks: Cut-offs.
        map_denominator: As in `query_metrics`.

    >>> metric = RankingMetrics(ks=[1])
    >>> metric.update(torch.eye(3), torch.eye(3), torch.tensor([4, 5, 6]), torch.tensor([4, 6, 5]))
    >>> round(metric.compute()["hit_rate@1"].item(), 4)
    0.3333
    """

    full_state_update = False
    higher_is_better = None
    queries: list[Tensor]
    gallery: list[Tensor]
    query_ids: list[Tensor]
    gallery_ids: list[Tensor]

    def __init__(self, ks: Sequence[int] = (1, 5, 10), map_denominator: str = "relevant", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_options(ks, map_denominator)
        self.ks, self.map_denominator = list(ks), map_denominator
        for name in ("queries", "gallery", "query_ids", "gallery_ids"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, queries: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> None:
        """Add queries (B, D) and gallery items (C, D) with their int64 ids (B,) and (C,); equal ids are relevant."""
        if len(queries) != len(query_ids) or len(gallery) != len(gallery_ids):
            raise ModisteError(
                f"{len(queries)} queries with {len(query_ids)} ids and {len(gallery)} gallery items with "
                f"{len(gallery_ids)} ids: give one id per embedding."
            )
        self.queries.append(queries.detach())
        self.gallery.append(gallery.detach())
        self.query_ids.append(query_ids)
        self.gallery_ids.append(gallery_ids)

    def compute(self) -> dict[str, Tensor]:
        """Metric name to a scalar float32; the queries without a relevant item are excluded."""
        query_ids, gallery_ids = (dim_zero_cat(ids).cpu().numpy() for ids in (self.query_ids, self.gallery_ids))
        relevance = Relevance.from_ids(query_ids, gallery_ids)
        ranks = relevant_ranks(dim_zero_cat(self.queries), dim_zero_cat(self.gallery), relevance)
        values = summarise(query_metrics(ranks, relevance, self.ks, self.map_denominator))
        return {name: torch.tensor(value, device=self.device) for name, value in values.items()}
