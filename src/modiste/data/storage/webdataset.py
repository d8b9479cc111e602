"""WebDataset shards: tar files of KEY.jpg with KEY.txt or KEY.json, as a stream or a catalogue."""

from __future__ import annotations

import glob
import io
import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, islice, takewhile
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

import numpy as np
from PIL import Image

from modiste.config.targets import user_allowed
from modiste.data.catalogue import Card, Catalogue, as_text
from modiste.data.datasets.table import from_records, map_columns
from modiste.data.sources import MAX_BYTES, EncodedSource, ImageTooLargeError, _stamp, decode, image_format
from modiste.data.text_tables import Columns
from modiste.errors import ModisteError, did_you_mean
from modiste.utils.progress import Progress, silent
from modiste.utils.ranges import BadRows

Sample = dict[str, Any]
"""Files of a shard with the same key: suffix → content, with ``__key__`` and ``__url__``."""
IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif")
TEXT, COLUMNS = "txt", "json"
SUFFIXES = (*IMAGES, TEXT, COLUMNS)
REFERENCE = "__reference__"
OWN = ("product_id", "split")
"""Columns of the catalogue that need no mapping if the JSON has them."""
WORD = re.compile(r"\w[\w-]*")
FORMAT = "webdataset"
MAX_SHARDS = 1_000_000
UNREADABLE_COLUMNS = "unreadable caption or JSON"


def library() -> ModuleType:
    """Import the package webdataset. Raises ModisteError if it is not installed."""
    try:
        import webdataset
    except ImportError:
        raise ModisteError("Reading shards needs the package webdataset: pip install 'modiste[stream]'.") from None
    return webdataset


def expand(shards: str | Sequence[str], key: str, download: bool = False) -> list[str]:
    """Expand patterns to the paths and URLs of shards, in order and without duplicates.

    Args:
        shards: Paths or URLs; braces expand (``train-{000..009}.tar``), as do ``*`` and ``?`` in a path.
        key: Name of the option, for error messages.
        download: Whether http(s) URLs may be opened.

    Raises:
        ModisteError: A brace is not closed, there are no shards or more than `MAX_SHARDS`, a file is missing, or see
            `check_address`.

    >>> expand("https://example.org/train-{08..10}.tar", "data.stream.shards", download=True)[-1]
    'https://example.org/train-10.tar'
    """
    library()
    from braceexpand import braceexpand

    patterns = [shards] if isinstance(shards, str) else list(shards)
    try:
        braced = islice(chain.from_iterable(map(braceexpand, patterns)), MAX_SHARDS + 1)
        endless = any(_longest_range(pattern) > MAX_SHARDS for pattern in patterns)
        urls = [] if endless else [url for one in braced for url in _matching(one)]
    except ValueError as error:
        raise ModisteError(f"{key}: {error}: close the braces.") from None
    if endless or len(urls) > MAX_SHARDS:
        raise ModisteError(f"{key} names more than {MAX_SHARDS:,} shards: write fewer and larger ones.")
    missing = [url for url in urls if is_local(url) and not Path(url).is_file()]
    if missing or not urls:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        what = f"{len(missing)} of {len(urls)} shards do not exist ({shown})" if missing else f"{patterns} names none"
        raise ModisteError(f"{key}: {what}: give existing tar files.")
    urls = list(dict.fromkeys(urls))  # patterns may overlap
    for url in urls:
        check_address(url, key, download)
    return urls


def check_address(url: str, key: str, download: bool) -> None:
    """Check that a shard may be opened.

    Paths always may, http(s) URLs with ``download``, and ``pipe:`` commands if MODISTE_ALLOW has ``pipe``.

    Args:
        url: Path, URL or ``pipe:`` command of the shard.
        key: Name of the option, for error messages.
        download: Whether http(s) URLs may be opened.

    Raises:
        ModisteError: It may not be opened. webdataset would start a program for most other schemes.

    >>> check_address("train-00.tar", "data.stream.shards", download=False)
    >>> check_address("gs://bucket/train-00.tar", "data.stream.shards", download=True)
    Traceback (most recent call last):
    ...
    modiste.errors.ModisteError: data.stream.shards: gs://bucket/train-00.tar is neither a path nor an http(s) URL: \
download it, or read it through a command with 'pipe:'.
    """
    scheme = urlparse(url).scheme
    if is_local(url):
        return
    if scheme == "pipe":
        if "pipe" not in user_allowed():
            raise ModisteError(f"{key}: 'pipe:' runs a command. If you trust it, set MODISTE_ALLOW=pipe.")
    elif scheme not in ("http", "https"):
        raise ModisteError(
            f"{key}: {url} is neither a path nor an http(s) URL: download it, or read it through a command with "
            "'pipe:'."
        )
    elif not download:
        node = key.rpartition(".")[0]
        raise ModisteError(f"{key}: {url} is a URL: set {node}.download=true on the command line to stream from it.")


def _longest_range(pattern: str) -> int:
    """Length of the longest range of a pattern, which braceexpand holds in memory.

    >>> _longest_range("train-{000..099}.tar"), _longest_range("train.tar")
    (100, 0)
    """
    ranges = re.findall(r"\{(-?\d+)\.\.(-?\d+)", pattern)
    return max((abs(int(last[:20]) - int(first[:20])) + 1 for first, last in ranges), default=0)


def _matching(url: str) -> list[str]:
    return sorted(glob.glob(url)) if is_local(url) and glob.has_magic(url) and not Path(url).exists() else [url]


def is_local(url: str) -> bool:
    """Whether a shard is given by a path.

    >>> is_local("shards/train-00.tar"), is_local("https://example.org/train-00.tar")
    (True, False)
    """
    return not urlparse(url).scheme


def short_names(urls: Sequence[str]) -> dict[str, str]:
    """Map each shard to its path relative to their common folder, the same wherever that folder is.

    >>> list(short_names(["data/shop/0.tar", "data/press/0.tar"]).values()), list(short_names(["data/0.tar"]).values())
    (['shop/0.tar', 'press/0.tar'], ['0.tar'])
    """
    folders = zip(*(url.split("/")[:-1] for url in urls), strict=False)
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, folders))
    return {url: "/".join(url.split("/")[shared:]) for url in urls}


def read_shard(url: str, note: Callable[[str], None]) -> Iterator[Sample]:
    """Yield the samples of a shard in order, without checking ``url`` (see `check_address`).

    Args:
        url: A path, http(s) URL, or ``pipe:`` command that `expand` returned.
        note: Called with a description of damage in the shard; the samples after it are skipped.

    Raises:
        ModisteError: The shard cannot be opened or read to its end.
    """
    library()
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys

    def damaged(error: Exception) -> bool:
        if isinstance(error, OSError):
            raise error
        note(f"{url}: {_reason(error)}")
        return isinstance(error, ValueError)  # a duplicate name: the samples after it are usable

    try:
        stream: Any = Path(url).open("rb") if is_local(url) else gopen(url)  # noqa: SIM115
        try:
            yield from group_by_keys(_files(url, stream, damaged, note), handler=damaged)
            while stream.read(2**20):  # reads the padding, so that the command of a pipe can exit with its status
                pass
        except GeneratorExit:  # the rest is not needed, so the command's exit status does not matter
            _abandon(stream)
            raise
        stream.close()
    except (OSError, ValueError) as error:
        raise ModisteError(
            f"The shard {url} cannot be read ({_reason(error)}): check that it exists and is reachable. The run "
            "resumes with modiste train continue=RUN."
        ) from error


def _files(
    url: str, stream: Any, damaged: Callable[[Exception], bool], note: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """The files of an uncompressed tar that belong to samples, in order, without those that are too large.

    Files that no sample uses are empty: a key may have any number of them (``KEY.0.jpg``, ``KEY.1.jpg``, …).
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:  # a compressed one may unpack into any size
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # they would accumulate
                if not _is_wanted(member):
                    continue
                if member.size > MAX_BYTES:
                    note(f"{url}: {member.name} is larger than {MAX_BYTES:,} bytes")
                    continue
                used = member.name.rpartition("/")[2].partition(".")[2].lower() in SUFFIXES
                content: Any = tar.extractfile(member)
                yield {"fname": member.name, "data": content.read() if used else b"", "__url__": url}
    except (tarfile.TarError, ValueError, EOFError, zlib.error, lzma.LZMAError) as error:
        damaged(error)


def _is_wanted(member: tarfile.TarInfo) -> bool:
    """Whether a member is an image, a text or JSON, and no sparse file, which may unpack into any size."""
    plain = member.isreg() and not member.issparse()
    wanted = member.name.rpartition(".")[2].lower() in SUFFIXES
    return plain and wanted and not re.match(r"__[^/]*__($|/)", member.name)


def _reason(error: Exception) -> str:
    """The message of an error, without the commands that webdataset appends, which may contain a password."""
    if getattr(error, "strerror", None):
        return str(error.strerror)  # type: ignore[attr-defined]
    text = str(error.args[0]) if error.args else type(error).__name__
    status = re.search(r"exit -?\d+", text)
    return status[0] if status else text.partition(" @ ")[0]


def _abandon(stream: Any) -> None:
    if hasattr(stream, "proc"):
        stream.proc.terminate()
    with suppress(OSError):
        stream.close()


def read_columns(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a sample: the values of its JSON object, and its caption as ``txt``.

    Raises:
        ValueError: The JSON is invalid, nested too deeply, or not an object; or the caption is not UTF-8.

    >>> read_columns({"json": b'{"colour": "red"}', "txt": b"a red hat"})
    {'colour': 'red', 'txt': 'a red hat'}
    """
    try:
        columns = json.loads(sample[COLUMNS]) if COLUMNS in sample else {}
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    if not isinstance(columns, dict):
        raise ValueError("the JSON is not an object")
    return {**columns, TEXT: sample[TEXT].decode("utf-8")} if TEXT in sample else columns


def image_suffix(sample: Mapping[str, Any]) -> str | None:
    """Suffix of a sample's image, or None if it has no image."""
    return next((suffix for suffix in IMAGES if suffix in sample), None)


def to_catalogue(
    rows: Sequence[Mapping[str, Any]], references: Sequence[str], columns: Mapping[str, str | None]
) -> Columns:
    """Rename the columns of samples to those of the catalogue.

    Args:
        rows: `read_columns` of every sample; missing columns are None.
        references: Name of every sample, used for its image, and for its product if it has no product id.
        columns: Name in the catalogue → name in the shard, as in `modiste.data.datasets.table.Table`. ``product_id``
            and ``split`` are read from the JSON by default.

    >>> to_catalogue([{"txt": "a hat", "hue": "red"}, {"txt": "a bag"}], ["0.tar/a", "0.tar/b"], {"text": "txt"})
    {'image': ['0.tar/a', '0.tar/b'], 'text': ['a hat', 'a bag'], 'product_id': ['0.tar/a', '0.tar/b'], \
'hue': ['red', None]}
    """
    raw = from_records([{REFERENCE: ref, **row} for ref, row in zip(references, rows, strict=True)])
    chosen = {word: column for word, column in columns.items() if column is not None}
    chosen |= {word: word for word in OWN if word not in chosen and word in raw}
    for column in chosen.values():
        raw.setdefault(column, [None] * len(rows))
    mapped = map_columns(raw, {"image": REFERENCE, **chosen}, None, "shards")
    products = zip(mapped["product_id"], references, strict=True)
    return mapped | {"product_id": [as_text(product) or ref for product, ref in products]}


class TarImages:
    """Images in uncompressed tar files, read in place; a reference is the shard's short name and the key.

    Args:
        places: Reference → path, offset and size in bytes of the encoded image.
    """

    def __init__(self, places: Mapping[str, tuple[str, int, int]]) -> None:
        self.places = places

    def read(self, ref: str) -> Image.Image:
        return decode(self.read_bytes(ref))

    def read_bytes(self, ref: str) -> bytes:
        """Return the encoded image. Raises OSError or ValueError as `read` does."""
        if ref not in self.places:
            raise FileNotFoundError(f"{ref} has no image")
        return _read_part(*self.places[ref])

    def identity(self, refs: list[str]) -> str:
        return "|".join(_stamp(Path(path)) for path in sorted({path for path, *_ in self.places.values()}))


def _read_part(path: str, offset: int, size: int) -> bytes:
    """Read a member of a tar. Raises ImageTooLargeError if it is larger than `MAX_BYTES`."""
    if size > MAX_BYTES:
        raise ImageTooLargeError(f"a file in {path} is larger than {MAX_BYTES:,} bytes")
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


@dataclass(frozen=True)
class Shards:
    """Catalogue of local shards, for validation and test, or for a training set on disk.

    Attributes:
        path: The shards; see `expand`.
        columns: Name in the catalogue → ``txt`` or a name in the JSON; see `to_catalogue`. The other values of the JSON
            become attributes.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: A shard is missing, not a local file, compressed, damaged, or has files of a key that are not
            adjacent; a column of ``columns`` is missing; or see `Catalogue.build`.
    """

    path: str | Sequence[str]
    columns: Mapping[str, str | None] = field(default_factory=lambda: {"text": TEXT})
    max_bad: BadRows | None = None

    def __call__(self) -> Catalogue:
        urls = expand(self.path, "data.catalogue.path", download=True)  # `_index` rejects URLs with a better message
        names = short_names(urls)
        rows: dict[str, Mapping[str, Any]] = {}
        problems: list[str | None] = []
        places: dict[str, tuple[str, int, int]] = {}
        for url in urls:
            for sample in _index(url):
                ref, suffix = f"{names[url]}/{sample['__key__']}", image_suffix(sample)
                if ref in rows:
                    raise ModisteError(
                        f"The shard {url} has the key {sample['__key__']} twice: the files of a key must be adjacent, "
                        "as in tar --sort=name."
                    )
                if suffix is not None:
                    places[ref] = (url, *sample[suffix])
                rows[ref], problem = _read_row(url, sample)
                problems.append(problem)
        check_columns(list(rows.values()), self.columns, (), f"data.catalogue.columns: {urls[0]}")
        columns = to_catalogue(list(rows.values()), list(rows), self.columns)
        card = Card("shards", title=Path(urls[0]).name)
        return Catalogue.build(card, columns, TarImages(places), self.max_bad, problems)


def _read_row(url: str, sample: Sample) -> tuple[dict[str, Any], str | None]:
    """The columns of a sample of `_index`, and the problem with them or None."""
    try:
        return read_columns({s: _read_part(url, *sample[s]) for s in (TEXT, COLUMNS) if s in sample}), None
    except ValueError:
        return {}, UNREADABLE_COLUMNS


def _index(url: str) -> Iterator[Sample]:
    """The samples of a shard, with (offset, size) instead of the content of files."""
    library()
    from webdataset.tariterators import group_by_keys

    if not is_local(url):
        raise ModisteError(
            f"data.catalogue.path: {url} is not a local file: download it for random access; data.stream "
            "reads remote shards."
        )
    try:
        with tarfile.open(url, "r:") as tar:
            files = [
                {"fname": member.name, "data": (member.offset_data, member.size), "__url__": url}
                for member in tar
                if _is_wanted(member)
            ]
        yield from group_by_keys(files)
    except (tarfile.TarError, ValueError, EOFError, zlib.error) as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise ModisteError(
            f"The shard {url} cannot be read ({reason}): download it again; it must be an uncompressed tar without "
            "duplicate names."
        ) from error


def check_columns(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str | None], named: Sequence[str], where: str
) -> None:
    """Raise ModisteError if all rows lack a column of ``columns``, or the catalogue one of ``named``.

    >>> check_columns([{"title": "a hat"}], {"text": "titel"}, [], "data.catalogue.columns: 0.tar")
    Traceback (most recent call last):
    modiste.errors.ModisteError: data.catalogue.columns: 0.tar has no column 'titel' for text. Did you mean 'title'?
    """
    present = {name for row in rows for name in row}
    for word, column in columns.items():
        if column is not None and column not in present:
            raise ModisteError(f"{where} has no column '{column}' for {word}. {did_you_mean(column, present)}")
    known = set(to_catalogue(rows, [str(i) for i in range(len(rows))], columns)) if named else set()
    for name in named:
        if name not in known:
            raise ModisteError(f"{where} has no column '{name}'. {did_you_mean(name, known)}")


def write(catalogue: Catalogue, folder: Path, shard_rows: int = 4096, progress: Progress = silent) -> int:
    """Write a catalogue as shards, a series per split (``train-00000.tar``, …); resumes if interrupted.

    A sample consists of the unchanged image file (PNG for images that are not files), the text as ``txt``, and
    ``product_id``, ``split`` and the attributes as ``json``. The rows of a split are shuffled deterministically, since
    a stream shuffles only within its buffer.

    Args:
        catalogue: All rows are written; rows without a split form the series ``all``.
        folder: Output folder; complete existing shards are reused.
        shard_rows: Samples per shard.
        progress: `modiste.utils.progress.progress_bar` or `silent`.

    Returns:
        The number of shards written.

    Raises:
        ModisteError: The folder holds other data, or the name of a split has characters other than letters, digits,
            - and _.

    >>> from tempfile import TemporaryDirectory
    >>> from modiste.data.synthetic import Synthetic
    >>> with TemporaryDirectory() as folder:
    ...     write(Synthetic(products=3, views=1, size=16)(), Path(folder), shard_rows=2)
    ...     len(Shards(f"{folder}/all-{{00000..00001}}.tar")())
    2
    3
    """
    from modiste.data.storage.preprocessed import write_parts

    library()
    splits = np.array(catalogue.column("split"))
    for split in catalogue.splits:  # untrusted, and becomes part of file names and patterns
        if split and not WORD.fullmatch(split):
            raise ModisteError(f"The split '{split}' cannot name shards: use letters, digits, - and _ for splits.")
    parts: dict[str, Sequence[int]] = {}
    for split in catalogue.splits:
        rows = np.random.default_rng(0).permutation(np.flatnonzero(splits == split)).tolist()
        for index, start in enumerate(range(0, len(rows), shard_rows)):
            parts[f"{split or 'all'}-{index:05}.tar"] = rows[start : start + shard_rows]
    manifest = {
        "format": FORMAT, "fingerprint": catalogue.fingerprint(), "shard_rows": shard_rows,
        "card": asdict(catalogue.card), "report": asdict(catalogue.report),
    }  # fmt: skip
    return write_parts(folder, manifest, parts, partial(_write_tar, catalogue), lambda: None, progress)


def _write_tar(catalogue: Catalogue, rows: Sequence[int], path: Path) -> int:
    from webdataset.writer import TarWriter

    part = catalogue.select(rows=rows)
    names = [*OWN, *part.attributes]
    columns = [part.column(name) for name in names]
    # Modification times would change the checksum of an otherwise equal shard.
    with path.open("wb") as file, TarWriter(file, encoder=False, mtime=0) as tar:
        for index, text in enumerate(part.column("text")):
            cells = {name: column[index] for name, column in zip(names, columns, strict=True)}
            suffix, image = _encoded(part, index)
            sample = {suffix: image, TEXT: text.encode(), COLUMNS: json.dumps(cells, ensure_ascii=False).encode()}
            tar.write({"__key__": f"{rows[index]:09}", **sample})
    return len(part)


def _encoded(catalogue: Catalogue, i: int) -> tuple[str, bytes]:
    """Suffix and content of a row's image file."""
    if isinstance(catalogue.images, EncodedSource):
        data = catalogue.images.read_bytes(catalogue.reference(i))
        kind = image_format(data)
        return {"JPEG": "jpg", "MPO": "jpg"}.get(kind, kind.lower()), data
    buffer = io.BytesIO()
    catalogue.read_image(i).save(buffer, "PNG")
    return "png", buffer.getvalue()
