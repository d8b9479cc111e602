"""Ranks against a double loop; metrics against pytrec_eval, torchmetrics and analytic values."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchmetrics import retrieval as torchmetrics_retrieval

from helpers.exact_embeddings import integers
from helpers.trec_reference import assert_equal_to_trec, trec_values
from modiste.errors import ModisteError
from modiste.metrics import ranking
from modiste.metrics.ranking import query_metrics, summarise
from modiste.metrics.ranks import relevant_ranks
from modiste.metrics.relevance import Relevance
from modiste.metrics.retrieval import RankingMetrics

KS = [1, 3, 10]


def loop_ranks(scores, relevance):
    """The definition, item by item."""
    ranks = []
    for query, row in enumerate(scores.tolist()):
        for p in relevance.items[relevance.starts[query] : relevance.starts[query + 1]]:
            before = [g for g, s in enumerate(row) if s > row[p] or (s == row[p] and g < p)]
            ranks.append(1 + len(before))
    return np.array(ranks)


CASES = {
    "ties and negative scores": (integers(13, 3), integers(29, 3, seed=1), np.arange(13), np.arange(29) % 13),
    "all scores negative": (integers(9, 4, low=1), -integers(20, 4, low=1), np.arange(9), np.arange(20) % 10),
    "every item identical": (torch.ones(5, 2), torch.ones(17, 2), np.arange(5), np.arange(17) % 5),
    "duplicates of the relevant item": (torch.eye(4), torch.eye(4).repeat(6, 1), np.arange(4), np.arange(24) - 3),
    "no relevant item for most": (integers(8, 3), integers(6, 3), np.arange(8), np.full(6, 3)),
    "all items relevant": (integers(3, 3), integers(11, 3), np.zeros(3), np.zeros(11)),
    "one item": (torch.ones(2, 1), torch.ones(1, 1), np.array([7, 7]), np.array([7])),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("slab_bytes", [1, 400, 2**20])
@pytest.mark.parametrize("sort_from", [1, 3, 10**9])
def test_ranks_equal_the_double_loop(case, slab_bytes, sort_from):
    """Counting and sorting, in slabs of any size, give the rank of the definition, ties broken by index."""
    queries, gallery, query_ids, gallery_ids = CASES[case]
    relevance = Relevance.from_ids(query_ids, gallery_ids)
    ranks = relevant_ranks(queries, gallery, relevance, slab_bytes=slab_bytes, sort_from=sort_from)
    assert ranks.tolist() == loop_ranks(queries @ gallery.T, relevance).tolist()


def test_ranks_of_random_embeddings_equal_the_double_loop():
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (F.normalize(torch.randn(n, 16, generator=generator), dim=1) for n in (40, 150))
    relevance = Relevance.from_ids(np.arange(40) % 15, np.arange(150) % 20)
    assert relevant_ranks(queries, gallery, relevance).tolist() == loop_ranks(queries @ gallery.T, relevance).tolist()


def test_half_precision_is_ranked_in_float32():
    """bfloat16 products would tie; the scores of bfloat16 embeddings are computed in float32."""
    queries = torch.tensor([[1.0, 1.0]], dtype=torch.bfloat16)
    gallery = torch.tensor([[1.0, 2**-10], [1.0, 2**-9]], dtype=torch.bfloat16)
    assert relevant_ranks(queries, gallery, Relevance.from_pairs([0], [1], 1)).tolist() == [1]


def test_a_slab_keeps_to_its_memory(monkeypatch):
    """Scores (4 bytes) and one comparison (1 byte) of a slab stay within the budget."""
    slabs = []
    monkeypatch.setattr(torch, "mm", lambda *a, out: slabs.append(out.numel()) or torch.matmul(*a, out=out))
    relevant_ranks(integers(50, 3), integers(1000, 3), Relevance.from_ids(range(50), range(1000)), slab_bytes=40_000)
    assert len(slabs) > 1
    assert max(slabs) * 5 <= 40_000


@pytest.mark.parametrize("as_ids", [list, np.asarray, lambda ids: [f"id-{i}" for i in ids]])
def test_relevance_by_id_equals_the_double_loop(as_ids):
    query_ids, gallery_ids = [3, 1, 9, 3], [1, 3, 5, 3, 1, 3]
    relevance = Relevance.from_ids(as_ids(query_ids), as_ids(gallery_ids))
    rows = np.split(relevance.items, relevance.starts[1:-1])
    assert [r.tolist() for r in rows] == [[g for g, i in enumerate(gallery_ids) if i == q] for q in query_ids]
    assert len(relevance) == 4


def test_relevance_by_pairs_is_sorted_and_counts_a_pair_once():
    relevance = Relevance.from_pairs([2, 0, 2, 2], [4, 1, 0, 4], n_queries=4)
    assert relevance.items.tolist() == [1, 0, 4]
    assert relevance.counts.tolist() == [1, 0, 2, 0]


@pytest.mark.parametrize(
    "embed", [integers, lambda *s, seed=0: torch.from_numpy(np.random.default_rng(seed).normal(size=s))]
)
def test_metrics_equal_pytrec_eval(embed):
    """Per query, with ties, negative scores, several relevant items, and queries without any (excluded there too)."""
    queries, gallery = embed(30, 4), embed(60, 4, seed=1)
    relevance = Relevance.from_ids(np.arange(30), np.arange(60) ** 2 % 31)
    assert 0 in relevance.counts
    ours = query_metrics(relevant_ranks(queries, gallery, relevance), relevance, KS)
    assert_equal_to_trec(ours, trec_values(queries @ gallery.T, relevance, KS), KS)


@pytest.mark.parametrize(
    ("name", "reference", "shift"),
    [
        ("hit_rate@3", torchmetrics_retrieval.RetrievalHitRate(top_k=3, empty_target_action="skip"), 0.0),
        ("ndcg@3", torchmetrics_retrieval.RetrievalNormalizedDCG(top_k=3, empty_target_action="skip"), 0.0),
        # torchmetrics 1.9 takes an item with a score of 0 or less for not retrieved in these.
        ("recall@3", torchmetrics_retrieval.RetrievalRecall(top_k=3, empty_target_action="skip"), 2.0),
        ("precision@3", torchmetrics_retrieval.RetrievalPrecision(top_k=3, empty_target_action="skip"), 2.0),
        ("map", torchmetrics_retrieval.RetrievalMAP(empty_target_action="skip"), 2.0),
        ("mrr", torchmetrics_retrieval.RetrievalMRR(empty_target_action="skip"), 2.0),
        ("mrr@10", torchmetrics_retrieval.RetrievalMRR(top_k=10, empty_target_action="skip"), 2.0),
    ],
)
def test_metrics_equal_torchmetrics(name, reference, shift):
    generator = torch.Generator().manual_seed(3)
    queries, gallery = (F.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (25, 40))
    query_ids, gallery_ids = torch.arange(25), torch.arange(40) % 23
    relevance = Relevance.from_ids(query_ids, gallery_ids)
    ours = summarise(query_metrics(relevant_ranks(queries, gallery, relevance), relevance, KS))
    scores, target = queries @ gallery.T + shift, query_ids[:, None] == gallery_ids
    indexes = torch.arange(25)[:, None].expand_as(scores)
    assert ours[name] == pytest.approx(
        float(reference(scores.flatten(), target.flatten(), indexes.flatten())), abs=1e-6
    )


def test_map_with_the_smaller_denominator_divides_by_min_of_relevant_and_k():
    """Three relevant items, at ranks 1, 3 and 9: at k = 2 the one precision is over 3 as published, or over 2."""
    relevance, ranks = Relevance.from_pairs([0, 0, 0], [0, 1, 2], 1), np.array([9, 1, 3])
    assert query_metrics(ranks, relevance, [2], "relevant")["map@2"] == pytest.approx([1 / 3])
    assert query_metrics(ranks, relevance, [2], "min_relevant_k")["map@2"] == pytest.approx([1 / 2])
    assert query_metrics(ranks, relevance, [5], "min_relevant_k")["map@5"] == pytest.approx([(1 + 2 / 3) / 3])


def test_every_metric_has_a_definition():
    relevance = Relevance.from_pairs([0], [0], 1)
    assert set(query_metrics(np.array([1]), relevance, KS)) == set(ranking.metric_definitions(KS))


def test_the_mean_is_taken_but_for_the_median_rank():
    values = {"mrr": np.array([1.0, 0.25, 0.25]), "median_rank": np.array([1.0, 4.0, 4.0])}
    assert summarise(values) == {"mrr": 0.5, "median_rank": 4.0}


def test_perfect_embeddings_are_perfect():
    """Three relevant items a query, all in front: every metric is 1 that can be."""
    queries, gallery = torch.eye(12), torch.eye(12).repeat_interleave(3, dim=0)
    relevance = Relevance.from_ids(np.arange(12), np.arange(36) // 3)
    values = summarise(query_metrics(relevant_ranks(queries, gallery, relevance), relevance, [3, 5]))
    assert values.pop("precision@5") == pytest.approx(3 / 5)
    assert set(values.values()) == {1.0}


def test_random_embeddings_are_at_chance():
    """One relevant item among G at a uniform rank: hit rate k/G, MRR H(G)/G, median rank G/2."""
    size, n = 40, 4000
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(n, 64, generator=generator), torch.randn(size, 64, generator=generator)
    relevance = Relevance.from_ids(np.arange(n) % size, np.arange(size))
    values = summarise(query_metrics(relevant_ranks(queries, gallery, relevance), relevance, [10]))
    assert values["hit_rate@10"] == pytest.approx(10 / size, abs=0.03)
    assert values["recall@10"] == values["hit_rate@10"]
    assert values["mrr"] == pytest.approx(sum(1 / r for r in range(1, size + 1)) / size, abs=0.02)
    assert values["median_rank"] == pytest.approx((size + 1) / 2, abs=1.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["query", "gallery"])
def test_embeddings_that_are_not_finite_are_an_error(bad, side):
    x = {"query": torch.eye(3), "gallery": torch.eye(3)}
    x[side][1, 2] = bad
    with pytest.raises(ModisteError, match=f"1 of 3 {side} embeddings are not finite"):
        relevant_ranks(x["query"], x["gallery"], Relevance.from_ids(range(3), range(3)))


@pytest.mark.parametrize(
    ("queries", "gallery", "message"),
    [
        (torch.ones(2, 3), torch.ones(4, 5), "do not match"),
        (torch.ones(3, 3), torch.ones(4, 3), "do not match"),
        (torch.ones(2, 3), torch.ones(0, 3), "gallery embeddings have shape"),
        (torch.ones(2), torch.ones(4, 3), "query embeddings have shape"),
    ],
)
def test_shapes_that_do_not_fit_are_an_error(queries, gallery, message):
    with pytest.raises(ModisteError, match=message):
        relevant_ranks(queries, gallery, Relevance.from_pairs([0], [0], 2))


def test_no_relevant_item_at_all_is_an_error():
    relevance = Relevance.from_ids(["a"], ["b"])
    with pytest.raises(ModisteError, match="same ids"):
        query_metrics(relevant_ranks(torch.ones(1, 1), torch.ones(1, 1), relevance), relevance)


@pytest.mark.parametrize(("ks", "denominator"), [([0], "relevant"), ([1.5], "relevant"), ([1], "relevent")])
def test_unknown_options_are_an_error(ks, denominator):
    with pytest.raises(ModisteError, match=r"Cut-offs|Did you mean 'relevant'"):
        RankingMetrics(ks=ks, map_denominator=denominator)


def test_the_metric_equals_the_functions_on_the_concatenated_batches():
    """Batches of unequal sizes; embeddings and ids that repeat are counted as often as they come."""
    queries, gallery, gallery_ids = integers(14, 3), integers(21, 3, seed=1), torch.arange(21) % 9
    query_ids = torch.arange(14) % 10
    metric = RankingMetrics(ks=KS)
    for q, g in ((slice(0, 5), slice(0, 12)), (slice(5, 14), slice(12, 12)), (slice(0, 0), slice(12, 21))):
        metric.update(queries[q], gallery[g], query_ids[q], gallery_ids[g])
    relevance = Relevance.from_ids(query_ids, gallery_ids)
    expected = summarise(query_metrics(relevant_ranks(queries, gallery, relevance), relevance, KS))
    assert {k: v.item() for k, v in metric.compute().items()} == pytest.approx(expected, abs=1e-6)
    metric.reset()
    metric.update(torch.eye(2), torch.eye(2), torch.arange(2), torch.arange(2))
    assert metric.compute()["mrr"] == 1


def test_the_metric_refuses_ids_that_do_not_fit():
    with pytest.raises(ModisteError, match="2 queries with 3 ids"):
        RankingMetrics().update(torch.eye(2), torch.eye(2), torch.arange(3), torch.arange(2))
