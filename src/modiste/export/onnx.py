"""ONNX, one file per tower: uint8 pixels or tokens of any batch size to unit-norm embeddings."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modiste.errors import ModisteError
from modiste.export.towers import save_tokenizer
from modiste.export.writing import Job, Reader
from modiste.models.dual_encoder import DualEncoder, Tokens
from modiste.pretrained.exported import PIXELS, Programs
from modiste.texts.words import HashTokenizer

PRECISIONS = ("fp32", "int8")
REMEDY = "Use precision=fp32."
OUTPUT = "embeddings"


class Positional(nn.Module):
    """Wraps a function of tensors as a module with positional arguments, as exporters require."""

    def __init__(self, model: DualEncoder, encode: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.encode = model, encode

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.encode(*tensors)


def examples(model: DualEncoder, job: Job) -> tuple[Tensor, Tokens]:
    """Return example pixels (3, 3, S, S) uint8 and tokens of three texts of different lengths.

    Exporters treat a dimension of 1 as a constant.
    """
    pixels = torch.stack([model.preprocess(job.inputs.images[i % len(job.inputs.images)]) for i in range(3)])
    return pixels, model.tokenizer(["a red dress", "shoe", job.inputs.texts[0]])


def write(model: DualEncoder, folder: Path, job: Job) -> None:
    """Write ``image.onnx``, ``text.onnx`` and the tokenizer's files."""
    pixels, tokens = examples(model, job)
    names = sorted(tokens)

    def text(*tensors: Tensor) -> Tensor:
        return model.encode_text(dict(zip(names, tensors, strict=True)))

    convert(Positional(model, model.encode_image), {PIXELS: pixels}, OUTPUT, folder / "image.onnx")
    convert(Positional(model, text), {name: tokens[name] for name in names}, OUTPUT, folder / "text.onnx")
    save_files(model, folder, "onnx")
    if job.precision == "int8":
        for tower in ("image", "text"):
            quantise(folder / f"{tower}.onnx", folder / f"{tower}.onnx")


def save_files(model: DualEncoder, folder: Path, format: str) -> None:
    """Save the tokenizer's files, if any: a `HashTokenizer` has none and is described in modiste.json."""
    if not isinstance(model.tokenizer, HashTokenizer):
        save_tokenizer(model, folder, format)


def convert(module: nn.Module, inputs: dict[str, Tensor], output: str, path: Path, any_size: bool = False) -> None:
    """Export ``module`` with dynamic batch size and sequence length.

    With ``any_size``, height and width are dynamic, too.

    Raises:
        ModisteError: torch's exporter cannot convert the module.
    """
    for chatty in ("onnxscript", "onnx_ir"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    dynamic = torch.export.Dim.DYNAMIC
    sides = (0, 2, 3) if any_size else (0,)
    shapes = tuple(dict.fromkeys(sides if t.ndim == 4 else (0, 1), dynamic) for t in inputs.values())
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                module.eval(), tuple(inputs.values()), input_names=list(inputs), output_names=[output], dynamo=True,
                verbose=False, dynamic_shapes={"tensors": shapes},
            )  # fmt: skip
    except Exception as error:  # exporters raise many kinds of errors for an unsupported tower
        raise ModisteError(
            f"The {path.stem} tower cannot be exported to ONNX: {str(error).strip().splitlines()[0][:200]}. "
            "Use another format."
        ) from error
    program.save(str(path))  # outside the try: errors here come from the disk


def quantise(source: Path, target: Path) -> None:
    """Quantise the weights of matmuls to int8, with one scale per output.

    Activations are quantised dynamically.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().addFilter(_without_advice)
    try:
        quantize_dynamic(
            str(source), str(target), op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
    finally:
        logging.getLogger().removeFilter(_without_advice)


def _without_advice(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()


def read(folder: Path) -> Reader:
    """Load with ONNX Runtime, and the preprocessing described in modiste.json."""
    return reader_of(Programs(folder))


def reader_of(loaded: DualEncoder) -> Reader:
    """Return the reader of a loaded model."""

    def images(images: Sequence[Any]) -> Tensor:
        return loaded.encode_image(torch.stack([loaded.preprocess(image) for image in images]))

    def texts(texts: Sequence[str]) -> Tensor:
        return loaded.encode_text(loaded.tokenizer(texts))

    return Reader(images, texts)
