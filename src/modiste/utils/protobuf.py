"""Messages of protobuf, as far as what they lead to has to be checked before a library reads them."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
SIZES = {FIXED64: 8, FIXED32: 4}


def fields(message: bytes | memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Number and content of a message's fields, in their order; None for the content of a number.

    Raises:
        ValueError: It is none, or cut short.

    >>> [(number, content and bytes(content)) for number, content in fields(bytes([8, 150, 1, 146, 1, 2, 97, 98]))]
    [(1, None), (18, b'ab')]
    """
    message = memoryview(message)
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, kind = divmod(tag, 8)
        if kind == VARINT:
            _, at = _varint(message, at)
            yield number, None
            continue
        if kind == BYTES:
            size, at = _varint(message, at)
        elif kind in SIZES:
            size = SIZES[kind]
        else:
            raise ValueError("it is no message of protobuf")
        if size > end - at:
            raise ValueError("it is truncated")
        yield number, message[at : at + size] if kind == BYTES else None
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits per byte, lowest first, and where it ends."""
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
    raise ValueError("it is truncated")
