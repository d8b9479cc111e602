"""Logits of all pairs, one tile at a time: shared by the losses, so that no N×N matrix is ever stored.

A process owns n rows (images) and sees all N columns (texts; N = n in one process). `Tiles` walks over s·X·Yᵀ in tiles
of at most t×t, whose two buffers are reused, and `Gradients` turns tiles of d(loss)/d(logits) into gradients of X, Y
and s. Memory is O(N·D + t²). The products are in-place or `out=` variants, which autocast leaves in full precision also
where a backward pass runs inside it.
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
    """Positions (i, j), each (P,), of all pairs with ``rows[i] == cols[j]``, by binary search instead of a mask.

    Args:
        rows: Ids (r,).
        sorted_cols: Ids (c,) in ascending order.
        order: Where each of them stood in ``cols`` (c,).

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
        rows: Its images, as a slice of the process's own.
        cols: Its texts, as a slice of all.
        image: Scaled image features (r, D).
        text: Text features (c, D).
        logits: scale · image · text (r, c). The consumer may overwrite it.
        spare: Scratch (r, c) with undefined content.
        positive: Flat positions (P,) in the tile of the pairs of one product.
        positive_rows: Their images (P,), counted from the process's first.
        positive_cols: Their texts (P,), counted from the first of all.
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
        size: Largest number t of rows and of columns of a tile.
        matmul: How matrices are multiplied.
        kept: Room (n·N,) for all logits, which then outlive their tile; None: one buffer serves all tiles.
        filled: ``kept`` holds the logits already, and nothing is multiplied.
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
        """Where this process's pairs stand among all."""
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

    d(scale) costs no pass over the pairs: Σ dS∘(X·Yᵀ) = ⟨X, dS·Y⟩.

    Args:
        tiles: Where the tiles come from.
        needs: Whether image, text and scale need a gradient; what is not needed is not computed.
    """

    def __init__(self, tiles: Tiles, needs: tuple[bool, bool, bool]) -> None:
        self.tiles = tiles
        self.needs = needs
        needs_image, needs_text, needs_scale = needs
        self.image = torch.zeros_like(tiles.image) if needs_image or (needs_scale and not needs_text) else None
        self.text = torch.zeros_like(tiles.text) if needs_text else None

    def add(self, tile: Tile, gradient: Tensor) -> None:
        """Add the share of ``tile``, given dS (r, c) of it."""
        if self.image is not None:
            self.tiles.matmul.addmm(self.image[tile.rows], gradient, tile.text)
        if self.text is not None:
            self.tiles.matmul.addmm(self.text[tile.cols], gradient.T, tile.image)

    def finish(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of this process's image (n, D) and text (n, D), and this process's share of d(scale), ().

        Collective when text needs a gradient: every process holds a share of every text's.
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
