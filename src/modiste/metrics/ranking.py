"""Ranking metrics per query, from the ranks of its relevant items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from modiste.errors import ModisteError, did_you_mean
from modiste.metrics.relevance import Floats, Ints, Relevance

TIE_RULE = "equal scores (float32) are ordered by gallery index, lower first"
EMPTY_RULE = "queries without a relevant item are counted and excluded"
MISS_RULE = "queries without a relevant item are misses: 0 in every metric, and a median_rank behind the whole gallery"
MAP_DENOMINATORS = {
    "relevant": "the number of relevant items (pytrec_eval map_cut)",
    "min_relevant_k": "min(number of relevant items, k)",
}
IDEALS = {
    "relevant": "the ideal order",
    "full": "k relevant items, however many there are",
}


def check_options(ks: Iterable[int], map_denominator: str, ideal: str = "relevant") -> None:
    """Raise ModisteError for cut-offs that are not integers >= 1, or an unknown denominator or ideal."""
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
    """Definition of every metric of `query_metrics`, in words."""
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
        ranks: Ranks (P,) from `relevant_ranks`.
        relevance: Relevance of the same queries.
        ks: Cut-offs.
        map_denominator: Denominator of MAP@k: a key of `MAP_DENOMINATORS`.
        ideal: Ideal ranking of nDCG: a key of `IDEALS`.

    Returns:
        Metric name to one value per query that has a relevant item, in the order of the queries.

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
    """Extend `query_metrics` to all Q queries: 0, or median_rank n_gallery + 1, without relevant items."""
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
