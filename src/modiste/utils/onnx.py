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
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""Message of onnx.proto -> the fields that lead to tensors; an entry says where one has its external data."""
VALUE = 2
"""The field of an entry's value."""


def check(model: Path | bytes) -> None:
    """Check that the tensors of a program are in it, or in regular files of its folder.

    ONNX Runtime and others read external data from wherever a program says, also from addresses in memory
    (``*/_ORT_MEM_ADDR_/*``). Programs of more than 2 GiB have theirs in one file next to them.

    Args:
        model: A file; or its content, which may name no file.

    Raises:
        ValueError: It names external data elsewhere, or is not an ONNX program.

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
    pending = [("model", content)]
    while pending:
        kind, message = pending.pop()
        for number, value in fields(message):
            if value is None:
                continue
            if kind == "entry" and number == VALUE:
                yield bytes(value).decode("utf-8", "replace")
            elif inner := "" if kind == "entry" else MESSAGES[kind].get(number, ""):
                pending.append((inner, value))
