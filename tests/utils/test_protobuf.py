"""Messages of protobuf that readers understand differently."""

import pytest

from modiste.utils.protobuf import fields

MINUS_ONE = b"\xff" * 9 + b"\x01"
REFUSED = {
    "a tag of 33 bits": b"\xba\x80\x80\x80\x10\x00",
    "a tag of six bytes": b"\xba\x80\x80\x80\x80\x00\x00",
    "field 0": b"\x02\x00",
    "the end": b"\x00",
    "a group": b"\x0b\x0c",
    "the end of a group": b"\x0c",
    "a reserved type": b"\x0e\x00",
    "another reserved type": b"\x0f\x00",
    "a size of 2 GiB": b"\x0a\x80\x80\x80\x80\x08",
    "a size of 64 bits": b"\x0a" + MINUS_ONE,
    "a number of 71 bits": b"\x08" + b"\xff" * 10 + b"\x00",
    "a number of 66 bits": b"\x08" + b"\xff" * 9 + b"\x02",
    "a number that is cut": b"\x08\xff",
    "a content that is cut": b"\x0a\x02a",
}


@pytest.mark.parametrize("message", REFUSED.values(), ids=REFUSED)
def test_what_no_writer_makes_is_refused(message):
    with pytest.raises(ValueError, match="it is"):
        list(fields(message))


def test_the_largest_that_are_written():
    largest = b"\xf8\xff\xff\xff\x0f"
    assert list(fields(largest + MINUS_ONE + b"\x0d1234" + b"\x09" + bytes(8))) == [
        (2**29 - 1, None),
        (1, None),
        (1, None),
    ]
