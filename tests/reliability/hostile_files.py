"""Files of a stranger whose readers would wait for ever, follow addresses out of them, or fail in the middle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reliability import forks
from reliability.hostile import EVALUATE, HUB, TABLE, Case, result
from reliability.hostile_models import EMBED

RESULT = "results/synthetic.test.retrieval.json"
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


def program(format: str, location: str) -> Callable[[Path, Path], None]:
    """A model folder whose programs are ONNX with weights elsewhere, whatever their names say."""

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
            forks.apart(write_onnx, folder / f"{tower}.{suffix}", location)

    return make


def write_onnx(path: Path, location: str) -> None:
    """A sum with weights at an address or in a file."""
    from onnx import TensorProto, helper

    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "4096", "length": "16"}.items():
        weights.external_data.add(key=key, value=value)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())


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
    for format in ("openvino", "onnx"):
        for location in ("*/_ORT_MEM_ADDR_/*", "../outside/secret.txt"):
            yield Case(f"{format}: weights in {location}", program(format, location), EMBED, "Traceback")
