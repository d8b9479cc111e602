"""InfoNCE with soft targets from another pair of embeddings, in tiles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modiste.losses import gather
from modiste.losses.clip import LogSumExp
from modiste.losses.tiles import Gradients, Tile, Tiles


def soft_infonce(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    left: Tensor,
    right: Tensor,
    target_scale: Tensor | float,
    product_id: Tensor,
    mix: float = 1.0,
    tile: int = 2048,
) -> Tensor:
    """``mix`` · KL(P ‖ Q) + (1 - ``mix``) · InfoNCE, exact and without an N×N matrix.

    Q is the softmax of the logits ``scale`` · image · textᵀ over rows, and over columns; P that of ``target_scale`` ·
    left · rightᵀ. Both directions and all N pairs are averaged. Up to a constant, this is InfoNCE with targets
    (1 - mix) · (uniform over the pairs of the product) + mix · P. With mix = 1 it is 0 if and only if P = Q.

    With several processes, each passes its shard of the batch; value and gradients are scaled as in
    `modiste.losses.base.TiledLoss`. Forward and backward take 12·N²·D floating-point operations for targets of size D
    and O(N·D + tile²) memory. The targets get no gradient.

    Args:
        image: Unit-norm image embeddings (B, D).
        text: Unit-norm text embeddings (B, D).
        scale: Inverse temperature of the logits, ().
        left: Unit-norm embeddings (B, E) of the images for the targets.
        right: Unit-norm embeddings (B, E) of the texts for the targets.
        target_scale: Inverse temperature of the targets, ().
        product_id: Product of each pair (B,), int64.
        mix: Weight of the soft targets, in [0, 1].
        tile: Maximum side of a tile.

    Returns:
        Scalar, float32 (float64 for float64 input), also under autocast.

    >>> pairs = torch.eye(2)
    >>> soft_infonce(pairs, pairs, 10.0, pairs, pairs, 10.0, torch.arange(2)).item()
    0.0
    >>> round(soft_infonce(pairs, pairs, 0.0, pairs, pairs, 100.0, torch.arange(2)).item(), 4)  # log 2
    0.6931
    """
    dtype = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
    scales = (torch.as_tensor(value, dtype=dtype, device=image.device) for value in (scale, target_scale))
    student_scale, target = scales
    with torch.autocast(image.device.type, enabled=False):
        return _TiledSoftInfoNCE.apply(
            image.to(dtype), text.to(dtype), student_scale, left.to(dtype), right.to(dtype), target, product_id, mix,
            tile, torch.is_grad_enabled(),
        )  # fmt: skip


class _Softmax:
    """Row and column softmax of tiled logits, from their log-sum-exp (n,) and (N,). A collective."""

    def __init__(self, tiles: Tiles) -> None:
        self.rows, self.cols = LogSumExp(len(tiles.image), tiles.image), LogSumExp(len(tiles.text), tiles.image)
        for tile in tiles:
            self.rows.add(tile.rows, tile.logits, 1, out=tile.spare)
            self.cols.add(tile.cols, tile.logits, 0, out=tile.spare)
        self.cols.align()
        gather.all_reduce_sum(self.cols.total)

    def both(self, tile: Tile) -> Tensor:
        """Softmax over rows plus softmax over columns of a tile (r, c), in its spare buffer."""
        by_row = torch.sub(tile.logits, self.rows.maximum[tile.rows, None], out=tile.spare).exp_()
        by_row.div_(self.rows.total[tile.rows, None])
        by_col = (tile.logits - self.cols.maximum[tile.cols]).exp_()
        return by_row.addcdiv_(by_col, self.cols.total[tile.cols].expand_as(by_col))

    @property
    def row_log(self) -> Tensor:
        """log Σ exp of each of this process's rows (n,)."""
        return self.rows.maximum + self.rows.total.log()

    @property
    def col_log(self) -> Tensor:
        """log Σ exp of each column (N,)."""
        return self.cols.maximum + self.cols.total.log()


class _TiledSoftInfoNCE(torch.autograd.Function):
    """Value and gradients of `soft_infonce`.

    With S the logits, R the targets' logits, Q and P their softmax (rows plus columns), T the hard targets:
    loss = 1/2N Σ [mix · (P∘(R - S) - log Σ exp R) - (1 - mix) · 2 T∘S + log Σ exp S];
    dS = (Q - mix · P - (1 - mix) · 2T) / 2N.
    A first pass over the tiles gives the sums of exp, a second one value and gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        left: Tensor,
        right: Tensor,
        target_scale: Tensor,
        product_id: Tensor,
        mix: float,
        tile_size: int,
        grad_enabled: bool,  # autograd reports needs_input_grad under no_grad too
    ) -> Tensor:
        student = Tiles(image, gather.all_gather(text), scale, gather.all_gather(product_id), tile_size)
        teacher = Tiles(left, gather.all_gather(right), target_scale, student.product_id, tile_size)
        _, group, group_size = student.product_id.unique(return_inverse=True, return_counts=True)
        hard = group_size.to(image.dtype).reciprocal_()[group] * (1 - mix)
        ours, theirs = _Softmax(student), _Softmax(teacher)
        needs = tuple(grad_enabled and needed for needed in ctx.needs_input_grad[:3])
        gradients = Gradients(student, (needs[0], needs[1], needs[2]))
        weight = gather.world_size() / (2 * len(student.text))
        # Per row and column first: in sums over all, small differences of values near 100 would lose their digits.
        rows = mix * (ours.row_log - theirs.row_log) + (1 - mix) * ours.row_log
        cols = mix * (ours.col_log - theirs.col_log) + (1 - mix) * ours.col_log
        soft_part, col_positive = torch.zeros_like(scale), torch.zeros_like(cols)
        for tile, target in zip(student, teacher, strict=True):
            soft = theirs.both(target)
            soft_part += mix * (soft * (target.logits - tile.logits)).sum()
            positive = hard[tile.positive_cols]
            matched = tile.logits.view(-1)[tile.positive] * positive
            rows.index_add_(0, tile.positive_rows, matched, alpha=-1)
            col_positive.index_add_(0, tile.positive_cols, matched)
            if any(needs):
                gradient = ours.both(tile).sub_(soft, alpha=mix)
                # Subtract before the matmul: after it, a positive with Q ≈ 1 would cancel the digits of all others.
                gradient.view(-1).index_add_(0, tile.positive, positive, alpha=-2)
                gradients.add(tile, gradient.mul_(weight))
        ctx.save_for_backward(*gradients.finish())
        shared = gather.all_reduce_sum(torch.cat([col_positive, (rows.sum() + soft_part).view(1)]))
        return ((cols - shared[:-1]).sum() + shared[-1]) / (2 * len(cols))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if saved is None else saved * grad for saved in ctx.saved_tensors), *(None,) * 7
