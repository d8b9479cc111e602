"""Catalogue health: lists of rows that are suspicious by their embeddings, for review.

The rows of an index on a server are read into memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modiste.errors import ModisteError, did_you_mean
from modiste.reporting.tables.sheets import csv_text
from modiste.search.engines.memory import batch, save_array
from modiste.search.opened import whole
from modiste.search.where import TEXT
from modiste.utils.atomic import make_folder, quick_digest, read_cache, write_cache, write_text

if TYPE_CHECKING:
    import pyarrow as pa

    from modiste.search.index import Index

LIKENESS = 0.98
"""Minimum cosine of near-duplicate photos."""
OTHERS = 2000
"""Number of other titles that a photo's own title is compared with."""
BETTER = 0.25
"""Minimum fraction of other titles that fit a photo better than a suspicious title."""
QUERIES = 50_000
FOLDS = 5
FEWEST = 10
"""Minimum number of rows of a value that is learned."""
MOST_VALUES = 200
CHUNK = 256


def duplicates(index: Index, likeness: float = LIKENESS, limit: int = 1000) -> pa.Table:
    """Pairs of photos of different products with a cosine of at least ``likeness``, highest first.

    Returns:
        Arrow table: ``row``, ``product_id``, ``text``, ``other_row``, ``other_product_id``, ``other_text``, ``score``.
    """
    index = whole(index)
    snapshot = index.snapshot
    pairs: dict[tuple[int, int], float] = {}
    for start, order, scores in _nearest(snapshot.vectors, snapshot.vectors, 8):
        own = np.arange(start, start + len(order))[:, None]
        alike = (scores >= likeness) & (snapshot.products[order] != snapshot.products[own])
        for line, column in zip(*np.nonzero(alike), strict=True):
            a, b = sorted((int(own[line, 0]), int(order[line, column])))
            pairs[a, b] = float(scores[line, column])
    best = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:limit]
    left, right = ([pair[side] for pair, _ in best] for side in (0, 1))
    columns = {**_facts(index, left), **{f"other_{name}": values for name, values in _facts(index, right).items()}}
    return _table({**columns, "score": np.array([score for _, score in best], np.float32)})


def misfits(index: Index, better: float = BETTER, limit: int = 1000, seed: int = 0) -> pa.Table:
    """Photos that many other titles fit better than their own, worst first.

    Returns:
        Arrow table: ``row``, ``product_id``, ``text``, ``score`` (cosine with the own title), ``better`` (fraction of
        at most `OTHERS` other titles that fit better), ``best_text`` (the best-fitting of these).
    """
    index = whole(index)
    snapshot, (titles, vectors, own) = index.snapshot, texts_of(index)
    chosen = np.random.default_rng(seed).permutation(len(titles))[:OTHERS]
    fraction, score = np.empty(len(snapshot)), np.empty(len(snapshot), np.float32)
    best = np.empty(len(snapshot), np.int64)
    for start in range(0, len(snapshot), CHUNK):
        part = slice(start, start + CHUNK)
        photos = np.asarray(snapshot.vectors[part])
        score[part] = (photos * vectors[own[part]]).sum(1)
        others = photos @ vectors[chosen].T
        fraction[part] = (others > score[part, None] + 1e-6).mean(1)
        best[part] = chosen[others.argmax(1)]
    found = np.argsort(-fraction, kind="stable")[: min(limit, int((fraction >= better).sum()))]
    return _table(
        {
            **_facts(index, found),
            "score": score[found],
            "better": fraction[found].astype(np.float32),
            "best_text": [titles[place] for place in best[found]],
        }
    )


def attributes(index: Index, columns: Sequence[str] | None = None, limit: int = 1000) -> pa.Table:
    """Attribute values that contradict the photos, by confident learning (arXiv:1911.00068; cleanlab).

    A linear discriminant analysis predicts each text column from the photos of other products, in `FOLDS` folds.

    Args:
        index: The index to check.
        columns: Text columns to check; None: all with 2 to `MOST_VALUES` values.
        limit: Maximum number of rows.

    Returns:
        Arrow table: ``row``, ``product_id``, ``text``, ``column``, ``value``, ``suggested``, ``confidence`` (predicted
        probability of the suggested value), most confident first.

    Raises:
        ModisteError: A column is unknown or not text, or cleanlab is not installed.
    """
    index = whole(index)
    found: list[dict[str, Any]] = []
    for column in _columns(index, columns):
        found += _label_issues(index, column)
    found.sort(key=lambda issue: -issue["confidence"])
    found = found[:limit]
    facts = _facts(index, [issue.pop("position") for issue in found])
    names = ("column", "value", "suggested", "confidence")
    return _table({**facts, **{name: [issue[name] for issue in found] for name in names}})


def unfound(index: Index, k: int = 10, limit: int = 1000, seed: int = 0) -> pa.Table:
    """Products that are in the top k of none of the titles (at most `QUERIES`, sampled), worst first.

    Returns:
        Arrow table: ``row``, ``product_id``, ``text``, ``rank`` (of its best photo for its own title, from 1).
    """
    index = whole(index)
    snapshot, (titles, vectors, own) = index.snapshot, texts_of(index)
    asked = np.sort(np.random.default_rng(seed).permutation(len(titles))[:QUERIES])
    seen = np.zeros(snapshot.products.max(initial=-1) + 1, bool)
    for _, order, _ in _nearest(snapshot.vectors, vectors[asked], k):
        seen[snapshot.products[order]] = True
    hidden = np.flatnonzero(~seen[snapshot.products])
    first = hidden[np.unique(snapshot.products[hidden], return_index=True)[1]]
    ranks = np.empty(len(first), np.int64)
    for start in range(0, len(first), CHUNK):
        part = first[start : start + CHUNK]
        scores = vectors[own[part]] @ snapshot.vectors.T
        for line, position in enumerate(part):
            mine = scores[line, snapshot.products == snapshot.products[position]].max()
            ranks[start + line] = 1 + int((scores[line] > mine).sum())
    order = np.argsort(-ranks, kind="stable")[:limit]
    return _table({**_facts(index, first[order]), "rank": ranks[order]})


LISTS: dict[str, Callable[[Any], Any]] = {
    "duplicates": duplicates,
    "misfits": misfits,
    "attributes": attributes,
    "unfound": unfound,
}


def write(index: Index, folder: Path) -> Iterator[tuple[str, int, Path]]:
    """Write every list as a CSV file; yields its name, its number of rows and the file."""
    make_folder(folder)
    index = whole(index)
    for name, compute in LISTS.items():
        table = compute(index)
        file = folder / f"{name}.csv"
        write_text(file, csv_text([table.column_names, *(list(row.values()) for row in table.to_pylist())]))
        yield name, len(table), file


def texts_of(index: Index) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Distinct titles, their embeddings (M, D) and each row's title index (N,); cached by the titles."""
    column = whole(index).snapshot.table.column("text").combine_chunks().dictionary_encode()
    titles, own = column.dictionary.to_pylist(), column.indices.to_numpy()
    name = hashlib.sha256("\0".join([index.fingerprint, *titles]).encode()).hexdigest()
    file = index.path / "texts" / f"{name}.npy"
    known = read_cache(file, lambda path: np.load(path, mmap_mode="r"), "The titles' embeddings", quick_digest)
    if known is not None:
        return titles, known, own
    parts = [index.embedder.texts(titles[start : start + CHUNK]) for start in range(0, len(titles), CHUNK)]
    vectors = np.concatenate([np.asarray(part) for part in parts]).astype(np.float32)
    for old in file.parent.glob("*.npy*"):
        old.unlink(missing_ok=True)
    write_cache(file, lambda path: save_array(path, vectors), "The titles' embeddings", quick_digest)
    return titles, vectors, own


def _nearest(vectors: np.ndarray, queries: np.ndarray, k: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    for start in range(0, len(queries), CHUNK):
        yield start, *batch(vectors, np.asarray(queries[start : start + CHUNK]), k)


def _columns(index: Index, columns: Sequence[str] | None) -> list[str]:
    text = [name for name in index.attributes if index.types[name] == TEXT and name != "split"]
    for name in columns or ():
        if name not in text:
            raise ModisteError(f"There is no text column '{name}'. {did_you_mean(name, text)}")
    if columns is not None:
        return list(columns)
    values = {name: len(index.snapshot.table.column(name).combine_chunks().dictionary) for name in text}
    return [name for name in text if 2 <= values[name] <= MOST_VALUES]


def _label_issues(index: Index, column: str) -> list[dict[str, Any]]:
    import warnings

    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        raise ModisteError("Catalogue health needs cleanlab: pip install 'modiste[search]'.") from None
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    coded = index.snapshot.table.column(column).combine_chunks()
    codes = coded.indices.fill_null(-1).to_numpy()
    counts = np.bincount(codes[codes >= 0], minlength=len(coded.dictionary))
    kept = np.flatnonzero((codes >= 0) & (counts[codes] >= FEWEST))
    values, labels = np.unique(codes[kept], return_inverse=True)
    groups = index.snapshot.products[kept]
    if len(values) < 2 or min(len(np.unique(groups[labels == label])) for label in range(len(values))) < FOLDS:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of uneven folds
        logs = cross_val_predict(
            LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"), np.asarray(index.snapshot.vectors[kept]),
            labels, groups=groups, cv=StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0),
            method="predict_log_proba",
        )  # fmt: skip
        probabilities = tempered(logs, labels)
        issues = find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    suggested = probabilities[issues].argmax(1)
    return [
        {
            "position": int(kept[issue]),
            "column": column,
            "value": coded.dictionary[int(values[labels[issue]])].as_py(),
            "suggested": coded.dictionary[int(values[other])].as_py(),
            "confidence": float(probabilities[issue, other]),
        }
        for issue, other in zip(issues, suggested, strict=True)
    ]


def tempered(logs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Temperature-scaled probabilities (N, C) from out-of-fold log-probabilities (N, C).

    Discriminants of hundreds of dimensions fitted on as many rows are overconfident. The temperature, at least 1,
    minimises the cross-entropy (Guo et al., *On calibration of modern neural networks*, ICML 2017).

    >>> tempered(np.log([[0.999, 0.001]] * 4), np.array([0, 0, 0, 1]))[0].round(2)
    array([0.75, 0.25])
    """
    from scipy.special import log_softmax

    rows = np.arange(len(labels))
    scaled = (log_softmax(logs / temperature, axis=1) for temperature in np.geomspace(1, 1000, 300))
    return np.exp(max(scaled, key=lambda log: float(log[rows, labels].mean())))


def _facts(index: Index, positions: Any) -> dict[str, Any]:
    table = index.snapshot.table.select(["row", "product_id", "text"]).take(np.asarray(positions, np.int64))
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _table(columns: dict[str, Any]) -> Any:
    import pyarrow as pa

    return pa.table(columns)
