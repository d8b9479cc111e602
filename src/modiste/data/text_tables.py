"""Text tables as shops export them, with recognised encoding, delimiter, quoting and compression."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

from modiste.errors import ModisteError

Columns = dict[str, list[Any]]

DELIMITERS = (",", ";", "\t", "|")
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
BY_SUFFIX = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}
MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
"""Byte order mark → encoding, longer marks first."""
# Encodings of spreadsheets that do not save Unicode, likeliest first.
CODE_PAGES = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp932", "gb18030", "big5", "cp949", "mac_roman"]
MAX_TEXT = 4 * 2**30
"""Maximum size of a decompressed table in bytes."""
FREE_TEXT, MAX_RATIO = 64 * 2**20, 100
"""A table that decompresses to more bytes than `FREE_TEXT` may have this many times its compressed size."""
FREE_CELLS, MAX_EMPTY = 4_000_000, 100
"""A table of more cells than `FREE_CELLS` may have this many times the cells that have a value."""
SAMPLE = 2**18
"""Number of bytes or characters that decide the encoding and the delimiter."""


@dataclass(frozen=True)
class TextFormat:
    """Format of a text table.

    Attributes:
        encoding: A Python codec.
        delimiter: One character that separates cells.
        quoted: Whether ``"`` quotes cells; otherwise it is an ordinary character.
        compression: ``gzip``, ``bzip2``, ``xz``, ``zip`` or "".
        lines: Line number, from 1, at which each row begins in the file.

    >>> str(TextFormat("cp1252", ";"))
    'cp1252, cells separated by semicolons'
    """

    encoding: str = "utf-8"
    delimiter: str = ","
    quoted: bool = True
    compression: str = ""
    lines: Sequence[int] = field(default=(), repr=False, compare=False)

    def __str__(self) -> str:
        parts = [self.encoding, f"cells separated by {NAMES.get(self.delimiter, repr(self.delimiter))}"]
        parts += [] if self.quoted else ["quotes taken literally"]
        return ", ".join(parts + [self.compression] * bool(self.compression))


def read_text(path: Path, encoding: str | None = None) -> tuple[str, TextFormat]:
    """Read a text file, decompressed and decoded, and return its format without the delimiter.

    Args:
        path: Any text file, plain, compressed with gzip, bzip2 or xz, or a zip file with one member.
        encoding: A Python codec; None: recognised.

    Raises:
        ValueError: The text is not in ``encoding`` or the recognised one, or too large decompressed (`read_unpacked`).
        OSError: The file cannot be read.
    """
    data = path.read_bytes()
    compression = next((name for magic, name in COMPRESSED.items() if data.startswith(magic)), "")
    if compression:
        data = _unpacked(data, compression)
    encoding = encoding or recognise_encoding(data)
    try:
        return data.decode(encoding), TextFormat(encoding, compression=compression)
    except LookupError:
        raise ValueError(f"encoding {encoding} is unknown: give a Python codec such as utf-8 or cp1252") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"line {line} is not {encoding} ({error.reason}): give data.catalogue.encoding, such as cp1252 or utf-16"
        ) from None


def recognise_encoding(data: bytes) -> str:
    """Return the encoding of a text: by byte order mark, else UTF-8 if valid, else a likely code page.

    >>> [recognise_encoding(text.encode(code)) for text, code in (("é", "utf-8"), ("a", "utf-16"), ("été €", "cp1252"))]
    ['utf-8', 'utf-16', 'cp1252']
    """
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            return encoding
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        if b"\x00" not in data[:SAMPLE]:
            return "utf-8"
    zeros = [data[start:SAMPLE:2].count(0) for start in (0, 1)]
    if max(zeros) > len(data[:SAMPLE]) / 8:  # every second byte of Latin text is zero
        return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    if _could_be_western(data):
        return "cp1252"
    from charset_normalizer import from_bytes

    found = from_bytes(data[:SAMPLE], cp_isolation=CODE_PAGES).best()
    return found.encoding if found is not None else "cp1252"


def _could_be_western(data: bytes) -> bool:
    """Whether a western European code page is plausible: nearly all non-ASCII characters are common there."""
    try:
        text = data[:SAMPLE].decode("cp1252")
    except UnicodeDecodeError:
        return False
    accents = [letter for letter in text if ord(letter) > 127]
    common = sum(letter in "àâäåæçèéêëìíîïñòóôöøœùúûüßÀÂÄÅÆÇÈÉÊÖØÜ€£°’‘“”–—…®©™½²³\xa0«»·" for letter in accents)
    return common >= 0.9 * len(accents)


def _unpacked(data: bytes, compression: str) -> bytes:
    if compression == "zip":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) != 1:
                raise ValueError(f"the zip file holds {len(members)} files: give one that contains only the table")
            return read_member(archive, members[0].filename)
    opener: Any = {"gzip": gzip.GzipFile, "bzip2": bz2.BZ2File, "xz": lzma.LZMAFile}[compression]
    argument = {"fileobj": io.BytesIO(data)} if compression == "gzip" else {"filename": io.BytesIO(data)}
    return read_unpacked(opener(**argument), len(data))


def read_unpacked(stream: IO[bytes], packed: int) -> bytes:
    """Read a decompressing stream to its end.

    Args:
        stream: The stream.
        packed: Number of compressed bytes.

    Raises:
        ValueError: It yields more than `MAX_TEXT` bytes, or more than `FREE_TEXT` and `MAX_RATIO` times ``packed``.

    >>> read_unpacked(io.BytesIO(b"a hat"), packed=1)
    b'a hat'
    """
    most = min(max(FREE_TEXT, MAX_RATIO * packed), MAX_TEXT)
    unpacked = stream.read(most + 1)
    if len(unpacked) > most:
        raise ValueError(f"its {packed:,} bytes decompress to more than {most:,}: decompress it first if you trust it")
    return unpacked


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a text of a zip file. Raises ValueError as `read_unpacked` does."""
    with archive.open(name) as stream:
        # The archive may claim any size; its directory stands behind all members.
        return read_unpacked(stream, min(archive.getinfo(name).compress_size, archive.start_dir))


def check_cells(rows: int, columns: int, filled: int) -> None:
    """Check that the cells of a table are in proportion to those that have a value.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        filled: Number of cells with a value.

    Raises:
        ModisteError: There are more than `FREE_CELLS`, and more than `MAX_EMPTY` times ``filled``.

    >>> check_cells(10_000, 10_000, filled=20_000)
    Traceback (most recent call last):
    modiste.errors.ModisteError: A table of 10,000 rows and 10,000 columns has only 20,000 cells with a value: remove \
rare columns.
    """
    if rows * columns > max(FREE_CELLS, MAX_EMPTY * filled):
        raise ModisteError(
            f"A table of {rows:,} rows and {columns:,} columns has only {filled:,} cells with a value: remove rare "
            "columns."
        )


def parse_table(
    text: str, known: TextFormat, delimiter: str | None = None, quoted: bool | None = None, suffix: str = ""
) -> tuple[Columns, TextFormat]:
    r"""Parse a text table with a header; return its columns and its complete format.

    Args:
        text: The whole table. Cells stay text: "NA" is "NA".
        known: The format that `read_text` returned.
        delimiter: One character, ``\t`` or ``tab``; None: recognised.
        quoted: Whether ``"`` quotes cells; None: recognised.
        suffix: Suffix of the file name, which decides the delimiter if the text does not.

    Raises:
        ValueError: The delimiter is not one character, a quote is never closed, a row has more cells than the header,
            or two columns have the same name.
        ModisteError: See `check_cells`.

    >>> parse_table("a;b\n1;2,5\n", TextFormat())[0]
    {'a': ['1'], 'b': ['2,5']}
    """
    first, _, rest = text.partition("\n")
    skipped = 0
    if re.fullmatch(r"sep=.\r?", first, re.IGNORECASE):  # how spreadsheets declare the delimiter
        delimiter, text, skipped = delimiter or first[4], rest, 1
    delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter or "", delimiter)
    if delimiter is not None and len(delimiter) != 1:
        raise ValueError(f"the delimiter '{delimiter}' is not one character")
    delimiter = delimiter or recognise_delimiter(text, suffix)
    records = _records(text, delimiter, quoted is not False)
    bad = _swallowing(records, delimiter) if quoted is not False else None
    if bad is not None and quoted is None:
        literal = _records(text, delimiter, False)
        if all(len(record.cells) == len(literal[0].cells) for record in literal):  # without quotes all rows fit
            records, bad, quoted = literal, None, False
    if bad is not None:
        raise ValueError(
            f"line {bad.line + skipped}: a quote is opened and never closed, so the following rows are lost: "
            "fix the cell, or set data.catalogue.quoting=none if quotes are literal characters"
        )
    lines = [record.line + skipped for record in records[1:]]
    return (
        _columns(records, delimiter, skipped),
        replace(known, delimiter=delimiter, quoted=quoted is not False, lines=lines),
    )


def recognise_delimiter(text: str, suffix: str = "") -> str:
    """Return the delimiter that splits the first rows consistently into the most cells.

    >>> recognise_delimiter('title;price\\n"a; b";2,5\\n'), recognise_delimiter("x", ".tsv")
    (';', '\\t')
    """
    usual = BY_SUFFIX.get(suffix, ",")
    sample = text[:SAMPLE]
    scores = {}
    for delimiter in sorted(DELIMITERS, key=lambda one: one != usual):
        widths = [len(record.cells) for record in _records(sample, delimiter, True)]
        if len(widths) > 2 and len(text) > SAMPLE:
            widths.pop()  # the sample may end within this row
        if widths and widths[0] > 1:
            scores[delimiter] = (widths.count(widths[0]) / len(widths), widths[0])
    consistent = {one: score for one, score in scores.items() if score[0] > 0.8} or scores
    return max(consistent, key=lambda one: consistent[one][1]) if consistent else usual


class Record(NamedTuple):
    """A row of a text table: its cells, the line at which it begins, and its raw lines."""

    cells: list[str]
    line: int
    raw: list[str]


def _records(text: str, delimiter: str, quoted: bool) -> list[Record]:
    """Non-empty rows."""
    csv.field_size_limit(sys.maxsize)
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    records, begin = [], 0
    for cells in reader:
        if any(cell.strip() for cell in cells):
            records.append(Record(cells, begin + 1, lines[begin : reader.line_num]))
        begin = reader.line_num
    return records


def _swallowing(records: Sequence[Record], delimiter: str) -> Record | None:
    """The first row with an unclosed quote, whose cell swallows the following rows, or None."""
    width = len(records[0].cells) if records else 0
    for record in records:
        if len(record.raw) > 1 and (not _is_closed(record, delimiter) or _holds_rows(record, delimiter, width)):
            return record
    return None


def _is_closed(record: Record, delimiter: str) -> bool:
    """Whether every quote of a row closes at the end of a cell."""
    try:
        list(csv.reader(record.raw, delimiter=delimiter, strict=True))
    except csv.Error:
        return False
    return True


def _holds_rows(record: Record, delimiter: str, width: int) -> bool:
    """Whether all inner lines of a multi-line row have as many cells as a row."""
    within = record.raw[1:-1]
    enough = 1 if width > 4 else 3  # a line of a description may have a comma or two by chance
    return len(within) >= enough and all(line.count(delimiter) == width - 1 for line in within)


def _columns(records: Sequence[Record], delimiter: str, skipped: int) -> Columns:
    header = [name.strip() for name in records[0].cells] if records else []
    while header and not header[-1]:  # a trailing delimiter
        header.pop()
    header = [name or f"column_{number}" for number, name in enumerate(header, start=1)]
    twice = [name for name, times in Counter(header).items() if times > 1]
    if twice:
        raise ValueError(f"two columns are named '{twice[0]}': rename one of them in the header")
    for record in records[1:]:
        if any(cell.strip() for cell in record.cells[len(header) :]):
            raise ValueError(
                f"line {record.line + skipped} has {len(record.cells)} cells, not {len(header)}: quote cells "
                f"that contain '{delimiter}', or set data.catalogue.delimiter"
            )
    rows = [record.cells for record in records[1:]]
    check_cells(len(rows), len(header), sum(map(bool, chain.from_iterable(rows))))
    return {name: [row[place] if place < len(row) else "" for row in rows] for place, name in enumerate(header)}
