"""Compressed scans: int8 finds exactly what a full scan finds; others find what their width allows."""

import numpy as np
import pytest

from modiste.errors import ModisteError
from modiste.search.engines import compressed
from modiste.search.engines.compressed import Codes
from modiste.search.engines.memory import batch, top

DIM = 64


def clustered(count):
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((50, DIM))
    vectors = centres[generator.integers(0, 50, count)] + 0.4 * generator.standard_normal((count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


VECTORS, QUERIES = np.split(clustered(20_040), [20_000])


@pytest.mark.parametrize("within", [None, np.arange(1, 20_000, 3)], ids=["all", "filtered"])
@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_bf16_and_int8_find_exactly_what_a_full_scan_finds(kind, within):
    codes = Codes.make(kind, VECTORS)
    for query in QUERIES:
        scores = (VECTORS if within is None else VECTORS[within]) @ query
        best = top(scores, 10)
        order, found = codes.exact(query, 10, VECTORS, within)
        assert np.array_equal(order, best if within is None else within[best])
        assert np.allclose(found, scores[best], atol=1e-6)


def test_bf16_rounds_as_torch_does():
    torch = pytest.importorskip("torch")
    codes = Codes.make("bf16", VECTORS[:500])
    rounded = torch.from_numpy(VECTORS[:500]).bfloat16()
    assert np.array_equal(codes.codes.view(np.int16), rounded.view(torch.int16).numpy())
    assert codes.codes.nbytes * 2 == VECTORS[:500].nbytes
    assert codes.error < 2**-8


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_codes_are_exact_for_vectors_and_queries_that_they_round_badly(kind):
    generator = np.random.default_rng(0)
    vectors = np.zeros((500, DIM), np.float32)
    vectors[:, 0] = 1  # one large number makes the steps coarse
    vectors[:, 1:] = 0.002 * generator.standard_normal((500, DIM - 1))
    codes = Codes.make(kind, vectors)
    for query in (generator.standard_normal(DIM).astype(np.float32), np.eye(DIM, dtype=np.float32)[3]):
        order, _ = codes.exact(query, 10, vectors)
        assert np.array_equal(np.sort((vectors @ query)[order]), np.sort(vectors @ query)[-10:])


@pytest.mark.parametrize("kind", ["bf16", "int8", "prefix-32", "binary"])
def test_the_shares_of_several_cores_have_the_scores_of_one_scan(kind, monkeypatch):
    codes = Codes.make(kind, VECTORS)
    alone = [codes.scores(query) for query in QUERIES]
    monkeypatch.setattr(compressed, "SHARE", 3_001)
    monkeypatch.setattr(compressed, "usable_cores", lambda: 7)
    slack = 1e-6 if kind == "bf16" else 0  # the order of float sums may differ
    assert all(
        np.abs(codes.scores(query) - scores).max() <= slack for query, scores in zip(QUERIES, alone, strict=True)
    )
    if kind == "int8":
        wide = codes.codes.astype(np.int64)
        steps = np.rint(QUERIES[0] / (np.abs(QUERIES[0]).max() / 127)).astype(np.int64)
        assert np.array_equal(alone[0], wide @ steps)


@pytest.mark.parametrize(("kind", "width"), [("prefix-32", 400), ("binary", 1600)])
def test_a_wider_scan_finds_more(kind, width):
    codes = Codes.make(kind, VECTORS)
    truth, _ = batch(VECTORS, QUERIES, 10)

    def recall(wide):
        found = [
            np.isin(best, codes.candidates(query, wide)).mean() for query, best in zip(QUERIES, truth, strict=True)
        ]
        return np.mean(found)

    assert recall(10) < recall(width)
    assert recall(width) > 0.98
    assert recall(len(VECTORS)) == 1


@pytest.mark.parametrize("kind", ["bf16", "int8", "prefix-32", "binary"])
def test_codes_are_read_as_written_and_made_alike_for_the_next_version(kind, tmp_path):
    codes = Codes.make(kind, VECTORS[:2000])
    codes.write(tmp_path)
    read = Codes.read(tmp_path, kind)
    assert np.array_equal(read.codes, codes.codes)
    assert (read.scale, read.error) == (codes.scale, codes.error)
    following = Codes.make(kind, VECTORS[:3000], like=read)
    assert np.array_equal(following.codes[:2000], codes.codes)
    assert Codes.read(tmp_path, "prefix-8") is None


@pytest.mark.parametrize("dim", [8, 32, 100])
@pytest.mark.parametrize("kind", ["bf16", "int8", "prefix-24", "binary"])
def test_any_dimension_has_codes(kind, dim):
    vectors = VECTORS[:500, :dim] if dim <= DIM else np.hstack([VECTORS[:500], VECTORS[500:1000]])[:, :dim]
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = Codes.make(kind, vectors)
    assert codes.candidates(vectors[7], 1).tolist() == [7]


def test_unknown_codes_are_refused():
    with pytest.raises(ModisteError, match="choose from bf16, int8"):
        Codes.make("int4", VECTORS[:10])
