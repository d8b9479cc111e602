"""Compare a loss on two processes with one process, for tests of custom losses."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from modiste.config import instantiate
from modiste.losses.base import ContrastiveLoss, Origin
from modiste.losses.build import build_loss

# Products with several pairs on one process or on both, and products with a single pair.
PRODUCTS = [0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 0, 0, 10, 11, 2, 12, 13, 14, 15, 16]
TOLERANCE = 1e-4
"""Relative; a loss may compute in float32. Local negatives differ by tens of percent."""

Step = dict[str, Tensor]


def compare_processes(losses: Mapping[str, Mapping[str, Any]], embed_dim: int = 256) -> dict[str, str]:
    """Compare each loss on two processes (gloo) with one process that has the whole batch.

    A loss is correct if the mean over the processes of its values is that of the whole batch, and the gradients that
    `torch.nn.parallel.DistributedDataParallel` averages are those of the whole batch.

    Args:
        losses: Config node of each loss by name: ``_target_`` and its arguments, as plain values.
        embed_dim: Size of the embeddings.

    Returns:
        Description of the first difference by name; "" for a correct loss and for one with ``local_negatives = True``.

    Raises:
        ModisteError: A node cannot be built; see `modiste.config.instantiate`.
    """
    alone = {name: _step(node, embed_dim, slice(None), parallel=False) for name, node in losses.items()}
    with tempfile.TemporaryDirectory() as folder:
        spawn(_process, args=(folder, dict(losses), embed_dim), nprocs=2)
        both = [torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in range(2)]
    return {
        name: "" if _is_local(node) else _difference(alone[name], *(seen[name] for seen in both))
        for name, node in losses.items()
    }


class _Towers(nn.Module):
    """Two linear towers and a loss."""

    def __init__(self, loss: ContrastiveLoss, embed_dim: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text, self.loss = nn.Linear(6, embed_dim), nn.Linear(6, embed_dim), loss
        self.double()

    def forward(self, image: Tensor, text: Tensor, product_id: Tensor) -> Tensor:
        image, text = F.normalize(self.image(image), dim=1), F.normalize(self.text(text), dim=1)
        return self.loss(image, text, product_id)


def _is_local(node: Mapping[str, Any]) -> bool:
    return instantiate(dict(node)).local_negatives is True


def _step(node: Mapping[str, Any], embed_dim: int, part: slice, parallel: bool) -> Step:
    """Value and gradients on a shard of the batch."""
    loss = build_loss(node, Origin(global_batch=len(PRODUCTS)))
    model: nn.Module = _Towers(loss, embed_dim)
    model = DistributedDataParallel(model) if parallel else model
    pairs = torch.randn(2, len(PRODUCTS), 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value = model(*pairs[:, part], torch.tensor(PRODUCTS)[part])
    value.backward()
    gradients = {name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"its value": value.detach()} | {f"the gradient of {name}": grad for name, grad in gradients.items()}


def _process(rank: int, folder: str, losses: dict[str, Any], embed_dim: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    half = len(PRODUCTS) // 2
    part = slice(rank * half, (rank + 1) * half)
    torch.save(
        {name: _step(node, embed_dim, part, parallel=True) for name, node in losses.items()}, f"{folder}/{rank}.pt"
    )
    distributed.barrier()
    distributed.destroy_process_group()


def _difference(alone: Step, first: Step, second: Step) -> str:
    for name, expected in alone.items():
        found = (first[name] + second[name]) / 2
        error = float((found - expected).norm() / expected.norm().clamp_min(1e-12))
        if not error < TOLERANCE:
            return f"on two processes {name} differs by {error:.0%} from one process with the whole batch"
    return ""
