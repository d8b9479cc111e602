"""The matrix products of the losses: in float32, or of bfloat16 factors, with logits and sums in float32."""

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
KINDS = ("float32", "bfloat16")
Product = Callable[..., Tensor]


@dataclass(frozen=True)
class Products:
    """How two matrices are multiplied.

    A float32 result of ``mm`` is essential: a logit near 100 in bfloat16 would be rounded to 1/4.

    Attributes:
        mm: ``mm(a, b, out=c)``: c = a · b.
        addmm: ``addmm(c, a, b)``: c += a · b.
        factors: What features are rounded to before they travel, and what both products may round their factors to;
            None: neither.
    """

    mm: Product
    addmm: Product
    factors: torch.dtype | None = None

    def gather(self, features: Tensor) -> Tensor:
        """All processes' features (N, D) of the own (n, D): bfloat16 travels in half the bytes. They are rounded in
        one process, too, so that the result does not depend on the number of processes. A collective."""
        return gather.all_gather_features(features.to(self.factors or features.dtype)).to(features.dtype)


def choose(kind: str, device: torch.device, dtype: torch.dtype) -> Products:
    """The products of a kind on a device; in full precision, with one warning, where bfloat16 has no units in one of
    the processes. A collective."""
    if kind == "float32" or dtype != torch.float32:
        return PLAIN
    if not gather.everywhere(has_bfloat16(device.type), device):
        _warn(device.type)
        return PLAIN
    return ON_CUDA if device.type == "cuda" else ON_CPU


def check(kind: str) -> None:
    """Raises ModisteError for an unknown kind."""
    if kind not in KINDS:
        raise ModisteError(f"loss.products={kind} is not known. {did_you_mean(kind, KINDS)}")


@functools.cache
def has_bfloat16(device: str) -> bool:
    """Whether a kind of device multiplies bfloat16 in hardware and adds up in float32; emulation is far slower."""
    if device == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    if device != "cpu":
        return False
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


@functools.cache
def _warn(device: str) -> None:
    log.warning("loss.products=bfloat16: this %s has no bfloat16 units, so the products stay in float32.", device)


@contextmanager
def _bfloat16_math() -> Iterator[None]:
    """Float32 products of the CPU round their factors to bfloat16, and nothing else."""
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
    # Twice as fast as `_bfloat16_math`; a share of a gradient, unlike a logit, may be rounded as its factors are.
    return c.add_(torch.mm(a.bfloat16(), b.bfloat16()))


def _cuda_mm(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    return out.copy_(torch.mm(a.bfloat16(), b.bfloat16(), out_dtype=torch.float32))


def _cuda_addmm(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return c.add_(torch.mm(a.bfloat16(), b.bfloat16(), out_dtype=torch.float32))


PLAIN = Products(torch.mm, Tensor.addmm_)
ON_CPU = Products(_cpu_mm, _cpu_addmm, torch.bfloat16)
ON_CUDA = Products(_cuda_mm, _cuda_addmm, torch.bfloat16)
