"""Matmuls of the losses: fp32, or bf16 inputs with fp32 accumulation and fp32 logits."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from modiste.errors import ModisteError, did_you_mean
from modiste.losses import gather

log = logging.getLogger(__name__)
MATMUL_DTYPES = ("float32", "bfloat16")
Multiply = Callable[..., Tensor]


@dataclass(frozen=True)
class Matmul:
    """Matmul functions of one precision.

    The result of ``mm`` must be fp32: bf16 would round a logit near 100 to a multiple of 1/2.

    Attributes:
        mm: ``mm(a, b, out=c)``: c = a · b.
        addmm: ``addmm(c, a, b)``: c += a · b.
        inputs: dtype to which features are rounded before they are gathered, and to which ``mm`` and ``addmm`` may
            round their inputs; None: no rounding.
    """

    mm: Multiply
    addmm: Multiply
    inputs: torch.dtype | None = None

    def gather(self, features: Tensor) -> Tensor:
        """Gather this process's features (n, D) to all (N, D); bf16 halves the bytes. A collective.

        A single process rounds them, too, so that the result does not depend on the number of processes.
        """
        return gather.all_gather(features.to(self.inputs or features.dtype)).to(features.dtype)


def choose_matmul(name: str, device: torch.device, dtype: torch.dtype) -> Matmul:
    """Choose the matmul for ``loss.matmul_dtype`` = ``name``. A collective.

    Falls back to fp32, with one warning, if the hardware of any process has no bf16 units. float64 stays float64.
    """
    if name == "float32" or dtype != torch.float32:
        return FLOAT32
    if not gather.everywhere(has_bfloat16(device.type), device):
        _warn(device.type)
        return FLOAT32
    return BFLOAT16_CUDA if device.type == "cuda" else BFLOAT16_CPU


def check_matmul_dtype(name: str) -> None:
    """Raise ModisteError for an unknown ``loss.matmul_dtype``."""
    if name not in MATMUL_DTYPES:
        raise ModisteError(f"loss.matmul_dtype={name} is not known. {did_you_mean(name, MATMUL_DTYPES)}")


@functools.cache
def has_bfloat16(device: str) -> bool:
    """Whether a device type multiplies bf16 in hardware with fp32 accumulation; emulation is far slower."""
    if device == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    if device != "cpu":
        return False
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


@functools.cache
def _warn(device: str) -> None:
    log.warning("loss.matmul_dtype=bfloat16: this %s has no bf16 units, so the loss uses float32 matmuls.", device)


@contextmanager
def _bfloat16_math() -> Iterator[None]:
    """Let fp32 matmuls on the CPU round their inputs, but not their results, to bf16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _cpu_mm(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    with _bfloat16_math():
        return torch.mm(a, b, out=out)


def _cpu_addmm(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    # Twice as fast as `_bfloat16_math`; a tile's contribution to a gradient, unlike a logit, may be rounded to bf16.
    return c.add_(torch.mm(a.bfloat16(), b.bfloat16()))


def _cuda_mm(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    return out.copy_(torch.mm(a.bfloat16(), b.bfloat16(), out_dtype=torch.float32))


def _cuda_addmm(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return c.add_(torch.mm(a.bfloat16(), b.bfloat16(), out_dtype=torch.float32))


FLOAT32 = Matmul(torch.mm, Tensor.addmm_)
BFLOAT16_CPU = Matmul(_cpu_mm, _cpu_addmm, torch.bfloat16)
BFLOAT16_CUDA = Matmul(_cuda_mm, _cuda_addmm, torch.bfloat16)
