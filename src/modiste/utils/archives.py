"""Untrusted zip archives, whose unpacked size is checked before they are read."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np

LIMIT = 2**30
"""Limit on the unpacked bytes of a ``.npz``: enough for 10 million queries with 13 metrics each."""
BROKEN = (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError)
"""Errors that `zipfile` raises for a damaged archive."""


def check_stored(path: Path) -> None:
    """Check that a ``torch.save`` file does not unpack into more than its size: torch never compresses.

    Args:
        path: A file. It passes if it is not a zip archive, as with old versions of torch.

    Raises:
        ValueError: A member is compressed, members overlap, or the archive does not begin at the first byte or end as
            torch ends it, so that another reader might read other content.
    """
    with path.open("rb") as opened:
        begins = opened.read(4) == b"PK\x03\x04"  # which is what torch judges by
        if not begins and not zipfile.is_zipfile(path):
            return
        if not begins:
            raise ValueError("it is an archive behind something else")
        _check_end(opened, path.stat().st_size)
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("it is compressed, which torch.save never does")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("it unpacks into more than its size")


def _check_end(opened: BinaryIO, size: int) -> None:
    """Check that every reader finds the same central directory, directly before the end of the archive.

    Readers differ in how far back they search for the end record (a comment may follow it), and in whether they take
    the directory's position from it or from the zip64 record, which torch always writes.
    """
    tail_size = min(size, 22 + 20 + 56)
    opened.seek(size - tail_size)
    tail = opened.read(tail_size)
    end, locator, record = tail[-22:], tail[-42:-22], tail[-98:-42]
    if len(end) < 22 or end[:4] != b"PK\x05\x06" or end[-2:] != b"\0\0":
        raise ValueError("it does not end as an archive of torch does")
    members, length, start = struct.unpack("<HII", end[10:20])
    place = size - 22
    if locator[:4] == b"PK\x06\x07":
        place -= 76
        if record[:4] != b"PK\x06\x06" or struct.unpack("<Q", locator[8:16])[0] != place:
            raise ValueError("it has two central directories")
        big = struct.unpack("<QQQ", record[32:56])
        for value, most, own in zip((members, length, start), (2**16 - 1, 2**32 - 1, 2**32 - 1), big, strict=True):
            if value not in (own, most):
                raise ValueError("it has two central directories")
        members, length, start = big
    if start + length != place:
        raise ValueError("it has two central directories")


def read_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read the arrays of a ``.npz`` by name, without pickles.

    Raises:
        ValueError: The file is missing, not a regular file, damaged, or unpacks into more than `LIMIT` bytes.

    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> with TemporaryDirectory() as folder:
    ...     np.savez_compressed(Path(folder, "values.npz"), rank=np.array([1, 2]))
    ...     read_npz(Path(folder, "values.npz"))
    {'rank': array([1, 2])}
    """
    if not path.is_file():
        raise ValueError("it is not a regular file")
    try:
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
            size = sum(member.file_size for member in members)
            if size > LIMIT:
                raise ValueError(f"it unpacks into {size / 2**30:,.1f} GiB: the limit is {LIMIT / 2**30:.0f} GiB")
            return {member.filename.removesuffix(".npy"): _array(file.read(member)) for member in members}
    except (*BROKEN, MemoryError) as error:
        raise ValueError(str(error)) from error


def _array(content: bytes) -> np.ndarray[Any, Any]:
    """Read a ``.npy`` array. Raises ValueError if its header does not match the content's size."""
    from numpy.lib import format

    stream = io.BytesIO(content)
    version = format.read_magic(stream)
    read_header = format.read_array_header_1_0 if version == (1, 0) else format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if not dtype.itemsize or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError("an array's header does not fit its content")
    stream.seek(0)
    return format.read_array(stream, allow_pickle=False)
