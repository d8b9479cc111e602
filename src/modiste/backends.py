"""What runs a tower when it embeds: torch, its compiler, ONNX Runtime or OpenVINO; and the choice between them.

A backend makes a function of a tower. All take what `DualEncoder.encode_image` and `encode_text` take, and give
embeddings (B, D) in float32; how far they are from torch's is measured, on the inputs of the job, before one is used.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modiste.errors import ModisteError, did_you_mean
from modiste.model import DualEncoder

log = logging.getLogger(__name__)

EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
PROBE_SECONDS = 2.0
Encode = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Tower:
    """One tower of a model as a function of tensors.

    Attributes:
        model: The dual encoder, in evaluation mode.
        kind: ``image`` or ``text``.
        example: Inputs as the job has them: pixels (B, 3, S, S) uint8, or tokens.
    """

    model: DualEncoder
    kind: str
    example: Any

    @property
    def names(self) -> list[str]:
        """Names of the inputs, in order."""
        return ["pixels"] if self.kind == "image" else sorted(self.example)

    def encode(self, inputs: Any) -> Tensor:
        """Torch's own embeddings (B, D), float32."""
        encode: Encode = self.model.encode_image if self.kind == "image" else self.model.encode_text
        with torch.inference_mode():
            return encode(inputs).float()

    def tensors(self, inputs: Any) -> list[Tensor]:
        """Inputs as a list of tensors, in the order of `names`."""
        return [inputs] if self.kind == "image" else [inputs[name] for name in self.names]

    def module(self) -> nn.Module:
        """The tower as a module of positional tensors."""
        return _Positional(self)


class _Positional(nn.Module):
    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.model, self.kind, self.names = tower.model, tower.kind, tower.names

    def forward(self, *tensors: Tensor) -> Tensor:
        if self.kind == "image":
            return self.model.encode_image(tensors[0])
        return self.model.encode_text(dict(zip(self.names, tensors, strict=True)))


def compiled(tower: Tower) -> Encode:
    """torch.compile's; the first batches take a while."""
    encode = torch.compile(tower.model.encode_image if tower.kind == "image" else tower.model.encode_text)

    def run(inputs: Any) -> Tensor:
        with torch.inference_mode():
            return encode(inputs).float()

    return run


def onnxruntime(tower: Tower) -> Encode:
    """ONNX Runtime's, from the tower exported with any batch size and text length."""
    import onnxruntime as ort

    batch, length = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    dynamic = {0: batch} if tower.kind == "image" else {0: batch, 1: length}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            tower.module(), tuple(tower.tensors(tower.example)), input_names=tower.names, dynamo=True, verbose=False,
            dynamic_shapes=({"tensors": (dynamic,) * len(tower.names)}),
        )  # fmt: skip
    assert program is not None
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = ort.InferenceSession(program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(inputs: Any) -> Tensor:
        feed = dict(zip(names, (tensor.numpy() for tensor in tower.tensors(inputs)), strict=True))
        return torch.from_numpy(session.run(None, feed)[0])

    return run


def openvino(tower: Tower) -> Encode:
    """OpenVINO's, in float32, or in bfloat16 on a processor that computes in it."""
    import openvino as ov

    example = tuple(tower.tensors(tower.example))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(tower.module(), example, check_trace=False)
        converted = ov.convert_model(traced, example_input=example)
    core = ov.Core()
    precision = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    program = core.compile_model(converted, "CPU", settings)
    order = [_position(port, tower.names, index) for index, port in enumerate(program.inputs)]

    def run(inputs: Any) -> Tensor:
        arrays = [tensor.numpy() for tensor in tower.tensors(inputs)]
        return torch.from_numpy(program([arrays[index] for index in order])[0].copy()).float()

    return run


def _position(port: Any, names: Sequence[str], index: int) -> int:
    """Which of ``names`` a port of the converted program is; the tracer may have put a number behind the name."""
    known = {name.partition(".")[0] for name in port.get_names()}
    return next((i for i, name in enumerate(names) if name in known), index)


BACKENDS: dict[str, Callable[[Tower], Encode]] = {
    "torch": lambda tower: tower.encode,
    "compile": compiled,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}


def check_name(name: str) -> None:
    """Raises ModisteError for a backend that does not exist, or whose package is not installed."""
    from importlib.util import find_spec

    if name not in (*BACKENDS, "auto"):
        raise ModisteError(f"backend={name} is not known. {did_you_mean(name, (*BACKENDS, 'auto'))}")
    if name in EXTRAS and find_spec(name) is None:
        raise ModisteError(f"backend={name} needs {name}: pip install 'modiste[{EXTRAS[name]}]', or backend=torch.")


def choose(tower: Tower, name: str, min_cosine: float) -> tuple[str, Encode]:
    """The backend ``name``, or with ``auto`` the fastest of those that keep to ``min_cosine``.

    Args:
        tower: With an example of the job's inputs, on which speed and cosine are measured.
        name: A key of `BACKENDS`, or ``auto``, which leaves out ``compile``: compiling takes longer than most jobs.
        min_cosine: Smallest cosine to torch's float32 embeddings that any example may have.

    Returns:
        The name of what was taken, and the function.

    Raises:
        ModisteError: A backend that was named falls below ``min_cosine`` or cannot run the tower.
    """
    if name == "torch":
        return name, tower.encode
    candidates = [known for known in BACKENDS if known != "compile"] if name == "auto" else [name]
    measured: dict[str, tuple[float, Encode]] = {}
    for candidate in candidates:
        try:
            check_name(candidate)
            encode = BACKENDS[candidate](tower)
            cosine = smallest_cosine(tower, encode)
            if cosine < min_cosine:
                raise ModisteError(
                    f"backend={candidate} is too far from torch: cosine {cosine:.5f} < min_cosine={min_cosine:g}."
                )
            measured[candidate] = rate(tower, encode), encode
            log.info("%s tower, %s: %.0f a second, cosine %.6f", tower.kind, candidate, measured[candidate][0], cosine)
        except Exception as error:  # exporters raise many kinds for a tower they do not know
            if name != "auto":
                raise (
                    error
                    if isinstance(error, ModisteError)
                    else ModisteError(
                        f"backend={candidate} cannot run the {tower.kind} tower: {first_line(error)} Use backend=torch."
                    )
                ) from error
            log.info("%s tower, %s: passed over: %s", tower.kind, candidate, first_line(error))
    best = max(measured, key=lambda candidate: measured[candidate][0])
    return best, measured[best][1]


def smallest_cosine(tower: Tower, encode: Encode) -> float:
    """Of an encoder's embeddings of the examples to torch's."""
    ours, torchs = encode(tower.example), tower.encode(tower.example)
    return float(torch.nn.functional.cosine_similarity(ours, torchs).min())


def rate(tower: Tower, encode: Encode, seconds: float = PROBE_SECONDS) -> float:
    """Examples a second, after a warm-up, over about ``seconds``."""
    encode(tower.example)
    count, start = 0, time.perf_counter()
    while not count or time.perf_counter() - start < seconds:
        encode(tower.example)
        count += len(tower.tensors(tower.example)[0])
    return count / (time.perf_counter() - start)


def first_line(error: Exception) -> str:
    """What an error says first."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
