"""Compressed vectors: a scan selects candidates, which are then scored exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modiste.errors import ModisteError
from modiste.search.engines.memory import Hits, save_array, save_arrays, top
from modiste.utils.archives import read_npz
from modiste.utils.atomic import quick_digest, read_cache, write_checked
from modiste.utils.hardware import usable_cores

SAMPLE = 20_000
"""Number of sampled vectors that a rotation is fitted on."""
TILE = 16_384
SHARE = 100_000
"""Minimum number of rows for which a further core is worth the start of its work."""
FIRST = 64
"""Minimum number of candidates whose exact scores give the bound of an exact scan."""


@dataclass(frozen=True)
class Codes:
    """bf16 or int8 codes, or sign bits of rotated vectors.

    ``bf16``: the upper half of each float32, rounded to nearest. ``int8``: all numbers in steps of 1/127 of the largest
    one of all vectors. The Cauchy-Schwarz inequality bounds the rounding error of a score, so every row that may be
    among the k best is scored exactly: `exact` finds what a full scan finds. ``prefix-d``: the first d principal
    directions, randomly rotated, in int8. ``matryoshka-d``: the same of the first d dimensions. ``binary``: the
    sign of each number about the mean after a random rotation (as RaBitQ, Gao and Long 2024, arXiv:2405.12497, without
    its correction).

    Attributes:
        kind: ``bf16``, ``int8``, ``prefix-64``, ``matryoshka-64`` (or another number) or ``binary``.
        codes: (N, D) uint16 with the bits of bf16, (N, d) int8, or (N, 8 ⌈d / 64⌉) uint8.
        rotation: (D, d) float32 that vectors are multiplied by; empty: none.
        mean: (D,) that is subtracted before the rotation; empty: none.
        scale: Step of the int8 codes.
        error: Largest norm of a vector's rounding error.
    """

    kind: str
    codes: np.ndarray
    rotation: np.ndarray
    mean: np.ndarray
    scale: float = 1.0
    error: float = 0.0

    @classmethod
    def make(cls, kind: str, vectors: np.ndarray, like: Codes | None = None, seed: int = 0) -> Codes:
        """Compress vectors (N, D).

        Args:
            kind: Kind of codes, see the class.
            vectors: Unit-norm vectors.
            like: Codes of an earlier version, whose rotation, mean and scale are reused.
            seed: Seed of the random rotation.

        Raises:
            ModisteError: The kind is unknown.
        """
        word, _, number = kind.partition("-")
        if word not in ("bf16", "int8", "prefix", "matryoshka", "binary"):
            raise ModisteError(
                f"There are no '{kind}' codes: choose from bf16, int8, prefix-64, matryoshka-64, binary."
            )
        if word == "bf16":
            return cls._bf16(vectors)
        dim = min(int(number), vectors.shape[1]) if number else vectors.shape[1]
        rotation, mean, scale = np.empty(0, np.float32), np.empty(0, np.float32), 0.0
        if like is not None:
            rotation, mean, scale = like.rotation, like.mean, like.scale
        elif word != "int8":
            rotation, mean = _rotation(vectors, dim, word, seed)
        if word == "binary":
            codes = np.empty((len(vectors), -(-dim // 64) * 8), np.uint8)
        else:
            codes = np.empty((len(vectors), dim), np.int8)
        if word != "binary" and not scale:
            largest = max((np.abs(_turned(part, rotation, mean)).max() for _, part in _tiles(vectors)), default=1.0)
            scale = float(largest) / 127
        error = 0.0
        for start, part in _tiles(vectors):
            turned = _turned(part, rotation, mean)
            if word == "binary":
                codes[start : start + len(part)] = _bits(turned)
                continue
            own = np.rint(turned / scale).clip(-127, 127).astype(np.int8)
            codes[start : start + len(part)] = own
            error = max(error, float(np.linalg.norm(turned - own * np.float32(scale), axis=1).max()))
        return cls(kind, codes, rotation, mean, scale, error)

    @classmethod
    def _bf16(cls, vectors: np.ndarray) -> Codes:
        codes, error = np.empty(vectors.shape, np.uint16), 0.0
        for start, part in _tiles(vectors):
            bits = np.ascontiguousarray(part, np.float32).view(np.uint32)
            own = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)  # ties to even
            codes[start : start + len(part)] = own
            error = max(error, float(np.linalg.norm(part - _wide(own), axis=1).max()))
        none = np.empty(0, np.float32)
        return cls("bf16", codes, none, none, 1.0, error)

    def write(self, folder: Path) -> None:
        """Write the codes into a snapshot's folder."""
        facts = {"rotation": self.rotation, "mean": self.mean, "numbers": np.array([self.scale, self.error])}
        write_checked(
            folder / f"codes-{self.kind}.npy", lambda path: save_array(path, self.codes), quick_digest, durable=False
        )
        write_checked(
            folder / f"codes-{self.kind}.npz", lambda path: save_arrays(path, facts), quick_digest, durable=False
        )

    @classmethod
    def read(cls, folder: Path, kind: str) -> Codes | None:
        """Read the codes from a snapshot's folder; None if they are missing or damaged, which is logged.

        They are read into memory, since a scan reads all.
        """
        what = f"The {kind} codes of the index"
        facts = read_cache(folder / f"codes-{kind}.npz", read_npz, what, quick_digest)
        codes = read_cache(folder / f"codes-{kind}.npy", _read_array, what, quick_digest)
        if facts is None or codes is None:
            return None
        return cls(kind, codes, facts["rotation"], facts["mean"], *map(float, facts["numbers"]))

    @property
    def certain(self) -> bool:
        """Whether `exact` applies: bf16 and int8 codes find what a full scan finds."""
        return self.kind in ("bf16", "int8")

    def scores(self, query: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Scores (N,) that approximate the order of dot products, of all rows or ``positions``."""
        return self._scan(self._query(query), positions)

    def _query(self, query: np.ndarray) -> np.ndarray:
        if self.kind == "bf16":
            return query
        turned = _turned(query[None], self.rotation, np.empty(0))[0]
        if self.kind == "binary":
            return _bits(turned[None])[0]
        return np.rint(turned / _step(turned)).astype(np.int8)

    def _scan(self, query: np.ndarray, positions: np.ndarray | None) -> np.ndarray:
        codes = self.codes if positions is None else self.codes[positions]
        if self.kind == "bf16":
            return _wide_dots(codes, query)
        return -_hamming(codes, query) if self.kind == "binary" else _dots(codes, query)

    def candidates(self, query: np.ndarray, width: int, positions: np.ndarray | None = None) -> np.ndarray:
        """Positions of the ``width`` rows with the best scores."""
        best = top(self.scores(query, positions), width)
        return best if positions is None else positions[best]

    def exact(self, query: np.ndarray, k: int, vectors: np.ndarray, positions: np.ndarray | None = None) -> Hits:
        """`Snapshot.exact` by bf16 or int8 codes: rows that cannot be among the k best are not scored.

        `|x·q − x̂·q̂| ≤ |x̂| · |q − q̂| + |x − x̂| · |q|` for codes x̂, q̂ of vectors x, q.
        """
        coded = self._query(query)
        step = 1.0 if self.kind == "bf16" else _step(query)
        scores = self._scan(coded, positions)
        unit = self.scale * step
        first = top(scores, max(FIRST, 2 * k))
        known = vectors[first if positions is None else positions[first]] @ query
        length = float(np.linalg.norm(query))
        margin = (1 + self.error) * float(np.linalg.norm(query - coded * step)) + self.error * length
        bound = (np.sort(known)[-min(k, len(known))] - margin - 1e-5) / unit
        chosen = np.flatnonzero(scores >= bound)
        places = chosen if positions is None else positions[chosen]
        exact = vectors[places] @ query
        best = top(exact, k)
        return places[best], exact[best]


def _read_array(path: Path) -> np.ndarray:
    """`numpy.load` through a memory map, so that a header cannot allocate more than the file holds."""
    return np.array(np.load(path, mmap_mode="r"))


def _bits(vectors: np.ndarray) -> np.ndarray:
    """Signs of vectors (N, d) as bytes, padded to whole 64-bit words."""
    signs = np.pad(vectors > 0, ((0, 0), (0, -vectors.shape[1] % 64)))
    return np.packbits(signs, axis=1)


def _step(query: np.ndarray) -> float:
    return float(np.abs(query).max()) / 127 or 1.0


def _tiles(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(vectors), TILE):
        yield start, vectors[start : start + TILE]


def _turned(vectors: np.ndarray, rotation: np.ndarray, mean: np.ndarray) -> np.ndarray:
    if mean.size:
        vectors = vectors - mean
    return vectors @ rotation if rotation.size else vectors


def _rotation(vectors: np.ndarray, dim: int, word: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random rotation (of the first dimensions or directions) to spread variance; mean for sign bits."""
    generator = np.random.default_rng(seed)
    sample = vectors[np.sort(generator.choice(len(vectors), min(SAMPLE, len(vectors)), replace=False))]
    random, _ = np.linalg.qr(generator.standard_normal((dim, dim)))
    if word == "binary":
        return random.astype(np.float32), sample.mean(0)
    if word == "matryoshka":
        return np.pad(random, ((0, vectors.shape[1] - dim), (0, 0))).astype(np.float32), np.empty(0, np.float32)
    _, directions = np.linalg.eigh(sample.T.astype(np.float64) @ sample)
    return (directions[:, ::-1][:, :dim] @ random).astype(np.float32), np.empty(0, np.float32)


def _dots(codes: np.ndarray, query: np.ndarray) -> np.ndarray:
    """int32 dot products (N,) of int8 codes (N, d) and a query (d,)."""
    try:
        import numkong
    except ImportError:
        raise ModisteError("Compressed scans need numkong: pip install 'modiste[search]'.") from None
    codes, scores = np.ascontiguousarray(codes), np.empty((len(codes), 1), np.int32)

    def scan(rows: slice) -> None:
        # numkong packs its second matrix: with the codes there, a scan takes ten times as long.
        numkong.cdist(codes[rows], query[None], "dot", out=scores[rows])

    _on_all_cores(scan, len(codes))
    return scores[:, 0]


def _wide(codes: np.ndarray) -> np.ndarray:
    """float32 numbers of bf16 codes."""
    return (codes.astype(np.uint32) << 16).view(np.float32)


def _wide_dots(codes: np.ndarray, query: np.ndarray) -> np.ndarray:
    """float32 dot products (N,) of bf16 codes (N, D) and a query (D,)."""
    scores = np.empty(len(codes), np.float32)

    def scan(rows: slice) -> None:
        for start, part in _tiles(codes[rows]):
            first = rows.start + start
            np.matmul(_wide(part), query, out=scores[first : first + len(part)])

    _on_all_cores(scan, len(codes))
    return scores


def _hamming(codes: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Hamming distances (N,), int16, of bits in bytes, (N, 8 w) and (8 w,)."""
    words, own = np.ascontiguousarray(codes).view(np.uint64), query.view(np.uint64)
    differing = np.empty(len(words), np.int16)

    def scan(rows: slice) -> None:
        for start, part in _tiles(words[rows]):
            first = rows.start + start
            np.bitwise_count(part ^ own).sum(1, dtype=np.int16, out=differing[first : first + len(part)])

    _on_all_cores(scan, len(words))
    return differing


def _on_all_cores(scan: Callable[[slice], None], rows: int) -> None:
    """Scan all rows, an equal share per core; scans release the GIL."""
    bounds = np.linspace(0, rows, min(usable_cores(), rows // SHARE or 1) + 1).astype(int)
    shares = [slice(start, end) for start, end in itertools.pairwise(bounds)]
    if len(shares) == 1:
        return scan(shares[0])
    with ThreadPoolExecutor(len(shares)) as pool:
        list(pool.map(scan, shares))
    return None
