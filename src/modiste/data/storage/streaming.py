"""Training on a stream of WebDataset shards, read once per epoch, for data sets larger than the disk."""

from __future__ import annotations

import logging
import random
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, islice
from typing import Any, NamedTuple

from torch import distributed
from torch.utils.data import Dataset

from modiste.data.catalogue import EMPTY_CAPTION, Card, Catalogue, LoadReport, image_problem
from modiste.data.fields import PairWeights
from modiste.data.pairs import Batch, Pairs
from modiste.data.samplers import EpochBatchSampler, ResumableLoader
from modiste.data.sources import BytesImages
from modiste.data.storage.webdataset import (
    TEXT,
    UNREADABLE_COLUMNS,
    Sample,
    check_columns,
    expand,
    image_suffix,
    read_columns,
    read_shard,
    short_names,
    to_catalogue,
)
from modiste.errors import ModisteError
from modiste.utils.ranges import Count
from modiste.utils.seeds import mix

log = logging.getLogger(__name__)

KEY = "data.stream.shards"
LOOKED_AT = 1000
"""Number of samples of the first shard whose columns are checked."""
DAMAGED_SHARD = "damage in a shard"
OTHER_SPLIT = "of a split other than train"
NO_WEIGHT = "no weight"
Row = dict[str, Any] | None
"""The columns of a sample; None if they cannot be read."""
Place = tuple[int, int, int]
"""Epoch, number of the batch in the epoch, and number of samples of the batch's share to skip first."""


@dataclass(frozen=True)
class Stream:
    """Training samples in WebDataset shards, instead of the catalogue's ``train`` split.

    The shards are shuffled by (seed, epoch) and split into *shares*, one per worker of every device. A worker reads the
    shards of its share sequentially through a shuffle buffer. Batch n of a device comes from its share n modulo the
    number of its workers. If all shares have the same number of samples (shards of equal size, their number a multiple
    of devices × ``num_workers``), an epoch has every sample at most once and skips less than a batch per share. A share
    that ends early restarts with a warning, and its samples repeat.

    The order depends on seed, epoch, shards, devices, ``num_workers``, ``batch_size`` and ``buffer``. A run that
    resumes mid-epoch with the same settings continues with the remaining samples; its workers read through the others
    without decoding them. With another number of devices or workers, the order changes and samples of this epoch may
    repeat or be skipped, with a warning. Other shards, batch sizes or buffers are not detected.

    Samples whose JSON names a ``split`` other than ``train`` are excluded. Other leaks between shards and validation
    are not detected, since shards are not read in advance.

    Attributes:
        shards: Paths or URLs; see `modiste.data.storage.webdataset.expand`.
        batches: Batches per epoch: number of samples in all shards // ``data.batch_size``, or fewer.
        buffer: Shuffle buffer per worker, in encoded samples; 1 keeps the order within a shard.
        columns: Name in the catalogue → ``txt`` or a name in the JSON; see
            `modiste.data.storage.webdataset.to_catalogue`.
        download: Whether shards may be http(s) URLs. Stored configurations cannot give this permission.

    Raises:
        ModisteError: ``batches`` is missing, or ``batches`` or ``buffer`` is below 1.

    >>> Stream("train-{000..099}.tar", batches=0)
    Traceback (most recent call last):
    modiste.errors.ModisteError: data.stream.batches=0 must be at least 1.
    """

    shards: str | Sequence[str]
    batches: Count | None = None
    buffer: int = 1000
    columns: Mapping[str, str | None] = field(default_factory=lambda: {"text": TEXT})
    download: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.batches is None:
            raise ModisteError(
                "data.stream.batches is missing: set the batches per epoch to the number of samples in all shards // "
                "data.batch_size, or fewer."
            )
        for name in ("batches", "buffer"):
            if getattr(self, name) < 1:
                raise ModisteError(f"data.stream.{name}={getattr(self, name)} must be at least 1.")

    @property
    def length(self) -> int:
        """Number of batches per epoch."""
        assert self.batches is not None
        return self.batches

    @property
    def urls(self) -> list[str]:
        """Paths and URLs of all shards. Raises ModisteError as `expand` does."""
        return expand(self.shards, KEY, self.download)

    def check(self, named: Iterable[str]) -> None:
        """Check the first shard before training.

        Args:
            named: Columns of the catalogue that training needs.

        Raises:
            ModisteError: The shard has no samples, none of the first ones has a column needed, or see `expand` and
                `read_shard`.
        """
        url = self.urls[0]
        damage: list[str] = []
        samples = list(islice(read_shard(url, damage.append), LOOKED_AT))
        if not samples:
            raise ModisteError(
                f"{KEY}: {damage[0] if damage else f'{url} holds no samples'}: a shard is a tar file of KEY.jpg (png, "
                "webp, …) with KEY.txt or KEY.json."
            )
        rows = [row for row in map(_row, samples) if row is not None]
        check_columns(
            rows, self.columns, sorted(named), f"data.stream.columns: {url} (its first {len(samples)} samples)"
        )

    def catalogue(
        self, samples: Sequence[Sample], rows: Sequence[Row], names: Mapping[str, str], named: Sequence[str]
    ) -> Catalogue:
        """Return samples as an unchecked catalogue; columns of ``named`` that no sample has are empty.

        Args:
            samples: The samples.
            rows: The columns of each sample.
            names: URL → short name of a shard.
            named: Columns of the catalogue that training needs.
        """
        columns = to_catalogue([row or {} for row in rows], [_name(sample, names) for sample in samples], self.columns)
        for name in named:
            columns.setdefault(name, [""] * len(samples))
        suffixes = [image_suffix(sample) for sample in samples]
        images = [sample[suffix] if suffix else None for sample, suffix in zip(samples, suffixes, strict=True)]
        return Catalogue.unchecked(
            Card("shards"), columns | {"image": list(map(str, range(len(samples))))}, BytesImages(images)
        )


def _row(sample: Sample) -> Row:
    """The columns of a sample, or None if they cannot be read."""
    try:
        return read_columns(sample)
    except ValueError:
        return None


def _name(sample: Sample, names: Mapping[str, str]) -> str:
    return f"{names[sample['__url__']]}/{sample['__key__']}"


def deal(urls: Sequence[str], seed: int, epoch: int, share: int, shares: int) -> list[str]:
    """Return the shards of a share in an epoch, in reading order.

    >>> parts = [deal(["a.tar", "b.tar", "c.tar", "d.tar"], 0, 1, share, 2) for share in range(2)]
    >>> [len(part) for part in parts], sorted(parts[0] + parts[1])
    ([2, 2], ['a.tar', 'b.tar', 'c.tar', 'd.tar'])
    """
    order = list(urls)
    random.Random(mix(seed, epoch)).shuffle(order)
    return order[share::shares]


class Share:
    """Shuffled samples of a share in an epoch, repeated endlessly, in another order each time.

    Attributes:
        turn: Number of times the share has restarted.
        taken: Number of samples taken.
        damage: Problems with its shards that are not yet reported.
    """

    def __init__(self, urls: Sequence[str], seed: int, buffer: int) -> None:
        self.urls, self.seed, self.buffer = list(urls), seed, buffer
        self.turn = self.taken = 0
        self.damage: list[str] = []
        self._samples = self._read()

    def close(self) -> None:
        """Close the open shard and clear the buffer."""
        self._samples.close()

    def take(self, number: int) -> list[Sample]:
        """Return the next ``number`` samples. Raises ModisteError as `read_shard` does, or if there are none."""
        samples = list(islice(self._samples, number))
        self.taken += len(samples)
        return samples

    def _read(self) -> Generator[Sample, None, None]:
        from webdataset.filters import shuffle

        for turn in count():
            generator = random.Random(mix(self.seed, turn))
            if turn:
                generator.shuffle(self.urls)
            samples = chain.from_iterable(read_shard(url, self.damage.append) for url in self.urls)
            self.turn = turn
            empty = True
            for sample in shuffle(self.buffer, initial=self.buffer, rng=generator)(samples):
                empty = False
                yield sample
            if empty:
                raise ModisteError(f"{KEY}: {', '.join(self.urls[:3])} hold no samples: remove them.")


class Note(NamedTuple):
    """Information that a worker sends with a batch.

    Attributes:
        share: Index of the batch's share on the device.
        taken: Number of samples taken from this share in this epoch, including this batch.
        turn: See `Share`.
        bad: Reason → names of excluded samples.
        failure: Error message that ends training, or "".
    """

    share: int = 0
    taken: int = 0
    turn: int = 0
    bad: Mapping[str, list[str]] = {}
    failure: str = ""


class StreamedPairs(Dataset[Batch]):
    """Batches of one device in order; each worker keeps its share open.

    Args:
        stream: The stream.
        make: Makes the `Pairs` of a catalogue of a few samples.
        named: Columns of the catalogue that ``make`` needs.
        size: Pairs per batch on this device.
        seed: See `Stream`.
        rank: Rank of this device.
        world: Number of devices.
        workers: Number of shares per device.
        weight: Weight of each pair; samples without a valid one are excluded.
    """

    def __init__(
        self,
        stream: Stream,
        make: Callable[[Catalogue], Pairs],
        named: Sequence[str],
        size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 1,
        weight: PairWeights | None = None,
    ) -> None:
        self.weight = weight or PairWeights()
        self.stream, self.make, self.named, self.size, self.seed = stream, make, list(named), size, seed
        self.rank, self.world, self.workers = rank, world, workers
        self.urls = stream.urls
        self.names = short_names(self.urls)
        self._share: Share | None = None
        self._next: tuple[int, int] | None = None

    def __getitems__(self, place: Place) -> tuple[list[Batch], Note]:
        """Return the items of a batch and its `Note`."""
        try:
            return self._batch(*place)
        except ModisteError as error:  # raised in a worker, its message would become a traceback
            return [], Note(failure=str(error))

    def _batch(self, epoch: int, number: int, skip: int) -> tuple[list[Batch], Note]:
        share = self._open(epoch, number, skip)
        items: list[Batch] = []
        bad: dict[str, list[str]] = {}
        began = share.turn
        while len(items) < self.size:
            samples = share.take(self.size - len(items))
            items += self._items(samples, epoch, bad)
            if not items and share.turn > began + 1:
                report = LoadReport(sum(map(len, bad.values())), 0, bad)
                raise ModisteError(f"{KEY}: no usable training sample in {', '.join(share.urls[:3])}: {report}.")
        self._next = (epoch, number + self.workers)
        if share.damage:
            bad[DAMAGED_SHARD], share.damage = share.damage, []
        return items, Note(number % self.workers, share.taken, share.turn, bad)

    def _open(self, epoch: int, number: int, skip: int) -> Share:
        """The share of a batch, positioned at the batch."""
        if self._share is None or self._next != (epoch, number):
            if self._share is not None:
                self._share.close()
            index = number % self.workers * self.world + self.rank
            urls = deal(self.urls, self.seed, epoch, index, self.world * self.workers)
            self._share = Share(urls, mix(self.seed, epoch, index), self.stream.buffer)
            while self._share.taken < skip:  # in chunks, to bound the memory
                self._share.take(min(skip - self._share.taken, 1000))
        return self._share

    def _items(self, samples: Sequence[Sample], epoch: int, bad: dict[str, list[str]]) -> list[Batch]:
        """The items of the usable samples; adds the names of the others to ``bad``."""
        rows = [_row(sample) for sample in samples]
        catalogue = self.stream.catalogue(samples, rows, self.names, self.named)
        problems = [self._problem(catalogue, index, row) for index, row in enumerate(rows)]
        sound = [index for index, problem in enumerate(problems) if problem is None]
        pairs = self.make(catalogue.select(rows=sound)) if sound else None
        items = []
        for place, index in enumerate(sound):
            key = (mix(epoch, zlib.crc32(_name(samples[index], self.names).encode())), place)
            try:
                items.append(pairs[key])  # type: ignore[index]
            except (OSError, ValueError):
                problems[index] = _image_problem(catalogue, index)
                if problems[index] is None:  # the image is readable, so an augmentation failed
                    raise
        for sample, problem in zip(samples, problems, strict=True):
            if problem is not None:
                bad.setdefault(problem, []).append(_name(sample, self.names))
        return items

    def _problem(self, catalogue: Catalogue, index: int, row: Row) -> str | None:
        """Reason for excluding a sample by its columns, or None."""
        if row is None:
            return UNREADABLE_COLUMNS
        if not catalogue.column("text")[index]:
            return EMPTY_CAPTION
        if catalogue.column("split")[index] not in ("", "train"):
            return OTHER_SPLIT
        if self.weight.column is not None and not self.weight.fits(catalogue.column(self.weight.column)[index]):
            return NO_WEIGHT
        return None


def _image_problem(catalogue: Catalogue, index: int) -> str | None:
    try:
        catalogue.read_image(index)
    except (OSError, ValueError) as error:
        return image_problem(error)
    return None


class CollateNoted:
    """Apply ``collate`` to the items and pass the note through."""

    def __init__(self, collate: Callable[[Sequence[Batch]], Batch]) -> None:
        self.collate = collate

    def __call__(self, noted: tuple[Sequence[Batch], Note]) -> tuple[Batch | None, Note]:
        items, note = noted
        return self.collate(items) if items else None, note


class PlaceSampler(EpochBatchSampler):
    """Places of the batches of an epoch, resumable mid-epoch.

    Attributes:
        skip: Number of samples of each share to skip in a resumed epoch.

    >>> sampler = PlaceSampler(3, 2, seed=0)
    >>> sampler.resume(1, 1)
    >>> sampler.skip = [4, 2]
    >>> list(sampler), list(sampler)
    ([(1, 1, 2), (1, 2, 4)], [(1, 0, 0), (1, 1, 0), (1, 2, 0)])
    """

    def __init__(self, batches: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        super().__init__(batches * batch_size, batch_size, seed, rank, world)
        self.skip: list[int] = [0]

    def __iter__(self) -> Iterator[Place]:  # type: ignore[override]
        epoch, start, self.start = self.epoch, self.start, 0
        for number in range(start, len(self)):
            yield epoch, number, self.skip[number % len(self.skip)] if start else 0


class StreamLoader(ResumableLoader):
    """DataLoader of a stream, which reports excluded samples and saves the position of every share."""

    taken: list[int]

    @property
    def _places(self) -> PlaceSampler:
        assert isinstance(self.batch_sampler, PlaceSampler)
        return self.batch_sampler

    @property
    def _pairs(self) -> StreamedPairs:
        assert isinstance(self.dataset, StreamedPairs)
        return self.dataset

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        start = self._places.start
        self.taken = list(self._places.skip) if start else [0] * self._pairs.workers
        seen = Seen()
        try:
            for number, (batch, note) in enumerate(super().__iter__(), start + 1):
                if note.failure:
                    raise ModisteError(note.failure)
                self.taken[note.share] = note.taken
                seen.add(note, self._pairs)
                if number == len(self):  # the consumer may not request more than len(self) batches
                    seen.tell()
                yield batch
        finally:
            seen.tell()

    def state_dict(self) -> dict[str, Any]:
        """As `ResumableLoader.state_dict`, with ``taken``: per device, the samples taken from each share.

        A collective operation: all processes must call it, as Lightning does.
        """
        taken = getattr(self, "taken", [0] * self._pairs.workers)
        return {**super().state_dict(), "taken": _of_all_processes(taken)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        pairs, places, taken = self._pairs, self._places, state.get("taken", [])
        if len(taken) == pairs.world and len(taken[0]) == pairs.workers:
            places.skip = list(taken[pairs.rank])
            return
        places.skip = [len(range(share, places.start, pairs.workers)) * pairs.size for share in range(pairs.workers)]
        if places.start:
            log.warning(
                "data.stream: the run was started with another number of devices or workers: samples of this "
                "epoch may repeat or be skipped."
            )


def _of_all_processes(value: Any) -> list[Any]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, value)
    return gathered


class Seen:
    """Statistics of an epoch for its warnings."""

    def __init__(self) -> None:
        self.kept = 0
        self.bad: dict[str, list[str]] = {}
        self.again: set[int] = set()

    def add(self, note: Note, pairs: StreamedPairs) -> None:
        """Count a batch; warn once, immediately, if a share restarts."""
        self.kept += pairs.size
        for reason, names in note.bad.items():
            self.bad.setdefault(reason, []).extend(names)
        if note.turn and not self.again:
            log.warning(
                "data.stream: partition %d of %d is exhausted before the end of the epoch and restarts: lower "
                "data.stream.batches, or write equal shards whose number is a multiple of %d.",
                note.share * pairs.world + pairs.rank, pairs.world * pairs.workers, pairs.world * pairs.workers,
            )  # fmt: skip
            self.again.add(note.share)

    def tell(self) -> None:
        """Warn about excluded samples not yet reported."""
        if self.bad:
            log.warning(
                "data.stream: %s", LoadReport(self.kept + sum(map(len, self.bad.values())), self.kept, self.bad)
            )
        self.bad = {}


def stream_loader(
    stream: Stream,
    make: Callable[[Catalogue], Pairs],
    named: Iterable[str],
    collate: Callable[[Sequence[Batch]], Batch],
    batch_size: int,
    seed: int,
    rank: int,
    world: int,
    options: Mapping[str, Any],
    weight: PairWeights | None = None,
) -> StreamLoader:
    """Return the loader of a stream on one device.

    Args:
        stream: The stream.
        make: See `StreamedPairs`.
        named: See `StreamedPairs`.
        collate: Collates items to a batch.
        batch_size: Pairs per global batch, over all devices.
        seed: See `Stream`.
        rank: Rank of this device.
        world: Number of devices.
        options: Arguments of `StreamLoader`; ``num_workers`` is reduced if there are too few shards.
        weight: See `StreamedPairs`.

    Raises:
        ModisteError: ``batch_size`` is not a multiple of ``world``, there are fewer shards than devices, or see
            `expand`.
    """
    places = PlaceSampler(stream.length, batch_size, seed, rank, world)
    workers = shares_of_a_device(stream.urls, world, options["num_workers"])
    pairs = StreamedPairs(stream, make, sorted(named), batch_size // world, seed, rank, world, workers, weight)
    options = {**options, "num_workers": min(workers, options["num_workers"])}
    return StreamLoader(pairs, batch_sampler=places, collate_fn=CollateNoted(collate), **options)


def shares_of_a_device(urls: Sequence[str], world: int, num_workers: int) -> int:
    """Return the number of shares per device: one per worker, each with at least one shard.

    Raises:
        ModisteError: There are fewer shards than devices.

    >>> shares_of_a_device(["0.tar", "1.tar", "2.tar", "3.tar"], world=2, num_workers=7)
    2
    """
    if len(urls) < world:
        raise ModisteError(f"{KEY} has {len(urls)} shards, too few for {world} devices: write more and smaller shards.")
    return max(min(num_workers, len(urls) // world), 1)
