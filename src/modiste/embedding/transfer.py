"""Asynchronous transfer of batches to a device and of embeddings back to the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

Inputs = TypeVar("Inputs", Tensor, dict[str, Tensor])


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    """Move pixels, or tokens by name, to ``device``; asynchronously from pinned memory if it is a GPU.

    >>> to_device({"input_ids": torch.zeros(1, 2)}, torch.device("cpu"))["input_ids"].shape
    torch.Size([1, 2])
    """
    if not isinstance(inputs, Tensor):
        return {name: to_device(tensor, device) for name, tensor in inputs.items()}
    if device.type == "cuda" and inputs.device.type == "cpu":
        inputs = inputs.pin_memory()
    return inputs.to(device, non_blocking=True)


def fetched(parts: Iterable[tuple[Any, Tensor]]) -> Iterator[tuple[Any, Tensor]]:
    """Yield the (rows, embeddings) of ``parts`` with the embeddings on the CPU, one part behind.

    A GPU computes the next part while the previous one is copied; the host runs at most two parts ahead.

    >>> [part.tolist() for _, part in fetched((i, torch.ones(1) * i) for i in range(3))]
    [[0.0], [1.0], [2.0]]
    """
    waiting = None
    for rows, part in parts:
        started = _start(rows, part)
        if waiting is not None:
            yield _finish(*waiting)
        waiting = started
    if waiting is not None:
        yield _finish(*waiting)


def _start(rows: Any, part: Tensor) -> tuple[Any, Tensor, torch.cuda.Event | None]:
    if part.device.type != "cuda":
        return rows, part.cpu(), None
    host = torch.empty(part.shape, dtype=part.dtype, pin_memory=True)
    host.copy_(part, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    return rows, host, copied


def _finish(rows: Any, host: Tensor, copied: torch.cuda.Event | None) -> tuple[Any, Tensor]:
    if copied is not None:
        copied.synchronize()
    return rows, host
