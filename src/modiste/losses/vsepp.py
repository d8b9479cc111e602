"""Hinge loss with hardest negatives (VSE++), with several positives per product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modiste.errors import ModisteError
from modiste.losses import gather
from modiste.losses.base import TiledLoss
from modiste.losses.tiles import Tiles
from modiste.utils.ranges import Count, NonNegative


class VseppLoss(TiledLoss):
    """Hinge loss between each positive and its hardest negative in the global batch (VSE++).

    Faghri et al., *VSE++: Improving Visual-Semantic Embeddings with Hard Negatives*, arXiv:1707.05612, eq. 6, as a mean
    over the batch: with s the cosines, N the batch size, and P(i) the pairs of the product of row i::

        1/N Σ_i 1/|P(i)| Σ_{p ∈ P(i)} [m + max_{n ∉ P(i)} s(image_i, text_n) - s(image_i, text_p)]_+

    plus the same over texts. With one pair per product this is the paper's loss. Of equally hard negatives, the first
    is used. A row without negatives has loss 0. There is no temperature.

    The hardest negatives are found in tiles without an autograd graph, so forward and backward take 4·N²·D
    floating-point operations and O(N·D + P + tile²) memory for P positives. With W processes, each does 1/W of the
    operations.

    Args:
        margin: Margin m between cosines.
        tile: See `modiste.losses.base.TiledLoss`.

    Raises:
        ModisteError: ``margin`` is not in (0, 2]; or see `TiledLoss`.

    Orthogonal pairs satisfy any margin up to 1; identical pairs cost the margin in both directions:

    >>> loss = VseppLoss(margin=0.2)
    >>> pairs = torch.eye(3)
    >>> loss(pairs, pairs).item(), round(loss(pairs[[0, 0]], pairs[[0, 0]]).item(), 4)
    (0.0, 0.4)
    """

    def __init__(self, margin: NonNegative = 0.2, tile: Count = 2048) -> None:
        super().__init__(tile)
        if not 0 < margin <= 2:
            raise ModisteError(f"loss.margin={margin:g} must lie in (0, 2], the range of a difference of cosines.")
        self.margin = margin

    def compute(self, image: Tensor, text: Tensor, product_id: Tensor) -> Tensor:
        products = gather.all_gather(product_id)
        of_images = self._hinge(image, gather.all_gather_with_grad(text), products)
        of_texts = self._hinge(text, gather.all_gather_with_grad(image), products)
        return gather.sum_over_processes((of_images + of_texts) / len(products))

    def _hinge(self, anchor: Tensor, others: Tensor, products: Tensor) -> Tensor:
        """Sum over this process's anchors (n, D) of their mean hinge, against all others (N, D), ()."""
        tiles = Tiles(anchor.detach(), others.detach(), anchor.new_ones(()), products, self.tile)
        found = mine(tiles)
        weight = found.rows.bincount(minlength=len(anchor)).to(anchor.dtype).reciprocal_()[found.rows]
        weight = weight.masked_fill_(self.margin + found.negative[found.rows] <= found.positive, 0.0)
        # Given the active hinges, the loss is linear in the cosines: their factors are a sparse (n, N) matrix.
        cols = torch.cat([found.hardest[found.rows], found.cols])
        indices = torch.stack([found.rows.repeat(2), cols])
        factors = torch.sparse_coo_tensor(indices, torch.cat([weight, -weight]), (len(anchor), len(others)))
        return self.margin * weight.sum() + (anchor * torch.sparse.mm(factors, others)).sum()


@dataclass(frozen=True)
class Mined:
    """Positives, and the hardest negative of each row.

    Attributes:
        hardest: Column of each row's hardest negative (n,); 0 if it has no negative.
        negative: Its logit (n,); -inf if the row has no negative.
        rows: Rows of the positives (P,).
        cols: Their columns (P,).
        positive: Their logits (P,).
    """

    hardest: Tensor
    negative: Tensor
    rows: Tensor
    cols: Tensor
    positive: Tensor


@torch.no_grad()
def mine(tiles: Tiles) -> Mined:
    """Find the positives, and each row's hardest negative: the first of equally hard ones."""
    negative = tiles.image.new_full((len(tiles.image),), -torch.inf)
    hardest = torch.zeros_like(negative, dtype=torch.int64)
    positives = []
    for tile in tiles:
        flat = tile.logits.view(-1)
        positives.append((tile.positive_rows, tile.positive_cols, flat[tile.positive]))
        flat[tile.positive] = -torch.inf
        value, index = tile.logits.max(1)
        harder = value > negative[tile.rows]
        negative[tile.rows] = torch.where(harder, value, negative[tile.rows])
        hardest[tile.rows] = torch.where(harder, index + tile.cols.start, hardest[tile.rows])
    return Mined(hardest, negative, *(torch.cat(parts) for parts in zip(*positives, strict=True)))
