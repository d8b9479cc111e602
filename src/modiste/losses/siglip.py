"""Pairwise sigmoid loss in tiles (SigLIP), with several positives per product."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modiste.losses import gather
from modiste.losses.base import LogitBias, TiledLoss
from modiste.losses.matmul import Matmul, choose_matmul
from modiste.losses.tiles import Gradients, Tiles
from modiste.utils.ranges import Count, Positive


class SigLipLoss(LogitBias, TiledLoss):
    """Pairwise sigmoid loss over all image–text pairs of the batch, exact and without an N×N matrix.

    Zhai et al., *Sigmoid Loss for Language Image Pre-Training* (SigLIP), arXiv:2303.15343, eq. 1: the sum over all
    pairs divided by the number N of images. All pairs of a product are positives.

    Forward and backward take 6·N²·D floating-point operations, since gradients are computed in the forward pass, and
    O(N·D + tile²) memory. With W processes, each does 1/W of the operations, and only text features are gathered.

    Args:
        init_scale: Initial exp(logit scale); None: that of the pretrained weights, or else 10.
        init_bias: Initial logit bias; null in a configuration: that of the pretrained weights, or else log(p/(1-p)), so
            that the loss starts at the prior p = 1/batch of a positive. None without a configuration: -10.
        max_scale: Upper limit of the scale; none by default, as in the paper (its published weights exceed 100).
        tile: See `modiste.losses.base.TiledLoss`.
        matmul_dtype: See `modiste.losses.base.TiledLoss`.

    Raises:
        ModisteError: See `LogitScale` and `TiledLoss`.

    Two orthogonal pairs and their exact sum, -log σ(10) - log σ(0) for each image:

    >>> loss = SigLipLoss(init_bias=0.0)
    >>> pairs = torch.eye(2)
    >>> round(loss(pairs, pairs).item(), 4)
    0.6932
    """

    def __init__(
        self,
        init_scale: Positive | None = None,
        init_bias: float | None = None,
        max_scale: Positive = math.inf,
        tile: Count = 2048,
        matmul_dtype: str = "float32",
    ) -> None:
        super().__init__(10.0, init_scale, max_scale, init_bias, tile=tile, matmul_dtype=matmul_dtype)

    def compute(self, image: Tensor, text: Tensor, product_id: Tensor) -> Tensor:
        scale, bias = self.scale.to(image.dtype), self.logit_bias.to(image.dtype)
        matmul = choose_matmul(self.matmul_dtype, image.device, image.dtype)
        return _TiledSigmoid.apply(image, text, scale, bias, product_id, self.tile, matmul, torch.is_grad_enabled())


class _TiledSigmoid(torch.autograd.Function):
    """Loss and gradients of `SigLipLoss`, from the embeddings of this process.

    With z the logits plus bias and l = ±1: loss = 1/N Σ log(1 + exp(-l z)) and dz = -l σ(-l z) / N. No tile depends on
    another, so the forward pass computes value and gradients from the same tile.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        bias: Tensor,
        product_id: Tensor,
        tile_size: int,
        matmul: Matmul,
        grad_enabled: bool,  # autograd reports needs_input_grad under no_grad too
    ) -> Tensor:
        tiles = Tiles(image, matmul.gather(text), scale, gather.all_gather(product_id), tile_size, matmul)
        *needs, needs_bias = (grad_enabled and needed for needed in ctx.needs_input_grad[:4])
        gradients = Gradients(tiles, (needs[0], needs[1], needs[2]))
        value, bias_grad, zero = torch.zeros_like(scale), torch.zeros_like(scale), torch.zeros_like(scale)
        weight = gather.world_size() / len(tiles.text)
        for tile in tiles:
            margin = tile.logits.add_(bias)
            flat = margin.view(-1)
            flat[tile.positive] = -flat[tile.positive]  # now -l z
            value += torch.logaddexp(margin, zero, out=tile.spare).sum()
            if any(needs) or needs_bias:
                margin.sigmoid_().mul_(weight)
                flat[tile.positive] = -flat[tile.positive]
                bias_grad += margin.sum()
                gradients.add(tile, margin)
        ctx.save_for_backward(*gradients.finish(), bias_grad if needs_bias else None)
        return gather.all_reduce_sum(value) / len(tiles.text)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if saved is None else saved * grad for saved in ctx.saved_tensors), None, None, None, None
