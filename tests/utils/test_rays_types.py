"""Arrow and Parquet files whose columns are of types that are unpickled once Ray is imported."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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


@pytest.mark.parametrize("kind", ["file", "stream", "parquet"])
def test_they_are_refused_before_a_type_is_built(tmp_path, kind):
    read = arrow.checked_parquet if kind == "parquet" else arrow.read_table
    with pytest.raises(ValueError, match="which are pickled"):
        read(saved(tmp_path, METADATA, kind))
    other = {**METADATA, "ARROW:extension:name": "somebody.else"}
    for metadata in (None, {"note": "ray.data"}, other):
        assert read(saved(tmp_path, metadata, kind))


def test_a_parquet_table_and_a_saved_data_set_are_one_sentence(tmp_path):
    with pytest.raises(ModisteError, match="which are pickled"):
        read_schema(saved(tmp_path, METADATA, "parquet"))
    folder = tmp_path / "saved"
    folder.mkdir()
    os.rename(saved(tmp_path, METADATA, "stream"), folder / "data-00000-of-00001.arrow")
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    with pytest.raises(ModisteError, match="which are pickled"):
        Hub(str(folder), {"text": None, "image": "image"})()


@pytest.mark.parametrize("size", [0, 3, 12, 20, 40])
def test_a_file_that_is_cut_off_is_damaged(tmp_path, size):
    path = saved(tmp_path, None, "file")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="damaged"):
        arrow.read_table(path)


def test_a_type_that_is_registered_is_not_built_to_be_refused(tmp_path):
    """As Ray's are once it is imported."""
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

    files = [saved(tmp_path, METADATA, kind) for kind in ("file", "stream", "parquet")]
    pa.register_extension_type(Pickled())
    try:
        for path in files:
            with pytest.raises(ValueError, match="which are pickled"):
                (arrow.checked_parquet if path.suffix == ".parquet" else arrow.read_table)(path)
        assert built == []
    finally:
        pa.unregister_extension_type(METADATA["ARROW:extension:name"])
