"""The order of training batches: a function of the seed and the epoch alone, resumable mid-epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from modiste.data.batches import Order
from modiste.errors import ModisteError
from modiste.utils.seeds import mix

Position = Callable[[], dict[str, int]]


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index), ordered by the seed and the epoch only, resumable mid-epoch.

    Each process takes every ``world``-th item of a global batch, so the global batches do not depend on the number of
    processes. An incomplete last batch is dropped, because the contrastive loss depends on the batch size.

    Args:
        length: Number of items.
        batch_size: Items per global batch, over all processes.
        seed: Determines the order, with the epoch.
        rank: Rank of this process.
        world: Number of processes.
        order: Which items share a batch; None: random.

    Raises:
        ModisteError: ``batch_size`` is not a multiple of ``world``, or larger than ``length``.

    >>> [[i for _, i in batch] for batch in EpochBatchSampler(5, 2, seed=0)]
    [[1, 2], [3, 0]]
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1, order: Order | None = None
    ) -> None:
        if batch_size % world:
            raise ModisteError(
                f"data.batch_size={batch_size} is the global batch size: make it a multiple of {world} devices."
            )
        if length < batch_size:
            raise ModisteError(
                f"data.batch_size={batch_size} is larger than the {length} training pairs: lower it, for instance to "
                f"{fitting_batch_size(length)}, or add data."
            )
        self.length, self.batch_size, self.seed, self.rank, self.world = length, batch_size, seed, rank, world
        self.order = order or Order(length)
        self.epoch = 0
        self.start = 0
        self.sampler = self  # Lightning calls set_epoch on a batch sampler's sampler, not on the batch sampler

    def __len__(self) -> int:
        return self.length // self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Start ``epoch``; the position within the current epoch, as set by `resume`, is kept."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def resume(self, epoch: int, batch: int) -> None:
        """Continue with batch ``batch``, from 0, of ``epoch``."""
        self.epoch, self.start = epoch + batch // len(self), batch % len(self)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        order = self.order(generator, self.batch_size)
        epoch, start, self.start = self.epoch, self.start, 0
        for batch in range(start, len(self)):
            indices = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(epoch, index) for index in indices[self.rank :: self.world]]


class ResumableLoader(DataLoader[dict[str, Any]]):
    """A DataLoader whose state is the trainer's batch count, not the position of the prefetching workers.

    Args:
        dataset: The dataset.
        position: Returns ``{"epoch", "batch"}`` of the next batch to train on.
        options: Other arguments of `torch.utils.data.DataLoader`.
    """

    def __init__(self, dataset: Dataset[dict[str, Any]], position: Position | None = None, **options: Any) -> None:
        super().__init__(dataset, **options)
        self.position = position

    def state_dict(self) -> dict[str, int]:
        """Return ``{"epoch", "batch"}`` of the next batch to train on; Lightning saves it in the checkpoint."""
        assert self.position is not None
        return self.position()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from ``state``."""
        assert isinstance(self.batch_sampler, EpochBatchSampler)
        self.batch_sampler.resume(state["epoch"], state["batch"])


def fitting_batch_size(pairs: int) -> int:
    """Batch size for few training pairs: the largest power of 2 that gives two batches.

    >>> fitting_batch_size(113), fitting_batch_size(1)
    (32, 1)
    """
    return 1 << max(pairs // 2, 1).bit_length() - 1
