"""Overlap of evaluation and training rows: (near-)identical images, titles, products, embeddings.

A perceptual hash alone finds nothing in a product catalogue: on KAGL every second test picture is within 4 bits of a
training picture, because all shoes look similar on white. Two pictures are near here when their hashes are close *and*
their colours agree cell by cell, which keeps re-encoded and rescaled copies and drops what only has the same outline.
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
from modiste.utils.machine import usable_cores
from modiste.utils.progress import progress_bar
from modiste.utils.run_dir import RunDir, cache_dir

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Looks = npt.NDArray[np.uint8]

HAMMING = 4
"""Bits of 64 that the hashes of near pictures differ in at most."""
COLOUR = 8
"""Levels of 255 that a cell of near pictures differs in at most: JPEG at quality 75 moves 99 % of KAGL by 7 or less."""
LOOKS_VERSION = "1"
HASH_BYTES, SIDE, CELLS = 8, 32, 8
ROWS, COLUMNS = 1024, 8192  # of a tile of scores: 32 MiB
CHUNK = 2**16  # pairs whose colours are compared at a time
LONG = 2000  # images from which on reading them shows a progress bar

# DCT-II (not normalised) of SIDE values, its first eight coefficients.
_DCT = 2 * np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(SIDE) + 1) / (2 * SIDE))


@dataclass(frozen=True)
class Match:
    """The nearest training row of every evaluated row.

    Attributes:
        train: (n,) position of the training row; -1 where none is near enough.
        distance: (n,) float64, 0 = the same; NaN where there is none.
    """

    train: Ints
    distance: npt.NDArray[np.float64]

    @property
    def touched(self) -> npt.NDArray[np.bool_]:
        """(n,) whether there is one."""
        return self.train >= 0


# -------------------------------------------------------------------------------------------- what a picture looks like


def look(image: Image.Image) -> Looks:
    """What a picture looks like, (200,) bytes: a 64-bit DCT hash (pHash: Zauner 2010), and the colours of 8×8 cells.

    The hash is the one of the package ``imagehash``: the lowest 8×8 coefficients of the 32×32 grey picture, a bit each
    for "above their median". They are rounded first: those of a flat picture are noise, which would decide its bits.

    >>> flat = look(Image.new("RGB", (60, 80), (250, 250, 250)))
    >>> flat[:8].tolist(), set(flat[8:].tolist())
    ([128, 0, 0, 0, 0, 0, 0, 0], {250})
    """
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    coefficients = (_DCT @ grey @ _DCT.T).ravel().round(3)
    colours = image.convert("RGB").resize((CELLS, CELLS), Image.Resampling.BILINEAR)
    return np.concatenate([np.packbits(coefficients > np.median(coefficients)), np.asarray(colours).ravel()])


def looks(catalogue: Catalogue) -> Looks:
    """`look` of every row, (n, 200). What was read before, for any split, comes from a cache keyed by ``pixels``.

    Preprocessed images have a cache of their own: they are not what was hashed, nor need their hashes be true.
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
    """Equal values, the first training row of each; an empty value equals nothing.

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
    """Near pictures: hashes at most ``hamming`` bits apart, and no colour of a cell more than ``colour`` levels.

    All pairs are compared, exactly, a tile at a time. ``distance`` is the largest difference of a cell's colour; among
    equal ones the closer hash and then the lower position wins.

    Args:
        train: (M, 200) of `look`.
        test: (N, 200).
        hamming: 0 to 64.
        colour: 0 to 255.
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
    """Embeddings (M, D) and (N, D), of unit norm, whose cosine is at least ``cosine``; ``distance`` is 1 - cosine."""
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
    """The at most ``most`` training rows of each test row whose dot product is at least ``least``, a tile at a time."""
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
    """Take over, for every row, the pair of the smallest key, then of the lowest position, where it beats the best."""
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
    """``identical`` (equal pixels), ``near``, ``title``, and ``product`` where ids mean the same on both sides.

    ``near`` includes the identical ones.
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
    """How many rows of ``test`` share something with a row of ``train``.

    Returns:
        ``identical``, ``near`` (which includes the identical), ``title``, ``product`` (None where the ids of two data
        sets cannot be compared), and ``images``, the number of rows of ``test``.
    """
    return _counts([measure(train, test)], len(test))


def _counts(measured: Sequence[dict[str, Match]], images: int) -> dict[str, int | None]:
    """Rows that any of the training sets touches."""
    counts: dict[str, int | None] = {}
    for name in ("identical", "near", "title", "product"):
        touched = [matches[name].touched for matches in measured if name in matches]
        counts[name] = int(np.logical_or.reduce(touched).sum()) if touched else None
    return counts | {"images": images}


def overlap_of_run(
    run_config: DictConfig, catalogue: Catalogue, split: str, data: DictConfig | None = None
) -> dict[str, int | str | None] | None:
    """What the ``split`` of ``catalogue`` shares with the training data of a run, and of the run it started from.

    What the weights of a published model saw before the run is not known, and not counted.

    Args:
        run_config: The run's ``config.yaml``.
        catalogue: The evaluated data set, whole.
        split: The evaluated split.
        data: The ``data`` node that ``catalogue`` was loaded from: where the run's is the same, it is not read again.

    Returns:
        As `overlap`; None where nothing overlaps; ``{"unknown": reason}`` where the training data is missing.
    """
    test = catalogue.select(split=split)
    try:
        nodes = list(training_data(run_config))
        same = [data is not None and source(node) == source(data) for node in nodes]
        sides = [catalogue if known else load(node) for known, node in zip(same, nodes, strict=True)]
        measured = [measure(side.select(split="train"), test) for side in sides]
    except ModisteError as error:
        return {"unknown": f"The training data is not there to compare with: {error}"}
    counts = _counts(measured, len(test))
    return dict(counts) if any(count for name, count in counts.items() if name != "images") else None


def training_data(run_config: DictConfig) -> Iterator[DictConfig]:
    """The ``data`` nodes that a run was trained on: its own, and those of the runs that it started from or merges.

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
    """Raise ModisteError for a ``data`` node whose training set is a stream, of which there is no catalogue."""
    if node.get("stream") and node.stream.shards:
        raise ModisteError(
            "The run was trained on a stream of shards (data.stream), which cannot be compared: "
            "use modiste audit with the data set as other=…"
        )


def source(node: DictConfig) -> dict[str, object]:
    """What decides the rows of a ``data`` node."""
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else dict(node)
    return {name: plain.get(name) for name in ("catalogue", "split", "held_out", "corruptions")}  # type: ignore[union-attr]
