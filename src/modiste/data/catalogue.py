"""The catalogue: one schema for every data set, a table with one row per image, and an image source."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from PIL import __version__ as pillow_version

from modiste.data.shop import may_be_classes
from modiste.data.sources import WHOLE, ImageSource, ImageTooLargeError, MaskSource, UnsafeImageError
from modiste.errors import ModisteError, did_you_mean
from modiste.utils.arrow import read_parquet
from modiste.utils.atomic import read_cache, write_cache
from modiste.utils.ranges import BadRows
from modiste.utils.run_dir import cache_dir

log = logging.getLogger(__name__)
T = TypeVar("T")

REQUIRED = ("product_id", "image", "text")
EVERY_ROW = "all"
"""The split of every row, also of data without splits."""
SCHEMA = ("row", "product_id", "image", "text", "split", "pixels")
GROUNDING = ("mask", "boxes")
SCAN_VERSION = "2"

# Reasons for excluding a row.
MISSING_IMAGE = "missing image"
UNREADABLE_IMAGE = "unreadable image"
UNREACHABLE_IMAGE = "unreachable image"
LARGE_IMAGE = "image too large"
UNSAFE_IMAGE = "image outside the folder, or not a regular file"
EMPTY_CAPTION = "empty caption"
DUPLICATE_ROW = "duplicate row"


@dataclass(frozen=True)
class Card:
    """Data card: name, licence, citation and download of a data set.

    Attributes:
        name: Selects the data set (``data=<name>``).
        expected: Counts stated by the publisher, such as ``{"rows": 44446}``.
        download: Download instructions, shown when files are missing.
        values: Attribute → its values in the complete data set; a subset may lack some.
    """

    name: str
    title: str = ""
    licence: str = ""
    citation: str = ""
    homepage: str = ""
    expected: Mapping[str, int] = field(default_factory=dict)
    download: str = ""
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadReport:
    """Rows read, kept and excluded; ``bad`` maps a reason to the product ids excluded for it."""

    rows: int
    kept: int
    bad: Mapping[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        """Summarise the report in one line.

        >>> print(LoadReport(3, 2, {"missing image": ["17"]}))
        2 of 3 rows kept; dropped: 1 missing image (17)
        """
        reasons = [
            f"{len(ids):,} {reason} ({', '.join(ids[:5])}{', …' if len(ids) > 5 else ''})"
            for reason, ids in self.bad.items()
        ]
        return f"{self.kept:,} of {self.rows:,} rows kept" + (f"; dropped: {'; '.join(reasons)}" if reasons else "")


@dataclass(frozen=True)
class Catalogue:
    """A table of products, one row per image.

    Attributes:
        table: ``row`` (int64: position in the full catalogue, kept by `select`), ``product_id``, ``image`` (the
            reference that ``images`` reads), ``text``, ``split`` ("" = undecided), ``pixels`` (SHA-1 of the decoded RGB
            pixels and their size), attribute columns, and optionally ``mask`` and ``boxes``. Attributes are text (""
            = missing), or int64, float64 or bool (null = missing); `column` returns all of them as text.
        images: Reads an image by its reference.
        report: Rows read, kept and excluded.

    >>> from modiste.data.sources import ArrayImages
    >>> images = ArrayImages(np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4))
    >>> columns = {"product_id": ["a", "b"], "image": ["0", "1"], "text": ["shirt", "shoe"], "colour": ["red", ""]}
    >>> catalogue = Catalogue.build(Card("tiny"), columns, images)
    >>> len(catalogue), catalogue.attributes, catalogue.select(rows=[1]).column("row")
    (2, ['colour'], [1])
    """

    card: Card
    table: pa.Table
    images: ImageSource
    report: LoadReport

    @classmethod
    def build(
        cls,
        card: Card,
        columns: Mapping[str, Sequence[Any]],
        images: ImageSource,
        max_bad: BadRows | None = None,
        problems: Sequence[str | None] | None = None,
    ) -> Catalogue:
        """Check every row, decode every image once, and exclude and count bad rows.

        The results of decoding are cached (`modiste.utils.run_dir.cache_dir`) under the identity of the source.

        Args:
            card: The data card.
            columns: ``product_id``, ``image``, ``text``, optionally ``split``, ``mask``, ``boxes``; any other column
                is an attribute. With a ``pixels`` column (synthetic images whose content is known) nothing is decoded.
            images: Reads an image by its reference in ``image``.
            max_bad: Maximum number (int) or fraction (float) of bad rows; None: no limit.
            problems: Problem per row found by the adapter, such as an unreadable mask; None: no problem.

        Raises:
            ModisteError: A required column is missing, the columns differ in length, no row is usable, or more rows
                are bad than allowed, or ``max_bad`` is out of range.
        """
        _check_limit(max_bad)
        texts = _as_text(columns)
        rows = [f"row {row + 1}" for row in range(len(texts["product_id"]))]
        texts["product_id"] = name_products(texts["product_id"], rows, card.name)
        reasons = _row_problems(texts)
        if problems is not None:
            reasons = [own or found for own, found in zip(problems, reasons, strict=True)]
        if "pixels" not in texts:
            texts["pixels"] = _scan_into(reasons, texts["image"], images, card.name)
        keep = np.array([reason is None for reason in reasons], dtype=bool)
        bad: dict[str, list[str]] = {}
        for product, reason in zip(texts["product_id"], reasons, strict=True):
            if reason is not None:
                bad.setdefault(reason, []).append(product)
        report = LoadReport(rows=len(keep), kept=int(keep.sum()), bad=bad)
        _judge(card, report, max_bad)
        return cls(card, _table(texts, keep, _typed(columns)), images, report)

    @classmethod
    def unchecked(cls, card: Card, columns: Mapping[str, Sequence[Any]], images: ImageSource) -> Catalogue:
        """Return all rows unchecked and undecoded, for data that is read once, such as stream samples.

        Args:
            card: The data card.
            columns: As in `build`; ``pixels`` stays empty.
            images: Reads an image by its reference in ``image``.

        Raises:
            ModisteError: A required column is missing, or the columns differ in length.
        """
        texts = _as_text(columns)
        count = len(texts["text"])
        texts["pixels"] = [""] * count
        keep = np.ones(count, dtype=bool)
        return cls(card, _table(texts, keep, _typed(columns)), images, LoadReport(count, count))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def attributes(self) -> list[str]:
        """Names of the attribute columns."""
        return [name for name in self.table.column_names if name not in (*SCHEMA, *GROUNDING)]

    @property
    def class_attributes(self) -> list[str]:
        """Names of the attributes that can serve as classes: short, repeating text, no numbers."""
        texts = [name for name in self.attributes if pa.types.is_string(self.table.schema.field(name).type)]
        return [name for name in texts if may_be_classes(self.column(name))]

    @property
    def splits(self) -> dict[str, int]:
        """Number of rows per split, largest first."""
        return dict(Counter(self.column("split")).most_common())

    def column(self, name: str) -> list[Any]:
        """Return the values of a column as text (``row``: as int). Raises ModisteError for an unknown column."""
        if name not in self.table.column_names:
            raise ModisteError(
                f"Data set '{self.card.name}' has no column '{name}'. {did_you_mean(name, self.table.column_names)}"
            )
        values = self.table.column(name)
        if name == "row" or pa.types.is_string(values.type):
            return values.to_pylist()
        return [as_text(value) for value in values.to_pylist()]

    def select(self, split: str | None = None, rows: Sequence[int] | np.ndarray | None = None) -> Catalogue:
        """Return a subset of the rows; ``row`` keeps their positions in the full catalogue.

        Args:
            split: Only rows of this split; ``all`` or None: every row.
            rows: A boolean mask, or indices into this catalogue in the order wanted; None: all rows.

        Raises:
            ModisteError: No row is in ``split``, or ``rows`` are not rows of this catalogue.
        """
        table = self.table
        if rows is not None:
            table = table.take(self._positions(rows))
        if split not in (None, EVERY_ROW):
            mask = np.array([value == split for value in table.column("split").to_pylist()], dtype=bool)
            if not mask.any():
                raise ModisteError(
                    f"Data set '{self.card.name}' has no rows in split '{split}'. "
                    f"{did_you_mean(split, [name for name in self.splits if name])}"
                )
            table = table.filter(mask)
        return replace(self, table=table)

    def _positions(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Indices (int64) of a boolean mask or of indices."""
        index = np.asarray(rows)
        if index.dtype == bool and index.shape == (len(self),):
            return np.flatnonzero(index)
        whole = np.issubdtype(index.dtype, np.integer) or not index.size
        if not whole or index.ndim != 1 or (index.size and not 0 <= index.min() <= index.max() < len(self)):
            raise ModisteError(
                f"rows: give a boolean mask of length {len(self):,}, or indices from 0 to {len(self) - 1:,}."
            )
        return index.astype(np.int64)

    def kept(self, keep: Sequence[bool]) -> Catalogue:
        """Return the rows where ``keep`` is true, as a full catalogue with ``row`` renumbered from 0."""
        table = self.select(rows=np.asarray(keep, dtype=bool)).table
        return replace(self, table=table.set_column(0, "row", pa.array(np.arange(len(table), dtype=np.int64))))

    def read_image(self, i: int) -> Image.Image:
        """Read the RGB image of the i-th row of this catalogue."""
        return self.images.read(self.reference(i))

    def reference(self, i: int) -> str:
        """Reference by which `images` reads the image of the i-th row."""
        return self.table.column("image")[i].as_py()

    def parts(self, i: int) -> list[str]:
        """Parts that have a mask on the i-th image. Raises ModisteError if the data set has no masks."""
        return self._masks().parts(self.table.column("mask")[i].as_py())

    def read_mask(self, i: int, part: str = WHOLE) -> Image.Image:
        """Read the mask of ``part`` on the i-th image: mode L, of the image's size, 255 inside and 0 outside.

        ``whole`` is everything but the background. Raises ModisteError if the data set has no masks or the image no
        such part.
        """
        return self._masks().read_mask(self.table.column("mask")[i].as_py(), part)

    def _masks(self) -> MaskSource:
        if "mask" not in self.table.column_names or not isinstance(self.images, MaskSource):
            raise ModisteError(
                f"Data set '{self.card.name}' has no masks: use a data set with masks, such as data=ccp."
            )
        return self.images

    def replace_column(self, name: str, values: Sequence[str]) -> Catalogue:
        """Return a copy with the text column ``name`` replaced or appended."""
        array = pa.array(values, pa.string())
        names = self.table.column_names
        if name in names:
            return replace(self, table=self.table.set_column(names.index(name), name, array))
        return replace(self, table=self.table.append_column(name, array))

    def fingerprint(self) -> str:
        """SHA-256 of all columns but ``row`` and ``image``; ``pixels`` represents the content of the images."""
        digest = hashlib.sha256()
        for name in sorted(set(self.table.column_names) - {"row", "image"}):
            values = self.column(name)
            digest.update(f"{name}:".encode() + "".join(f"{len(value)}:{value}" for value in values).encode())
        return digest.hexdigest()


def hash_pixels(image: Image.Image) -> str:
    """SHA-1 of the decoded RGB pixels and their size: equal for identical pixels in any encoding.

    >>> hash_pixels(Image.new("RGB", (2, 8))) == hash_pixels(Image.new("RGB", (8, 2)))
    False
    """
    image = image if image.mode == "RGB" else image.convert("RGB")
    return hashlib.sha1(f"{image.width}x{image.height}:".encode() + image.tobytes(), usedforsecurity=False).hexdigest()


def as_text(value: object) -> str:
    """Convert a cell to stripped text: "" for a missing value, integers without a decimal point.

    >>> as_text(2012.0), as_text(None), as_text(float("nan")), as_text("NA")
    ('2012', '', '', 'NA')
    """
    if isinstance(value, str):
        return value.strip()
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _as_text(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    for name in REQUIRED:
        if name not in columns:
            raise ModisteError(f"The table has no column '{name}'. {did_you_mean(name, columns)}")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ModisteError(f"The columns have different lengths: {lengths}.")
    texts = {
        name: _without_surrogates([as_text(value) for value in values])
        for name, values in columns.items()
        if name != "row"
    }
    texts.setdefault("split", [""] * lengths["text"])
    return texts


def _without_surrogates(texts: list[str]) -> list[str]:
    """Replace halves of surrogate pairs, which JSON of emoji that were cut in two contains, by U+FFFD."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
    return texts


def _typed(columns: Mapping[str, Sequence[Any]]) -> dict[str, pa.Array]:
    """Numeric and boolean attributes as typed arrays."""
    typed = {}
    for name, values in columns.items():
        kinds = {type(value) for value in values if value is not None and value == value}
        if name not in (*SCHEMA, *GROUNDING) and kinds and (kinds == {bool} or kinds <= {int, float}):
            plain = [None if value != value else value for value in values]
            kind = pa.bool_() if kinds == {bool} else pa.float64() if float in kinds else pa.int64()
            with suppress(pa.ArrowInvalid, OverflowError):  # numbers too large for the column type stay text
                typed[name] = pa.array(plain, kind)
    return typed


def name_products(products: Sequence[T], rows: Sequence[T], name: str) -> list[T]:
    """Replace blank product ids by the row's name in ``rows``, so that such rows do not form one product.

    >>> name_products(["a", ""], ["row 1", "row 2"], "shop")
    ['a', 'row 2']
    """
    blank = [not as_text(product) for product in products]
    if any(blank):
        log.warning("%s: %s rows have no product_id; each counts as a separate product.", name, f"{sum(blank):,}")
    return [row if empty else product for product, row, empty in zip(products, rows, blank, strict=True)]


def _table(texts: Mapping[str, list[str]], keep: np.ndarray, typed: Mapping[str, pa.Array]) -> pa.Table:
    arrays = {name: typed.get(name, pa.array(values, pa.string())) for name, values in texts.items()}
    table = pa.table(arrays).filter(keep)
    table = table.add_column(0, "row", pa.array(np.arange(len(table), dtype=np.int64)))
    order = [*SCHEMA, *(name for name in table.column_names if name not in SCHEMA)]
    return table.select(order).combine_chunks()


def _row_problems(texts: Mapping[str, list[str]]) -> list[str | None]:
    """Problem of each row that shows without decoding its image; None: no problem."""
    reasons: list[str | None] = []
    seen: set[tuple[str, str]] = set()
    for product, image, text in zip(texts["product_id"], texts["image"], texts["text"], strict=True):
        if (product, image) in seen:
            reasons.append(DUPLICATE_ROW)
        elif not image:
            reasons.append(MISSING_IMAGE)
        else:
            reasons.append(None if text else EMPTY_CAPTION)
        seen.add((product, image))
    return reasons


def _scan_into(reasons: list[str | None], refs: list[str], images: ImageSource, name: str) -> list[str]:
    """Return the pixel hash of every row ("" for a bad one) and record the reason for bad images."""
    scanned = scan(sorted({ref for ref, reason in zip(refs, reasons, strict=True) if reason is None}), images, name)
    pixels = []
    for i, ref in enumerate(refs):
        digest, problem = scanned.get(ref, ("", None))
        if reasons[i] is None:
            reasons[i] = problem
        pixels.append(digest)
    return pixels


def _check_limit(max_bad: object) -> None:
    whole = isinstance(max_bad, int) and not isinstance(max_bad, bool) and max_bad >= 0
    if max_bad is not None and not whole and not (isinstance(max_bad, float) and 0 <= max_bad <= 1):
        raise ModisteError(f"max_bad={max_bad!r}: give a number of rows, or a fraction from 0.0 to 1.0, or None.")


def _judge(card: Card, report: LoadReport, max_bad: BadRows | None) -> None:
    if not report.kept:
        raise ModisteError(f"Data set '{card.name}' has no usable row: {report}.")
    if not report.bad:
        return
    limit = max_bad * report.rows if isinstance(max_bad, float) else max_bad
    if limit is not None and report.rows - report.kept > limit:
        raise ModisteError(
            f"Data set '{card.name}' has more bad rows than max_bad={max_bad} allows: {report}. "
            "Repair them, or raise max_bad."
        )
    log.warning("%s: %s", card.name, report)


def scan(refs: list[str], images: ImageSource, name: str = "images") -> dict[str, tuple[str, str | None]]:
    """Decode every image once: reference → (pixel hash, None) or ("", reason).

    The result is cached if the source has an ``identity`` and every image was reachable.
    """
    path = _scan_file(refs, images)
    what = f"The scan of '{name}'"
    if path is not None and (known := read_cache(path, _read_scan, what)) is not None:
        return known
    chunks = [refs[start : start + 256] for start in range(0, len(refs), 256)]
    found: dict[str, tuple[str, str | None]] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda chunk: [_look(images, ref) for ref in chunk], chunks)
        for chunk, result in zip(chunks, _progress(results, len(chunks), len(refs), name), strict=True):
            found.update(zip(chunk, result, strict=True))
    if path is not None and all(problem != UNREACHABLE_IMAGE for _, problem in found.values()):
        write_cache(path, lambda unfinished: pq.write_table(_scan_table(found), unfinished), what)
    return found


def _look(images: ImageSource, ref: str) -> tuple[str, str | None]:
    try:
        return hash_pixels(images.read(ref)), None
    except (OSError, ValueError) as error:
        return "", image_problem(error)


def image_problem(error: OSError | ValueError) -> str:
    """Reason for excluding a row whose image could not be read.

    >>> image_problem(FileNotFoundError()), image_problem(OSError("image file is truncated"))
    ('missing image', 'unreadable image')
    """
    if isinstance(error, FileNotFoundError):
        return MISSING_IMAGE
    if isinstance(error, ImageTooLargeError):
        return LARGE_IMAGE
    if isinstance(error, UnsafeImageError):
        return UNSAFE_IMAGE
    # Pillow's own errors have no errno; system errors (permission, network) may be transient.
    return UNREACHABLE_IMAGE if getattr(error, "errno", None) else UNREADABLE_IMAGE


def _progress(results: Iterator[Any], total: int, images: int, name: str) -> Any:
    if images <= 5000:
        return results
    from rich.console import Console
    from rich.progress import track

    description = f"{name}: reading {images:,} images once"
    return track(results, description, total, console=Console(stderr=True), transient=True)


def _scan_file(refs: list[str], images: ImageSource) -> Path | None:
    identity = getattr(images, "identity", None)
    if identity is None:
        return None
    parts = [SCAN_VERSION, pillow_version, type(images).__qualname__, identity(refs), *refs]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return cache_dir() / "scans" / f"{key[:32]}.parquet"


def _scan_table(found: Mapping[str, tuple[str, str | None]]) -> pa.Table:
    pixels, problems = zip(*found.values(), strict=True) if found else ((), ())
    columns = {"ref": list(found), "pixels": list(pixels), "problem": list(problems)}
    return pa.table(columns, pa.schema([(name, pa.string()) for name in columns]))


def _read_scan(path: Path) -> dict[str, tuple[str, str | None]]:
    columns = read_parquet(path).to_pydict()
    return dict(zip(columns["ref"], zip(columns["pixels"], columns["problem"], strict=True), strict=True))
