"""ONNX Runtime, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
        ValueError: ONNX Runtime refuses it: it is damaged, or its weights lie outside of its folder.
    """
    import onnxruntime as ort

    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes have no other in common
        raise ValueError(str(error)) from error
