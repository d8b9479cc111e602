"""Messages of protobuf, as far as what they lead to has to be checked before a library reads them."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
SIZES = {FIXED64: 8, FIXED32: 4}
MAX_TAG, MAX_SIZE, MAX_NUMBER = 2**32 - 1, 2**31 - 1, 2**64 - 1


def fields(message: bytes | memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Number and content of a message's fields, in their order; None for the content of a number.

    Readers differ in what they make of a tag of more than 32 bits (C++ drops the upper ones), of the tag 0 and of
    groups. No writer makes them, so they are refused: what is a field here is the same field to any reader.

    Raises:
        ValueError: It is none, or cut short.

    >>> [(number, content and bytes(content)) for number, content in fields(bytes([8, 150, 1, 146, 1, 2, 97, 98]))]
    [(1, None), (18, b'ab')]
    """
    message = memoryview(message)
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at, MAX_TAG)
        number, kind = divmod(tag, 8)
        if not number or kind not in (VARINT, BYTES, *SIZES):
            raise ValueError("it is no message of protobuf")
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
    """A number of 7 bits per byte, lowest first, and where it ends. Raises ValueError above ``most``."""
    value = shift = 0
    while at < len(message) and most >> shift:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            if value > most:
                raise ValueError("it is no message of protobuf")
            return value, at
    raise ValueError("it is truncated or no message of protobuf")
