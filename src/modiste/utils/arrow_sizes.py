"""Sizes that Arrow files decompress into, before pyarrow decompresses any, and of arrays with repeated values.

Format: Message.fbs and File.fbs of https://github.com/apache/arrow/tree/main/format; metadata are FlatBuffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

DICTIONARY_BATCH, RECORD_BATCH = 2, 3
WIDTH = 8
"""Bytes of a number, or of an index into a dictionary."""


def blocks(footer: bytes) -> Iterator[int]:
    """Yield the offsets of the messages that the footer of Arrow's file format lists.

    Raises:
        struct.error: The footer is malformed.
    """
    root = _Table(footer, struct.unpack_from("<I", footer)[0])
    for field in (2, 3):
        yield from (struct.unpack_from("<q", footer, at)[0] for at in root.vector(field, 24))


def unpacked(message: pa.Message) -> Iterator[int]:
    """Yield the decompressed size in bytes of each compressed buffer of a message of Arrow's stream or file format.

    Raises:
        struct.error: The message's metadata are malformed.
    """
    metadata, body = message.metadata.to_pybytes(), message.body
    root = _Table(metadata, struct.unpack_from("<I", metadata)[0])
    kind, batch = root.byte(1), root.table(2)
    if batch is not None and kind == DICTIONARY_BATCH:
        batch = batch.table(1)
    if kind not in (DICTIONARY_BATCH, RECORD_BATCH) or batch is None or batch.table(3) is None:
        return
    for at in batch.vector(2, 16):
        offset, length = struct.unpack_from("<qq", metadata, at)
        if length >= 8 and 0 <= offset <= len(body) - 8:  # pyarrow refuses others
            yield max(struct.unpack("<q", body[offset : offset + 8])[0], 0)


class _Table:
    """A table of a FlatBuffer, whose fields are numbered."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.fields = at - struct.unpack_from("<i", data, at)[0]

    def _place(self, field: int) -> int:
        """Position of a field, 0 if it is missing."""
        if 6 + 2 * field > struct.unpack_from("<H", self.data, self.fields)[0]:
            return 0
        offset: int = struct.unpack_from("<H", self.data, self.fields + 4 + 2 * field)[0]
        return offset and self.at + offset

    def _target(self, field: int) -> int:
        """Position that a field refers to, 0 if it is missing."""
        place = self._place(field)
        target: int = place and place + struct.unpack_from("<I", self.data, place)[0]
        return target

    def byte(self, field: int) -> int:
        place = self._place(field)
        value: int = struct.unpack_from("B", self.data, place)[0] if place else 0
        return value

    def table(self, field: int) -> _Table | None:
        target = self._target(field)
        return _Table(self.data, target) if target else None

    def vector(self, field: int, width: int) -> range:
        """Positions of the elements of a vector of structs of ``width`` bytes."""
        target = self._target(field)
        count = struct.unpack_from("<I", self.data, target)[0] if target else 0
        return range(target + 4, target + 4 + width * count, width)


def written_out(array: pa.Array) -> int:
    """Size in bytes of a validated array, or a little more, with the values of dictionaries and views where they occur.

    Raises:
        ValueError: Its type has run ends, list views, unions or dictionaries of nested types: they may repeat values
            without limit.

    >>> import pyarrow as pa
    >>> array = pa.array(["a hat" * 100] * 1000).dictionary_encode()
    >>> array.nbytes, written_out(array)
    (4504, 508000)
    """
    import pyarrow as pa

    kind = array.type
    own = max(array.nbytes, len(array))
    if pa.types.is_dictionary(kind) and not pa.types.is_nested(kind.value_type):
        return WIDTH * len(array) + _sum(_lengths(array.dictionary).take(array.indices))
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return own + _sum(_lengths(array))
    if pa.types.is_struct(kind):
        return own + sum(map(written_out, array.flatten()))
    if pa.types.is_map(kind):
        return own + written_out(array.keys) + written_out(array.items)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return own + written_out(array.flatten())
    if pa.types.is_nested(kind) or pa.types.is_dictionary(kind):
        raise ValueError(f"columns of type {kind} are not read: save them as plain types")
    return own


def is_dictionary(kind: pa.DataType) -> bool:
    """Whether the first column of plain values of a type is a dictionary."""
    import pyarrow as pa

    while pa.types.is_nested(kind) and kind.num_fields:
        kind = kind.field(0).type
    return pa.types.is_dictionary(kind)


def _lengths(values: pa.Array) -> Any:
    """Bytes of each value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):  # 16 bytes each, which begin with the length
        views = np.frombuffer(values.buffers()[1], np.int32)[4 * values.offset : 4 * (values.offset + len(values)) : 4]
        return pa.array(views.clip(0).astype(np.int64))
    sized = (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string, pa.types.is_large_binary)
    if any(test(kind) for test in (*sized, pa.types.is_fixed_size_binary)):
        return pc.binary_length(values).cast(pa.int64())
    return pa.array(np.full(len(values), WIDTH))


def _sum(lengths: Any) -> int:
    import pyarrow.compute as pc

    return pc.sum(lengths).as_py() or 0
