"""Two processes, each with its shard, give what one process gives with everything."""

import pytest
import torch

from helpers.two_processes import on_two_processes
from modiste.metrics.classification import ClassificationMetrics
from modiste.metrics.retrieval import RankingMetrics, RetrievalMetrics


def data():
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(11, 6, generator=generator), torch.randn(30, 6, generator=generator)
    return queries, gallery, torch.arange(11), torch.arange(30) % 13


def compute(own=slice(None), held=slice(None)):
    """All metrics, of a part of the queries and a part of the gallery."""
    queries, gallery, query_ids, gallery_ids = data()
    ranking = RankingMetrics(ks=[1, 5])
    ranking.update(queries[own], gallery[held], query_ids[own], gallery_ids[held])
    classes = ClassificationMetrics(13)
    classes.update((queries @ gallery.T).argmax(1)[own] % 13, query_ids[own])
    pairs = RetrievalMetrics(ks=[1, 5])
    pairs.update(queries[own], gallery[: len(queries)][own], query_ids[own] // 2)
    metrics = (ranking, classes, pairs)
    return {name: float(value) for metric in metrics for name, value in metric.compute().items()}


def work(rank):
    # 6 and 5 queries, 7 and 23 gallery items
    return compute(slice(rank, None, 2), slice(7) if rank == 0 else slice(7, None))


def test_two_processes_equal_one():
    """Queries and gallery sharded unevenly: every process computes the metrics of the union."""
    expected = compute()
    assert 0 < expected["mrr"] < 1
    for found in on_two_processes(work):
        assert found == pytest.approx(expected, abs=1e-6)
