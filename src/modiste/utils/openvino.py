"""The one OpenVINO Core of this process; import this module before openvino, which otherwise sends telemetry."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvino import Core, Model

NET = re.compile(rb"(\xef\xbb\xbf)?(<\?xml[^>]*\?>\s*)?<net[\s>]")
"""How a file in OpenVINO's own format begins: not with white space, which begins messages of protobuf, too."""

# openvino sends events to its maker when it is imported and when it converts, from a forked process; it does without
# where this package cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


@functools.cache
def core() -> Core:
    """The one Core of this process. Each brings a stack for signals; where they go in the order in which they came, the
    process is left with one that is gone, and the next signal, such as that of a child's end, kills it."""
    import openvino as ov

    return ov.Core()


def read_model(file: Path) -> Model:
    """A program in OpenVINO's own format; OpenVINO would take any other, such as ONNX with weights elsewhere, too.

    Raises:
        ValueError: The file does not begin as one.
    """
    with file.open("rb") as content:
        if not NET.match(content.read(1024)):
            raise ValueError(f"{file.name} is not in OpenVINO's own format (XML with the root net)")
    return core().read_model(file)
