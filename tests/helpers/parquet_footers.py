"""Footers of Parquet files that say the same in ways that no writer uses."""

from __future__ import annotations

from pathlib import Path

KEY = b"ARROW:schema"


def rewrite(path: Path, order: str) -> None:
    """Write the entry of Arrow's schema, a struct in Thrift's compact protocol, in another way.

    Args:
        path: A file of pyarrow's.
        order: ``value first``, or ``unknown field`` for one between the key and the value.
    """
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    rows, footer = content[: -8 - length], content[-8 - length : -8]
    key = bytes([len(KEY)]) + KEY
    start = footer.index(b"\x18" + key + b"\x18")
    value = start + len(key) + 2
    end = value + 1
    while footer[end - 1] & 128:
        end += 1
    size = sum((byte & 127) << 7 * i for i, byte in enumerate(footer[value:end]))
    end += size
    text = footer[value:end]
    entry = {
        "value first": b"\x28" + text + b"\x08\x02" + key,
        "unknown field": b"\x18" + key + b"\x48\x40" + b"!" * 64 + b"\x08\x04" + text,
    }[order]
    footer = footer[:start] + entry + footer[end:]
    path.write_bytes(rows + footer + len(footer).to_bytes(4, "little") + b"PAR1")
