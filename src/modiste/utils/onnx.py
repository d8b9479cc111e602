"""ONNX Runtime, on the CPU."""

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
    """Settings of a session that logs only errors.

    Args:
        optimise: How ONNX Runtime rewrites the graph: ``all``, ``extended`` (what holds for any CPU) or ``none``.
        threads: Within an operator; 0: ONNX Runtime's choice.
    """
    import onnxruntime as ort

    level = {"all": "ORT_ENABLE_ALL", "extended": "ORT_ENABLE_EXTENDED", "none": "ORT_DISABLE_ALL"}[optimise]
    settings = ort.SessionOptions()
    # Not by what a file looks like: `check` reads ONNX, and not ONNX Runtime's own format.
    settings.add_session_config_entry("session.load_model_format", "ONNX")
    settings.log_severity_level = 3
    settings.intra_op_num_threads = threads
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    return settings


def session(model: Path | bytes, settings: SessionOptions) -> InferenceSession:
    """An inference session of a model's file or content.

    Raises:
        ValueError: See `check`; or ONNX Runtime refuses it, as it is damaged.
    """
    import onnxruntime as ort

    check(model)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes have no other in common
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
"""Message of onnx.proto -> the fields that lead to tensors; an entry says where one has its external data."""
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
"""The other fields. What onnx.proto does not define might lead to tensors in a reader's, so it is refused."""
VALUE = 2
"""The field of an entry's value."""


def check(model: Path | bytes) -> None:
    """Check that the tensors of a program are in it, or in regular files of its folder.

    ONNX Runtime and others read external data from wherever a program says, also from addresses in memory
    (``*/_ORT_MEM_ADDR_/*``). Programs of more than 2 GiB have theirs in one file next to them.

    Args:
        model: A file; or its content, which may name no file.

    Raises:
        ValueError: It names external data elsewhere, has a field that onnx.proto does not define, or is not an ONNX
            program.

    >>> check(bytes([58, 11, 42, 9, 106, 7, 18, 5]) + b"../up")
    Traceback (most recent call last):
    ValueError: its weights are in '../up', which is no file of its folder
    """
    for name in _external(model):
        if isinstance(model, bytes) or not (_is_plain(name) and (name.isdecimal() or (model.parent / name).is_file())):
            raise ValueError(f"its weights are in '{name}', which is no file of its folder")


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", ":", "*", "\0"}


def _external(model: Path | bytes) -> set[str]:
    """The values of all entries that describe external data: locations, offsets, lengths and checksums."""
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
                raise ValueError(f"it is no ONNX program: {kind} has no field {number} of that type")
            elif kind == "StringStringEntryProto" and number == VALUE and value is not None:
                yield bytes(value).decode("utf-8", "replace")
