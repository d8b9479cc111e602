"""Both directions from one matmul: the ranks of `relevant_ranks`, each way."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers.exact_embeddings import integers
from modiste.metrics.both_ranks import both_ranks
from modiste.metrics.ranks import relevant_ranks
from modiste.metrics.relevance import Relevance


def shuffled(n, groups, seed):
    return np.random.default_rng(seed).integers(groups, size=n)


CASES = {
    "one each": (integers(23, 3), integers(23, 3, seed=1), np.arange(23), np.arange(23)),
    "one each, in another order": (integers(23, 3), integers(23, 3, seed=1), np.arange(23), np.arange(23)[::-1]),
    "several each, scattered": (integers(40, 3), integers(31, 3, seed=1), shuffled(40, 9, 0), shuffled(31, 9, 1)),
    "most without any": (integers(30, 3), integers(8, 3, seed=1), np.arange(30), np.arange(8) * 5),
    "none at all": (integers(5, 3), integers(8, 3, seed=1), np.arange(5), np.arange(8) + 5),
    "everything relevant and tied": (torch.ones(9, 2), torch.ones(14, 2), np.zeros(9), np.zeros(14)),
    "more relevant items than are counted": (integers(70, 3), integers(90, 3, seed=1), np.zeros(70), np.zeros(90)),
    "one item": (torch.ones(2, 1), torch.ones(1, 1), np.array([7, 7]), np.array([7])),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tile", [1, 4, 16, 512])
def test_both_ways_equal_the_ranks_of_each_way(case, tile):
    queries, gallery, query_ids, gallery_ids = CASES[case]
    forth, back = Relevance.from_ids(query_ids, gallery_ids), Relevance.from_ids(gallery_ids, query_ids)
    found = both_ranks(queries, gallery, forth, tile)
    assert found[0].tolist() == relevant_ranks(queries, gallery, forth).tolist()
    assert found[1].tolist() == relevant_ranks(gallery, queries, back).tolist()


@pytest.mark.parametrize("products", [300, 90])
def test_ranks_of_random_embeddings_are_those_of_one_score_matrix_in_float64(products):
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (F.normalize(torch.randn(300, 16, generator=generator), dim=1) for _ in range(2))
    ids = shuffled(300, products, 2)
    relevance = Relevance.from_ids(ids, ids)
    scores = queries.double() @ gallery.double().T
    positions = {name: (s.argsort(dim=1, descending=True).argsort(dim=1) + 1) for name, s in
                 (("forth", scores), ("back", scores.T))}  # fmt: skip
    forth, back = both_ranks(queries, gallery, relevance, tile=64)
    assert forth.tolist() == positions["forth"][relevance.queries, relevance.items].tolist()
    other = relevance.transposed(300)
    assert back.tolist() == positions["back"][other.queries, other.items].tolist()


def test_a_product_that_rounds_differently_the_second_time_is_noticed(monkeypatch):
    """Then each way is ranked on its own, and the ranks are right all the same."""
    queries, gallery, query_ids, gallery_ids = CASES["several each, scattered"]
    relevance, calls = Relevance.from_ids(query_ids, gallery_ids), []
    expected = relevant_ranks(queries, gallery, relevance)

    def unsteady(a, b, out):
        calls.append(1)
        return torch.matmul(a, b, out=out).add_(1e-3 * len(calls)) if a.shape[0] <= 16 else torch.matmul(a, b, out=out)

    monkeypatch.setattr(torch, "mm", unsteady)
    assert both_ranks(queries, gallery, relevance, tile=16)[0].tolist() == expected.tolist()


def test_no_more_than_tiles_of_scores_are_held(monkeypatch):
    sizes = []
    monkeypatch.setattr(torch, "mm", lambda *a, out: sizes.append(out.numel()) or torch.matmul(*a, out=out))
    both_ranks(integers(100, 3), integers(120, 3), Relevance.from_ids(range(100), range(120)), tile=10)
    assert max(sizes) == 100
    assert len(sizes) == 10 * 12 + 10  # every tile once, and once more those of the diagonal


def test_transposed_relevance_is_that_of_the_other_side():
    query_ids, gallery_ids = shuffled(20, 6, 0), shuffled(25, 7, 1)
    turned = Relevance.from_ids(query_ids, gallery_ids).transposed(25)
    expected = Relevance.from_ids(gallery_ids, query_ids)
    assert turned.items.tolist() == expected.items.tolist()
    assert turned.starts.tolist() == expected.starts.tolist()
