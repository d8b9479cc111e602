"""A minimal, strict parser of protobuf messages, for checks before a library reads them."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
SIZES = {FIXED64: 8, FIXED32: 4}
MAX_TAG, MAX_SIZE, MAX_NUMBER = 2**32 - 1, 2**31 - 1, 2**64 - 1


def fields(message: bytes | memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Yield (field number, content) of a message, in order; the content of numeric fields is None.

    Parsers disagree on tags of more than 32 bits (C++ drops the upper bits), on tag 0 and on groups. No writer emits
    them, so they are refused: every parser then sees the same fields.

    Raises:
        ValueError: ``message`` is not a protobuf message, or is truncated.

    >>> [(number, content and bytes(content)) for number, content in fields(bytes([8, 150, 1, 146, 1, 2, 97, 98]))]
    [(1, None), (18, b'ab')]
    """
    message = memoryview(message)
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at, MAX_TAG)
        number, kind = divmod(tag, 8)
        if not number or kind not in (VARINT, BYTES, *SIZES):
            raise ValueError("it is not a protobuf message")
        if kind == VARINT:
            _, at = _varint(message, at, MAX_NUMBER)
            yield number, None
            continue
        size, at = _varint(message, at, MAX_SIZE) if kind == BYTES else (SIZES[kind], at)
        if size > end - at:
            raise ValueError("it is truncated")
        yield number, message[at : at + size] if kind == BYTES else None
        at += size


def _varint(message: memoryview, at: int, most: int) -> tuple[int, int]:
    """Read a base-128 varint; return it and the next position. Raises ValueError if it is above ``most``."""
    value = shift = 0
    while at < len(message) and most >> shift:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            if value > most:
                raise ValueError("it is not a protobuf message")
            return value, at
    raise ValueError("it is truncated or not a protobuf message")
