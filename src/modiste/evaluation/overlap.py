"""Overlap of evaluation and training rows: (near-)identical images, titles, products, embeddings.

A perceptual hash alone is useless in a product catalogue: on KAGL every second test image is within 4 bits of a
training image, because all shoes look similar on white. Here, two images are near if their hashes are close *and* their
colours agree cell by cell, which keeps re-encoded and rescaled copies and drops images that only share an outline.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf
from PIL import Image
from PIL import __version__ as pillow_version

from modiste.config import load_config
from modiste.data.build import load
from modiste.data.catalogue import Catalogue
from modiste.data.decode import Decoder
from modiste.data.splits import normalised
from modiste.errors import ModisteError
from modiste.utils.arrow import read_parquet
from modiste.utils.atomic import read_cache, write_cache
from modiste.utils.hardware import usable_cores
from modiste.utils.progress import progress_bar
from modiste.utils.run_dir import RunDir, cache_dir

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Looks = npt.NDArray[np.uint8]

HAMMING = 4
"""Maximum number of differing bits, of 64, between the hashes of near images."""
COLOUR = 8
"""Maximum difference of a cell of near images, of 255 levels: JPEG at quality 75 moves 99 % of KAGL by 7 or less."""
LOOKS_VERSION = "1"
HASH_BYTES, SIDE, CELLS = 8, 32, 8
ROWS, COLUMNS = 1024, 8192  # of a tile of scores: 32 MiB
CHUNK = 2**16  # pairs whose colours are compared at a time
LONG = 2000  # images from which on reading them shows a progress bar

# DCT-II (not normalised) of SIDE values, its first eight coefficients.
_DCT = 2 * np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(SIDE) + 1) / (2 * SIDE))


@dataclass(frozen=True)
class Match:
    """Nearest training row of every evaluated row.

    Attributes:
        train: Position of the training row (n,); -1 if none is near enough.
        distance: Distance (n,), float64; 0 if equal, NaN without a match.
    """

    train: Ints
    distance: npt.NDArray[np.float64]

    @property
    def touched(self) -> npt.NDArray[np.bool_]:
        """Whether each row has a match (n,)."""
        return self.train >= 0


# ----------------------------------------------------------------------------------------------------------- appearance


def look(image: Image.Image) -> Looks:
    """Appearance of an image, (200,) bytes: a 64-bit DCT hash and the colours of 8×8 cells.

    The hash (pHash, Zauner 2010) is that of the package ``imagehash``: one bit for each of the lowest 8×8 coefficients
    of the 32×32 grey image, for "above their median". Coefficients are rounded first: those of a flat image are noise,
    which would decide its bits.

    >>> flat = look(Image.new("RGB", (60, 80), (250, 250, 250)))
    >>> flat[:8].tolist(), set(flat[8:].tolist())
    ([128, 0, 0, 0, 0, 0, 0, 0], {250})
    """
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    coefficients = (_DCT @ grey @ _DCT.T).ravel().round(3)
    colours = image.convert("RGB").resize((CELLS, CELLS), Image.Resampling.BILINEAR)
    return np.concatenate([np.packbits(coefficients > np.median(coefficients)), np.asarray(colours).ravel()])


def looks(catalogue: Catalogue) -> Looks:
    """`look` of every row, (n, 200), cached on disk by ``pixels`` for all splits.

    Preprocessed images have a separate cache: they are not the hashed files, and their hashes may be wrong.
    """
    pixels, first, inverse = np.unique(catalogue.column("pixels"), return_index=True, return_inverse=True)
    path = _cache_file(catalogue)
    what = f"The image hashes of '{catalogue.card.name}'"
    known = read_cache(path, _read_looks, what) or {}
    new = [(key, int(row)) for key, row in zip(pixels.tolist(), first, strict=True) if key not in known]
    if new:
        title = f"{catalogue.card.name}: hashing {len(new):,} images once"
        with ThreadPoolExecutor(usable_cores()) as pool:
            hashed = pool.map(lambda item: look(catalogue.read_image(item[1])).tobytes(), new)
            known |= dict(zip((key for key, _ in new), _bar(hashed, len(new), title), strict=True))
        table = pa.table({"pixels": list(known), "look": list(known.values())})
        write_cache(path, lambda unfinished: pq.write_table(table, unfinished), what)
    found = np.frombuffer(b"".join(known[key] for key in pixels.tolist()), np.uint8)
    return found.reshape(len(pixels), -1)[inverse]


def _cache_file(catalogue: Catalogue) -> Path:
    words = [re.sub(r"[^\w-]+", "_", catalogue.card.name), *Decoder().identity(catalogue).values()]
    return cache_dir() / "looks" / f"{LOOKS_VERSION}-{pillow_version}-{'-'.join(words)}.parquet"


def _read_looks(path: Path) -> dict[str, bytes]:
    columns = read_parquet(path).to_pydict()
    return dict(zip(columns["pixels"], columns["look"], strict=True))


def _bar(items: Iterable[Any], total: int, title: str) -> Iterable[Any]:
    if total < LONG:
        return items

    return progress_bar(items, total, title)


# -------------------------------------------------------------------------------------------------------------- matches


def match_values(train: Sequence[str], test: Sequence[str]) -> Match:
    """Match equal values to the first training row of each; empty values match nothing.

    >>> match_values(["a", "b", "b", ""], ["b", "c", ""]).train.tolist()
    [1, -1, -1]
    """
    first: dict[str, int] = {}
    for position, value in enumerate(train):
        if value:
            first.setdefault(value, position)
    found = np.array([first.get(value, -1) for value in test], dtype=np.int64)
    return Match(found, np.where(found >= 0, 0.0, np.nan))


def match_looks(train: Looks, test: Looks, hamming: int = HAMMING, colour: int = COLOUR) -> Match:
    """Match near images: hashes differ in at most ``hamming`` bits, cells in at most ``colour`` levels.

    All pairs are compared exactly, one tile at a time. ``distance`` is the largest difference of a cell's colour; ties
    go to the closer hash, then to the lower position.

    Args:
        train: Training rows (M, 200) of `look`.
        test: Evaluated rows (N, 200) of `look`.
        hamming: Maximum number of differing bits, 0 to 64.
        colour: Maximum difference of a cell, 0 to 255.
    """
    candidates, positions = np.unique(train, axis=0, return_index=True)
    best = np.full(len(test), np.iinfo(np.int64).max)
    found = np.full(len(test), -1, dtype=np.int64)
    for rows, columns, products in close_pairs(_signs(candidates), _signs(test), 64 - 2 * hamming):
        bits = ((64 - products) / 2).astype(np.int64)
        for start in range(0, len(rows), CHUNK):
            i, j = rows[start : start + CHUNK], columns[start : start + CHUNK]
            cells = np.abs(test[i, HASH_BYTES:].astype(np.int16) - candidates[j, HASH_BYTES:]).max(axis=1, initial=0)
            near = cells <= colour
            key = cells.astype(np.int64) * 65 + bits[start : start + CHUNK]
            _keep_best(best, found, i[near], key[near], positions[j[near]])
    return Match(found, np.where(found >= 0, best // 65, np.nan))


def match_vectors(train: Floats, test: Floats, cosine: float) -> Match:
    """Match unit-norm embeddings (M, D) and (N, D) by a minimum ``cosine``; ``distance`` is 1 - cosine."""
    best = np.full(len(test), np.inf)
    found = np.full(len(test), -1, dtype=np.int64)
    for rows, columns, scores in close_pairs(train, test, cosine):
        _keep_best(best, found, rows, 1 - scores.astype(np.float64), columns)
    return Match(found, np.where(found >= 0, best, np.nan))


def close_pairs(train: Floats, test: Floats, least: float) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Pairs whose dot product is at least ``least``, a tile at a time: test rows, train rows, products."""
    tiles = [(a, b) for a in range(0, len(test), ROWS) for b in range(0, len(train), COLUMNS)]
    for a, b in _bar(tiles, len(tiles), "Comparing all pairs"):
        products = test[a : a + ROWS] @ train[b : b + COLUMNS].T
        i, j = np.nonzero(products >= least)
        yield i + a, j + b, products[i, j]


def close_rows(train: Floats, test: Floats, least: float, most: int) -> tuple[Ints, Ints]:
    """Up to ``most`` training rows of each test row with a dot product of at least ``least``."""
    rows, columns = [], []
    for start in range(0, len(test), ROWS):
        products = test[start : start + ROWS] @ train.T
        count = min(most, len(train))
        nearest = np.argpartition(-products, count - 1, axis=1)[:, :count]
        i, k = np.nonzero(np.take_along_axis(products, nearest, 1) >= least)
        rows.append(i + start)
        columns.append(nearest[i, k])
    return np.concatenate(rows), np.concatenate(columns)


def _signs(table: Looks) -> Floats:
    """Hash bits as ±1, (n, 64): a dot product is then 64 - 2 · Hamming distance, exactly."""
    return np.unpackbits(table[:, :HASH_BYTES], axis=1).astype(np.float32) * 2 - 1


def _keep_best(best: npt.NDArray[Any], found: Ints, rows: Ints, keys: npt.NDArray[Any], train: Ints) -> None:
    """Update the best pair of every row: that with the smallest key, then with the lowest position."""
    order = np.lexsort((train, keys, rows))
    rows, start = np.unique(rows[order], return_index=True)
    keys, train = keys[order][start], train[order][start]
    better = (keys < best[rows]) | ((keys == best[rows]) & (train < found[rows]))
    best[rows[better]], found[rows[better]] = keys[better], train[better]


# -------------------------------------------------------------------------------------------------------------- overlap


def same_products(train: Catalogue, test: Catalogue) -> bool:
    """Whether equal product ids mean the same product: within one data set only."""
    return (train.card.name, train.card.title) == (test.card.name, test.card.title)


def measure(train: Catalogue, test: Catalogue, hamming: int = HAMMING, colour: int = COLOUR) -> dict[str, Match]:
    """Match by ``identical`` (equal pixels), ``near``, ``title`` and, for comparable ids, ``product``.

    ``near`` includes identical images.
    """
    found = {
        "identical": match_values(train.column("pixels"), test.column("pixels")),
        "near": match_looks(looks(train), looks(test), hamming, colour),
        "title": match_values(*([normalised(text) for text in side.column("text")] for side in (train, test))),
    }
    if same_products(train, test):
        found["product"] = match_values(train.column("product_id"), test.column("product_id"))
    return found


def overlap(train: Catalogue, test: Catalogue) -> dict[str, int | None]:
    """Number of rows of ``test`` that share something with a row of ``train``.

    Returns:
        ``identical``, ``near`` (including identical), ``title``, ``product`` (None if the ids of two data sets are not
        comparable), and ``images``, the number of rows of ``test``.
    """
    return _counts([measure(train, test)], len(test))


def _counts(measured: Sequence[dict[str, Match]], images: int) -> dict[str, int | None]:
    """Number of rows that match any of the training sets, by measure."""
    counts: dict[str, int | None] = {}
    for name in ("identical", "near", "title", "product"):
        touched = [matches[name].touched for matches in measured if name in matches]
        counts[name] = int(np.logical_or.reduce(touched).sum()) if touched else None
    return counts | {"images": images}


def overlap_of_run(
    run_config: DictConfig, catalogue: Catalogue, split: str, data: DictConfig | None = None
) -> dict[str, int | str | None] | None:
    """Overlap of a ``split`` of ``catalogue`` with the training data of a run and those it started from.

    The pretraining data of published models are unknown and not counted.

    Args:
        run_config: The run's ``config.yaml``.
        catalogue: The whole evaluated data set.
        split: The evaluated split.
        data: The ``data`` node of ``catalogue``: if it is also the run's, the data are not loaded again.

    Returns:
        See `overlap`; None without overlap; ``{"unknown": reason}`` if the training data are missing.
    """
    test = catalogue.select(split=split)
    try:
        nodes = list(training_data(run_config))
        same = [data is not None and source(node) == source(data) for node in nodes]
        sides = [catalogue if known else load(node) for known, node in zip(same, nodes, strict=True)]
        measured = [measure(side.select(split="train"), test) for side in sides]
    except ModisteError as error:
        return {"unknown": f"The training data are missing: {error}"}
    counts = _counts(measured, len(test))
    return dict(counts) if any(count for name, count in counts.items() if name != "images") else None


def training_data(run_config: DictConfig) -> Iterator[DictConfig]:
    """The ``data`` nodes that a run was trained on, including those of runs it started from or merges.

    Raises:
        ModisteError: A run that it started from is missing, or one was trained on a stream of shards.
    """
    seen: set[Path] = set()
    waiting = [run_config]
    while waiting:
        config = waiting.pop(0)
        merged = config.get("merge")
        if not merged:  # it was not trained itself
            check_kept(config.data)
            yield config.data
        sources = merged.runs if merged else [config.get("init") or config.get("resume")]
        for source in filter(None, sources):
            path = Path(source).expanduser()
            run = RunDir.find(path.resolve().parent.parent if path.suffix == ".ckpt" else path)
            if run.path.resolve() not in seen:
                seen.add(run.path.resolve())
                waiting.append(load_config(run.config, ["data"]))


def check_kept(node: DictConfig) -> None:
    """Raise ModisteError for a ``data`` node that trains on a stream, which has no catalogue."""
    if node.get("stream") and node.stream.shards:
        raise ModisteError(
            "The run was trained on a stream of shards (data.stream), which cannot be compared: "
            "use modiste audit with the data set as other=…"
        )


def source(node: DictConfig) -> dict[str, object]:
    """Settings of a ``data`` node that determine its rows."""
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else dict(node)
    return {name: plain.get(name) for name in ("catalogue", "split", "held_out", "corruptions")}  # type: ignore[union-attr]
