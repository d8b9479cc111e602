"""The LightningDataModule: image–text pairs of a catalogue in a seeded order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from modiste.data.augment import bound
from modiste.data.batches import Batches, Order
from modiste.data.captions import Captions
from modiste.data.catalogue import Catalogue
from modiste.data.decode import Decoder
from modiste.data.fields import BoundFields, Fields, PairWeights
from modiste.data.pairs import Batch, Collate, ImageFeatures, Pairs, training_pairs
from modiste.data.samplers import EpochBatchSampler, ResumableLoader
from modiste.data.sources import PixelSource
from modiste.data.storage.streaming import Stream, stream_loader
from modiste.errors import ModisteError, did_you_mean
from modiste.models.dual_encoder import Tokenizer
from modiste.models.preprocess import Preprocess
from modiste.utils.hardware import usable_cores
from modiste.utils.orphans import obey_parent_only
from modiste.utils.seeds import mix

POSITIVES = ("product", "caption")


class ModelInputs(Protocol):
    """What the data module needs of a model; every `DualEncoder` provides it."""

    preprocess: Preprocess
    tokenizer: Tokenizer


class Cache(Protocol):
    """Interface of `modiste.training.feature_cache.FeatureCache` for the data module."""

    def images(self, pairs: Pairs) -> ImageFeatures | None:
        """Return features that replace the pixels of these pairs, or None."""

    def texts(self, texts: Iterable[str]) -> Tokenizer | None:
        """Return features of these texts that replace the tokenizer, or None."""


@dataclass(frozen=True)
class ValidationSet:
    """An additional validation set: tasks on the pairs of a split.

    Attributes:
        data: Data module that serves the pairs.
        split: A split of its catalogue.
        tasks: Name → task.
    """

    data: FashionDataModule
    split: str
    tasks: Mapping[str, Any]  # each a `modiste.tasks.result.Task`, which is a layer above


class FashionDataModule(LightningDataModule):
    """Serve the ``train`` and ``val`` splits of a catalogue.

    Args:
        catalogue: The full catalogue with its split column.
        model: Provides the image transform and tokenizer; nothing else of it is kept.
        captions: Caption templates; None: the column ``text``.
        batch_size: Pairs per global batch, over all devices.
        eval_batch_size: Pairs per validation batch, per device.
        num_workers: Number of workers; None: number of cores minus one.
        limit: Maximum number of training rows, sampled by the seed; None: all.
        augment: Transforms of a PIL image, applied in order, in training only; see `modiste.data.augment.apply`.
        seed: With the epoch, determines order, captions and augmentation.
        batches: Which pairs share a batch.
        positives: Which pairs of a training batch are positives of each other: those of one ``product``, or those with
            one ``caption``, if captions name types and colours that many products share.
        decode: See `modiste.data.decode.Decoder`.
        fields: Text fields to train on instead of captions; validation uses captions.
        weight: Weight of each pair in training.
        stream: Shards that training reads instead of the split ``train``.
        validation_sets: Name → additional validation set, validated after ``val`` in this order.
        feature_cache: Computes or loads features of frozen trunks, which batches then contain instead of pixels and
            tokens.
        cached_splits: The splits whose features are cached.

    Raises:
        ModisteError: ``positives`` or ``decode`` is unknown; the catalogue's images were preprocessed by another
            transform; a stream is combined with ``limit``, ``batches``, cached training features or a transform that
            needs the catalogue's rows.

    >>> from modiste.data.synthetic import Synthetic
    >>> from modiste.data.splits import RandomSplit
    >>> from modiste.texts.words import HashTokenizer
    >>> from types import SimpleNamespace
    >>> catalogue = RandomSplit({"train": 0.8, "val": 0.2})(Synthetic(products=20, views=1, size=32)())
    >>> model = SimpleNamespace(preprocess=Preprocess(32), tokenizer=HashTokenizer())  # usually a DualEncoder
    >>> data = FashionDataModule(catalogue, model, batch_size=4, num_workers=0)
    >>> next(iter(data.train_dataloader()))["pixels"].shape
    torch.Size([4, 3, 32, 32])
    """

    def __init__(
        self,
        catalogue: Catalogue,
        model: ModelInputs,
        captions: Captions | None = None,
        batch_size: int = 256,
        eval_batch_size: int = 256,
        num_workers: int | None = None,
        limit: int | None = None,
        augment: Sequence[Callable[[Any], Any]] = (),
        seed: int = 0,
        batches: Batches | None = None,
        positives: str = "product",
        decode: str = "pil",
        fields: Fields | None = None,
        weight: PairWeights | None = None,
        stream: Stream | None = None,
        validation_sets: Mapping[str, ValidationSet] | None = None,
        feature_cache: Cache | None = None,
        cached_splits: Sequence[str] = ("train", "val"),
    ) -> None:
        super().__init__()
        if positives not in POSITIVES:
            raise ModisteError(f"data.positives={positives} is not known. {did_you_mean(positives, POSITIVES)}")
        if isinstance(catalogue.images, PixelSource):
            catalogue.images.check(model.preprocess)
        self.catalogue, self.preprocess, self.tokenizer = catalogue, model.preprocess, model.tokenizer
        self.captions, self.batches = captions or Captions(), batches or Batches()
        self.batch_size, self.eval_batch_size, self.limit, self.seed = batch_size, eval_batch_size, limit, seed
        self.num_workers = max(usable_cores() - 1, 0) if num_workers is None else num_workers
        self.augment, self.positives, self.decoder = list(augment), positives, Decoder(decode)
        self.fields, self.weight = fields, weight or PairWeights()
        self.stream = stream
        self.validation_sets = dict(validation_sets or {})
        self.products = {product: i for i, product in enumerate(dict.fromkeys(catalogue.column("product_id")))}
        if stream is not None:
            self._check_stream_goes_with("train" in cached_splits and feature_cache is not None)
        self._cache = feature_cache
        self._text_features = self._cached_texts(feature_cache, cached_splits) if feature_cache else None

    def _check_stream_goes_with(self, cached_training: bool) -> None:
        if self.limit is not None or self.batches != Batches():
            raise ModisteError(
                "data.stream reads shards sequentially: remove data.limit and data.batches; data.stream.batches and "
                "data.stream.shards set the amount of data."
            )
        if cached_training:
            raise ModisteError(
                "features.cache=true needs all images in advance, which data.stream does not have: remove one of them."
            )
        for step in self.augment:
            if getattr(step, "takes_row", False):
                raise ModisteError(
                    f"data.augment has {type(step).__name__}, which needs the attributes of all rows in advance, and "
                    "data.stream does not have them: remove one of them."
                )

    def _cached_texts(self, cache: Cache, splits: Sequence[str]) -> Tokenizer | None:
        """Fill the cache for ``splits``; return the text features that replace the tokenizer."""
        texts: set[str] = set()
        for split in splits:
            pairs = self.pairs(split, train=split == "train")
            for index in range(len(pairs)):
                texts.update(pairs.texts(index) if split == "train" else [pairs.captions.first(index)])
            cache.images(pairs)
        return cache.texts(texts)

    def pairs(self, split: str, train: bool = False) -> Pairs:
        """Return the dataset of a split.

        Args:
            split: Name of the split.
            train: Return the training pairs instead: the split ``train`` with ``limit``, augmentation, fields and
                weights.

        Raises:
            ModisteError: The split is empty, or a template names an unknown column.
        """
        if train:
            return self._training_pairs(self.products)(self.training_rows)
        part = self.catalogue.select(split=split)
        return Pairs(part, self.captions.bind(part), self.preprocess, self.products, self.seed, (), self.decoder)

    @property
    def training_rows(self) -> Catalogue:
        """The rows of the split ``train``, at most ``limit``. Raises ModisteError if the split is empty."""
        return self._limited(self.catalogue.select(split="train"))

    def _training_pairs(self, products: Mapping[str, int] | None) -> Callable[[Catalogue], Pairs]:
        return partial(
            training_pairs,
            captions=self.captions,
            preprocess=self.preprocess,
            products=products,
            seed=self.seed,
            augment=bound(self.augment, self.training_rows) if self.augment and self.stream is None else self.augment,
            decoder=self.decoder,
            fields=self.fields,
            weight=self.weight,
        )

    def _limited(self, part: Catalogue) -> Catalogue:
        if self.limit is None or self.limit >= len(part):
            return part
        generator = torch.Generator().manual_seed(mix(self.seed, len(part)))
        return part.select(rows=torch.randperm(len(part), generator=generator)[: self.limit].sort().values.numpy())

    @property
    def batches_per_epoch(self) -> int:
        """Number of global batches per epoch."""
        if self.stream is not None:
            return self.stream.length
        return len(self._limited(self.catalogue.select(split="train"))) // self.batch_size

    @property
    def training_columns(self) -> set[str]:
        """The columns that training reads."""
        named = self.captions.columns | (self.fields.columns if self.fields else set())
        return named | ({self.weight.column} if self.weight.column is not None else set())

    def train_dataloader(self) -> ResumableLoader:
        loader = self._catalogue_loader() if self.stream is None else self._stream_loader(self.stream)
        if self.trainer is not None:
            assert isinstance(loader.batch_sampler, EpochBatchSampler)
            # Lightning creates the first iterator before it calls set_epoch, and does not restore the loader's state of
            # a finished run.
            loop: Any = self.trainer.fit_loop
            loader.batch_sampler.set_epoch(loop.epoch_progress.current.processed)
        return loader

    def _catalogue_loader(self) -> ResumableLoader:
        pairs = self._loaded("train", train=True)
        rank, world = self._process()
        return ResumableLoader(
            pairs,
            self._position,
            batch_sampler=EpochBatchSampler(len(pairs), self.batch_size, self.seed, rank, world, self._order(pairs)),
            collate_fn=Collate(self._text_features or self.tokenizer, self.positives, pairs.fields),
            **self._workers(),
        )

    def _stream_loader(self, stream: Stream) -> ResumableLoader:
        collate = Collate(self.tokenizer, self.positives, BoundFields([], self.fields.weights) if self.fields else None)
        rank, world = self._process()
        return stream_loader(
            stream,
            self._training_pairs(None),
            self.training_columns,
            collate,
            self.batch_size,
            self.seed,
            rank,
            world,
            {"position": self._position, **self._workers()},
            self.weight,
        )

    def _loaded(self, split: str, train: bool = False) -> Pairs:
        pairs = self.pairs(split, train)
        return pairs if self._cache is None else pairs.with_features(self._cache.images(pairs))

    def _order(self, pairs: Pairs) -> Order:
        captions = pairs.captions.texts() if self.batches.mined else []
        return self.batches.bind(pairs.catalogue, captions, len(self.catalogue))

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Return the loader of ``val``; with `validation_sets`, a list of it and their loaders."""
        own = self.split_loader("val")
        process = self._process()
        further = [part.data.split_loader(part.split, *process) for part in self.validation_sets.values()]
        return [own, *further] if further else own

    def split_loader(self, split: str, rank: int | None = None, world: int | None = None) -> DataLoader[Batch]:
        """Return a loader of a split's pairs in order, sharded over processes, without augmentation.

        Args:
            split: Name of the split.
            rank: Rank of this process; None: the trainer's.
            world: Number of processes; None: the trainer's.
        """
        pairs = self._loaded(split)
        if rank is None or world is None:
            rank, world = self._process()
        # Every process gets the same number of items; metrics drop the repeated ones by row.
        padded = -(-len(pairs) // world) * world
        mine = [index % len(pairs) for index in range(padded)][rank::world]
        return DataLoader(
            pairs,
            sampler=mine,
            batch_size=self.eval_batch_size,
            collate_fn=Collate(self._text_features or self.tokenizer),
            **self._workers(),
        )

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _workers(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "worker_init_fn": obey_trainer,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }

    def _position(self) -> dict[str, int]:
        assert self.trainer is not None
        loop: Any = self.trainer.fit_loop
        # `ready` includes the current batch, already used by the step that is saved, and the current epoch; `processed`
        # includes them only once they are complete.
        epoch = max(loop.epoch_progress.current.ready - 1, 0)
        return {"epoch": epoch, "batch": loop.epoch_loop.batch_progress.current.ready}


def obey_trainer(worker: int) -> None:
    """Ignore signals to the process group in a worker: the current step still needs its batch."""
    obey_parent_only()


def check_training(data: FashionDataModule, loss: object) -> None:
    """Check before training that ``loss`` uses fields and weights, and a stream has the columns needed.

    Raises:
        ModisteError: The loss ignores text fields or weights; a stream is combined with a field's vocabulary; or see
            `modiste.data.storage.streaming.Stream.check`.
    """
    weighted = data.weight.column is not None
    given = [name for name, there in (("fields", data.fields), ("weight.column", weighted)) if there]
    if given and not getattr(loss, "weighs_pairs", False):
        raise ModisteError(
            f"data.{given[0]} is for loss=gcl and ignored by {type(loss).__name__}: set loss=gcl, or remove it."
        )
    if data.stream is None:
        return
    if data.fields is not None and data.fields.with_vocabulary:
        raise ModisteError(
            f"data.fields.{data.fields.with_vocabulary[0]}.vocabulary needs all texts of a catalogue, which a stream "
            "does not know in advance: remove vocabulary."
        )
    data.stream.check(data.training_columns)
