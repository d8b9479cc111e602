"""Arrow and Parquet files whose columns are of extension types, of which Ray's are unpickled once it is imported."""

import os
import re
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import modiste
from helpers import parquet_footers
from modiste.data.datasets.hub import Hub
from modiste.data.datasets.table import read_schema
from modiste.errors import ModisteError
from modiste.utils import arrow

METADATA = {"ARROW:extension:name": "ray.data.arrow_pickled_object", "ARROW:extension:metadata": ""}


def table(metadata):
    field = pa.field("image", pa.large_binary(), metadata=metadata)
    inner = pa.field("x", pa.struct([pa.field("y", pa.int64(), metadata=metadata)]))
    return pa.table([[b"BM"], [{"y": 1}]], schema=pa.schema([field, inner]))


def saved(folder, metadata, kind):
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(table(metadata), path)
        return path
    new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as sink, new(sink, table(metadata).schema) as writer:
        writer.write_table(table(metadata))
    return path


def read(path):
    return (arrow.read_parquet if path.suffix == ".parquet" else arrow.read_table)(path)


@pytest.mark.parametrize("kind", ["file", "stream", "parquet"])
@pytest.mark.parametrize("name", [METADATA["ARROW:extension:name"], "arrow.py_extension_type", "somebody.else"])
def test_they_are_refused(tmp_path, kind, name):
    with pytest.raises(ValueError, match="extension types, which may run code"):
        read(saved(tmp_path, {**METADATA, "ARROW:extension:name": name}, kind))
    for metadata in (None, {"note": "ray.data"}):
        assert read(saved(tmp_path, metadata, kind)).num_rows == 1


def test_a_parquet_table_and_a_saved_data_set_are_one_sentence(tmp_path):
    with pytest.raises(ModisteError, match="which may run code"):
        read_schema(saved(tmp_path, METADATA, "parquet"))
    folder = tmp_path / "saved"
    folder.mkdir()
    os.rename(saved(tmp_path, METADATA, "stream"), folder / "data-00000-of-00001.arrow")
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    with pytest.raises(ModisteError, match="which may run code"):
        Hub(str(folder), {"text": None, "image": "image"})()


@pytest.mark.parametrize("size", [0, 3, 12, 20, 40])
def test_a_file_that_is_cut_off_is_damaged(tmp_path, size):
    path = saved(tmp_path, None, "file")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="damaged"):
        arrow.read_table(path)


@contextmanager
def registered():
    """What is built of Ray's type, as once Ray is imported."""
    built = []

    class Pickled(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.large_binary(), METADATA["ARROW:extension:name"])

        def __arrow_ext_serialize__(self):
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage, serialized):
            built.append(serialized)
            return cls()

    pa.register_extension_type(Pickled())
    try:
        yield built
    finally:
        pa.unregister_extension_type(METADATA["ARROW:extension:name"])


def headless(path):
    """A file in Arrow's file format that does not begin as one, which pyarrow reads nevertheless."""
    path.write_bytes(b"\0" * 8 + path.read_bytes()[8:])


def both(path):
    """A stream with plain columns that ends as a file with others."""
    stream = saved(path.parent, None, "stream")
    path.write_bytes(stream.read_bytes() + path.read_bytes())


WAYS = {
    "file": None,
    "stream": None,
    "parquet": None,
    "file, headless": headless,
    "file, behind a stream": both,
    "parquet, value first": lambda path: parquet_footers.rewrite(path, "value first"),
    "parquet, unknown field": lambda path: parquet_footers.rewrite(path, "unknown field"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_type_that_is_registered_is_not_built_to_be_refused(tmp_path, way):
    path = saved(tmp_path, METADATA, way.split(",")[0])
    if WAYS[way]:
        WAYS[way](path)
    with registered() as built:
        with pytest.raises(ValueError, match="which may run code"):
            read(path)
        assert built == []
        if path.suffix == ".parquet":
            pq.read_metadata(path)
            assert built


def test_two_schemas_and_one_that_is_no_base64_are_damage(tmp_path):
    path = saved(tmp_path, None, "parquet")
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - length : -8]
    for changed in (footer + footer, footer.replace(b"/////", b"!////")):
        path.write_bytes(content[: -8 - length] + changed + len(changed).to_bytes(4, "little") + b"PAR1")
        with pytest.raises(ValueError, match="is damaged"):
            arrow.read_parquet(path)


READERS = (
    r"pq\.(read_|Parquet)|ipc\.(open|read)_|(pd|pandas)\.read_|read_feather|pyarrow\.(dataset|feather|orc)|from_parquet"
)


def test_one_module_reads_arrow_and_parquet_files():
    files = Path(modiste.__file__).parent.rglob("*.py")
    assert [file.name for file in files if re.search(READERS, file.read_text())] == ["arrow.py"]
