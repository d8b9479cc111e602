"""OpenVINO IR, one model per tower: uint8 pixels or tokens of any batch size to unit-norm embeddings."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from modiste.errors import ModisteError
from modiste.export.onnx import Positional, examples, reader_of, save_files
from modiste.export.writing import Job, Reader
from modiste.models.dual_encoder import DualEncoder
from modiste.pretrained.exported import PIXELS, Programs
from modiste.utils.openvino import compress_weights

if TYPE_CHECKING:
    from openvino import Model

PRECISIONS = ("fp32", "bf16", "int8")
REMEDY = "Use precision=bf16 or fp32."
# Operation → position of its weights among the inputs.
WEIGHTS = {"MatMul": 1, "Convolution": 1, "GroupConvolution": 1, "Gather": 0}


def write(model: DualEncoder, folder: Path, job: Job) -> None:
    """Write ``image.xml`` and ``text.xml`` with their weights, and the tokenizer's files.

    Raises:
        ModisteError: OpenVINO cannot convert a tower, or ``int8`` can quantise neither tower.
    """
    pixels, tokens = examples(model, job)
    names = sorted(tokens)

    def text(*tensors: Tensor) -> Tensor:
        return model.encode_text(dict(zip(names, tensors, strict=True)))

    towers = {
        "image": (Positional(model, model.encode_image), {PIXELS: pixels}),
        "text": (Positional(model, text), {name: tokens[name] for name in names}),
    }
    refused = []
    for tower, (module, inputs) in towers.items():
        refused += convert(module, inputs, folder / f"{tower}.xml", job.precision)
    if len(refused) == len(towers):
        raise ModisteError(refused[0])
    save_files(model, folder, "openvino")


def convert(module: torch.nn.Module, inputs: dict[str, Tensor], path: Path, precision: str) -> list[str]:
    """Convert and save a module; return why it could not be quantised to int8, else an empty list."""
    import openvino as ov

    example = tuple(inputs.values())
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(module.eval(), example, check_trace=False)
            program = ov.convert_model(traced, example_input=example)
    except Exception as error:  # converters raise many kinds of errors for an unsupported tower
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        what = f"The {path.stem} tower cannot be exported to OpenVINO: {first_line}."
        raise ModisteError(f"{what} Use another format.") from error
    for port, name in zip(program.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
    if PIXELS in inputs:  # a fixed size lets OpenVINO fuse "same" padding into the convolutions
        program.reshape([-1, *inputs[PIXELS].shape[1:]])
    refused = []
    if precision == "int8":
        try:
            compress_weights(program)
        except ModisteError as error:  # a tower of convolutions
            refused = [str(error)]
            round_weights(program)
    elif precision == "bf16":
        round_weights(program)
    ov.save_model(program, path, compress_to_fp16=False)
    return refused


def round_weights(program: Model) -> None:
    """Convert weights and embedding tables to bfloat16, in place: half the file size."""
    import openvino as ov
    from openvino import opset13 as ops

    for node in program.get_ordered_ops():
        if node.get_type_name() not in WEIGHTS:
            continue
        port = WEIGHTS[node.get_type_name()]
        source = node.input_value(port).get_node()
        if source.get_type_name() != "Constant" or source.get_element_type() != ov.Type.f32:
            continue
        # OpenVINO's own conversion truncates, torch's rounds.
        rounded = torch.from_numpy(np.array(source.get_data())).to(torch.bfloat16).float().numpy()
        weights = ops.constant(rounded, dtype=ov.Type.bf16)
        node.input(port).replace_source_output(ops.convert(weights, "f32").output(0))


def read(folder: Path) -> Reader:
    """Load with OpenVINO, and the preprocessing described in modiste.json."""
    return reader_of(Programs(folder))
