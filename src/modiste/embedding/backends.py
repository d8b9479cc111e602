"""Inference backends for embedding: torch, torch.compile, ONNX Runtime, OpenVINO; and their selection.

A backend is a function of a `Tower` that gives a function of inputs. All take what `DualEncoder.encode_image` and
`encode_text` take, and give embeddings (B, D) in float32; how far they are from torch's is measured, on the inputs of
the job, before one is used. What was converted once is kept on disk.
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

from modiste.embedding.int8 import quantise_weights
from modiste.errors import ModisteError, did_you_mean
from modiste.models.dual_encoder import DualEncoder, Tokens
from modiste.models.layers import shared_copy
from modiste.utils import onnx
from modiste.utils.atomic import atomic_folder, read_cache, write_cache
from modiste.utils.machine import has_bf16, installed
from modiste.utils.openvino import core, read_model

log = logging.getLogger(__name__)

# Backends that need packages: the extra that brings them, and their names.
EXTRAS = {"onnxruntime": ("onnx", ("onnxruntime", "onnx", "onnxscript")), "openvino": ("openvino", ("openvino",))}
PROBE_SECONDS = 2.0
# By how much a backend has to be faster in a probe, whose noise is of this size.
MARGIN = 0.1
# Activations of this number of images stay in the processor's cache.
CHUNK = 32
# Images, and texts, that one stream of OpenVINO takes at a time at most.
PARTS = {"image": 8, "text": 32}
# Of a matrix product; from exact to fast.
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
        example: Inputs as the job has them: pixels (B, 3, S, S) uint8, or tokens; at least two, texts of several
            lengths, as exporters take a dimension of 1 and a mask without zeros for constants.
        cache: Folder of converted towers; null converts again.
        fingerprint: Of the model's weights, where there is a cache.
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
        """Of the model."""
        return next(self.model.parameters()).device

    def encode(self, inputs: Inputs) -> Tensor:
        """Torch's own embeddings (B, D), float32."""
        encode: Encode = self.model.encode_image if self.kind == "image" else self.model.encode_text
        with torch.inference_mode():
            return encode(inputs).float()

    def tensors(self, inputs: Inputs) -> list[Tensor]:
        """Inputs as a list of tensors, in the order of `names`."""
        return [inputs] if isinstance(inputs, Tensor) else [inputs[name] for name in self.names]

    def module(self) -> nn.Module:
        """The tower as a module of positional tensors."""
        return _Positional(self)

    def part(self) -> Inputs:
        """The last of the example without what is padding in all of them: another batch size, and length of text."""
        count = max(1, len(self.tensors(self.example)[0]) // 3)
        if isinstance(self.example, Tensor):
            return self.example[-count:].clone()
        return without_padding({name: tensor[-count:] for name, tensor in self.example.items()})

    def kept(self, backend: str) -> Path | None:
        """Where the tower is kept as ``backend`` has it: all that a conversion writes into it is in the name."""
        if self.cache is None:
            return None
        shape = list(self.example.shape[1:]) if self.kind == "image" else self.names
        versions = {name: installed(name) for name in ("torch", "transformers", "timm", "onnxscript", "openvino")}
        facts = [self.fingerprint, self.model.preprocess.describe(), self.kind, shape, backend, versions]
        return self.cache / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def without_padding(tokens: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tokens (each (B, L)) without the columns that no text uses; without an attention mask, as they are."""
    if "attention_mask" not in tokens:
        return {name: tensor.clone() for name, tensor in tokens.items()}
    used = tokens["attention_mask"].any(0)
    used[0] |= not used.any()  # texts without a word
    return {name: tensor[:, used] for name, tensor in tokens.items()}


class _Positional(nn.Module):
    def __init__(self, tower: Tower) -> None:
        super().__init__()
        # torch.export puts other tensors into the modules while it runs, and the model may be in use meanwhile.
        self.model, self.kind, self.names = shared_copy(tower.model), tower.kind, tower.names

    def forward(self, *tensors: Tensor) -> Tensor:
        if self.kind == "image":
            return self.model.encode_image(tensors[0])
        return self.model.encode_text(dict(zip(self.names, tensors, strict=True)))


def eager(tower: Tower, precision: str) -> Encode:
    """Eager torch."""
    return _autocast(tower, tower.encode, precision)


def channels_last(tower: Tower, precision: str) -> Encode:
    """Eager torch with channels_last images, a few at a time."""
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
        with torch.no_grad():  # constants are folded only where no gradient can be asked for
            return program(inputs)

    return _autocast(tower, run, precision)


def _autocast(tower: Tower, encode: Encode, precision: str) -> Encode:
    def run(inputs: Any) -> Tensor:
        with torch.autocast(tower.tensors(inputs)[0].device.type, torch.bfloat16, enabled=precision == "bf16"):
            return encode(inputs).float()

    return run


def onnxruntime(tower: Tower, precision: str) -> Encode:
    """ONNX Runtime, from the tower exported with any batch size and text length."""
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

    In int8 are the products with weights; what is left is in bf16 where the processor has it.
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
    if tower.kind == "image":  # of one size, so that "same" padding becomes a part of the convolutions
        converted.reshape([-1, *tower.example.shape[1:]])
    if precision == "int8":
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = quantise_weights(converted)
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
    """Which of ``names`` a port of the converted program is; the tracer may have put a number behind the name."""
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
    """What ``auto`` tries next to torch in float32, from exact to fast: the others, all in bf16 where the processor has
    units for it, and int8. The other backends are for CPUs: on a GPU it is torch in bf16.

    >>> candidates("image", "cuda")
    ['torch-bf16']
    """
    if device != "cpu":
        return ["torch-bf16"]
    names = [name for name in BACKENDS if name != "compile" and not (kind == "text" and name == "channels_last")]
    bf16 = [f"{name}-bf16" for name in names if has_bf16()]
    return [name for name in names if name != "torch"] + bf16 + ["openvino-int8"]


def choose(tower: Tower, name: str, min_cosine: float) -> tuple[str, Encode]:
    """The backend ``name``, or with ``auto`` the fastest within ``min_cosine``.

    Args:
        tower: With an example of the job's inputs, on which speed and cosine are measured.
        name: A key of `BACKENDS`, with "-bf16" or "-int8" behind it for that precision; or ``auto``, which leaves out
            ``compile``: compiling takes longer than most jobs. It goes from exact to fast, and takes what is faster by
            `MARGIN` than what it had.
        min_cosine: Smallest cosine to torch's float32 embeddings that any example may have.

    Returns:
        The name of what was taken, and the function.

    Raises:
        ModisteError: A backend that was named falls below ``min_cosine`` or cannot run the tower.
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
    """A backend's function and its smallest cosine. Raises ModisteError as `choose`."""
    backend, _, precision = name.partition("-")
    check_name(backend, precision or "fp32")
    remedy = "Use precision=bf16 or fp32." if precision == "int8" else "Use backend=torch."
    try:
        encode = BACKENDS[backend](tower, precision or "fp32")
        cosine = smallest_cosine(tower, encode)
    except ModisteError:
        raise
    except Exception as error:  # exporters raise many kinds for a tower they do not know
        raise ModisteError(
            f"backend={backend} cannot run the {tower.kind} tower: {first_line(error)} {remedy}"
        ) from error
    if not cosine >= min_cosine:  # NaN is not
        far = f"cosine {cosine:.5f} < min_cosine.{tower.kind}={min_cosine:g}"
        raise ModisteError(f"backend={name} is too far from torch: {far}. {remedy}")
    return encode, cosine


def smallest_cosine(tower: Tower, encode: Encode) -> float:
    """Of an encoder's embeddings of the example, and of a part of it, to torch's; NaN if one is not a number."""
    cosines = [
        torch.nn.functional.cosine_similarity(encode(inputs), tower.encode(inputs))
        for inputs in (tower.example, tower.part())
    ]
    return float(torch.cat(cosines).min())


def rate(tower: Tower, encode: Encode, seconds: float = PROBE_SECONDS) -> float:
    """Examples per second, after a warm-up, over about ``seconds``."""

    def run() -> None:
        encode(tower.example)
        if tower.device.type == "cuda":  # which has only been told what to do
            torch.cuda.synchronize(tower.device)

    run()
    count, start = 0, time.perf_counter()
    while not count or time.perf_counter() - start < seconds:
        run()
        count += len(tower.tensors(tower.example)[0])
    return count / (time.perf_counter() - start)


def first_line(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
