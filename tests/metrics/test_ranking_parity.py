"""Retrieval metrics equal pytrec_eval's on adversarial inputs: ties, duplicates, none or all relevant, large k."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers.trec_reference import assert_equal_to_trec, trec_values
from modiste.data.catalogue import Card, Catalogue
from modiste.data.sources import ArrayImages
from modiste.metrics.ranking import query_metrics
from modiste.metrics.ranks import candidate_ranks, other_ranks, relevant_ranks
from modiste.metrics.relevance import Relevance
from modiste.tasks.retrieval import Retrieval

KS = [1, 2, 5, 10, 1000]
"""The last is larger than every gallery."""


def signs(*shape, seed=0):
    """Vectors of ±1: their products are exact, few and mostly tied."""
    return torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 1.0], size=shape)).float()


def normal(*shape, seed=0):
    return F.normalize(torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float(), dim=1)


def some(seed, n_queries=20, n_items=45, share=0.1):
    """Each item relevant to each query by a coin: several, one or none."""
    pairs = np.argwhere(np.random.default_rng(seed).random((n_queries, n_items)) < share)
    return Relevance.from_pairs(pairs[:, 0], pairs[:, 1], n_queries)


EVERYTHING = Relevance.from_pairs(*np.divmod(np.arange(20 * 45), 45), 20)
CASES = {
    "random": (normal(20, 8), normal(45, 8, seed=1), some(0)),
    "random, most queries without a relevant item": (normal(20, 8), normal(45, 8, seed=1), some(1, share=0.01)),
    "mostly tied": (signs(20, 4), signs(45, 4, seed=1), some(2)),
    "every item the same": (signs(20, 4), torch.ones(45, 4), some(3)),
    "every document three times": (normal(20, 8), normal(15, 8, seed=1).repeat(3, 1), some(4)),
    "duplicates next to each other": (normal(20, 8), normal(15, 8, seed=1).repeat_interleave(3, 0), some(5)),
    "all relevant": (normal(20, 8), normal(45, 8, seed=1), EVERYTHING),
    "all relevant and tied": (torch.ones(20, 4), torch.ones(45, 4), EVERYTHING),
    "all scores negative": (normal(20, 8).abs(), -normal(45, 8, seed=1).abs(), some(6)),
    "all scores zero": (torch.zeros(20, 4), normal(45, 4), some(7)),
    "scores that differ in the last bit": (
        torch.ones(20, 1),
        torch.nextafter(torch.ones(45, 1), torch.tensor(2.0) * (torch.arange(45) % 2)[:, None]),
        some(8),
    ),
    "one document": (normal(20, 8), normal(1, 8, seed=1), some(9, n_items=1, share=0.5)),
    "one query": (normal(1, 8), normal(45, 8, seed=1), some(11, n_queries=1)),
    "the relevant items last of all that tie": (
        torch.ones(20, 2),
        torch.ones(45, 2),
        Relevance.from_pairs(np.arange(20), np.full(20, 44), 20),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sort_from", [1, 10**9])
def test_metrics_equal_pytrec_eval(case, sort_from):
    """Per query, ranks by sorting and by counting."""
    queries, gallery, relevance = CASES[case]
    ranks = relevant_ranks(queries, gallery, relevance, sort_from=sort_from)
    theirs = trec_values(queries @ gallery.T, relevance, KS)
    assert_equal_to_trec(query_metrics(ranks, relevance, KS), theirs, KS)


def test_the_cases_have_the_ties_and_the_queries_without_relevant_items_that_they_name():
    def tied(case):
        queries, gallery, _ = CASES[case]
        return np.mean([len(row.unique()) < len(row) for row in queries @ gallery.T])

    assert tied("random") == 0
    named = ("mostly tied", "every item the same", "every document three times", "duplicates next to each other")
    assert all(tied(case) == 1 for case in named)
    assert 0 in CASES["random, most queries without a relevant item"][2].counts
    assert all(len(gallery) < KS[-1] for _, gallery, _ in CASES.values())


@pytest.mark.parametrize("make", [normal, signs])
def test_galleries_without_the_query_equal_pytrec_eval(make):
    """Image→image: each query's own row is not among its documents; two queries are no gallery items."""
    gallery = make(40, 4)
    queries = torch.cat([gallery[:28], make(2, 4, seed=1)])
    own = np.append(np.arange(28), [-1, -1])
    relevance = some(11, n_queries=30, n_items=40).without(own)
    present = np.arange(40) != own[:, None]
    theirs = trec_values(queries @ gallery.T, relevance, KS, present)
    assert_equal_to_trec(query_metrics(other_ranks(queries, gallery, relevance, own), relevance, KS), theirs, KS)


@pytest.mark.parametrize("make", [normal, signs])
def test_sampled_galleries_equal_pytrec_eval(make):
    """Each query against documents of its own, one of them relevant."""
    queries, gallery = make(20, 4), make(45, 4, seed=1)
    generator = np.random.default_rng(2)
    candidates = np.sort([generator.choice(45, 12, replace=False) for _ in range(20)], axis=1)
    relevance = Relevance.from_pairs(np.arange(20), [generator.choice(row) for row in candidates], 20)
    present = np.zeros((20, 45), dtype=bool)
    np.put_along_axis(present, candidates, True, axis=1)
    theirs = trec_values(queries @ gallery.T, relevance, KS, present)
    ranks = candidate_ranks(queries, gallery, candidates, relevance)
    assert_equal_to_trec(query_metrics(ranks, relevance, KS), theirs, KS)


class Drawn:
    """Images by row, texts by their number."""

    fingerprint = "drawn"

    def __init__(self, images, texts):
        self.rows, self.known = images, texts

    def images(self, catalogue):
        return self.rows[catalogue.column("row")]

    def texts(self, texts):
        return torch.stack([self.known[int(text)] for text in texts])


@pytest.mark.parametrize("make", [normal, signs])
def test_the_retrieval_task_equals_pytrec_eval(make):
    """Both directions over a catalogue whose products have one to four rows, from the embedder to per_query."""
    ids = [f"p{p}" for p in range(12) for _ in range(1 + p % 4)]
    n = len(ids)
    pixels = np.random.default_rng(0).integers(256, size=(n, 4, 4), dtype=np.uint8)
    columns = {"product_id": ids, "image": [str(i) for i in range(n)], "text": [str(i) for i in range(n)]}
    catalogue = Catalogue.build(Card("tiny"), columns | {"split": ["test"] * n}, ArrayImages(pixels))
    images, texts = F.normalize(make(n, 4), dim=1), F.normalize(make(n, 4, seed=1), dim=1)
    found = Retrieval(ks=KS, examples=0)(Drawn(images, texts), catalogue, "test")
    relevance = Relevance.from_ids(ids, ids)
    for direction, scores in {"t2i": texts @ images.T, "i2t": images @ texts.T}.items():
        mine = {name.partition("/")[2]: v for name, v in found.per_query.items() if name.startswith(direction)}
        assert_equal_to_trec(mine, trec_values(scores, relevance, KS), KS)
