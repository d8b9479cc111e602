"""Symmetric InfoNCE in tiles (CLIP), with several positives per product."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modiste.errors import ModisteError
from modiste.losses import gather
from modiste.losses.base import LogitScale, TiledLoss
from modiste.losses.matmul import Matmul, choose_matmul
from modiste.losses.tiles import Gradients, Tile, Tiles
from modiste.utils.ranges import Count, NonNegative, Positive

LOGITS_CACHE_MIB = 64.0
"""Fits the float32 logits of 4,096 pairs."""


def checked_cache(mib: float) -> float:
    """Return ``loss.logits_cache_mib``; raise ModisteError if it is negative."""
    if mib < 0:
        raise ModisteError(f"loss.logits_cache_mib={mib:g} must be at least 0 MiB.")
    return float(mib)


class ClipLoss(LogitScale, TiledLoss):
    """Symmetric cross-entropy over all image–text pairs of the batch, exact and in tiles.

    Radford et al., *Learning Transferable Visual Models From Natural Language Supervision* (CLIP), arXiv:2103.00020,
    figure 3. The target of an image is uniform over the texts of its product, and the target of a text uniform over the
    images of its product (Khosla et al., *Supervised Contrastive Learning*, arXiv:2004.11362, eq. 2); with one pair
    per product this is CLIP's loss.

    Pairs with equal text embeddings have the same loss and gradients whether or not they are one product: their logits
    are equal, so it does not matter which of them is the target. If every row is a product, ``data.positives=caption``
    therefore changes nothing without dropout; for `SigLipLoss` it does.

    Forward and backward take 8·N²·D floating-point operations and O(N·D + tile²) memory. Logits that fit in
    ``logits_cache_mib`` are not recomputed, which leaves 6·N²·D. With W processes, each does 1/W of the operations, and
    only text features are gathered.

    Args:
        init_scale: Initial exp(logit scale); None: that of the pretrained weights, or else 1/0.07.
        max_scale: Upper limit of the scale.
        tile: Maximum side of a tile of the logits.
        matmul_dtype: See `modiste.losses.base.TiledLoss`.
        logits_cache_mib: Keep the logits of a process for the backward pass if they take at most this many MiB.

    Raises:
        ModisteError: See `LogitScale` and `TiledLoss`; ``logits_cache_mib`` is negative.

    Four indistinguishable pairs have loss log 4 at any temperature:

    >>> loss = ClipLoss()
    >>> same = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    >>> round(loss(same, same).item(), 4), round(loss.scale.item(), 2)
    (1.3863, 14.29)

    So they do as one product, for which log 4 is the minimum:

    >>> round(loss(same, same, product_id=torch.zeros(4, dtype=torch.int64)).item(), 4)
    1.3863
    """

    def __init__(
        self,
        init_scale: Positive | None = None,
        max_scale: Positive = 100.0,
        tile: Count = 2048,
        matmul_dtype: str = "float32",
        logits_cache_mib: NonNegative = LOGITS_CACHE_MIB,
    ) -> None:
        super().__init__(1 / 0.07, init_scale, max_scale, tile=tile, matmul_dtype=matmul_dtype)
        self.logits_cache_mib = checked_cache(logits_cache_mib)

    def compute(self, image: Tensor, text: Tensor, product_id: Tensor) -> Tensor:
        scale, cache = self.scale.to(image.dtype), self.logits_cache_mib
        return infonce(image, text, scale, product_id, self.tile, self.matmul_dtype, logits_cache_mib=cache)


def infonce(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    product_id: Tensor,
    tile: int,
    matmul_dtype: str,
    weight: Tensor | None = None,
    present: Tensor | None = None,
    logits_cache_mib: float = 0.0,
) -> Tensor:
    """Symmetric InfoNCE of `ClipLoss`, (), with weighted and excluded pairs. A collective.

    Args:
        image: Image features (n, D) of this process.
        text: Text features (n, D); row i belongs to row i of ``image``.
        scale: Inverse temperature, ().
        product_id: Product of each pair (n,), int64.
        tile: Maximum side of a tile of the logits.
        matmul_dtype: See `modiste.losses.base.TiledLoss`.
        weight: Weight of each pair's two cross-entropies in the mean (n,), at least 0; None: 1 each. A pair with
            weight 0 is still a negative of the others.
        present: Mask of valid pairs (n,), bool; None: all. The others are neither positives nor negatives.
        logits_cache_mib: See `ClipLoss`.

    Returns:
        The weighted mean; 0 if all weights are 0.
    """
    matmul = choose_matmul(matmul_dtype, image.device, image.dtype)
    cache = logits_cache_mib * 2**20 if torch.is_grad_enabled() else 0.0
    weight = None if weight is None else weight.to(image.dtype)
    return _TiledInfoNCE.apply(image, text, scale, product_id, weight, present, tile, matmul, cache)


class LogSumExp:
    """Running log-sum-exp over tiles, as a maximum and a sum of exponentials relative to it.

    The two are separate because a single float near 100 lacks the digits that the softmax needs.
    """

    def __init__(self, length: int, like: Tensor) -> None:
        self.maximum = like.new_full((length,), -torch.inf)
        self.total = like.new_zeros(length)

    def add(self, span: slice, logits: Tensor, dim: int, out: Tensor) -> None:
        """Add ``logits``, reduced over ``dim``, to the entries ``span``; ``out`` is scratch, even ``logits``."""
        maximum = logits.amax(dim)
        self.merge(span, maximum, torch.sub(logits, maximum.unsqueeze(dim), out=out).exp_().sum(dim))

    def merge(self, span: slice, maximum: Tensor, total: Tensor) -> None:
        """Merge other maxima and totals into the entries ``span``."""
        before, self.maximum[span] = self.maximum[span].clone(), torch.maximum(self.maximum[span], maximum)
        self.total[span] *= (before - self.maximum[span]).exp_()
        self.total[span] += total * (maximum - self.maximum[span]).exp_()

    def align(self) -> None:
        """Use the maximum over all processes, so that their ``total`` can be summed. A collective."""
        own = self.maximum.clone()
        gather.all_reduce_max(self.maximum)
        self.total *= (own - self.maximum).exp_()


@dataclass(frozen=True)
class Powers:
    """Factors with which exponentials E_ij = exp(S_ij - shift_i) of a tile's rows serve its columns, too.

    exp(S_ij - c_j) = E_ij · exp(shift_i - level) · exp(level - c_j), so the N² terms take one exponential instead of
    two. `take` ensures that neither factor leaves the range of float32: what underflows is less than exp(-27) of its
    column. Positives are 0 in E and get separate exponentials: where one dominates, the gradient is the distance of its
    softmax from 1, which rounded factors would swamp.

    Attributes:
        shift: Value subtracted from each row (r,), at least its largest logit.
        level: Maximum of ``shift``, ().
        positive: Logits (P,) of the tile's positives.
    """

    shift: Tensor
    level: Tensor
    positive: Tensor

    RANGE: ClassVar[float] = 60.0

    @classmethod
    def take(cls, tile: Tile, shift: Tensor, columns: Tensor) -> Powers | None:
        """Overwrite the logits (r, c) with E; None, leaving them, if the range of float32 is too small.

        Args:
            tile: Tile with its logits.
            shift: See the attribute (r,).
            columns: Largest logit of each column (c,), in the tile or in more rows.
        """
        level = shift.max()
        if not bool(level - columns.min() < cls.RANGE):  # NaN is not
            return None
        return cls(shift, level, tile.logits.view(-1)[tile.positive]).put(tile)

    def put(self, tile: Tile) -> Powers:
        """Overwrite the logits with E."""
        tile.logits.sub_(self.shift.unsqueeze(1)).exp_().view(-1)[tile.positive] = 0.0
        return self

    def rows(self) -> Tensor:
        """exp(shift - level), (r,)."""
        return (self.shift - self.level).exp_()

    def columns(self, maximum: Tensor) -> Tensor:
        """exp(level - maximum), (c,)."""
        return (self.level - maximum).exp_()


def _within(tile: Tile) -> tuple[Tensor, Tensor]:
    """Rows and columns (P,) of the positives within the tile."""
    return tile.positive_rows - tile.rows.start, tile.positive_cols - tile.cols.start


def _statistics(tile: Tile, rows: LogSumExp, cols: LogSumExp) -> Powers | None:
    """Add a tile to the sums of its rows and columns; with `Powers` returned, its logits are now E."""
    top = tile.logits.amax(0)
    maximum = torch.maximum(rows.maximum[tile.rows], tile.logits.amax(1))
    powers = Powers.take(tile, maximum, top)
    if powers is None:
        rows.add(tile.rows, tile.logits, 1, out=tile.spare)
        cols.add(tile.cols, tile.logits, 0, out=tile.spare)
        return None
    i, j = _within(tile)
    by_row = tile.logits.sum(1)
    by_col = torch.mv(tile.logits.T, powers.rows(), out=torch.empty_like(top))  # autocast ignores ``out=``
    by_col.mul_(powers.columns(top))
    rows.merge(tile.rows, maximum, by_row.index_add_(0, i, (powers.positive - maximum[i]).exp_()))
    cols.merge(tile.cols, top, by_col.index_add_(0, j, (powers.positive - top[j]).exp_()))
    return powers


def _softmaxes(
    tile: Tile, powers: Powers | None, maxima: tuple[Tensor, Tensor], weights: tuple[Tensor, Tensor]
) -> Tensor:
    """Weighted exp(S - maximum) by row plus that by column, (r, c), in one of the tile's buffers."""
    (row_max, col_max), (by_row, by_col) = maxima, weights
    if powers is None:
        rows = torch.sub(tile.logits, row_max.unsqueeze(1), out=tile.spare).exp_()
        cols = tile.logits.sub_(col_max).exp_()
        return rows.mul_(by_row.unsqueeze(1)).addcmul_(cols, by_col)
    i, j = _within(tile)
    positive = by_row[i] * (powers.positive - row_max[i]).exp_() + by_col[j] * (powers.positive - col_max[j]).exp_()
    by_row, by_col = by_row * (powers.shift - row_max).exp_(), by_col * powers.columns(col_max)
    factor = torch.addcmul(by_row.unsqueeze(1), powers.rows().unsqueeze(1), by_col.unsqueeze(0), out=tile.spare)
    factor.mul_(tile.logits).view(-1).index_add_(0, tile.positive, positive)
    return factor


class _TiledInfoNCE(torch.autograd.Function):
    """Loss and gradients of `infonce`, whose arguments it takes, from this process only.

    With S the logits, P and Q their row and column softmax, T the targets (the same for rows and columns, since both
    have the same products), w the weights and W their sum:
    loss = 1/2W Σ w_i (log Σ_j exp S_ij - Σ_j T_ij S_ij) + the same over columns;
    dS_ij = (w_i (P_ij - T_ij) + w_j (Q_ij - T_ij)) / 2W.
    In the forward pass each tile gives the statistics of its rows and of its columns; the backward pass recomputes it
    unless its logits were kept. Excluded pairs have weight 0 and logits so low that their softmax is exactly 0.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        product_id: Tensor,
        weight: Tensor | None,
        present: Tensor | None,
        tile_size: int,
        matmul: Matmul,
        cache_bytes: float,
    ) -> Tensor:
        _, group = gather.all_gather(product_id).unique(return_inverse=True)
        weight = group.new_ones(len(group), dtype=image.dtype) if weight is None else gather.all_gather(weight)
        absent = None
        if present is not None:
            absent = ~gather.all_gather(present)
            weight = weight.masked_fill(absent, 0.0)
            group = torch.where(absent, torch.arange(len(group), device=group.device) + len(group), group)
            _, group = group.unique(return_inverse=True)
        logits = len(image) * len(group)
        kept = image.new_empty(logits) if logits * image.element_size() <= cache_bytes else None
        tiles = Tiles(image, matmul.gather(text), scale, group, tile_size, matmul, kept)
        target = group.bincount().to(image.dtype).reciprocal_()[group]  # T_ij of text j, where it is positive

        rows, cols = LogSumExp(len(image), image), LogSumExp(len(tiles.text), image)
        row_positive, col_positive = torch.zeros_like(rows.total), torch.zeros_like(cols.total)
        known: list[Powers | None] = []
        for tile in tiles:
            _exclude(tile, absent, tiles)
            positive = tile.logits.view(-1)[tile.positive] * target[tile.positive_cols]
            row_positive.index_add_(0, tile.positive_rows, positive)
            col_positive.index_add_(0, tile.positive_cols, positive)
            powers = _statistics(tile, rows, cols)
            if kept is not None:
                known.append(powers)

        # Row statistics are complete; those of columns, and the sum over all rows, need the other processes.
        row_loss = torch.dot(rows.maximum - row_positive + rows.total.log(), weight[tiles.own])
        cols.align()
        shared = gather.all_reduce_sum(torch.cat([cols.total, col_positive, row_loss.view(1)]))
        cols.total, col_positive, row_loss = shared[: len(target)], shared[len(target) : -1], shared[-1]
        col_loss = torch.dot(cols.maximum - col_positive + cols.total.log(), weight)
        total = weight.sum()
        weight = weight / (2 * torch.where(total > 0, total, 1.0))

        ctx.save_for_backward(
            image, tiles.text, scale, group, target, weight, absent, rows.maximum, rows.total, cols.maximum, cols.total
        )
        ctx.tile_size, ctx.matmul = tile_size, matmul
        ctx.kept, ctx.known = kept, itertools.repeat(None) if kept is None else known
        return (row_loss + col_loss) / (2 * torch.where(total > 0, total, 1.0))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, text, scale, group, target, weight, absent, *statistics = ctx.saved_tensors
        row_maximum, row_total, col_maximum, col_total = statistics
        # The tiles are overwritten: a second backward pass recomputes them.
        kept, ctx.kept = ctx.kept, None
        tiles = Tiles(image, text, scale, group, ctx.tile_size, ctx.matmul, kept, filled=kept is not None)
        gradients = Gradients(tiles, ctx.needs_input_grad[:3])
        weight = weight * (grad * gather.world_size())
        own_weight = weight[tiles.own]
        row_weight, col_weight = own_weight / row_total, weight / col_total
        for tile, powers in zip(tiles, ctx.known, strict=False):
            maxima = row_maximum[tile.rows], col_maximum[tile.cols]
            if kept is None or powers is None:
                _exclude(tile, absent, tiles)
                powers = Powers.take(tile, *maxima) if powers is None else powers.put(tile)
            both = _softmaxes(tile, powers, maxima, (row_weight[tile.rows], col_weight[tile.cols]))
            # Subtract before the matmul: after it, a positive with P ≈ 1 would cancel the digits of all others.
            targets = (own_weight[tile.positive_rows] + weight[tile.positive_cols]) * target[tile.positive_cols]
            both.view(-1).index_add_(0, tile.positive, targets, alpha=-1)
            gradients.add(tile, both)
        return *gradients.finish(), None, None, None, None, None, None


def _exclude(tile: Tile, absent: Tensor | None, tiles: Tiles) -> None:
    """Set the logits of ``absent`` (N,) pairs low, but finite, so that empty rows do not become NaN."""
    if absent is not None:
        low = torch.finfo(tile.logits.dtype).min / 4
        tile.logits.masked_fill_(absent[tiles.own][tile.rows, None], low).masked_fill_(absent[tile.cols], low)
