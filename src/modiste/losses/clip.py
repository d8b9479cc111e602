"""Symmetric InfoNCE in tiles (CLIP), with several positives per product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modiste.losses import gather
from modiste.losses.base import ContrastiveLoss
from modiste.losses.products import Products, choose
from modiste.losses.tiles import Gradients, Tiles


class ClipLoss(ContrastiveLoss):
    """Symmetric cross-entropy over all image–text pairs of the batch, exact and without an N×N matrix.

    Radford et al., *Learning Transferable Visual Models From Natural Language Supervision* (CLIP), arXiv:2103.00020,
    figure 3. The target of an image is uniform over the texts of its product, and the target of a text uniform over the
    images of its product (Khosla et al., *Supervised Contrastive Learning*, arXiv:2004.11362, eq. 2); with one pair a
    product this is CLIP's.

    Forward and backward take 8·N²·D floating point operations and O(N·D + tile²) memory; with W processes, a W-th of
    the operations each, and only text features travel.

    Args:
        init_scale: exp(logit scale) to start from; None: that of the pretrained weights, or else 1/0.07.
        max_scale: Upper limit of the scale.
        tile: Largest side of a tile of the logits.
        products: ``float32``, or ``bfloat16`` with logits in float32 (`modiste.losses.products`).

    Four images that cannot be told apart cost log 4, whatever the temperature:

    >>> loss = ClipLoss()
    >>> same = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    >>> round(loss(same, same).item(), 4), round(loss.scale.item(), 2)
    (1.3863, 14.29)

    and as much when they are one product, where nothing can be gained either:

    >>> round(loss(same, same, product_id=torch.zeros(4, dtype=torch.int64)).item(), 4)
    1.3863
    """

    def __init__(
        self, init_scale: float | None = None, max_scale: float = 100.0, tile: int = 2048, products: str = "float32"
    ) -> None:
        super().__init__(1 / 0.07, init_scale, max_scale, tile, products)

    def compute(self, image: Tensor, text: Tensor, product_id: Tensor) -> Tensor:
        products = choose(self.products, image.device, image.dtype)
        return _TiledInfoNCE.apply(image, text, self.scale.to(image.dtype), product_id, self.tile, products)


class _LogSumExp:
    """Running log Σ exp of vectors that arrive in tiles, as a maximum and a sum relative to it.

    The two are kept apart because near 100 their total has lost the digits that the softmax needs.
    """

    def __init__(self, length: int, like: Tensor) -> None:
        self.maximum = like.new_full((length,), -torch.inf)
        self.total = like.new_zeros(length)

    def add(self, span: slice, logits: Tensor, dim: int, out: Tensor) -> None:
        """Take in ``logits`` for the entries ``span``, reducing ``dim``; ``out`` is scratch and may be ``logits``."""
        maximum = torch.maximum(self.maximum[span], logits.amax(dim))
        self.total[span] *= (self.maximum[span] - maximum).exp_()
        self.total[span] += torch.sub(logits, maximum.unsqueeze(dim), out=out).exp_().sum(dim)
        self.maximum[span] = maximum


class _TiledInfoNCE(torch.autograd.Function):
    """Loss and gradients of `ClipLoss`; arguments as those of `Tiles`, text and product_id of this process only.

    With S the logits, P and Q their row and column softmax, T the targets (the same for rows and columns, since both
    have the same products), and N pairs:
    loss = 1/2N Σ (log Σ_j exp S_ij - Σ_j T_ij S_ij) + the same over columns;  dS = (P + Q - 2T) / 2N.
    One forward tile gives the statistics of its rows and of its columns; the backward pass forms it once more.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        product_id: Tensor,
        tile_size: int,
        products: Products,
    ) -> Tensor:
        tiles = Tiles(image, gather.all_gather(text), scale, gather.all_gather(product_id), tile_size, products)
        _, group, group_size = tiles.product_id.unique(return_inverse=True, return_counts=True)
        target = group_size.to(image.dtype).reciprocal_()[group]  # T_ij of text j, where it is positive

        rows, cols = _LogSumExp(len(image), image), _LogSumExp(len(tiles.text), image)
        row_positive, col_positive = torch.zeros_like(rows.total), torch.zeros_like(cols.total)
        for tile in tiles:
            positive = tile.logits.view(-1)[tile.positive] * target[tile.positive_cols]
            row_positive.index_add_(0, tile.positive_rows, positive)
            col_positive.index_add_(0, tile.positive_cols, positive)
            rows.add(tile.rows, tile.logits, 1, out=tile.spare)
            cols.add(tile.cols, tile.logits, 0, out=tile.logits)

        # Row statistics are complete; those of columns, and the sum over all rows, need the other processes.
        row_loss = (rows.maximum - row_positive + rows.total.log()).sum()
        own_maximum = cols.maximum.clone()
        gather.all_reduce_max(cols.maximum)
        cols.total *= (own_maximum - cols.maximum).exp_()
        shared = gather.all_reduce_sum(torch.cat([cols.total, col_positive, row_loss.view(1)]))
        cols.total, col_positive, row_loss = shared[: len(target)], shared[len(target) : -1], shared[-1]
        col_loss = (cols.maximum - col_positive + cols.total.log()).sum()

        ctx.save_for_backward(
            image, tiles.text, scale, tiles.product_id, target, rows.maximum, rows.total, cols.maximum, cols.total
        )
        ctx.tile_size, ctx.products = tile_size, products
        return (row_loss + col_loss) / (2 * len(target))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, text, scale, product_id, target, row_maximum, row_total, col_maximum, col_total = ctx.saved_tensors
        tiles = Tiles(image, text, scale, product_id, ctx.tile_size, ctx.products)
        gradients = Gradients(tiles, ctx.needs_input_grad[:3])
        weight = grad * (gather.world_size() / (2 * len(text)))
        row_weight, col_weight, positive_weight = weight / row_total, weight / col_total, -2 * weight * target
        for tile in tiles:
            by_row = torch.sub(tile.logits, row_maximum[tile.rows, None], out=tile.spare).exp_()
            by_col = tile.logits.sub_(col_maximum[tile.cols]).exp_()
            by_row.mul_(row_weight[tile.rows, None]).addcmul_(by_col, col_weight[tile.cols])
            # Before the product: taken off after it, a positive with P ≈ 1 would cost the digits of all others.
            by_row.view(-1).index_add_(0, tile.positive, positive_weight[tile.positive_cols])
            gradients.add(tile, by_row)
        return *gradients.finish(), None, None, None
