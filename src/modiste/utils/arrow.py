"""Safe reading of untrusted Arrow and Parquet files.

pyarrow instantiates the extension types that a file names if any package has registered them, and Ray's unpickle data.
pyarrow has no option to prevent this, and even `pyarrow.parquet.read_metadata` does it. So this module reads all files,
and refuses extension types beforehand, and small files that decode into large tables.
"""

from __future__ import annotations

import base64
import secrets
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from modiste.utils import arrow_sizes, parquet_pages

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

EXTENSION = b"ARROW:extension:name"
"""Key in a column's metadata that makes its type an extension type, in Arrow and Parquet alike."""
SCHEMA = b"ARROW:schema"
"""Key in a Parquet footer of the Arrow schema that pyarrow restores."""

FREE, RATIO = 256 * 2**20, 200
"""A file may decode into `FREE` bytes, or `RATIO` times its size: ten million rows of 20 categories take 80 times."""
BATCH, ROWS = 256 * 2**20, 2**16
"""Limits on the bytes and rows that are decoded at a time to measure a column of Parquet."""


def read_table(path: Path) -> pa.Table:
    """Read a table in Arrow's file or stream format, memory-mapped and validated.

    Without validation, offsets beyond the end of the file would read arbitrary memory. Validation reads offsets,
    indices and text, but no binary values: 3 ms for 44,000 rows of eight text columns.

    Raises:
        ValueError: The file is damaged (offsets or indices out of bounds, text that is not UTF-8), has extension types,
            run ends, list views or unions, or decodes into too much (see `RATIO`).

    >>> import pyarrow as pa
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "rows.arrow")
    ...     with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.schema({"n": pa.int64()})) as file:
    ...         file.write_table(pa.table({"n": [1, 2]}))
    ...     read_table(path).column("n").to_pylist()
    [1, 2]
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            _check_types(_schemas(source), path)
            _check_size(chain.from_iterable(map(arrow_sizes.unpacked, _messages(source))), path)
            source.seek(0)
            try:
                reader = pa.ipc.open_stream(source)
            except pa.ArrowInvalid:
                reader = pa.ipc.open_file(source)
            table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, struct.error, EOFError) as error:
        raise ValueError(f"'{path}' is damaged: {' '.join(str(error).split())}") from error
    _check_size((arrow_sizes.written_out(chunk) for column in table.columns for chunk in column.chunks), path)
    return table


def read_parquet(path: Path) -> pa.Table:
    """Read a table from a Parquet file.

    Raises:
        ValueError: The file is damaged, has extension types, or decodes into too much (see `RATIO`).
    """
    import pyarrow.parquet as pq

    read_parquet_schema(path)
    return pq.read_table(path)


def read_parquet_schema(path: Path) -> pa.Schema:
    """Read the schema of a Parquet file, so that another library may read the file. Raises as `read_parquet`."""
    import pyarrow.parquet as pq

    _check_types([_stored_schema(path)], path)
    _check_pages(path)
    return pq.read_schema(path)


def _check_pages(path: Path) -> None:
    """Check the sizes of the columns of a Parquet file: their bounds, and what exceeds them is measured."""
    try:
        bounds = parquet_pages.bounds(path)
    except ValueError as error:
        raise ValueError(f"'{path}' is damaged: {error}") from error
    _check_size((bound.stored for bound in bounds), path)
    if sum(bound.decoded for bound in bounds) > _most(path):
        _check_size(_measured(path, bounds), path)


def _measured(path: Path, bounds: Sequence[parquet_pages.Bound]) -> Iterator[int]:
    """Yield the sizes of the values of a Parquet file, of which at most `BATCH` bytes are decoded at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for bound in bounds:
            if bound.decoded == bound.stored:  # no value repeats another
                yield bound.stored
                continue
            one = next(_batches(file, bound, 1), None)
            kinds = [] if one is None else one.schema.types
            keeps_dictionary = all(map(arrow_sizes.is_dictionary, kinds)) and not bound.prefixed
            rows = ROWS if keeps_dictionary else max(1, min(BATCH // bound.longest, ROWS))
            for batch in _batches(file, bound, rows):
                yield sum(map(arrow_sizes.written_out, batch.columns))


def _batches(file: pq.ParquetFile, bound: parquet_pages.Bound, rows: int) -> Iterator[pa.RecordBatch]:
    # By number, since names may occur twice.
    yield from file.reader.iter_batches(rows, [bound.row_group], [bound.column], use_threads=False)


def _most(path: Path) -> int:
    return max(FREE, RATIO * path.stat().st_size)


def _check_size(sizes: Iterable[int], path: Path) -> None:
    """Raise ValueError as soon as the sum of sizes in bytes is over the limit for a file."""
    total, most = 0, _most(path)
    for size in sizes:
        total += size
        if total > most:
            raise ValueError(
                f"'{path}' decodes into more than {most:,} bytes: save it uncompressed and without dictionaries"
            )


def _stored_schema(path: Path) -> bytes:
    """Return the serialized Arrow schema in the footer of a Parquet file.

    pyarrow parses a copy of the footer in which the schema's key is renamed, so that no type is instantiated.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - 8, 0))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(size - 8 - length, 0))
        footer = file.read()
    if footer.count(SCHEMA) > 1:
        raise ValueError(f"'{path}' is damaged: its footer has several schemas")
    name = secrets.token_hex(len(SCHEMA) // 2).encode()
    try:
        metadata = pq.read_metadata(pa.BufferReader(footer.replace(SCHEMA, name))).metadata or {}
        return base64.b64decode(metadata.get(name, b""), validate=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"'{path}' is damaged: {' '.join(str(error).split())}") from error


def _schemas(source: pa.NativeFile) -> Iterator[bytes]:
    """Yield the serialized schemas of an Arrow file: those that readers of the stream and file format would find."""
    import pyarrow as pa

    with suppress(pa.ArrowException, OSError, EOFError):
        yield pa.ipc.read_message(source).metadata.to_pybytes()
    yield _footer(source)


def _messages(source: pa.NativeFile) -> Iterator[pa.Message]:
    """Yield the messages of an Arrow file: those that readers of the stream and file format would find."""
    import pyarrow as pa

    source.seek(0)
    with suppress(StopIteration, pa.ArrowException, OSError):
        stream = pa.ipc.MessageReader.open_stream(source)
        while True:
            yield stream.read_next_message()
    footer = _footer(source)
    for offset in arrow_sizes.blocks(footer) if footer else ():
        source.seek(offset)
        yield pa.ipc.read_message(source)


def _footer(source: pa.NativeFile) -> bytes:
    """Return the footer of Arrow's file format and what follows it, or b""."""
    size = source.size()
    source.seek(max(size - 10, 0))
    length, mark = int.from_bytes(source.read(4), "little"), source.read()
    if mark != b"ARROW1":
        return b""
    source.seek(max(size - 10 - length, 0))
    return bytes(source.read())


def _check_types(schemas: Iterable[bytes], path: Path) -> None:
    if any(EXTENSION in schema for schema in schemas):
        raise ValueError(f"'{path}' has columns of extension types, which may run code: save them as plain types")
