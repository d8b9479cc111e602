"""Which pairs share a batch, and so which are each other's negatives."""

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
    """The order of an epoch; cut into batches, it decides what stands together.

    Attributes:
        alike: A column; ``run`` pairs of one value of it come one after the other, hard negatives for each other (a run
            may go on in the next batch). Null: pairs are drawn at random.
        run: See ``alike`` and ``mined``.
        one_per_product: No product twice in a batch. The last batches of an epoch, for which few products are left, may
            hold one twice: no row is left out.
        balance: A column. An epoch then draws as many rows as there are, with replacement, a row of a value that n rows
            have with a probability proportional to n^-power.
        power: 0 leaves the values as frequent as they are, 1 makes all equally frequent.
        mined: A directory of ``modiste embed``: runs are of pairs that its model takes for near each other
            (`modiste.data.mining.Miner`). Null: none are mined.
        guard: Pairs nearer to each other than this part of their own score are not put together; see `Miner`.

    Raises:
        ModisteError: ``run`` < 1, ``power`` outside [0, 1], ``guard`` ≤ 0, both ``alike`` and ``mined``, or ``mined``
            with ``balance``.
    """

    alike: str | None = None
    run: int = 16
    one_per_product: bool = False
    balance: str | None = None
    power: float = 0.5
    mined: str | None = None
    guard: float = 0.95

    def __post_init__(self) -> None:
        if self.run < 1:
            raise ModisteError(f"data.batches.run={self.run} must be at least 1.")
        if not 0 <= self.power <= 1:
            raise ModisteError(f"data.batches.power={self.power:g} must lie between 0 and 1.")
        if self.guard <= 0:
            raise ModisteError(f"data.batches.guard={self.guard:g} must be above 0; 0.95 is NV-Retriever's.")
        if self.alike is not None and self.mined is not None:
            raise ModisteError("data.batches takes alike or mined, not both: each says what stands in a run.")
        if self.balance is not None and self.mined is not None:
            raise ModisteError("data.batches takes balance or mined, not both: mined runs hold every row once.")

    def bind(self, catalogue: Catalogue, captions: Sequence[str] = (), total: int = 0) -> Order:
        """The orders of a catalogue's rows.

        Args:
            catalogue: The rows to train on.
            captions: Their captions, for ``mined``.
            total: Rows of the whole catalogue, for ``mined``.

        Raises:
            ModisteError: A column is unknown, or see `modiste.data.mining.read`.
        """
        alike = catalogue.column(self.alike) if self.alike is not None else None
        products = catalogue.column("product_id")
        mined: Mined | None = None
        if self.mined is not None:
            image, text = mining.read(Path(self.mined), catalogue, total)
            miner = mining.Miner(image, text, _numbers(products), _numbers(captions), self.guard)
            # More than a run takes, for others will have taken some.
            mined = Mined(miner, miner.neighbours(4 * self.run))
        weights = None if self.balance is None else inverse_frequencies(catalogue.column(self.balance), self.power)
        return Order(len(catalogue), alike, self.run, products if self.one_per_product else None, mined, weights)


def inverse_frequencies(values: Sequence[str], power: float) -> Tensor:
    """n^-power for each of the values (N,), n being how often it occurs; (N,).

    >>> inverse_frequencies(["bag", "bag", "shoe"], 1.0).tolist()
    [0.5, 0.5, 1.0]
    """
    counts = Counter(values)
    return torch.tensor([counts[value] for value in values], dtype=torch.float64) ** -power


def _numbers(values: Sequence[str]) -> Tensor:
    """A number for each value (N,), the same for the same."""
    known: dict[str, int] = {}
    return torch.tensor([known.setdefault(value, len(known)) for value in values])


@dataclass(frozen=True)
class Mined:
    """A miner and the hardest negatives (N, K) that it found."""

    miner: mining.Miner
    neighbours: Tensor


@dataclass(frozen=True)
class Order:
    """`Batches` of one catalogue.

    Attributes:
        length: Number of rows.
        alike: Value of each row, or None.
        run: Length of a run of one value.
        products: Product of each row, where none may come twice in a batch.
        mined: Where runs are of hard negatives.
        weights: Of each row, where an epoch draws rows with replacement; None: it takes each once.
    """

    length: int
    alike: Sequence[str] | None = None
    run: int = 16
    products: Sequence[str] | None = None
    mined: Mined | None = None
    weights: Tensor | None = None

    def __call__(self, generator: torch.Generator, batch_size: int) -> list[int]:
        """The rows of an epoch in their order: each once, or as the weights draw them.

        >>> order = Order(6, alike=["shoe", "bag", "shoe", "bag", "shoe", "bag"], run=3)
        >>> order(torch.Generator().manual_seed(0), 6)
        [5, 3, 1, 2, 0, 4]
        """
        if self.weights is None:
            order = torch.randperm(self.length, generator=generator)
        else:
            order = torch.multinomial(self.weights, self.length, replacement=True, generator=generator)
        if self.alike is not None:
            order = _runs(order, self.alike, self.run, generator)
        if self.mined is not None:
            runs = self.mined.miner.runs(order.tolist(), self.mined.neighbours, self.run)
            order = _shuffled(runs, generator)
        rows = order.tolist()
        return rows if self.products is None else _apart(rows, self.products, batch_size)


def _runs(order: Tensor, values: Sequence[str], run: int, generator: torch.Generator) -> Tensor:
    """``order`` with the rows of one value in runs, and the runs shuffled."""
    by_value: dict[str, list[int]] = {}
    for row in order.tolist():
        by_value.setdefault(values[row], []).append(row)
    runs = [rows[start : start + run] for rows in by_value.values() for start in range(0, len(rows), run)]
    return _shuffled(runs, generator)


def _shuffled(runs: Sequence[Sequence[int]], generator: torch.Generator) -> Tensor:
    chosen = torch.randperm(len(runs), generator=generator).tolist()
    return torch.tensor([row for index in chosen for row in runs[index]], dtype=torch.long)


def _apart(rows: Sequence[int], products: Sequence[str], batch_size: int) -> list[int]:
    """``rows``, a row whose product is in the batch already put off to the next one that has room for it."""
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
        if not coming and len(batch) < batch_size:  # what is left cannot be kept apart
            result += waiting
            waiting.clear()
    return result
