"""Logits of all pairs, one tile at a time, so that losses need not store an N×N matrix.

A process owns n rows (images) and sees all N columns (texts; N = n on one process). `Tiles` iterates over s·X·Yᵀ in
tiles of at most t×t, whose two buffers are reused, and `Gradients` turns tiles of d(loss)/d(logits) into gradients of
X, Y and s. Memory is O(N·D + t²). Matmuls are in-place or `out=` variants, which autocast keeps in full precision, even
in a backward pass that runs under it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from modiste.losses import gather
from modiste.losses.matmul import FLOAT32, Matmul


def spans(length: int, size: int) -> list[slice]:
    """Cut ``range(length)`` into slices of ``size``; the last one may be shorter.

    >>> spans(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def matching_pairs(rows: Tensor, sorted_cols: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (i, j), each (P,), of all pairs with ``rows[i] == cols[j]``, by binary search, not a mask.

    Args:
        rows: Ids (r,).
        sorted_cols: Ids ``cols`` (c,) in ascending order.
        order: Index of each of them in ``cols`` (c,).

    >>> i, j = matching_pairs(torch.tensor([7, 3, 9]), *torch.tensor([9, 7, 9]).sort())
    >>> list(zip(i.tolist(), j.tolist()))
    [(0, 1), (2, 0), (2, 2)]
    """
    first = torch.searchsorted(sorted_cols, rows)
    count = torch.searchsorted(sorted_cols, rows, right=True) - first
    i = torch.repeat_interleave(count)
    within = torch.arange(len(i), device=rows.device) - (count.cumsum(0) - count)[i]
    return i, order[first[i] + within]


@dataclass(frozen=True)
class Tile:
    """One tile of the logits.

    Attributes:
        rows: Slice of this process's images.
        cols: Slice of all texts.
        image: Scaled image features (r, D).
        text: Text features (c, D).
        logits: scale · image · textᵀ (r, c). The consumer may overwrite it.
        spare: Scratch buffer (r, c) with undefined content.
        positive: Flat indices (P,) of the positives in the tile.
        positive_rows: Their rows (P,) among this process's images.
        positive_cols: Their columns (P,) among all texts.
    """

    rows: slice
    cols: slice
    image: Tensor
    text: Tensor
    logits: Tensor
    spare: Tensor
    positive: Tensor
    positive_rows: Tensor
    positive_cols: Tensor


@dataclass(frozen=True)
class Tiles:
    """All tiles of ``scale · image · textᵀ``, row by row.

    Attributes:
        image: This process's image features (n, D).
        text: All text features (N, D).
        scale: Inverse temperature, ().
        product_id: Product of every text (N,); a process's images have the ids of its own texts.
        size: Maximum number t of rows and of columns of a tile.
        matmul: Matmul precision.
        kept: Buffer (n·N,) that keeps all logits; None: all tiles share one buffer.
        filled: ``kept`` already holds the logits, which are not computed again.
    """

    image: Tensor
    text: Tensor
    scale: Tensor
    product_id: Tensor
    size: int
    matmul: Matmul = FLOAT32
    kept: Tensor | None = None
    filled: bool = False

    @property
    def own(self) -> slice:
        """Slice of this process's pairs in the global batch."""
        start = gather.rank() * len(self.image)
        return slice(start, start + len(self.image))

    def __iter__(self) -> Iterator[Tile]:
        area = min(self.size, len(self.image)) * min(self.size, len(self.text))
        buffer = self.image.new_empty(area) if self.kept is None else self.kept
        spare_buffer = self.image.new_empty(area)
        start = 0
        own_id = self.product_id[self.own]
        columns = [(cols, *self.product_id[cols].sort()) for cols in spans(len(self.text), self.size)]
        for rows in spans(len(self.image), self.size):
            image = self.image[rows] * self.scale
            for cols, sorted_id, order in columns:
                text = self.text[cols]
                shape = (len(image), len(text))
                logits = buffer[start : start + shape[0] * shape[1]].view(shape)
                spare = spare_buffer[: shape[0] * shape[1]].view(shape)
                if not self.filled:
                    self.matmul.mm(image, text.T, out=logits)
                if self.kept is not None:
                    start += logits.numel()
                i, j = matching_pairs(own_id[rows], sorted_id, order)
                positive = (i * shape[1] + j, i + rows.start, j + cols.start)
                yield Tile(rows, cols, image, text, logits, spare, *positive)


class Gradients:
    """Gradients of image, text and scale, summed over tiles of dS = d(loss)/d(logits).

    d(scale) needs no pass over the pairs: Σ dS∘(X·Yᵀ) = ⟨X, dS·Y⟩.

    Args:
        tiles: Source of the tiles.
        needs: Whether image, text and scale need a gradient; the others are skipped.
    """

    def __init__(self, tiles: Tiles, needs: tuple[bool, bool, bool]) -> None:
        self.tiles = tiles
        self.needs = needs
        needs_image, needs_text, needs_scale = needs
        self.image = torch.zeros_like(tiles.image) if needs_image or (needs_scale and not needs_text) else None
        self.text = torch.zeros_like(tiles.text) if needs_text else None

    def add(self, tile: Tile, gradient: Tensor) -> None:
        """Add the contribution of ``tile``, given its dS (r, c)."""
        if self.image is not None:
            self.tiles.matmul.addmm(self.image[tile.rows], gradient, tile.text)
        if self.text is not None:
            self.tiles.matmul.addmm(self.text[tile.cols], gradient.T, tile.image)

    def finish(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of this process's image (n, D) and text (n, D), and its contribution to d(scale), ().

        A collective if text needs a gradient: every process contributes to the gradient of every text.
        """
        needs_image, _, needs_scale = self.needs
        scale = None
        if self.image is not None:
            if needs_scale:
                scale = torch.dot(self.tiles.image.reshape(-1), self.image.reshape(-1))
            self.image.mul_(self.tiles.scale)
        elif self.text is not None and needs_scale:
            scale = torch.dot(self.tiles.text.reshape(-1), self.text.reshape(-1)) / self.tiles.scale
        text = None if self.text is None else gather.reduce_scatter_sum(self.text)
        return self.image if needs_image else None, text, scale
