"""Hard negatives mined with a model's embeddings, without likely false negatives."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modiste.data.catalogue import Catalogue
from modiste.errors import ModisteError
from modiste.utils.links import refuse_links
from modiste.utils.run_dir import read_json

BLOCK = 512
"""Number of rows whose scores with all others are in memory at a time."""


@dataclass(frozen=True)
class Miner:
    """Find pairs that are hard negatives of each other.

    Two pairs may share a group if they differ in product and caption, and neither score between them (image of one,
    text of the other) exceeds ``margin`` times the lower of their own scores; a closer pair is likely an unlabelled
    positive. This is the positive-aware mining of NV-Retriever (Moreira et al. 2024, arXiv:2407.15831; TopK-PercPos,
    95 %) in both directions. The hardest negative is the one with the highest score.

    Attributes:
        image: Unit-norm image embeddings (N, D), float32.
        text: Unit-norm embeddings (N, D) of the captions, float32.
        product: Product of each pair (N,), int64.
        caption: Caption of each pair (N,), int64.
        margin: Maximum fraction of a pair's own score.
    """

    image: Tensor
    text: Tensor
    product: Tensor
    caption: Tensor
    margin: float = 0.95

    @cached_property
    def limit(self) -> Tensor:
        """Highest score (N,) that each pair allows with another."""
        return self.margin * (self.image * self.text).sum(1)

    def scores(self, rows: Tensor, others: Tensor) -> Tensor:
        """The higher of the two scores between pairs, (R, O); -inf if they may not share a group."""
        found = torch.maximum(self.image[rows] @ self.text[others].T, self.text[rows] @ self.image[others].T)
        limit = torch.minimum(self.limit[rows, None], self.limit[others])
        same = (self.product[rows, None] == self.product[others]) | (self.caption[rows, None] == self.caption[others])
        return found.masked_fill_(same | (found > limit), -torch.inf)

    def neighbours(self, number: int) -> Tensor:
        """Return the hardest negatives of each pair, (N, min(number, N)), hardest first, padded with -1.

        >>> image = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.999, 0.045]])
        >>> Miner(image, image, torch.arange(4), torch.arange(4)).neighbours(2).tolist()
        [[1, 2], [3, 0], [1, 3], [1, 2]]

        The last pair is nearly equal to the first, so they are not negatives of each other.
        """
        everything, parts = torch.arange(len(self.image)), []
        for rows in everything.split(BLOCK):
            score, found = self.scores(rows, everything).topk(min(number, len(everything)), dim=1)
            parts.append(found.masked_fill_(score.isinf(), -1))
        return torch.cat(parts)

    def groups(self, order: Sequence[int], neighbours: Tensor, size: int) -> list[list[int]]:
        """Group every row once: in ``order``, each with its hardest unused negatives, up to ``size`` rows.

        All rows of a group may share it by the rule of the class.

        Args:
            order: All rows.
            neighbours: Hardest negatives of each row (N, K), from `neighbours`.
            size: Maximum number of rows per group.
        """
        used = torch.zeros(len(order), dtype=torch.bool)
        groups = []
        for row in order:
            if used[row]:
                continue
            near = neighbours[row]
            near = near[near >= 0]
            near = near[~used[near]]
            allowed = ~self.scores(near, near).isinf()
            together, fits = [row], torch.ones(len(near), dtype=torch.bool)
            for place in range(len(near)):
                if len(together) == size:
                    break
                if fits[place]:
                    together.append(int(near[place]))
                    fits &= allowed[place]
            used[together] = True
            groups.append(together)
        return groups


def read(folder: Path, catalogue: Catalogue, total: int) -> tuple[Tensor, Tensor]:
    """Read the image and text embeddings, each (N, D), of N rows from the output of ``modiste embed``.

    Args:
        folder: Output folder of ``modiste embed``.
        catalogue: The N rows.
        total: Number of rows of the full catalogue.

    Raises:
        ModisteError: The embeddings are missing, incomplete, damaged, or of another catalogue.
    """
    files = [folder / f"{side}.npy" for side in ("image", "text")]
    manifest = folder / "manifest.json"
    if not manifest.is_file() or not all(file.is_file() for file in files):
        raise ModisteError(
            f"data.batches.mined={folder} holds no complete embeddings: create them with "
            f"modiste embed data={shlex.quote(catalogue.card.name)} run=RUN out={shlex.quote(str(folder))}."
        )
    refuse_links(folder, "is not part of the embeddings")
    made = read_json(manifest)
    known = (made.get("data"), made.get("rows")) if isinstance(made, dict) else (None, None)
    if known != (catalogue.card.name, total):
        raise ModisteError(
            f"data.batches.mined={folder} has {known[1]} rows of {known[0]}, but the catalogue is "
            f"{catalogue.card.name} with {total:,}: embed this catalogue."
        )
    rows = np.asarray(catalogue.column("row"))
    image, text = (_rows(file, rows, total) for file in files)
    return image, text


def _rows(file: Path, rows: np.ndarray, total: int) -> Tensor:
    """Read rows of a matrix on disk. Raises ModisteError unless it is a float matrix of ``total`` rows."""
    try:
        matrix = np.load(file, mmap_mode="r", allow_pickle=False)
        if matrix.ndim != 2 or len(matrix) != total or matrix.dtype.kind != "f":
            raise ValueError(f"it holds {matrix.dtype} {matrix.shape}")
    except Exception as error:  # a corrupt header makes NumPy raise nearly anything
        raise ModisteError(f"{file} holds no embeddings ({error}): create them again with modiste embed.") from error
    return torch.from_numpy(matrix[rows].astype(np.float32))
