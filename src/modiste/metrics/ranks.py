"""Exact ranks of every relevant item, counted in slabs of queries."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from modiste.errors import ModisteError
from modiste.metrics.relevance import Ints, Relevance

SLAB_BYTES = 64 * 2**20
SLAB_ROWS = 256
"""Maximum queries per slab: more make the matmul no faster, and its scores leave the CPU's cache."""
SORT_FROM = 64
"""From this number of relevant items on, sorting a query's row is cheaper than one count per item."""


@torch.no_grad()
def relevant_ranks(
    queries: Tensor, gallery: Tensor, relevance: Relevance, slab_bytes: int = SLAB_BYTES, sort_from: int = SORT_FROM
) -> Ints:
    """Rank of every relevant item in the whole gallery, exact, 1 = best.

    The rank of item p is 1 + #{g: s_g > s_p} + #{g < p: s_g = s_p}, with s the dot products in float32. Scores are
    computed for one slab of queries at a time against the whole gallery, and s_p is read from the slab: a separate dot
    product could round differently and change ranks.

    Args:
        queries: Embeddings (Q, D).
        gallery: Embeddings (G, D), on the same device.
        relevance: Relevance of the Q queries.
        slab_bytes: Memory of a slab, which holds at least one query.
        sort_from: Queries with at least this many relevant items are ranked by a stable sort of their row.

    Returns:
        Ranks (P,), int64, in the order of ``relevance.items``.

    Raises:
        ModisteError: An embedding is not finite, queries or gallery are empty, or the shapes do not match.

    >>> relevant_ranks(torch.eye(2), torch.tensor([[0.5, 1.0], [1.0, 0.0]]), Relevance.from_ids([0, 1], [0, 1]))
    array([2, 2])
    """
    check_embeddings(queries, gallery, relevance)
    queries, gallery = queries.float(), gallery.float()
    counts = relevance.counts
    # Most relevant items first: queries with more than j of them are then a prefix of their slab, for every j.
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


def other_ranks(queries: Tensor, gallery: Tensor, relevance: Relevance, own: Ints) -> Ints:
    """`relevant_ranks` with each query's own item excluded from the gallery.

    Exact: the own item is ranked together with the relevant ones, from the same scores, and items behind it move up by
    one. Other items with the same embedding stay.

    Args:
        queries: See `relevant_ranks`.
        gallery: See `relevant_ranks`.
        relevance: Relevance of the Q queries, without any of ``own``.
        own: Gallery position of each query's own item (Q,); -1 if the gallery does not contain it.

    Returns:
        Ranks (P,), int64, in the order of ``relevance.items``.

    Raises:
        ModisteError: See `relevant_ranks`.

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
    """Rank of every relevant item among its query's candidates; exact, with ties as in `relevant_ranks`.

    Args:
        queries: Embeddings (Q, D).
        gallery: Embeddings (G, D), on the same device.
        candidates: Gallery positions (Q, C), ascending within a query; they include all relevant items.
        relevance: Relevance of the Q queries.
        slab_bytes: Memory of the candidate embeddings of a slab, which holds at least one query.

    Returns:
        Ranks (P,), int64, in the order of ``relevance.items``.

    Raises:
        ModisteError: See `relevant_ranks`.

    >>> gallery = torch.tensor([[0.5], [1.0], [0.7]])
    >>> candidate_ranks(torch.ones(1, 1), gallery, np.array([[0, 1]]), Relevance.from_pairs([0], [0], 1))
    array([2])
    """
    check_embeddings(queries, gallery, relevance)
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


def check_embeddings(queries: Tensor, gallery: Tensor, relevance: Relevance) -> None:
    """Raise ModisteError for embeddings that are not finite, not (N, D) with N > 0, or do not match."""
    for name, x in (("query", queries), ("gallery", gallery)):
        if x.ndim != 2 or not len(x):
            raise ModisteError(f"The {name} embeddings have shape {tuple(x.shape)}; ranking needs (N, D) with N > 0.")
        # In parts: the intermediate results of a whole gallery take more memory than its ranking.
        bad = sum(int((~torch.isfinite(part).all(dim=1)).sum().item()) for part in x.split(SLAB_ROWS))
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
    """Write the ranks of ``rows``, most relevant items first, into ``ranks``; the j-th items at once."""
    counts = relevance.counts[rows]
    for j in range(int(counts[0]) if len(rows) else 0):
        n = int((counts > j).sum())
        slots = relevance.starts[rows[:n]] + j
        items = torch.from_numpy(relevance.items[slots]).to(scores.device)[:, None]
        ranks[slots] = _ranks_by_counting(scores[:n], items).cpu().numpy()


def _ranks_by_counting(scores: Tensor, items: Tensor) -> Tensor:
    """Ranks (n,) of one item per row, at index (n, 1), in scores (n, G)."""
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
