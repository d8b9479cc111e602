"""FSDP2: weights, gradients and optimizer state sharded over the processes of a training run."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist

from modiste.models.dual_encoder import DualEncoder
from modiste.models.finetune import TOWERS


def shard(model: DualEncoder, loss: nn.Module, device: str) -> None:
    """Shard ``model`` in place over all processes, block by block (`torch.distributed.fsdp.fully_shard`).

    Each process holds a shard of every weight, and a block's weights are gathered only while it runs. Gradients are
    averaged, as with DDP. The loss's scale and bias are too small to shard: they are replicated, and a hook averages
    their gradients.

    Args:
        model: Model whose layer groups are the blocks; its other parameters belong to the root.
        loss: A contrastive loss.
        device: ``cuda`` or ``cpu``.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # not channels_last, which fully_shard refuses
    groups = [block for tower in TOWERS for group in model.layer_groups(tower) for block in group]
    for block in groups:
        if isinstance(block, nn.Module) and any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for name in ("encode_image", "encode_text"):
        register_fsdp_forward_method(model, name)
    for parameter in loss.parameters():
        parameter.register_hook(_mean)


def _mean(gradient: Tensor) -> Tensor:
    """Mean over the processes."""
    total = gradient.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / dist.get_world_size()
