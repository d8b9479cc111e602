"""What a loss says to the other processes. No other module of `modiste.losses` uses `torch.distributed`.

Every function but `pack` and `unpack` is a collective: all processes must call it, in the same order. In one process
each of them is the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist

from modiste.errors import ModisteError

# Of a float32 number as int32: its sign, and the first of its exponent, where `pack` puts the sign.
_BIT_31, _BIT_30 = -(2**31), 2**30


def world_size() -> int:
    """Number of processes that train together; 1 without `torch.distributed`.

    >>> world_size()
    1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process, 0 without `torch.distributed`."""
    return dist.get_rank() if world_size() > 1 else 0


def check_equal_batches(size: int, device: torch.device) -> None:
    """Refuse local batches of different sizes, which the collectives below would corrupt or wait for forever.

    Raises:
        ModisteError: on every process, when the processes hold different numbers of pairs.
    """
    if world_size() == 1:
        return
    largest, smallest = all_reduce_max(torch.tensor([size, -size], device=device)).tolist()
    if largest != -smallest:
        raise ModisteError(
            f"The processes hold between {-smallest} and {largest} pairs, but the loss needs equal local batches: "
            "drop the last incomplete batch (drop_last) or choose a batch size that divides the data."
        )


def all_gather(tensor: Tensor) -> Tensor:
    """Concatenate the processes' tensors (n, ...) to (world_size · n, ...), in order of rank, without a gradient."""
    if world_size() == 1:
        return tensor
    gathered = tensor.new_empty((world_size() * tensor.shape[0], *tensor.shape[1:]))
    dist.all_gather_into_tensor(gathered, tensor.contiguous())
    return gathered


def all_gather_features(features: Tensor) -> Tensor:
    """`all_gather` of features (n, D). Over gloo, unit-norm ones in float32 travel in 31 of 32 bits, without loss."""
    # Elsewhere the time to pack is worth more than a 32nd of the bytes.
    if world_size() == 1 or features.dtype != torch.float32 or dist.get_backend() != "gloo":
        return all_gather(features)
    if not everywhere(bool((features.abs() < 2).all()), features.device):
        return all_gather(features)
    words = all_gather(pack(features).unsqueeze(0))
    whole = features.new_empty((world_size(), *features.shape))
    for index, part in enumerate(words):
        whole[index] = features if index == rank() else unpack(part, features.shape)
    return whole.flatten(0, 1)


def pack(numbers: Tensor) -> Tensor:
    """Float32 numbers of any shape, within ±2, as (⌈count / 32⌉, 31) int32.

    The first bit of such a number's exponent is 0, so that 31 are left; the bits of every 32nd number fill the gaps of
    the 31 before it.

    >>> pack(torch.ones(64, 2)).shape
    torch.Size([4, 31])
    """
    bits = numbers.contiguous().view(torch.int32).flatten()
    bits = torch.nn.functional.pad(bits, (0, -len(bits) % 32)).view(-1, 32)
    bits = (bits >> 1 & _BIT_30).bitwise_or_(bits & ~(_BIT_30 | _BIT_31))
    gaps = bits[:, 31:] >> torch.arange(31, dtype=torch.int32, device=bits.device) << 31
    return gaps.bitwise_or_(bits[:, :31])


def unpack(words: Tensor, shape: torch.Size) -> Tensor:
    """The numbers of a shape of which `pack` made ``words``, bit for bit.

    >>> unpack(pack(torch.tensor([[-1.0, 0.1]])), torch.Size([1, 2]))
    tensor([[-1.0000,  0.1000]])
    """
    places = torch.arange(31, dtype=torch.int32, device=words.device)
    last = (words >> 31 & 1 << places).sum(1, keepdim=True, dtype=torch.int32)
    bits = torch.cat([words & ~_BIT_31, last], 1)
    bits = (bits & ~_BIT_30).bitwise_or_((bits & _BIT_30) << 1)
    return bits.flatten()[: shape.numel()].view(torch.float32).view(shape)


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum over the processes, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def sum_over_processes(part: Tensor) -> Tensor:
    """The sum of the processes' parts, with the gradient of ``world_size()`` times the own one, as DDP averages."""
    if world_size() == 1:
        return part
    scaled = part * world_size()
    return scaled + (all_reduce_sum(part.detach().clone()) - scaled.detach())


def all_reduce_max(tensor: Tensor) -> Tensor:
    """Element-wise maximum over the processes, in place."""
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
    """Sum (world_size · n, ...) over the processes and return this process's slab (n, ...)."""
    if world_size() == 1:
        return tensor
    size = tensor.shape[0] // world_size()
    if dist.get_backend() == "gloo":  # whose reduce-scatter, where it has one, moves all to everyone
        slabs = torch.empty_like(tensor)
        dist.all_to_all_single(slabs, tensor.contiguous())
        return slabs.view(world_size(), size, *tensor.shape[1:]).sum(0)
    slab = tensor.new_empty((size, *tensor.shape[1:]))
    dist.reduce_scatter_tensor(slab, tensor)
    return slab
