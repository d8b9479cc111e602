"""Arrow files whose offsets lead out of them, and whose text is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from modiste.utils.arrow import read_table

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
