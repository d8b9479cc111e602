"""Safe reading of untrusted Arrow and Parquet files.

pyarrow instantiates the extension types that a file names if any package has registered them, and Ray's unpickle data.
pyarrow has no option to prevent this, and even `pyarrow.parquet.read_metadata` does it. So this module reads all files,
and refuses extension types beforehand.
"""

from __future__ import annotations

import base64
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

EXTENSION = b"ARROW:extension:name"
"""Key in a column's metadata that makes its type an extension type, in Arrow and Parquet alike."""
SCHEMA = b"ARROW:schema"
"""Key in a Parquet footer of the Arrow schema that pyarrow restores."""


def spare_pandas() -> None:
    """Hide pandas from pyarrow, which would spend a second importing it at the first conversion."""
    import pyarrow

    sys.meta_path.insert(0, _NoPandas)
    try:
        pyarrow.array([0])  # pyarrow looks for pandas only once
    finally:
        sys.meta_path.remove(_NoPandas)


class _NoPandas:
    """An import hook that hides pandas."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ImportError(name)


def read_table(path: Path) -> pa.Table:
    """Read a table in Arrow's file or stream format, memory-mapped and validated.

    Without validation, offsets beyond the end of the file would read arbitrary memory. Validation reads offsets,
    indices and text, but no binary values: 3 ms for 44,000 rows of eight text columns.

    Raises:
        ValueError: The file is damaged (offsets or indices out of bounds, text that is not UTF-8), or has extension
            types.

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
            source.seek(0)
            try:
                reader = pa.ipc.open_stream(source)
            except pa.ArrowInvalid:
                reader = pa.ipc.open_file(source)
            table = reader.read_all()
        table.validate(full=True)
    except pa.ArrowException as error:
        raise ValueError(f"'{path}' is damaged: {' '.join(str(error).split())}") from error
    return table


def read_parquet(path: Path) -> pa.Table:
    """Read a table from a Parquet file.

    Raises:
        ValueError: The file is damaged, or has extension types.
    """
    import pyarrow.parquet as pq

    _check_types([_stored_schema(path)], path)
    return pq.read_table(path)


def read_parquet_schema(path: Path) -> pa.Schema:
    """Read a Parquet file's schema, so that another library may read the file. Raises as `read_parquet`."""
    import pyarrow.parquet as pq

    _check_types([_stored_schema(path)], path)
    return pq.read_schema(path)


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
    """Yield the serialized schemas that readers of the stream and file format find in an Arrow file."""
    import pyarrow as pa

    with suppress(pa.ArrowException, OSError, EOFError):
        yield pa.ipc.read_message(source).metadata.to_pybytes()
    size = source.size()
    source.seek(max(size - 10, 0))
    length, mark = int.from_bytes(source.read(4), "little"), source.read()
    if mark == b"ARROW1":
        source.seek(max(size - 10 - length, 0))
        yield source.read()


def _check_types(schemas: Iterable[bytes], path: Path) -> None:
    if any(EXTENSION in schema for schema in schemas):
        raise ValueError(f"'{path}' has columns of extension types, which may run code: save them as plain types")
