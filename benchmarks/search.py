"""Rows 18 to 22 and 25: exact and compressed search, filters, indexing from photos, upserts, and the cold command.

MODISTE_BENCH_INDEX names an index of a real catalogue (`modiste index run=RUN data=kagl out=…`), whose embeddings and
titles are then what is searched; without it they are clusters of random vectors, and every row says so.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
from harness import Row, has_bf16

from embedding import floor, photos, save_clip

DIM, K = 256, 10
SMALL, LARGE = 44_000, 1_000_000


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@functools.cache
def real() -> tuple[np.ndarray, np.ndarray, str]:
    """Photos' embeddings (N, D), queries' (Q, D), and what they are."""
    folder = os.environ.get("MODISTE_BENCH_INDEX")
    if folder:
        import modiste.search

        index = modiste.search.open(folder)
        texts = np.load(Path(folder) / "calibration.npz")["texts"]
        found = np.array(index.snapshot.vectors[:SMALL])
        if found.shape[1] == DIM:
            return found, texts, "embeddings of real photos, titles as queries"
        directions = np.linalg.svd(found.T @ found)[0][:, :DIM]
        what = f"embeddings of real photos, {found.shape[1]} numbers projected to {DIM}, titles as queries"
        return unit(found @ directions), unit(texts @ directions), what
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((500, 48)) @ generator.standard_normal((48, DIM))
    vectors = unit(
        centres[generator.integers(0, 500, SMALL + 1000)] + 2 * generator.standard_normal((SMALL + 1000, DIM))
    )
    return vectors[:SMALL], vectors[SMALL:], "clusters of random vectors"


@functools.cache
def many(count: int) -> np.ndarray:
    """``count`` embeddings: mixtures of two real ones, with a little noise."""
    vectors, generator = real()[0], np.random.default_rng(1)
    out = np.empty((count, vectors.shape[1]), np.float32)
    for start in range(0, count, 50_000):
        size = min(50_000, count - start)
        a, b = vectors[generator.integers(0, len(vectors), (2, size))]
        noise = generator.standard_normal(a.shape, np.float32) / np.sqrt(a.shape[1], dtype=np.float32)
        out[start : start + size] = unit(a + 0.4 * b + 0.2 * noise)
    return out


def exact(quick: bool) -> Iterator[Row]:
    """Row 18: the exact ten best for a batch of 256, faiss on as many threads."""
    import faiss

    from modiste.search.engines.memory import batch

    _, asked, what = real()
    queries = asked[:256]
    for count in (SMALL,) if quick else (SMALL, LARGE):
        vectors = real()[0] if count == SMALL else many(count)
        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(vectors)
        apart = float(np.abs(batch(vectors, queries, K)[1] - flat.search(queries, K)[0]).max())
        ours, theirs = functools.partial(batch, vectors, queries, K), functools.partial(flat.search, queries, K)
        a, b, ratio = harness.interleave(ours, theirs, 1 if quick or count == LARGE else 5, 0)
        note = f"{what}; scores differ by {apart:.0e}; faiss {faiss.__version__}"
        size = f"exact top 10 of {len(vectors):,} × {vectors.shape[1]}, batch of 256"
        yield Row(18, size, "faiss IndexFlatIP", "time", 1e3 * a, 1e3 * b, "ms", ratio, 1, 3, note)


def single(quick: bool) -> Iterator[Row]:
    """Row 19: one query over a million, from codes that are scanned first."""
    import torch

    from modiste.search.engines.compressed import Codes
    from modiste.search.engines.memory import batch, top

    _, asked, what = real()
    vectors = many(50_000 if quick else LARGE)
    matrix = torch.from_numpy(vectors)
    queries = asked[np.arange(100 if quick else 1000) % len(asked)]
    truth = batch(vectors, queries, K)[0]
    turn = iter(range(10**9))

    def peer() -> Any:
        return (matrix @ torch.from_numpy(queries[next(turn) % len(queries)])).topk(K)

    for kind, width, must, aim in (
        ("int8", 0, 3, None), ("prefix-64", 400, None, 20), ("prefix-64", 2000, 3, None), ("binary", 1600, None, 20)
    ):  # fmt: skip
        codes = Codes.make(kind, vectors)

        def search(query: np.ndarray, codes: Any = codes, width: int = width) -> np.ndarray:
            if codes.certain:
                return codes.exact(query, K, vectors)[0]
            found = np.sort(codes.candidates(query, width))
            return found[top(vectors[found] @ query, K)]

        found = [np.isin(best, search(query)).mean() for query, best in zip(queries, truth, strict=True)]
        a, b, ratio = harness.interleave(lambda: search(queries[next(turn) % len(queries)]), peer, 5 if quick else 25)
        scan = "exact by a bound" if codes.certain else f"{width} candidates scored exactly"
        note = f"{what}; recall {np.mean(found):.4f} on {len(queries):,} queries; {codes.codes.nbytes / 2**20:.0f} MiB"
        size = f"single query, top 10 of {len(vectors):,} × {vectors.shape[1]}, {kind} codes, {scan}"
        yield Row(19, size, "torch mm + topk", "time", 1e3 * a, 1e3 * b, "ms", ratio, must, aim, note)


def indexed(folder: Path, count: int) -> Any:
    """An index of the real embeddings with a column that filters 1 % and 0.1 %."""
    from modiste import search
    from modiste.search.build import build

    table = columns(count)
    build(folder, catalogue(table), source(table, real()[0]))
    return search.open(folder)


def columns(count: int) -> dict[str, list[str]]:
    """Rows whose ``place`` is a permutation: ``place < count / 100`` passes 1 %."""
    places = np.random.default_rng(2).permutation(count)
    return {
        "product_id": [f"SKU-{row}" for row in range(count)],
        "image": [str(row) for row in range(count)],
        "text": [f"title {row}" for row in range(count)],
        "pixels": [f"{row:040x}" for row in range(count)],
        "place": [str(place) for place in places],
    }


def catalogue(table: dict[str, list[str]]) -> Any:
    """Of tiny pictures: only vectors and attributes matter here."""
    from modiste.data.catalogue import Card, Catalogue
    from modiste.data.sources import ArrayImages

    return Catalogue.build(Card("bench"), table, ArrayImages(np.zeros((len(table["text"]), 2, 2), np.uint8)))


def source(table: dict[str, list[str]], vectors: np.ndarray) -> Any:
    """The vectors of a table's rows."""
    from modiste.search.build import Source
    from modiste.search.encoder import ModelCard

    card = ModelCard("bench", "bench", {}, vectors.shape[1])
    return Source(card, vectors={pixels: vectors[int(pixels, 16) % len(vectors)] for pixels in table["pixels"]})


def filtered(quick: bool) -> Iterator[Row]:
    """Row 20: ten best of what passes a filter."""
    import hnswlib

    from modiste.search.engines.lancedb import LanceStore

    count = 5_000 if quick else len(real()[0])
    vectors, asked, what = real()[0][:count], real()[1][:200], real()[2]
    graph = hnswlib.Index("ip", vectors.shape[1])
    graph.init_index(count, ef_construction=200, M=16)
    graph.add_items(vectors)
    graph.set_ef(1000)
    with tempfile.TemporaryDirectory() as folder:
        index = indexed(Path(folder) / "b.index", count)
        lancedb = LanceStore(index.path)
        lancedb.table.create_scalar_index("place")
        places = np.asarray(index.snapshot.table.column("place"))
        for part in (0.01, 0.001):
            where = f"place < {int(part * count)}"
            passing = np.flatnonzero(places < int(part * count))
            truth = [set(passing[np.argsort(-(vectors[passing] @ query))[:K]].tolist()) for query in asked]
            turn = iter(range(10**9))

            def ours(query: np.ndarray | None = None) -> set[int]:
                query = asked[next(turn) % len(asked)] if query is None else query  # noqa: B023
                return set(index.nearest(query[None], K, where)[0][0].tolist())  # noqa: B023

            def lance(query: np.ndarray | None = None) -> set[int]:
                query = asked[next(turn) % len(asked)] if query is None else query  # noqa: B023
                search = lancedb.table.search(query, vector_column_name="_vector").distance_type("dot")
                found = search.where(where, prefilter=True).bypass_vector_index().limit(K).select(["row"])  # noqa: B023
                return set(found.to_arrow().column("row").to_pylist())

            def hnsw(query: np.ndarray | None = None) -> set[int]:
                query = asked[next(turn) % len(asked)] if query is None else query  # noqa: B023
                near = graph.knn_query(query, 1000)[0][0]  # over-fetched, then filtered
                return set(near[places[near] < int(part * count)][:K].tolist())  # noqa: B023

            recalls = {f.__name__: recall(f, asked, truth) for f in (ours, lance, hnsw)}
            size = f"filtered query, {part:.1%} of {count:,} pass"
            for peer, name, targets in (
                (lance, "lancedb's scan, scalar index", (5, 20)),
                (hnsw, "hnswlib, 1,000 over-fetched", (None, None)),
            ):
                a, b, ratio = harness.interleave(ours, peer, 5 if quick else 41)
                note = f"{what}; recall {recalls['ours']:.3f} against {recalls[peer.__name__]:.3f}"
                yield Row(20, size, name, "time", 1e3 * a, 1e3 * b, "ms", ratio, *targets, note)


def recall(search: Any, queries: np.ndarray, truth: list[set[int]]) -> float:
    """Fraction of the true best that is found."""
    return float(np.mean([len(search(query) & best) / len(best) for query, best in zip(queries, truth, strict=True)]))


def annoy_of(vectors: np.ndarray) -> Any:
    """What fashion-clip 0.2.2 does with its embeddings: Annoy, inner product, 50 trees (its comment there says 10)."""
    from annoy import AnnoyIndex

    index = AnnoyIndex(vectors.shape[1], "dot")
    for row, vector in enumerate(vectors):
        index.add_item(row, vector)
    index.build(50)
    return index


def peer_index(source: str, folder: str, names: list[str]) -> Any:
    """fashion-clip's image encoding of a folder around a local model, then Annoy."""
    from embedding import fashion_clip

    encode = fashion_clip(source, folder, names, ["a"])
    peer = encode.__closure__[next(i for i, n in enumerate(encode.__code__.co_freevars) if n == "peer")].cell_contents
    paths = [str(Path(folder) / name) for name in names]
    return lambda: annoy_of(np.asarray(peer.encode_images(paths, batch_size=32))) and None


def shop(folder: str, count: int) -> tuple[list[str], str, Any, Any]:
    """Photos on disk and a CLIP ViT-B/32 with random weights: names, model folder, catalogue of names, its embedder."""
    from transformers import CLIPConfig, CLIPModel

    from modiste.data.catalogue import Card, Catalogue
    from modiste.data.sources import FolderImages
    from modiste.pretrained.transformers import TransformersDualEncoder
    from modiste.search.build import Source

    names = photos(Path(folder), count)
    source = save_clip(Path(folder) / "clip", CLIPModel(CLIPConfig()))
    options = {
        "batch_size": 32,
        "decode": "exact",
        "backend": "openvino",
        "precision": "bf16" if has_bf16() else "fp32",
    }
    made = Source.of_model(
        TransformersDualEncoder(source), "clip", {}, weights=False, export_text=False, options=options
    )

    def table(rows: list[str], version: int = 0) -> Catalogue:
        pixels = [f"{version} {name}" for name in rows]
        columns = {"product_id": rows, "image": rows, "text": rows, "pixels": pixels}
        return Catalogue.build(Card("photos"), columns, FolderImages(folder))

    return names, source, table, made


def from_photos(quick: bool) -> Iterator[Row]:
    """Row 21: from photos on disk to an index that answers; CLIP ViT-B/32 with random weights on both sides.

    The peer encodes one photo in sixteen, since its rate is the same for any number. Ours converts the tower first.
    """
    from modiste.search.build import build

    count = 32 if quick else 4096
    with tempfile.TemporaryDirectory() as folder:
        names, source, table, made = shop(folder, count)
        data, turn = table(names), iter(range(10**6))
        with harness.Apart(peer_index, source=source, folder=folder, names=names[: count // 16]) as peer:
            a, b, ratio = harness.interleave(
                lambda: build(Path(folder) / f"{next(turn)}.index", data, made) and None, peer, 1, 0
            )
            b, ratio = 16 * b, 16 * ratio
    what = f"index of {count} products from 600×800 photos: embedded, stored, calibrated, searchable"
    precision = "bf16" if has_bf16() else "fp32"
    note = (
        f"CLIP ViT-B/32, random weights on both sides; ours by OpenVINO in {precision}, the peer in fp32; {floor()}; "
        "conversion to OpenVINO is inside of ours, the image scan of the catalogue outside of both; the peer encodes "
        f"{count // 16}, one round"
    )
    yield Row(21, what, "fashion-clip's encode + Annoy, in a separate process", "rate", count / a, count / b,
              "products/s", ratio, 3, 6, note)  # fmt: skip


def upserts(quick: bool) -> Iterator[Row]:
    """Row 22: a thousand changed rows, until a new search sees them; embeddings exist on both sides."""
    from modiste import search
    from modiste.search.build import build

    count, changed = (5_000, 100) if quick else (len(real()[0]), 1000)
    vectors, turn = real()[0][:count], iter(range(1, 10**6))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "b.index"
        indexed(place, count)
        whole = columns(count)

        def ours() -> None:
            number = next(turn)
            part = {name: values[:changed] for name, values in whole.items()}
            part["pixels"] = [f"{number * count + row:040x}" for row in range(changed)]
            build(place, catalogue(part), source(part, vectors))
            index = search.open(place)
            index.nearest(vectors[:1], K)
            assert len(index) == count

        a, b, ratio = harness.interleave(ours, lambda: annoy_of(vectors), 1 if quick else 5)
    what = f"upsert {changed:,} of {count:,} rows, committed and visible to a new reader"
    note = "embeddings exist on both sides; Annoy cannot change an index, so it is rebuilt, with the package's 50 trees"
    yield Row(22, what, "fashion-clip's Annoy, rebuilt", "time", a, b, "s", ratio, 10, 30, note)


def upserts_from_photos(quick: bool) -> Iterator[Row]:
    """Row 22, from photos: one product in 44 changes; the package keeps no embeddings and encodes all again."""
    from modiste.search.build import build

    count = 88 if quick else 4224
    changed = count // 44
    with tempfile.TemporaryDirectory() as folder:
        names, source, table, made = shop(folder, count)
        place, turn = Path(folder) / "shop.index", iter(range(1, 10**6))
        build(place, table(names), made)
        with harness.Apart(peer_index, source=source, folder=folder, names=names) as peer:
            a, b, ratio = harness.interleave(
                lambda: build(place, table(names[:changed], next(turn)), made) and None, peer, 1, 0
            )
    what = (
        f"upsert {changed} of {count:,} products from 600×800 photos, committed (1,000 of 44,000 is the same fraction)"
    )
    note = (
        "CLIP ViT-B/32, random weights on both sides; fashion-clip 0.2.2 keeps no embeddings, so a change encodes the "
        "whole catalogue; one round"
    )
    yield Row(22, what, "fashion-clip's encode + Annoy, rebuilt", "time", a, b, "s", ratio, None, None, note)


def cold(quick: bool) -> Iterator[Row]:
    """Row 25: `modiste search` from the shell."""
    folder = os.environ.get("MODISTE_BENCH_INDEX")
    if not folder:
        return
    command = [sys.executable, "-m", "modiste", "search", f"index={folder}", "red running shoes"]
    times, before = [], sum(os.times()[2:4])
    for _ in range(2 if quick else 7):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    middle = float(np.median(times))
    busy = (sum(os.times()[2:4]) - before) / len(times)
    what = f"modiste search from the shell, a new process, {len(real()[0]):,} rows"
    note = f"slowest of {len(times)}: {max(times):.2f} s; processor time {busy:.2f} s"
    yield Row(25, what, "4 s", "time", middle, 4, "s", 4 / middle, 1, 2, note)


PARTS = (
    (18, exact),
    (19, single),
    (20, filtered),
    (21, from_photos),
    (22, upserts),
    (22, upserts_from_photos),
    (25, cold),
)


def rows(quick: bool) -> Iterator[Row]:
    """All parts."""
    start = time.perf_counter()
    for number, part in PARTS:
        if harness.wanted(number):
            yield from part(quick)
            print(f"    {part.__name__} after {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    harness.main(__file__, rows)
