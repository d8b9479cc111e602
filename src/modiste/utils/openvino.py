"""The process-wide OpenVINO Core and nncf's weight compression.

Import this module before openvino or nncf, which otherwise send telemetry.
"""

from __future__ import annotations

import functools
import io
import logging
import math
import re
import sys
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from modiste.errors import ModisteError

if TYPE_CHECKING:
    from openvino import Core, Model

NET = re.compile(rb"(\xef\xbb\xbf)?(<\?xml[^>]*\?>\s*)?<net[\s>]")
"""Start of a file in OpenVINO IR. Leading white space is refused: a protobuf message may begin with it, too."""

CONVOLUTIONS = ("Convolution", "GroupConvolution")

# openvino and nncf send telemetry on import and on conversion, from a forked process, unless this import fails.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


@functools.cache
def core() -> Core:
    """Return the process-wide Core.

    Each Core installs an alternate signal stack. When several are destroyed in the order of their creation, the process
    keeps a freed stack, and the next signal, such as SIGCHLD, kills it.
    """
    import openvino as ov

    return ov.Core()


def compress_weights(program: Model) -> None:
    """Convert matmul weights and embedding tables to int8 in place, with one scale per output.

    nncf's weight compression. Convolutions stay as they are: in int8 they are no faster, and those of
    EfficientNet-Lite0 lower its cosine to torch's embeddings from 0.997 to 0.972.

    Raises:
        ModisteError: Convolutions have at least as many weights as matmuls.
    """
    import nncf

    sizes: Counter[str] = Counter()
    for node in program.get_ops():
        kind = node.get_type_name()
        if kind in ("MatMul", *CONVOLUTIONS) and node.input_value(1).get_node().get_type_name() == "Constant":
            sizes["MatMul" if kind == "MatMul" else "Convolution"] += math.prod(node.input_value(1).get_shape())
    if sizes["MatMul"] <= sizes["Convolution"]:
        raise ModisteError("precision=int8 quantises matmuls, and this tower has few: set precision=bf16 or fp32.")
    logging.getLogger("nncf").setLevel(logging.WARNING)
    with redirect_stdout(io.StringIO()):  # nncf draws its progress
        nncf.compress_weights(
            program,
            mode=nncf.CompressWeightsMode.INT8_SYM,
            ignored_scope=nncf.IgnoredScope(types=list(CONVOLUTIONS), validate=False),
        )


def read_model(file: Path) -> Model:
    """Read a model in OpenVINO IR only: OpenVINO would also read ONNX with weights elsewhere.

    Raises:
        ValueError: The file is not OpenVINO IR.
    """
    with file.open("rb") as content:
        if not NET.match(content.read(1024)):
            raise ValueError(f"{file.name} is not OpenVINO IR (XML with the root element net)")
    return core().read_model(file)
