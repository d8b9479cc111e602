"""Hard negatives mined with a model's embeddings, without likely false ones."""

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
"""Rows whose scores with all others are held at a time."""


@dataclass(frozen=True)
class Miner:
    """Which pairs make good negatives of each other.

    Two pairs may stand together when neither product nor caption is the same, and no score between them, image of the
    one and text of the other, is above ``margin`` times the lower of the two pairs' own scores: what is nearer is
    likely an unlabelled positive. This is the positive-aware mining of NV-Retriever (Moreira et al. 2024,
    arXiv:2407.15831; TopK-PercPos, 95 %), for both directions. The hardest pair is the one with the highest score.

    Attributes:
        image: Unit-norm image embeddings (N, D), float32.
        text: Unit-norm embeddings (N, D) of the pairs' captions.
        product: Product of each (N,), int64.
        caption: Caption of each (N,), int64.
        margin: See above.
    """

    image: Tensor
    text: Tensor
    product: Tensor
    caption: Tensor
    margin: float = 0.95

    @cached_property
    def limit(self) -> Tensor:
        """The highest score with another pair that each allows (N,)."""
        return self.margin * (self.image * self.text).sum(1)

    def scores(self, rows: Tensor, others: Tensor) -> Tensor:
        """The higher of the two scores between pairs (r, o), -inf where they may not stand together."""
        found = torch.maximum(self.image[rows] @ self.text[others].T, self.text[rows] @ self.image[others].T)
        limit = torch.minimum(self.limit[rows, None], self.limit[others])
        same = (self.product[rows, None] == self.product[others]) | (self.caption[rows, None] == self.caption[others])
        return found.masked_fill_(same | (found > limit), -torch.inf)

    def neighbours(self, number: int) -> Tensor:
        """The ``number`` hardest negatives of each pair (N, number), hardest first, -1 where there are no more.

        >>> image = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.999, 0.045]])
        >>> Miner(image, image, torch.arange(4), torch.arange(4)).neighbours(2).tolist()
        [[1, 2], [3, 0], [1, 3], [1, 2]]

        The last is almost the first, so the margin keeps the two apart.
        """
        everything, parts = torch.arange(len(self.image)), []
        for rows in everything.split(BLOCK):
            score, found = self.scores(rows, everything).topk(min(number, len(everything)), dim=1)
            parts.append(found.masked_fill_(score.isinf(), -1))
        return torch.cat(parts)

    def groups(self, order: Sequence[int], neighbours: Tensor, size: int) -> list[list[int]]:
        """Return every row once: in ``order``, each with its hardest negatives that are left, up to ``size`` rows.

        No two rows of a group may be false negatives of each other.

        Args:
            order: All rows.
            neighbours: Of each row (N, K), from `neighbours`.
            size: Rows in a group.
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
    """Image and text embeddings, each (N, D), of a part of the catalogue that ``modiste embed`` embedded.

    Args:
        folder: What ``modiste embed`` wrote.
        catalogue: The part.
        total: Rows of the whole.

    Raises:
        ModisteError: There are no finished embeddings, or those of another catalogue.
    """
    files = [folder / f"{side}.npy" for side in ("image", "text")]
    manifest = folder / "manifest.json"
    if not manifest.is_file() or not all(file.is_file() for file in files):
        raise ModisteError(
            f"data.batches.mined={folder} holds no finished embeddings: create them with "
            f"modiste embed data={shlex.quote(catalogue.card.name)} run=RUN out={shlex.quote(str(folder))}."
        )
    refuse_links(folder, "is not part of the embeddings")
    made = read_json(manifest)
    known = (made.get("data"), made.get("rows")) if isinstance(made, dict) else (None, None)
    if known != (catalogue.card.name, total):
        raise ModisteError(
            f"data.batches.mined={folder} has {known[1]} rows of {known[0]}, and the catalogue is "
            f"{catalogue.card.name} with {total:,}: embed this catalogue."
        )
    rows = np.asarray(catalogue.column("row"))
    image, text = (_rows(file, rows, total) for file in files)
    return image, text


def _rows(file: Path, rows: np.ndarray, total: int) -> Tensor:
    """Rows of a matrix on disk. Raises ModisteError where the file holds no matrix of ``total`` rows."""
    try:
        matrix = np.load(file, mmap_mode="r", allow_pickle=False)
        if matrix.ndim != 2 or len(matrix) != total or matrix.dtype.kind != "f":
            raise ValueError(f"it holds {matrix.dtype} {matrix.shape}")
    except Exception as error:  # a header that was tampered with makes numpy raise nearly anything
        raise ModisteError(f"{file} holds no embeddings ({error}): create them again with modiste embed.") from error
    return torch.from_numpy(matrix[rows].astype(np.float32))
