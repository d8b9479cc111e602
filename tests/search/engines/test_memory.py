"""Exact scoring gives what a full sort gives, ties by position included."""

import numpy as np
import pyarrow as pa
import pytest

from modiste.search.engines.memory import Snapshot, batch, top


@pytest.mark.parametrize("count", [0, 1, 5, 9_000, 40_000])
@pytest.mark.parametrize("k", [1, 7, 100])
@pytest.mark.parametrize("values", [3, 10**9], ids=["ties", "distinct"])
def test_top_is_a_stable_sort(count, k, values):
    scores = np.random.default_rng(count).integers(0, values, count).astype(np.float32)
    assert np.array_equal(top(scores, k), np.argsort(-scores, kind="stable")[:k])


@pytest.mark.parametrize("count", [3, 4096, 10_007])
def test_a_batch_gives_what_single_queries_give(count):
    generator = np.random.default_rng(0)
    # Small whole numbers: sums are exact in any order, and there are many ties.
    vectors = generator.integers(-2, 3, (count, 8)).astype(np.float32)
    queries = generator.integers(-2, 3, (5, 8)).astype(np.float32)
    order, scores = batch(vectors, queries, 10)
    expected = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :10]
    assert np.array_equal(order, expected)
    assert np.array_equal(scores, np.take_along_axis(queries @ vectors.T, expected, 1))


def test_a_snapshot_is_read_as_it_was_written(tmp_path):
    table = pa.table({"row": [3, 5, 9], "product_id": pa.array(["a", "b", "a"]).dictionary_encode()})
    vectors = np.eye(3, dtype=np.float32)
    Snapshot(table, vectors).write(tmp_path / "1")
    read = Snapshot.read(tmp_path / "1")
    assert read.table.equals(table)
    assert np.array_equal(read.vectors, vectors)
    assert read.positions(np.array([9, 4, 3, 10])).tolist() == [2, -1, 0, -1]
    assert read.of_product("a").tolist() == [0, 2]
    assert read.of_product("c").tolist() == []
    order, scores = read.exact(np.array([0, 1, 2], np.float32), 2, np.array([0, 1]))
    assert (order.tolist(), scores.tolist()) == ([1, 0], [1.0, 0.0])
