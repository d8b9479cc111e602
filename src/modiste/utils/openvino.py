"""The process-wide OpenVINO Core; import this module before openvino, which otherwise sends telemetry."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvino import Core, Model

NET = re.compile(rb"(\xef\xbb\xbf)?(<\?xml[^>]*\?>\s*)?<net[\s>]")
"""Start of a file in OpenVINO IR. Leading white space is refused: a protobuf message may begin with it, too."""

# openvino sends telemetry on import and on conversion, from a forked process, unless this import fails.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


@functools.cache
def core() -> Core:
    """Return the process-wide Core.

    Each Core installs an alternate signal stack. When several are destroyed in the order of their creation, the process
    keeps a freed stack, and the next signal, such as SIGCHLD, kills it.
    """
    import openvino as ov

    return ov.Core()


def read_model(file: Path) -> Model:
    """Read a model in OpenVINO IR only: OpenVINO would also read ONNX with weights elsewhere.

    Raises:
        ValueError: The file is not OpenVINO IR.
    """
    with file.open("rb") as content:
        if not NET.match(content.read(1024)):
            raise ValueError(f"{file.name} is not OpenVINO IR (XML with the root element net)")
    return core().read_model(file)
