"""Files of a stranger whose readers would wait for ever, follow addresses out of them, or fail in the middle."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from helpers import parquet_footers
from reliability import forks
from reliability.hostile import EVALUATE, HUB, TABLE, Case, payload, result
from reliability.hostile_models import EMBED

RESULT = "results/synthetic.test.retrieval.json"
PICKLED = "ray.data.arrow_pickled_object"
FAR = 10**8
"""Bytes by which offsets lead out of an Arrow file."""
LONG = 100_000
"""Characters of a text on which a pattern that backtracks would take a minute."""


def stored(folder: Path, **changes: Any) -> None:
    """A result file."""
    (folder / RESULT).parent.mkdir(exist_ok=True)
    (folder / RESULT).write_text(json.dumps(result(**changes)))


def piped(name: str) -> Callable[[Path, Path], None]:
    """A result, and a FIFO next to it."""

    def make(folder: Path, outside: Path) -> None:
        stored(folder)
        (folder / "results" / name).unlink(missing_ok=True)
        os.mkfifo(folder / "results" / name)

    return make


def texts_outside(folder: Path, outside: Path) -> None:
    """A data set of `datasets` whose texts lie beyond the end of its file."""
    (folder / "set").mkdir()
    forks.apart(write_arrow, folder / "set" / "data-00000-of-00001.arrow")
    files = [{"filename": "data-00000-of-00001.arrow"}]
    state = {"_data_files": files, "_fingerprint": "0", "_format_type": None}
    (folder / "set" / "state.json").write_text(json.dumps(state))


def write_arrow(path: Path) -> None:
    """Fifty texts of ten bytes each, and offsets that lead out of the file."""
    import numpy as np
    import pyarrow as pa

    table = pa.table({"text": [f"a hat {i:04d}" for i in range(50)]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as file:
        file.write_table(table)
    offsets = 10 * np.arange(51, dtype=np.int32)
    path.write_bytes(path.read_bytes().replace(offsets.tobytes(), (offsets + FAR).tobytes()))


def program(format: str, location: str, high: int = 0) -> Callable[[Path, Path], None]:
    """A model folder whose programs are ONNX with weights elsewhere, whatever their names say.

    Args:
        format: In the folder's settings.
        location: Of the weights.
        high: Bits 32 and up of the tag before the graph, which C++ drops.
    """

    def make(folder: Path, outside: Path) -> None:
        facts = {
            "format": format, "embed_dim": 4, "initial_scale": 1.0, "initial_bias": None,
            "preprocess": {"size": 32}, "tokenizer": {"kind": "words", "buckets": 64, "max_length": 8},
        }  # fmt: skip
        (folder / "modiste.json").write_text(json.dumps(facts))
        suffix = "xml" if format == "openvino" else "onnx"
        for path in (folder / "checkpoints").iterdir():
            path.unlink()
        (folder / "checkpoints").rmdir()
        for tower in ("image", "text"):
            forks.apart(write_onnx, folder / f"{tower}.{suffix}", location, high)

    return make


def write_onnx(path: Path, location: str, high: int) -> None:
    """A sum with weights at an address or in a file."""
    from onnx import TensorProto, helper

    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    offset = "4096" if "ADDR" in location else "0"
    for key, value in {"location": location, "offset": offset, "length": "8"}.items():
        weights.external_data.add(key=key, value=value)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    content = graph.SerializeToString()
    model.ClearField("graph")
    tag = varint((7 << 3 | 2) | high << 32)
    path.write_bytes(model.SerializeToString() + tag + varint(len(content)) + content)


def varint(number: int) -> bytes:
    """A number as protobuf has it."""
    lowest, rest = number & 127, number >> 7
    return bytes([lowest | 128]) + varint(rest) if rest else bytes([lowest])


def pickled_column(order: str) -> Callable[[Path, Path], None]:
    """A Parquet file of a type that is unpickled, as Ray's are; ``order``: of `parquet_footers.rewrite`, or empty."""

    def make(folder: Path, outside: Path) -> None:
        import pyarrow as pa

        with suppress(pa.ArrowKeyError):
            pa.register_extension_type(unpickled())
        forks.apart(write_pickled, folder / "t.parquet", order, outside)

    return make


def unpickled() -> Any:
    """A registered type stays so in this process and its forks, as Ray's do once it is imported."""
    import pyarrow as pa

    class Unpickled(pa.ExtensionType):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(pa.string(), PICKLED)

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Any:
            pickle.loads(serialized)
            return cls()

    return Unpickled()


def write_pickled(path: Path, order: str, outside: Path) -> None:
    """A column whose type is a pickle."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.unregister_extension_type(PICKLED)
    metadata = {"ARROW:extension:name": PICKLED, "ARROW:extension:metadata": payload(outside)}
    schema = pa.schema([pa.field("image", pa.string()), pa.field("text", pa.string(), metadata=metadata)])
    pq.write_table(pa.table([["a.png"], ["a hat"]], schema=schema), path)
    if order:
        parquet_footers.rewrite(path, order)


def long_texts() -> Iterator[Case]:
    """Texts that patterns could read in quadratic time."""

    def table(image: str, text: str) -> Callable[[Path, Path], None]:
        rows = "".join(f'"{place}{image}","{text}"\n' for place in range(8))
        return lambda folder, outside: put(folder / "t.csv", f"image,text\n{rows}")

    for unit in ("<a ", "<a '", "<a b=", "<!--"):
        yield Case(f"table: HTML of {unit}", table("a.png", "<b>" + unit * (LONG // len(unit))), TABLE)
    yield Case("table: blanks in a list of images", table(f"a.png{' ' * LONG}x", "a hat"), TABLE)
    blank = "---" + 2 * LONG * "\n" + "x"
    yield Case("hub folder: README of empty lines", lambda f, o: put(f / "set" / "README.md", blank), HUB)


def put(path: Path, text: str) -> None:
    """A file, in a folder that need not exist."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def cases() -> Iterator[Case]:
    """All of them."""
    for command in (("table", "evil"), ("compare", "evil", "evil"), ("verify", "evil"), EVALUATE):
        yield Case(f"result is a FIFO: {command[0]}", piped("a.json"), command)
        yield Case(f"values per query are a FIFO: {command[0]}", piped("synthetic.test.retrieval.npz"), command)
    for table in ({}, [], {"columns": ["shots", "accuracy"], "rows": [["a", "b"]]}, {"columns": 1, "rows": 2}):
        yield Case(f"result: few_shot={table}", lambda f, o, t=table: stored(f, tables={"few_shot": t}), EVALUATE)
    yield from long_texts()
    yield Case("hub folder: Arrow offsets out of the file", texts_outside, HUB, "Traceback")
    for order in ("", "value first", "unknown field"):
        table = ("data", "data=table", "data.catalogue.path=evil/t.parquet")
        yield Case(f"Parquet: a pickled type, {order or 'as usual'}", pickled_column(order), table, "Traceback")
    for format in ("openvino", "onnx"):
        for location in ("*/_ORT_MEM_ADDR_/*", "../../outside/secret.txt"):
            yield Case(f"{format}: weights in {location}", program(format, location), EMBED, "Traceback")
    for high in (1, 4):
        wide = program("onnx", "../../outside/secret.txt", high)
        yield Case(f"onnx: weights outside, a tag with {high} above 32 bits", wide, EMBED, "Traceback")
