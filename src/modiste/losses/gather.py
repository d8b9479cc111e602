"""Communication of losses between processes: no loss calls `torch.distributed` itself.

Every function except `world_size`, `rank`, `collectives` and `check_shapes` is a collective: all processes must call
it, in the same order. On a single process each is the identity. A custom loss needs only `gather_pairs` or
`all_gather_with_grad`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from modiste.errors import ModisteError

_collectives = 0


def collectives() -> int:
    """Number of collectives that this process has entered through this module."""
    return _collectives


def _enter() -> None:
    global _collectives
    _collectives += 1


def world_size() -> int:
    """Number of processes; 1 without `torch.distributed`.

    >>> world_size()
    1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process, 0 without `torch.distributed`."""
    return dist.get_rank() if world_size() > 1 else 0


def check_equal_batches(size: int, device: torch.device) -> None:
    """Refuse local batches of different sizes, on which collectives hang or return garbage.

    Raises:
        ModisteError: The processes hold different numbers of pairs; raised on every process.
    """
    if world_size() == 1:
        return
    largest, smallest = all_reduce_max(torch.tensor([size, -size], device=device)).tolist()
    if largest != -smallest:
        raise ModisteError(
            f"The processes hold between {-smallest} and {largest} pairs, but the loss needs equal local batches: "
            "drop the last incomplete batch (drop_last) or choose a batch size that divides the data."
        )


def check_shapes(image: Tensor, text: Tensor) -> None:
    """Raise ValueError unless both are (n, D)."""
    if image.shape != text.shape or image.ndim != 2:
        raise ValueError(f"image {tuple(image.shape)} and text {tuple(text.shape)} must both be (B, D)")


def checked_products(image: Tensor, product_id: Tensor | None) -> Tensor:
    """Return ``product_id`` (n,) or, for None, a distinct id for every image of the global batch.

    Raises:
        ValueError: The shapes do not match.
        ModisteError: The processes hold batches of different sizes.
    """
    if product_id is not None and product_id.shape != image.shape[:1]:
        raise ValueError(f"product_id {tuple(product_id.shape)} must be ({len(image)},), one per pair")
    check_equal_batches(len(image), image.device)
    if product_id is not None:
        return product_id
    return torch.arange(len(image), device=image.device) + rank() * len(image)


def gather_pairs(image: Tensor, text: Tensor, product_id: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Gather the pairs of all processes: embeddings with gradient, and product ids.

    A loss of the gathered pairs has the value and, averaged by DDP, the gradient of one process with the whole batch.
    The same holds for the average over processes of a mean over each one's own rows, contrasted against all.

    Args:
        image: This process's image embeddings (n, D).
        text: This process's text embeddings (n, D); row i belongs to row i of ``image``.
        product_id: Product of each pair (n,), int64; None: every pair is a separate product.

    Returns:
        Image and text embeddings (world_size · n, D), in order of rank, and the product of each pair
        (world_size · n,).

    Raises:
        ValueError: The shapes do not match.
        ModisteError: The processes hold batches of different sizes.

    >>> gather_pairs(torch.eye(2), torch.eye(2))[2]
    tensor([0, 1])
    """
    check_shapes(image, text)
    products = all_gather(checked_products(image, product_id))
    return all_gather_with_grad(image), all_gather_with_grad(text), products


def all_gather_with_grad(tensor: Tensor) -> Tensor:
    """Concatenate all processes' tensors (n, ...) to (world_size · n, ...) by rank, with gradient.

    The gradient of this process's tensor is summed over all processes, so that DDP's average is the gradient of the
    mean of their losses. If the others' tensors were constants, the average would be 1/world_size of the true gradient
    (open_clip without ``gather_with_grad``).

    >>> all_gather_with_grad(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """
    return tensor if world_size() == 1 else _AllGather.apply(tensor)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return all_gather(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return reduce_scatter_sum(gradient.contiguous())


def all_gather(tensor: Tensor) -> Tensor:
    """Concatenate all processes' tensors (n, ...) to (world_size · n, ...) by rank, without gradient."""
    _enter()
    if world_size() == 1:
        return tensor
    gathered = tensor.new_empty((world_size() * tensor.shape[0], *tensor.shape[1:]))
    dist.all_gather_into_tensor(gathered, tensor.contiguous())
    return gathered


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum over the processes, in place."""
    _enter()
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def sum_over_processes(part: Tensor) -> Tensor:
    """Sum over processes, with gradient scaled by ``world_size()`` to undo DDP's averaging."""
    if world_size() == 1:
        return part
    scaled = part * world_size()
    return scaled + (all_reduce_sum(part.detach().clone()) - scaled.detach())


def all_reduce_max(tensor: Tensor) -> Tensor:
    """Element-wise maximum over the processes, in place."""
    _enter()
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def everywhere(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is set in all processes.

    >>> everywhere(True, torch.device("cpu"))
    True
    """
    return flag if world_size() == 1 else not all_reduce_max(torch.tensor([not flag], device=device).int()).item()


def reduce_scatter_sum(tensor: Tensor) -> Tensor:
    """Sum (world_size · n, ...) over the processes and return this process's shard (n, ...)."""
    _enter()
    if world_size() == 1:
        return tensor
    size = tensor.shape[0] // world_size()
    if dist.get_backend() == "gloo":  # its reduce-scatter, if any, sends the whole tensor to every process
        slabs = torch.empty_like(tensor)
        dist.all_to_all_single(slabs, tensor.contiguous())
        return slabs.view(world_size(), size, *tensor.shape[1:]).sum(0)
    slab = tensor.new_empty((size, *tensor.shape[1:]))
    dist.reduce_scatter_tensor(slab, tensor)
    return slab
