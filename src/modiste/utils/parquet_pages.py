"""Headers of the pages of Parquet files, which say how much each decodes into, before pyarrow decodes any.

A footer may say anything of the sizes, and one with unexpected statistics ends the process if pyarrow is asked for the
columns of a row group. So footers are parsed here, too. Format: parquet.thrift of https://github.com/apache/parquet-format
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DICTIONARY_PAGE = 2
DICTIONARY_ENCODINGS, PREFIX_ENCODING = (2, 8), 7
"""Encodings whose values refer to a dictionary, and to the beginning of the value before."""
WIDTH = 8
"""Bytes of a number, or of an offset with its levels and validity."""
STOP, STRUCT, BINARY, LISTS, INTEGERS, FIXED = 0, 12, 8, (9, 10), (4, 5, 6), {1: 0, 2: 0, 3: 1, 7: 8}
"""Types of Thrift's compact protocol; the last are of so many bytes."""
DEPTH = 16
"""A footer has ten levels of structs and lists."""
Fields = dict[int, Any]
"""A struct: its integers by field, its structs and lists by -field."""


@dataclass(frozen=True)
class Bound:
    """Upper bounds on a column of a row group, in bytes.

    Attributes:
        row_group: Number of the row group.
        column: Number of the column.
        stored: Its decompressed pages, offsets and numbers.
        longest: One value.
        decoded: All values.
        prefixed: Whether values repeat the beginnings of others.
    """

    row_group: int
    column: int
    stored: int
    longest: int
    decoded: int
    prefixed: bool


def bounds(path: Path) -> list[Bound]:
    """Return the bounds of every column of every row group of a file.

    Raises:
        ValueError: A header is malformed or lies outside the file.

    >>> import pyarrow as pa, pyarrow.parquet as pq
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     pq.write_table(pa.table({"text": ["a hat"] * 100}), Path(folder, "rows.parquet"))
    ...     bounds(Path(folder, "rows.parquet"))
    [Bound(row_group=0, column=0, stored=828, longest=11, decoded=1728, prefixed=False)]
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            footer, _ = _struct(data, len(data) - 8 - int.from_bytes(data[-8:-4], "little"))
            return [
                _bound(data, number, place, column[-3])
                for number, group in enumerate(footer[-4])
                for place, column in enumerate(group[-1])
            ]
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise ValueError("the header of a page is cut short or malformed") from error


def _bound(data: mmap.mmap, group: int, column: int, chunk: Fields) -> Bound:
    stored = longest = decoded = dictionary = 0
    prefixed = False
    for header in _headers(data, chunk):
        size, (count, encoding) = header[2], _values(header)
        if header[1] == DICTIONARY_PAGE:
            dictionary = max(dictionary, size)
        repeated = dictionary if encoding in DICTIONARY_ENCODINGS else size if encoding == PREFIX_ENCODING else 0
        stored += size + count * WIDTH
        decoded += size + count * (WIDTH + repeated)
        longest = max(longest, size)
        prefixed |= encoding == PREFIX_ENCODING
    return Bound(group, column, stored, longest, decoded, prefixed)


def _headers(data: mmap.mmap, chunk: Fields) -> Iterator[Fields]:
    """Yield the headers of the pages of a column that pyarrow reads."""
    left, start, dictionary = chunk[5], chunk[9], chunk.get(11, 0)
    if 0 < dictionary < start:
        start = dictionary
    while left > 0:
        header, start = _struct(data, start)
        if min(header[2], header[3]) < 0:
            raise ValueError("a page has a negative size")
        yield header
        start += header[3]
        left -= 0 if header[1] == DICTIONARY_PAGE else _values(header)[0]


def _values(header: Fields) -> tuple[int, int]:
    """Number of values and encoding of a page; (0, -1) for a page of an index."""
    fields, encoding = (header[-8], 4) if -8 in header else (header.get(-5) or header.get(-7) or {}, 2)
    return max(fields.get(1, 0), 0), fields.get(encoding, -1)


def _struct(data: mmap.mmap, at: int, depth: int = DEPTH) -> tuple[Fields, int]:
    """Read a struct in Thrift's compact protocol; return its fields and its end."""
    if at < 0 or not depth:
        raise ValueError("a header lies outside the file, or is nested too deeply")
    fields: Fields = {}
    field = 0
    while data[at] != STOP:
        step, kind = divmod(data[at], 16)
        field, at = (field + step, at + 1) if step else _zigzag(data, at + 1)
        if field < 1:
            raise ValueError("a header has a field without a number")
        value, at = _value(data, at, kind, depth - 1)
        if isinstance(value, dict):
            value = {**fields.get(-field, {}), **value}  # Thrift adds a second struct to the first
        if value is not None:
            fields[field if kind in INTEGERS else -field] = value
    return fields, at + 1


def _value(data: mmap.mmap, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """Read a value; return it, or None for text, bytes, truth values and fractions, and its end."""
    if kind in INTEGERS:
        return _zigzag(data, at)
    if kind == STRUCT:
        return _struct(data, at, depth)
    if kind in LISTS and depth:
        return _list(data, at, depth - 1)
    if kind == BINARY:
        length, at = _varint(data, at)
        return None, at + length
    if kind in FIXED:
        return None, at + FIXED[kind]
    raise ValueError("a header has a field of a type that Parquet does not use")


def _list(data: mmap.mmap, at: int, depth: int) -> tuple[list[Any], int]:
    count, kind = divmod(data[at], 16)
    count, at = _varint(data, at + 1) if count == 15 else (count, at + 1)
    kind = 3 if kind in (1, 2) else kind  # truth values take a byte in lists, and none in structs
    values = []
    for _ in range(count):
        value, at = _value(data, at, kind, depth)
        values.append(value)
    return values, at


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        value |= (data[at + place] & 127) << (7 * place)
        if data[at + place] < 128:
            return value, at + place + 1
    raise ValueError("a header has a number of more than 64 bits")


def _zigzag(data: mmap.mmap, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at
