"""Arrow files whose offsets lead out of them, and whose text is none."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modiste.utils import arrow
from modiste.utils.arrow import read_parquet, read_table

COUNT = 50


def written(path: Path, kind: str, table: pa.Table | None = None) -> Path:
    """A table of texts of ten bytes each."""
    table = pa.table({"text": [f"a hat {i:04d}" for i in range(COUNT)]}) if table is None else table
    new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as file:
        file.write_table(table)
    return path


def replace(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_what_was_written_is_read(kind: str, tmp_path: Path) -> None:
    assert read_table(written(tmp_path / "x.arrow", kind)).column("text")[-1].as_py() == "a hat 0049"


@pytest.mark.parametrize("kind", ["stream", "file"])
@pytest.mark.parametrize("far", [600, 100_000_000])
def test_offsets_that_lead_out_of_the_file_are_refused(kind: str, far: int, tmp_path: Path) -> None:
    path = written(tmp_path / "x.arrow", kind)
    offsets = 10 * np.arange(COUNT + 1, dtype=np.int32)
    replace(path, offsets.tobytes(), (offsets + far).tobytes())
    with pytest.raises(ValueError, match=r"x\.arrow' is damaged: "):
        read_table(path)


def test_indices_beyond_a_dictionary_are_refused(tmp_path: Path) -> None:
    codes = pa.array([0, 1, 0, 1, 1, 0, 1, 1, 0], pa.int64())
    table = pa.table({"x": pa.DictionaryArray.from_arrays(codes, ["a", "b"])})
    path = written(tmp_path / "x.arrow", "file", table)
    replace(path, codes.to_numpy().tobytes(), (codes.to_numpy() * 10**9).tobytes())
    with pytest.raises(ValueError, match=r"x\.arrow' is damaged: "):
        read_table(path)


@pytest.mark.parametrize("content", [b"", b"ARROW1", b"a hat"])
def test_what_is_no_arrow_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.arrow").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.arrow' is damaged: "):
        read_table(tmp_path / "x.arrow")


def test_text_that_is_none_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "x.arrow", "stream")
    replace(path, b"a hat 0007", b"a hat \xff\xfe07")
    with pytest.raises(ValueError, match="UTF8"):
        read_table(path)


LONG = "x" * 100_000
COPIES = pa.DictionaryArray.from_arrays(pa.array([0] * 100, pa.int32()), [LONG])
VIEW = pa.array([LONG], pa.string_view())
NUMBERS = [f"{i:07}" for i in range(2000)]


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "FREE", 2**20)
    monkeypatch.setattr(arrow, "BATCH", 2**20)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    ("table", "options"),
    [
        (pa.table({"x": COPIES}), {}),
        (pa.table({"x": COPIES}), {"store_schema": False}),
        (pa.table({"x": pa.array([[LONG]] * 100)}), {}),
        (pa.table({"x": pa.array([{"bytes": LONG.encode()}] * 100)}), {}),
        (pa.table({"x": [LONG] * 100}), {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"}),
        (pa.table({"x": [LONG] * 100}), {"use_dictionary": False}),
        (pa.table([COPIES, COPIES], ["x", "x"]), {"data_page_version": "2.0"}),
        (pa.table({"x": pa.nulls(2_000_000, pa.string())}), {}),
    ],
    ids=["category", "dictionary", "list", "struct", "prefixes", "plain", "twice the name", "nothing"],
)
def test_a_small_parquet_file_does_not_decode_into_a_large_table(
    table: pa.Table, options: dict, tmp_path: Path
) -> None:
    """750 bytes became 1.25 GB."""
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd", **options)
    assert (tmp_path / "x.parquet").stat().st_size < 5000
    with pytest.raises(ValueError, match=r"decodes into more than 1,048,576 bytes"):
        read_parquet(tmp_path / "x.parquet")


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", None])
def test_tables_of_many_rows_and_few_words_are_read(encoding: str | None, tmp_path: Path) -> None:
    words = [f"category {i}" for i in range(20)] * 100
    table = pa.table({"id": NUMBERS * 10, **{f"c{i}": words * 10 for i in range(5)}, "n": range(20_000)})
    encodings = dict.fromkeys(table.column_names[:-1], encoding)
    options = {} if encoding is None else {"use_dictionary": False, "column_encoding": encodings}
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=7000, data_page_size=4096, **options)
    assert read_parquet(tmp_path / "x.parquet").equals(table)


def test_a_footer_that_belittles_the_pages_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    footer: list = []
    pq.write_table(
        pa.table({"x": [LONG] * 10}), tmp_path / "x.parquet", metadata_collector=footer, use_dictionary=False
    )
    column = footer[0].row_group(0).column(0)
    size = column.total_uncompressed_size
    content, small = (tmp_path / "x.parquet").read_bytes(), varint(2 * 100)
    assert size > 1_000_000
    assert content.count(varint(2 * size)) == 2  # of the column and of the row group
    changed = content.replace(varint(2 * size), small)
    length = int.from_bytes(content[-8:-4], "little") - (len(content) - len(changed))
    (tmp_path / "x.parquet").write_bytes(changed[:-8] + length.to_bytes(4, "little") + b"PAR1")
    assert pq.read_metadata(tmp_path / "x.parquet").row_group(0).column(0).total_uncompressed_size == 100
    monkeypatch.setattr(arrow, "FREE", 500_000)
    monkeypatch.setattr(arrow, "RATIO", 1)
    with pytest.raises(ValueError, match="decodes into more than"):
        read_parquet(tmp_path / "x.parquet")


def varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


@pytest.mark.parametrize("place", range(4, 60))
def test_a_damaged_page_header_is_a_value_error(place: int, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": ["a", "b"] * 9, "n": range(18)}), tmp_path / "x.parquet")
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    for value in (0, 255, content[place] ^ 16):
        content[place] = value
        (tmp_path / "x.parquet").write_bytes(content)
        with suppress(ValueError, OSError):
            read_parquet(tmp_path / "x.parquet")


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("kind", ["stream", "file"])
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_small_compressed_file_does_not_decompress_into_a_large_table(
    kind: str, compression: str, tmp_path: Path
) -> None:
    """10 KB became 0.3 GB."""
    path, options = tmp_path / "x.arrow", pa.ipc.IpcWriteOptions(compression=compression)
    new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    for table in (pa.table({"x": [LONG] * 200}), pa.table({"x": pa.DictionaryArray.from_arrays([0], [LONG * 200])})):
        with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema, options=options) as file:
            file.write_table(table)
        with pytest.raises(ValueError, match="decodes into more than"):
            read_table(path)
    small = pa.table({"x": NUMBERS})
    with pa.OSFile(str(path), "wb") as sink, new(sink, small.schema, options=options) as file:
        file.write_table(small)
    assert read_table(path).equals(small)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    "array",
    [
        pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), [LONG]),
        pa.Array.from_buffers(
            VIEW.type, 1000, [None, pa.py_buffer(VIEW.buffers()[1].to_pybytes() * 1000), VIEW.buffers()[2]]
        ),
        pa.nulls(50_000_000),
        pa.ListArray.from_arrays([0, 1000], pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), [LONG])),
    ],
    ids=["dictionary", "view", "nothing", "nested"],
)
def test_values_that_are_stored_once_count_wherever_they_occur(array: pa.Array, tmp_path: Path) -> None:
    path = written(tmp_path / "x.arrow", "file", pa.table({"x": array}))
    with pytest.raises(ValueError, match="decodes into more than"):
        read_table(path)


@pytest.mark.parametrize(
    "array", [pa.RunEndEncodedArray.from_arrays([10**9], ["x"]), pa.array([["x"]], pa.list_view(pa.string()))], ids=str
)
def test_types_whose_values_repeat_without_limit_are_refused(array: pa.Array, tmp_path: Path) -> None:
    path = written(tmp_path / "x.arrow", "file", pa.table({"x": array}))
    with pytest.raises(ValueError, match="save them as plain types"):
        read_table(path)


def test_statistics_that_pyarrow_does_not_expect_do_not_end_the_process(tmp_path: Path) -> None:
    """Asked for the columns of a row group, pyarrow checks them where no exception is caught."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": pa.array(["a", None])}), path)
    content = path.read_bytes()
    optional = content.replace(b"\x15\x0c\x25\x02", b"\x15\x0c\x25\x00")  # the column has no levels, but a histogram
    assert optional != content
    path.write_bytes(optional)
    with suppress(ValueError, OSError):
        read_parquet(path)
