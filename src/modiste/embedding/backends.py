"""Inference backends for embedding (torch, torch.compile, ONNX Runtime, OpenVINO) and their selection.

A backend turns a `Tower` into a function with the inputs of `DualEncoder.encode_image` or `encode_text` and the output
(B, D) in float32. Before a backend is used, its cosine to torch's embeddings is measured on inputs of the job.
Converted models are cached on disk.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modiste.errors import ModisteError, did_you_mean
from modiste.models.dual_encoder import DualEncoder, Tokens
from modiste.models.layers import shared_copy
from modiste.utils import onnx
from modiste.utils.atomic import atomic_folder, read_cache, write_cache
from modiste.utils.hardware import has_bf16, installed
from modiste.utils.openvino import compress_weights, core, read_model

log = logging.getLogger(__name__)

# Backend → extra that installs its packages, and their names.
EXTRAS = {
    "onnxruntime": ("onnx", ("onnxruntime", "onnx", "onnxscript")),
    "openvino": ("openvino", ("openvino", "nncf")),
}
PROBE_SECONDS = 2.0
# Fraction by which a backend must be faster in a probe; smaller differences are noise.
MARGIN = 0.1
# Number of images whose activations fit into the processor's cache.
CHUNK = 32
# Maximum number of images or texts per OpenVINO stream.
PARTS = {"image": 8, "text": 32}
# Activations that share a scale next to int8 weights; larger groups are hardly faster.
ACTIVATIONS_PER_SCALE = 128
# Of matmuls, from exact to fast.
PRECISIONS = ("fp32", "bf16", "int8")
Encode = Callable[[Any], Tensor]
Inputs = Tensor | Tokens
"""Pixels (B, 3, S, S), or tokens (B, L) by name."""


@dataclass(frozen=True)
class Tower:
    """One tower of a model as a function of tensors.

    Attributes:
        model: The dual encoder, in evaluation mode.
        kind: ``image`` or ``text``.
        example: Inputs of the job: pixels (B, 3, S, S) uint8, or tokens, each (B, L), with B ≥ 2 and texts of different
            lengths: exporters treat a dimension of 1 and a mask without zeros as constants.
        cache: Folder of converted towers; None: no caching.
        fingerprint: Fingerprint of the model, needed with ``cache``.
    """

    model: DualEncoder
    kind: str
    example: Any
    cache: Path | None = None
    fingerprint: str = ""

    @property
    def names(self) -> list[str]:
        """Names of the inputs, in order."""
        return ["pixels"] if self.kind == "image" else sorted(self.example)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next(self.model.parameters()).device

    def encode(self, inputs: Inputs) -> Tensor:
        """Return torch's embeddings (B, D), float32."""
        encode: Encode = self.model.encode_image if self.kind == "image" else self.model.encode_text
        with torch.inference_mode():
            return encode(inputs).float()

    def tensors(self, inputs: Inputs) -> list[Tensor]:
        """Return the inputs as a list of tensors, in the order of `names`."""
        return [inputs] if isinstance(inputs, Tensor) else [inputs[name] for name in self.names]

    def module(self) -> nn.Module:
        """Return the tower as a module with positional tensor arguments."""
        return _Positional(self)

    def part(self) -> Inputs:
        """Return the last third of the example without common padding: another batch size and text length."""
        count = max(1, len(self.tensors(self.example)[0]) // 3)
        if isinstance(self.example, Tensor):
            return self.example[-count:].clone()
        return without_padding({name: tensor[-count:] for name, tensor in self.example.items()})

    def kept(self, backend: str) -> Path | None:
        """Return the cache path of the tower for ``backend``; its name digests all inputs of a conversion."""
        if self.cache is None:
            return None
        shape = list(self.example.shape[1:]) if self.kind == "image" else self.names
        versions = {name: installed(name) for name in ("torch", "transformers", "timm", "onnxscript", "openvino")}
        facts = [self.fingerprint, self.model.preprocess.describe(), self.kind, shape, backend, versions]
        return self.cache / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def without_padding(tokens: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove columns of tokens (B, L) that are padding in all texts; without attention mask, copy all."""
    if "attention_mask" not in tokens:
        return {name: tensor.clone() for name, tensor in tokens.items()}
    used = tokens["attention_mask"].any(0)
    used[0] |= not used.any()  # empty texts
    return {name: tensor[:, used] for name, tensor in tokens.items()}


class _Positional(nn.Module):
    def __init__(self, tower: Tower) -> None:
        super().__init__()
        # torch.export temporarily replaces tensors of the modules, while the model may be in use.
        self.model, self.kind, self.names = shared_copy(tower.model), tower.kind, tower.names

    def forward(self, *tensors: Tensor) -> Tensor:
        if self.kind == "image":
            return self.model.encode_image(tensors[0])
        return self.model.encode_text(dict(zip(self.names, tensors, strict=True)))


def eager(tower: Tower, precision: str) -> Encode:
    """Eager torch."""
    return _autocast(tower, tower.encode, precision)


def channels_last(tower: Tower, precision: str) -> Encode:
    """Eager torch with channels_last images, `CHUNK` at a time."""
    if tower.kind == "text":
        return eager(tower, precision)
    model: Any = copy.deepcopy(tower.model).to(memory_format=torch.channels_last)

    def run(inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            chunks = inputs.split(CHUNK)
            return torch.cat([model.encode_image(chunk.to(memory_format=torch.channels_last)) for chunk in chunks])

    return _autocast(tower, run, precision)


def compiled(tower: Tower, precision: str) -> Encode:
    """torch.compile with the weights as constants; the first batches are slow."""
    encode: Any = tower.model.encode_image if tower.kind == "image" else tower.model.encode_text
    program: Encode = torch.compile(encode, options={"freezing": True})

    def run(inputs: Any) -> Tensor:
        with torch.no_grad():  # constants are folded only without gradients
            return program(inputs)

    return _autocast(tower, run, precision)


def _autocast(tower: Tower, encode: Encode, precision: str) -> Encode:
    def run(inputs: Any) -> Tensor:
        with torch.autocast(tower.tensors(inputs)[0].device.type, torch.bfloat16, enabled=precision == "bf16"):
            return encode(inputs).float()

    return run


def onnxruntime(tower: Tower, precision: str) -> Encode:
    """ONNX Runtime, with dynamic batch size and text length."""
    if precision != "fp32":
        raise ModisteError("backend=onnxruntime runs in float32 on a CPU: set precision=fp32.")
    session = onnx.session(_onnx(tower), onnx.options(threads=torch.get_num_threads()))
    names = [node.name for node in session.get_inputs()]

    def run(inputs: Any) -> Tensor:
        feed = dict(zip(names, (tensor.numpy() for tensor in tower.tensors(inputs)), strict=True))
        return torch.from_numpy(session.run(None, feed)[0])

    return run


def _onnx(tower: Tower) -> bytes:
    path = tower.kept("onnxruntime")
    known = read_cache(path, Path.read_bytes, "The ONNX program") if path is not None else None
    if known is not None:
        return known
    for chatty in ("onnxscript", "onnx_ir"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    batch, length = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    dynamic = {0: batch} if tower.kind == "image" else {0: batch, 1: length}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            tower.module(), tuple(tower.tensors(tower.example)), input_names=tower.names, dynamo=True, verbose=False,
            dynamic_shapes=({"tensors": (dynamic,) * len(tower.names)}),
        )  # fmt: skip
    assert program is not None
    content = program.model_proto.SerializeToString()
    if path is not None:
        write_cache(path, lambda file: file.write_bytes(content), "The ONNX program")
    return content


def openvino(tower: Tower, precision: str) -> Encode:
    """OpenVINO, one part of the batch per stream; OpenVINO chooses the number of cores per stream.

    With ``int8``, matmuls have int8 weights, and the rest runs in bf16 if the processor supports it.
    """
    import openvino as ov

    bf16 = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and not bf16:
        raise ModisteError("backend=openvino has no bf16 on this processor: set precision=fp32.")
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 and precision != "fp32" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "THROUGHPUT",
    }
    converted = _openvino(tower)
    if tower.kind == "image":  # a fixed size lets OpenVINO fuse "same" padding into the convolutions
        converted.reshape([-1, *tower.example.shape[1:]])
    if precision == "int8":
        compress_weights(converted)
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = ACTIVATIONS_PER_SCALE
    program = core().compile_model(converted, "CPU", settings)
    order = [_position(port, tower.names, index) for index, port in enumerate(program.inputs)]
    requests = ov.AsyncInferQueue(program)

    def run(inputs: Any) -> Tensor:
        tensors = tower.tensors(inputs)
        size = min(PARTS[tower.kind], math.ceil(len(tensors[0]) / len(requests)))
        parts = list(zip(*(tensors[index].split(size) for index in order), strict=True))
        done: list[Tensor] = [torch.empty(0)] * len(parts)

        def keep(request: Any, index: int) -> None:
            done[index] = torch.from_numpy(request.get_output_tensor().data.copy())

        requests.set_callback(keep)
        for index, part in enumerate(parts):
            requests.start_async([tensor.numpy() for tensor in part], index)
        requests.wait_all()
        return torch.cat(done).float()

    return run


def _openvino(tower: Tower) -> Any:
    import openvino as ov

    path = tower.kept("openvino")
    if path is not None and path.is_dir():
        return read_model(path / "tower.xml")
    example = tuple(tower.tensors(tower.example))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(tower.module(), example, check_trace=False)
        converted = ov.convert_model(traced, example_input=example)
    if path is not None and not path.is_dir():  # another process may have been first
        with atomic_folder(path) as unfinished:
            ov.save_model(converted, unfinished / "tower.xml", compress_to_fp16=False)
    return converted


def _position(port: Any, names: Sequence[str], index: int) -> int:
    """Return the position in ``names`` of a converted model's port; the tracer may append a number."""
    known = {name.partition(".")[0] for name in port.get_names()}
    return next((i for i, name in enumerate(names) if name in known), index)


BACKENDS: dict[str, Callable[[Tower, str], Encode]] = {
    "torch": eager,
    "channels_last": channels_last,
    "compile": compiled,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}


def check_name(name: str, precision: str = "fp32") -> None:
    """Raise ModisteError for unknown or incompatible options and for missing packages."""
    if precision not in PRECISIONS:
        raise ModisteError(f"precision={precision} is not known: choose fp32, bf16 or int8.")
    if precision == "int8" and name not in ("openvino", "auto"):
        raise ModisteError(
            f"precision=int8 needs backend=openvino, not {name}: set backend=openvino, or precision=bf16 or fp32."
        )
    if name not in (*BACKENDS, "auto"):
        raise ModisteError(f"backend={name} is not known. {did_you_mean(name, (*BACKENDS, 'auto'))}")
    extra, packages = EXTRAS.get(name, ("", ()))
    for package in packages:
        if find_spec(package) is None:
            raise ModisteError(f"backend={name} needs {package}: pip install 'modiste[{extra}]', or backend=torch.")


def candidates(kind: str, device: str = "cpu") -> list[str]:
    """Return what ``auto`` tries in addition to torch in float32, from exact to fast.

    On a CPU these are the other backends, then all of them in bf16 if the processor supports it, then int8. On other
    devices it is torch in bf16 alone.

    >>> candidates("image", "cuda")
    ['torch-bf16']
    """
    if device != "cpu":
        return ["torch-bf16"]
    names = [name for name in BACKENDS if name != "compile" and not (kind == "text" and name == "channels_last")]
    bf16 = [f"{name}-bf16" for name in names if has_bf16()]
    return [name for name in names if name != "torch"] + bf16 + ["openvino-int8"]


def choose(tower: Tower, name: str, min_cosine: float) -> tuple[str, Encode]:
    """Check the backend ``name``, or choose the fastest within ``min_cosine`` with ``auto``.

    Args:
        tower: The tower, with an example of the job's inputs on which speed and cosine are measured.
        name: A key of `BACKENDS`, with the suffix "-bf16" or "-int8" for that precision; or ``auto``, which tries
            `candidates` in order and switches to one that is faster by more than `MARGIN`. It skips ``compile``, since
            compiling takes longer than most jobs.
        min_cosine: Minimum cosine of every example to torch's float32 embedding.

    Returns:
        Name and function of the chosen backend.

    Raises:
        ModisteError: A named backend falls below ``min_cosine`` or cannot run the tower.
    """
    if name != "auto":
        return name, checked(tower, name, min_cosine)[0]
    taken: tuple[str, Encode] = ("torch", tower.encode)
    speed = rate(tower, tower.encode)
    log.info("%s tower, torch: %.0f items/s", tower.kind, speed)
    for candidate in candidates(tower.kind, tower.device.type):
        try:
            encode, cosine = checked(tower, candidate, min_cosine)
        except ModisteError as error:
            log.info("%s tower, %s: skipped: %s", tower.kind, candidate, first_line(error))
            continue
        measured = rate(tower, encode)
        log.info("%s tower, %s: %.0f items/s, cosine %.6f", tower.kind, candidate, measured, cosine)
        if measured > (1 + MARGIN) * speed:
            taken, speed = (candidate, encode), measured
    return taken


def checked(tower: Tower, name: str, min_cosine: float) -> tuple[Encode, float]:
    """Return a backend's function and its smallest cosine. Raises ModisteError like `choose`."""
    backend, _, precision = name.partition("-")
    check_name(backend, precision or "fp32")
    remedy = "Use precision=bf16 or fp32." if precision == "int8" else "Use backend=torch."
    try:
        encode = BACKENDS[backend](tower, precision or "fp32")
        cosine = smallest_cosine(tower, encode)
    except ModisteError:
        raise
    except Exception as error:  # exporters raise many kinds of errors for an unsupported tower
        raise ModisteError(
            f"backend={backend} cannot run the {tower.kind} tower: {first_line(error)} {remedy}"
        ) from error
    if not cosine >= min_cosine:  # NaN is not
        far = f"cosine {cosine:.5f} < min_cosine.{tower.kind}={min_cosine:g}"
        raise ModisteError(f"backend={name} is too far from torch: {far}. {remedy}")
    return encode, cosine


def smallest_cosine(tower: Tower, encode: Encode) -> float:
    """Return the smallest cosine to torch's embeddings of the example and a part; NaN if any is NaN."""
    cosines = [
        torch.nn.functional.cosine_similarity(encode(inputs), tower.encode(inputs))
        for inputs in (tower.example, tower.part())
    ]
    return float(torch.cat(cosines).min())


def rate(tower: Tower, encode: Encode, seconds: float = PROBE_SECONDS) -> float:
    """Measure examples per second over about ``seconds``, after a warm-up."""

    def run() -> None:
        encode(tower.example)
        if tower.device.type == "cuda":  # kernels run asynchronously
            torch.cuda.synchronize(tower.device)

    run()
    count, start = 0, time.perf_counter()
    while not count or time.perf_counter() - start < seconds:
        run()
        count += len(tower.tensors(tower.example)[0])
    return count / (time.perf_counter() - start)


def first_line(error: Exception) -> str:
    """Return the first line of an error, at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
