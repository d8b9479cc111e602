"""Batch composition: which pairs share a batch and are each other's negatives."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modiste.data import mining
from modiste.data.catalogue import Catalogue
from modiste.errors import ModisteError


@dataclass(frozen=True)
class Batches:
    """Order of an epoch, which determines the batches and thus the in-batch negatives.

    Attributes:
        group_by: A column; ``group_size`` pairs with the same value are adjacent, as hard negatives (a group may
            continue in the next batch). None: the order is random.
        group_size: Pairs per group of ``group_by`` or ``mined``.
        one_per_product: Allow each product once per batch. Only the last batches of an epoch may repeat a product,
            since no row is dropped.
        balance: A column. An epoch samples as many rows as there are, with replacement; a row whose value occurs in n
            rows has a probability proportional to n^-power.
        power: 0 keeps the natural frequencies, 1 makes all values equally frequent.
        mined: Output folder of ``modiste embed``; groups are nearest neighbours of these embeddings
            (`modiste.data.mining.Miner`). None: no mining.
        false_negative_margin: Pairs with a score above this fraction of the positive's do not share a group; see
            `modiste.data.mining.Miner`.

    Raises:
        ModisteError: ``group_size`` < 1, ``power`` outside [0, 1], ``false_negative_margin`` ≤ 0, both ``group_by`` and
            ``mined``, or ``mined`` with ``balance``.
    """

    group_by: str | None = None
    group_size: int = 16
    one_per_product: bool = False
    balance: str | None = None
    power: float = 0.5
    mined: str | None = None
    false_negative_margin: float = 0.95

    def __post_init__(self) -> None:
        margin = self.false_negative_margin
        if self.group_size < 1:
            raise ModisteError(f"data.batches.group_size={self.group_size} is too small: give at least 1.")
        if not 0 <= self.power <= 1:
            raise ModisteError(f"data.batches.power={self.power:g} is out of range: give a number from 0 to 1.")
        if margin <= 0:
            raise ModisteError(
                f"data.batches.false_negative_margin={margin:g} is out of range: give a number above 0; NV-Retriever "
                "uses 0.95."
            )
        if self.group_by is not None and self.mined is not None:
            raise ModisteError("data.batches has both group_by and mined: choose one; each defines the groups.")
        if self.balance is not None and self.mined is not None:
            raise ModisteError(
                "data.batches has both balance and mined: choose one; mined groups contain every row once."
            )

    def bind(self, catalogue: Catalogue, captions: Sequence[str] = (), total: int = 0) -> Order:
        """Return the order of a catalogue's rows.

        Args:
            catalogue: The rows to train on.
            captions: Their captions, for ``mined``.
            total: Number of rows of the full catalogue, for ``mined``.

        Raises:
            ModisteError: A column is unknown, or see `modiste.data.mining.read`.
        """
        groups = catalogue.column(self.group_by) if self.group_by is not None else None
        products = catalogue.column("product_id")
        mined: Mined | None = None
        if self.mined is not None:
            image, text = mining.read(Path(self.mined), catalogue, total)
            miner = mining.Miner(image, text, _numbers(products), _numbers(captions), self.false_negative_margin)
            # More than a group needs, since other groups take some.
            mined = Mined(miner, miner.neighbours(4 * self.group_size))
        weights = None if self.balance is None else inverse_frequencies(catalogue.column(self.balance), self.power)
        return Order(
            len(catalogue), groups, self.group_size, products if self.one_per_product else None, mined, weights
        )


def inverse_frequencies(values: Sequence[str], power: float) -> Tensor:
    """Return n^-power (N,), float64, where n is the number of occurrences of each of the N values.

    >>> inverse_frequencies(["bag", "bag", "shoe"], 1.0).tolist()
    [0.5, 0.5, 1.0]
    """
    counts = Counter(values)
    return torch.tensor([counts[value] for value in values], dtype=torch.float64) ** -power


def _numbers(values: Sequence[str]) -> Tensor:
    """An integer code for each value (N,), equal for equal values."""
    known: dict[str, int] = {}
    return torch.tensor([known.setdefault(value, len(known)) for value in values])


@dataclass(frozen=True)
class Mined:
    """A miner and the hardest negatives (N, K) it found."""

    miner: mining.Miner
    neighbours: Tensor


@dataclass(frozen=True)
class Order:
    """`Batches` applied to one catalogue.

    Attributes:
        length: Number of rows.
        groups: Value of each row to group by, or None.
        group_size: Rows per group.
        products: Product of each row, if a batch may contain each product only once, or None.
        mined: Hard negatives to group, or None.
        weights: Sampling weight of each row (N,), with replacement; None: an epoch has each row once.
    """

    length: int
    groups: Sequence[str] | None = None
    group_size: int = 16
    products: Sequence[str] | None = None
    mined: Mined | None = None
    weights: Tensor | None = None

    def __call__(self, generator: torch.Generator, batch_size: int) -> list[int]:
        """Return the rows of an epoch in order: each once, or sampled by weight.

        >>> order = Order(6, groups=["shoe", "bag", "shoe", "bag", "shoe", "bag"], group_size=3)
        >>> order(torch.Generator().manual_seed(0), 6)
        [5, 3, 1, 2, 0, 4]
        """
        if self.weights is None:
            order = torch.randperm(self.length, generator=generator)
        else:
            order = torch.multinomial(self.weights, self.length, replacement=True, generator=generator)
        if self.groups is not None:
            order = _grouped(order, self.groups, self.group_size, generator)
        if self.mined is not None:
            groups = self.mined.miner.groups(order.tolist(), self.mined.neighbours, self.group_size)
            order = _shuffled(groups, generator)
        rows = order.tolist()
        return rows if self.products is None else _apart(rows, self.products, batch_size)


def _grouped(order: Tensor, values: Sequence[str], size: int, generator: torch.Generator) -> Tensor:
    """Group ``order`` by value and shuffle the groups."""
    by_value: dict[str, list[int]] = {}
    for row in order.tolist():
        by_value.setdefault(values[row], []).append(row)
    groups = [rows[start : start + size] for rows in by_value.values() for start in range(0, len(rows), size)]
    return _shuffled(groups, generator)


def _shuffled(groups: Sequence[Sequence[int]], generator: torch.Generator) -> Tensor:
    chosen = torch.randperm(len(groups), generator=generator).tolist()
    return torch.tensor([row for index in chosen for row in groups[index]], dtype=torch.long)


def _apart(rows: Sequence[int], products: Sequence[str], batch_size: int) -> list[int]:
    """Move rows whose product is already in the batch to the next batch with room."""
    result: list[int] = []
    coming, waiting = deque(rows), deque[int]()
    while coming or waiting:
        batch: dict[str, int] = {}
        passed_over: list[int] = []
        for queue in (waiting, coming):
            while queue and len(batch) < batch_size:
                row = queue.popleft()
                if products[row] in batch:
                    passed_over.append(row)
                else:
                    batch[products[row]] = row
        result += batch.values()
        waiting.extend(passed_over)
        if not coming and len(batch) < batch_size:  # the rest cannot be separated
            result += waiting
            waiting.clear()
    return result
