"""ONNX Runtime sessions on the CPU, and checks of untrusted ONNX files."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from modiste.utils.protobuf import fields

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions


def options(optimise: str = "all", threads: int = 0) -> SessionOptions:
    """Return session options that log errors only.

    Args:
        optimise: Level of graph optimization: ``all``, ``extended`` (without layouts specific to this CPU) or ``none``.
        threads: Threads within an operator; 0: ONNX Runtime's choice.
    """
    import onnxruntime as ort

    level = {"all": "ORT_ENABLE_ALL", "extended": "ORT_ENABLE_EXTENDED", "none": "ORT_DISABLE_ALL"}[optimise]
    settings = ort.SessionOptions()
    # Without it ONNX Runtime would detect its own ORT format, which `check` does not read.
    settings.add_session_config_entry("session.load_model_format", "ONNX")
    settings.log_severity_level = 3
    settings.intra_op_num_threads = threads
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    return settings


def session(model: Path | bytes, settings: SessionOptions) -> InferenceSession:
    """Create an inference session from a model file or its content.

    Raises:
        ValueError: `check` refuses the model, or ONNX Runtime cannot load it.
    """
    import onnxruntime as ort

    check(model)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no other common base class
        raise ValueError(str(error)) from error


# ------------------------------------------------------------------------------------------------------ external data

MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto", 22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
    "StringStringEntryProto": {},
}  # fmt: skip
"""Message of onnx.proto → fields that lead to tensors and, from them, to the entries that locate external data."""
OTHERS: dict[str, set[int]] = {
    "ModelProto": {1, 2, 3, 4, 5, 6, 8, 14, 26},
    "TrainingInfoProto": {3, 4},
    "FunctionProto": {1, 4, 5, 6, 8, 9, 10, 12, 13, 14},
    "GraphProto": {2, 10, 11, 12, 13, 14, 16},
    "NodeProto": {1, 2, 3, 4, 6, 7, 8, 9, 10},
    "AttributeProto": {1, 2, 3, 4, 7, 8, 9, 13, 14, 15, 20, 21},
    "SparseTensorProto": {3},
    "TensorProto": {*range(1, 13), 14, 16},
    "StringStringEntryProto": {1, 2},
}
"""The other fields. Unknown fields are refused: a newer version of onnx.proto might reach tensors through them."""
VALUE = 2
"""The field ``value`` of StringStringEntryProto."""


def check(model: Path | bytes) -> None:
    """Check that the tensors of an ONNX model are inside the file or in regular files next to it.

    ONNX Runtime reads external data from any path that a model names, and even from memory addresses
    (``*/_ORT_MEM_ADDR_/*``). Models of more than 2 GiB legitimately keep their tensors in a file next to them.

    Args:
        model: A file, or the content of one, which may then not refer to external data.

    Raises:
        ValueError: The model refers to external data elsewhere, has a field that onnx.proto does not define, or is not
            ONNX.

    >>> check(bytes([58, 11, 42, 9, 106, 7, 18, 5]) + b"../up")
    Traceback (most recent call last):
    ValueError: its weights are in '../up', which is not a file next to it
    """
    for name in _external(model):
        if isinstance(model, bytes) or not (_is_plain(name) and (name.isdecimal() or (model.parent / name).is_file())):
            raise ValueError(f"its weights are in '{name}', which is not a file next to it")


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", ":", "*", "\0"}


def _external(model: Path | bytes) -> set[str]:
    """Collect the values of all external-data entries: locations, offsets, lengths and checksums."""
    if isinstance(model, bytes):
        return set(_entries(memoryview(model)))
    with model.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise ValueError("it is empty")
        return set(_entries(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))))


def _entries(content: memoryview) -> Iterator[str]:
    pending = [("ModelProto", content)]
    while pending:
        kind, message = pending.pop()
        for number, value in fields(message):
            if number in MESSAGES[kind] and value is not None:
                pending.append((MESSAGES[kind][number], value))
            elif number not in OTHERS[kind]:
                raise ValueError(f"it is not ONNX: {kind} has no field {number} of that type")
            elif kind == "StringStringEntryProto" and number == VALUE and value is not None:
                yield bytes(value).decode("utf-8", "replace")
