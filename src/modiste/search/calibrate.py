"""Match thresholds of scores by split conformal prediction on matching pairs."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modiste.errors import ModisteError
from modiste.search.encoder import Encoder
from modiste.search.engines.memory import save_arrays
from modiste.search.opened import whole
from modiste.utils.archives import read_npz
from modiste.utils.atomic import read_cache, write_checked

if TYPE_CHECKING:
    from modiste.search.opened import Opened

PAIRS = 1000
FEWEST = 20
"""Minimum number of pairs for a calibration."""
ALL = "all"
"""Split of pairs of all rows, training rows included."""
FILE = "calibration.npz"
NEVER = {
    "mixed": "No match threshold, since the query is mixed: search by words alone or by photos alone to see one.",
    "like": "No match threshold, since the product itself is excluded: search by words or by a photo to see one.",
}
"""Kinds of queries without a threshold: no pairs of the catalogue show what a match of theirs scores."""


@dataclass(frozen=True)
class Threshold:
    """The score threshold of a match.

    Attributes:
        threshold: Minimum score of a match.
        coverage: Fraction of true matches that reach the threshold: a lower bound in expectation over calibrations, for
            new queries exchangeable with the pairs (Vovk et al. 2005; Angelopoulos and Bates 2021, arXiv:2107.07511).
        pairs: Number of calibration pairs.
        split: Split of the pairs: ``val``, ``test``, or ``all`` without a large enough one of these. On training data
            the model scores matches higher than on new data, so that the coverage of ``all`` does not hold for these.
        chance: Fraction of random pairs that reach the threshold.
    """

    threshold: float
    coverage: float
    pairs: int
    split: str
    chance: float


def conformal(scores: np.ndarray, coverage: float) -> float:
    """The largest threshold that a new true match reaches with probability ``coverage`` or more.

    It is the ⌊(n + 1)(1 − coverage)⌋-th smallest of n scores that are exchangeable with the new one; −∞ if n is too
    small for the coverage.

    Raises:
        ModisteError: ``coverage`` is not between 0 and 1.

    >>> conformal(np.arange(1.0, 100.0), 0.9)
    10.0
    >>> conformal(np.array([0.5]), 0.9)
    -inf
    """
    if not 0 < coverage < 1:
        raise ModisteError(f"coverage={coverage} is a fraction of the true matches: give a number between 0 and 1.")
    rank = math.floor((len(scores) + 1) * (1 - coverage) + 1e-9)
    return float(np.sort(scores)[rank - 1]) if rank else -math.inf


def calibrate(index: Opened, coverage: float, seed: int = 0) -> dict[str, Threshold]:
    """Thresholds of text queries (title to its product's photos) and image queries (photo to other views).

    Also stores the titles' embeddings in the index's folder: `Index.plan` measures recall with them. The rows of an
    index on a server are read into memory.

    Raises:
        ModisteError: The index has no rows, or ``coverage`` is not between 0 and 1.
    """
    index = whole(index)
    split, positions = sample(index, seed)
    found = {}
    generator = np.random.default_rng(seed)
    if index.has_model or not isinstance(index.embedder, Encoder):
        texts = _titles(index, positions)
        if len(positions) >= FEWEST:
            found["text"] = _threshold(index, texts, positions, split, coverage, generator, itself=True)
    several = positions[np.bincount(index.snapshot.products)[index.snapshot.products[positions]] > 1]
    if len(several) >= FEWEST:
        photos = np.asarray(index.snapshot.vectors[several])
        found["image"] = _threshold(index, photos, several, split, coverage, generator, itself=False)
    return found


def _titles(index: Opened, positions: np.ndarray) -> np.ndarray:
    """Embeddings (P, D) of the titles at ``positions``, which are stored in the index's folder."""
    texts = np.asarray(index.embedder.texts(index.snapshot.table.column("text").take(positions).to_pylist()))
    kept = {"texts": texts, "rows": index.snapshot.rows[positions]}
    write_checked(index.path / FILE, lambda path: save_arrays(path, kept))
    return texts


def uncalibrated(index: Opened, kind: str) -> str:
    """Why an index has no threshold for a kind of query (`Query.kind`), with the remedy."""
    if kind in NEVER:
        return NEVER[kind]
    if "thresholds" not in index.facts:
        again = f"modiste index calibrate index={shlex.quote(str(index.path))}"
        return f"No match threshold was calibrated when the index was made: run {again}."
    split, positions = sample(index, seed=0)
    pairs, what = len(positions), "products"
    if kind == "image":
        several = np.bincount(index.snapshot.products)[index.snapshot.products[positions]] > 1
        pairs, what = int(several.sum()), "products with two photos or more"
    where = "the index" if split == ALL else f"split {split}"
    if pairs < FEWEST:
        need = f"{where} has {pairs} {what}, and calibration needs {FEWEST}"
        return f"No match threshold was calibrated for {kind} queries: {need}."
    return f"No match threshold was calibrated for {kind} queries: {pairs} pairs are too few for its coverage."


def _threshold(
    index: Opened, queries: np.ndarray, positions: np.ndarray, split: str, coverage: float, generator: Any, itself: bool
) -> Threshold:
    products, vectors = index.snapshot.products, index.snapshot.vectors
    scores = np.empty(len(positions))
    for place, (query, own) in enumerate(zip(queries, positions, strict=True)):
        views = index.snapshot.of_code(products[own])
        scores[place] = (vectors[views if itself else views[views != own]] @ query).max()
    threshold = conformal(scores, coverage)
    others = vectors[np.sort(generator.integers(0, len(vectors), len(queries)))][generator.permutation(len(queries))]
    chance = float(np.mean((queries * others).sum(1) >= threshold))
    return Threshold(threshold, coverage, len(scores), split, chance)


def sample(index: Opened, seed: int) -> tuple[str, np.ndarray]:
    """Draw calibration pairs: their split, and positions of at most `PAIRS` rows, one per product.

    The split is the first of ``val`` and ``test`` with enough products, else ``all`` rows.
    """
    splits = np.array(index.snapshot.table.column("split").to_pylist()) if "split" in index.types else np.array([])
    products = index.snapshot.products
    enough = (name for name in ("val", "test") if len(np.unique(products[splits == name])) >= FEWEST)
    split = next(enough, ALL) if len(splits) else ALL
    rows = np.arange(len(index.snapshot)) if split == ALL else np.flatnonzero(splits == split)
    first = np.unique(products[rows], return_index=True)[1]
    chosen = np.random.default_rng(seed).permutation(first)[:PAIRS]
    return split, np.sort(rows[chosen])


def queries(index: Opened, count: int, seed: int = 0) -> np.ndarray:
    """Realistic query vectors (Q, D): titles of the catalogue, or mixtures of photos without a model."""
    file = Path(index.path) / FILE
    generator = np.random.default_rng(seed)
    if file.is_file():
        texts = read_cache(file, lambda path: read_npz(path)["texts"], "The titles' embeddings")
        if texts is None:
            texts = _titles(index, sample(index, seed)[1])
        return texts[generator.permutation(len(texts))[:count]]
    rows = generator.integers(0, len(index.snapshot), (2, min(count, len(index.snapshot))))
    mixed = index.snapshot.vectors[rows[0]] + 0.5 * index.snapshot.vectors[rows[1]]
    return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


def record(thresholds: dict[str, Threshold]) -> dict[str, Any]:
    """Thresholds as plain values for an index's facts; infinite ones are dropped."""
    return {kind: asdict(one) for kind, one in thresholds.items() if math.isfinite(one.threshold)}
