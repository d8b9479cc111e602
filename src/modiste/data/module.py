"""The LightningDataModule: image-text pairs of a catalogue, in an order that a seed alone decides."""

from __future__ import annotations

import hashlib
import random
import signal
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from modiste.data.batches import Batches, Order
from modiste.data.captions import BoundCaptions, Captions
from modiste.data.catalogue import Catalogue
from modiste.data.decode import Decoder
from modiste.data.fields import BoundFields, Fields, PairWeights
from modiste.data.sources import PixelSource
from modiste.errors import ModisteError, did_you_mean
from modiste.models.dual_encoder import Tokenizer
from modiste.models.preprocess import Preprocess
from modiste.utils.machine import usable_cores

if TYPE_CHECKING:
    from modiste.data.storage.streaming import Stream

Batch = dict[str, Any]
POSITIVES = ("product", "caption")


def mix(*numbers: int) -> int:
    """One 32-bit seed of several numbers, the same on every machine.

    >>> mix(0, 1, 2) != mix(0, 2, 1)
    True
    """
    return zlib.crc32(",".join(map(str, numbers)).encode())


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index): an order that depends on (seed, epoch) only, cut into global batches.

    Each process takes every ``world``-th item of a global batch, so the global batches do not depend on how many
    processes there are. It can start in mid-epoch. The last, smaller batch is left out: the contrastive loss depends on
    its batch size.

    >>> [[i for _, i in batch] for batch in EpochBatchSampler(5, 2, seed=0)]
    [[1, 2], [3, 0]]
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1, order: Order | None = None
    ) -> None:
        if batch_size % world:
            raise ModisteError(
                f"data.batch_size={batch_size} is the global batch: make it a multiple of {world} devices."
            )
        if length < batch_size:
            raise ModisteError(
                f"data.batch_size={batch_size} is larger than the {length} training pairs: lower it, or add data."
            )
        self.length, self.batch_size, self.seed, self.rank, self.world = length, batch_size, seed, rank, world
        self.order = order or Order(length)
        self.epoch = 0
        self.start = 0
        self.sampler = self  # Lightning tells a batch sampler's sampler the epoch, not the batch sampler

    def __len__(self) -> int:
        return self.length // self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of every epoch; the position within a resumed epoch is kept."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def resume(self, epoch: int, batch: int) -> None:
        """Continue with batch number ``batch`` of ``epoch``."""
        self.epoch, self.start = epoch + batch // len(self), batch % len(self)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        order = self.order(generator, self.batch_size)
        epoch, start, self.start = self.epoch, self.start, 0
        for batch in range(start, len(self)):
            indices = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(epoch, index) for index in indices[self.rank :: self.world]]


class ResumableLoader(DataLoader):
    """A DataLoader whose state is the trainer's own count of batches, not what its workers have fetched ahead."""

    position: Callable[[], dict[str, int]]

    def state_dict(self) -> dict[str, int]:
        """``{"epoch", "batch"}`` of the next batch to train on; Lightning keeps it in the checkpoint."""
        return self.position()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from ``state``."""
        assert isinstance(self.batch_sampler, EpochBatchSampler)
        self.batch_sampler.resume(state["epoch"], state["batch"])


class Pairs(Dataset):
    """Image-text pairs of a catalogue; item (epoch, index) is a pure function of the seed and its key.

    Attributes:
        features: Key to the cached features (dim,) that stand for an item's pixels, or None.
        fields: The text fields of the catalogue, or None.
        weights: The weight of each pair, or None.
    """

    features: Callable[[tuple[int, int] | int], Tensor] | None = None
    fields: BoundFields | None = None
    weights: Sequence[float] | None = None

    def __init__(
        self,
        catalogue: Catalogue,
        captions: BoundCaptions,
        preprocess: Preprocess,
        products: Mapping[str, int],
        seed: int = 0,
        augment: Callable[[Any], Any] | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        self.catalogue, self.captions, self.preprocess = catalogue, captions, preprocess
        self.seed, self.augment, self.decoder = seed, augment, decoder or Decoder()
        self.product = [products[product] for product in catalogue.column("product_id")]
        self.rows = catalogue.column("row")

    def __len__(self) -> int:
        return len(self.catalogue)

    def __getitem__(self, key: tuple[int, int] | int) -> Batch:
        index = key[1] if isinstance(key, tuple) else key
        pixels = self._pixels(key) if self.features is None else self.features(key)
        item = {"pixels": pixels, "text": self.caption(key), "product": self.product[index], "row": self.rows[index]}
        if self.fields is not None:
            generator = random.Random(mix(self.seed, *key, 1) if isinstance(key, tuple) else 0)
            item["fields"] = self.fields.sample(index, generator)
        if self.weights is not None:
            item["weight"] = self.weights[index]
        return item

    def caption(self, key: tuple[int, int] | int) -> str:
        """The caption of an item: the first, or in training one drawn."""
        if not isinstance(key, tuple):
            return self.captions.first(key)
        return self.captions.sample(key[1], random.Random(mix(self.seed, *key)))

    def texts(self, index: int) -> set[str]:
        """Every text that training may embed for an item, and the one that stands where a batch has none."""
        return self.captions.all(index) if self.fields is None else self.fields.all(index) | {""}

    def _pixels(self, key: tuple[int, int] | int) -> Tensor:
        if not isinstance(key, tuple) or self.augment is None:
            return self.decoder.pixels(self.catalogue, key[1] if isinstance(key, tuple) else key, self.preprocess)
        epoch, index = key
        # torchvision's transforms draw from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(
                mix(self.seed, epoch, index)
            )  # torch.manual_seed asks after accelerators, 0.4 ms an item
            image = self.decoder.image(self.catalogue, index, self.preprocess)
            return self.preprocess(self.augment(image.convert("RGB")), ready=True)


def text_id(text: str) -> int:
    """A number of 63 bits for a caption or a product's id, the same in every process.

    >>> text_id("a red dress") == text_id("a red dress") != text_id("a blue dress")
    True
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def training_pairs(
    catalogue: Catalogue,
    captions: Captions,
    preprocess: Preprocess,
    products: Mapping[str, int] | None = None,
    seed: int = 0,
    augment: Callable[[Any], Any] | None = None,
    decoder: Decoder | None = None,
    fields: Fields | None = None,
    weight: PairWeights | None = None,
) -> Pairs:
    """The pairs of a catalogue with all that training adds to them.

    Args:
        catalogue: What is trained on.
        captions: Caption templates.
        preprocess: The model's image transform.
        products: Product id → its number; None: `text_id`, where the products are not known beforehand.
        seed: See `Pairs`, as ``augment`` and ``decoder``.
        augment: Of a PIL image.
        decoder: How files are decoded.
        fields: Text fields, or None.
        weight: How much each pair counts.

    Raises:
        ModisteError: A template or the weight names an unknown column, or a weight is no number.
    """
    if products is None:
        products = {product: text_id(product) for product in catalogue.column("product_id")}
    pairs = Pairs(catalogue, captions.bind(catalogue), preprocess, products, seed, augment, decoder)
    pairs.fields = fields.bind(catalogue) if fields else None
    pairs.weights = weight.bind(catalogue) if weight else None
    return pairs


class Collate:
    """Items to a batch: pixels (B, 3, S, S) uint8, tokens, product (B,), row (B,), texts.

    With ``fields``, tokens are those of the batch's distinct field texts, and ``fields`` says where each product's are
    (`BoundFields.collate`). Items with a weight give ``weight`` (B,).

    Args:
        tokenizer: Texts to tokens.
        positives: ``product``, or ``caption``: then pairs with one caption are what the loss takes for one product.
        fields: What the items' text fields are, or None.
    """

    def __init__(self, tokenizer: Tokenizer, positives: str = "product", fields: BoundFields | None = None) -> None:
        self.tokenizer, self.positives, self.fields = tokenizer, positives, fields

    def __call__(self, items: Sequence[Batch]) -> Batch:
        texts = [item["text"] for item in items]
        by_caption = self.positives == "caption"
        products = [text_id(item["text"]) if by_caption else item["product"] for item in items]
        more: Batch = {}
        to_embed = texts
        if self.fields is not None:
            to_embed, more["fields"] = self.fields.collate([item["fields"] for item in items])
        if "weight" in items[0]:
            more["weight"] = torch.tensor([item["weight"] for item in items])
        return {
            "pixels": torch.stack([item["pixels"] for item in items]),
            "tokens": self.tokenizer(to_embed),
            "product": torch.tensor(products),
            "row": torch.tensor([item["row"] for item in items]),
            "texts": texts,
            **more,
        }


def leave_interrupts_to_the_trainer(worker: int) -> None:
    """A terminal sends Ctrl-C to the workers too; the step in hand still needs them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Cache(Protocol):
    """`modiste.training.feature_cache.FeatureCache`, as the data module sees it."""

    def images(self, pairs: Pairs) -> Callable[[tuple[int, int] | int], Tensor] | None:
        """What stands for the pixels of a split's items."""

    def texts(self, texts: Iterable[str]) -> Tokenizer | None:
        """What stands for the tokenizer of these texts."""


@dataclass(frozen=True)
class ValidationSet:
    """What validation measures: ``tasks`` by name on the pairs of a split."""

    data: FashionDataModule
    split: str
    tasks: Mapping[str, Any]


class FashionDataModule(LightningDataModule):
    """Serves the ``train`` and ``val`` splits of a catalogue.

    Args:
        catalogue: The whole catalogue with its split column.
        preprocess: The model's image transform.
        tokenizer: The model's tokenizer.
        captions: Caption templates.
        batch_size: Pairs in a global batch, over all devices.
        eval_batch_size: Pairs in a validation batch, on each device.
        num_workers: Loading processes; null takes one for every core but one.
        limit: Train on so many rows only, drawn by the seed; null takes all.
        augment: torchvision transforms of a PIL image, training only, in order.
        seed: Decides order, captions and augmentation, together with the epoch.
        batches: Which pairs share a batch.
        positives: Which pairs of a training batch are positives of each other: those of one ``product``, or those with
            one ``caption``, where captions name types and colours that many products share.
        decode: See `modiste.data.decode.Decoder`.
        fields: Text fields that training embeds in the place of captions; validation keeps to captions.
        weight: How much each pair counts in training.
        stream: Shards that training reads in the place of the split ``train``.

    Raises:
        ModisteError: ``positives`` is another word; the catalogue's pixels were prepared for another image transform; a
            stream goes with neither ``limit`` nor ``batches``.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
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
    ) -> None:
        super().__init__()
        if stream is not None and (limit is not None or (batches or Batches()) != Batches()):
            raise ModisteError(
                "data.stream reads shards as they come: leave data.limit and data.batches out; data.stream.batches and "
                "data.stream.shards say how much is read."
            )
        self.stream = stream
        self.fields, self.weight = fields, weight or PairWeights()
        self.decoder = Decoder(decode)
        if isinstance(catalogue.images, PixelSource):
            catalogue.images.check(preprocess)
        if positives not in POSITIVES:
            raise ModisteError(f"data.positives={positives} is not known. {did_you_mean(positives, POSITIVES)}")
        self.positives = positives
        self.catalogue, self.preprocess, self.tokenizer = catalogue, preprocess, tokenizer
        self.captions, self.batches = captions or Captions(), batches or Batches()
        self.batch_size, self.eval_batch_size, self.limit, self.seed = batch_size, eval_batch_size, limit, seed
        self.num_workers = max(usable_cores() - 1, 0) if num_workers is None else num_workers
        self.augment = list(augment)
        self.cache: Cache | None = None
        self.transfer: dict[str, ValidationSet] = {}  # validated beside ``val``, in this order
        self._text_features: Tokenizer | None = None
        self.products = {product: i for i, product in enumerate(dict.fromkeys(catalogue.column("product_id")))}

    def pairs(self, split: str, train: bool = False) -> Pairs:
        """The dataset of a split. Raises ModisteError when the split is empty."""
        part = self.catalogue.select(split=split)
        if train:
            return self._training_pairs(self.products)(self._limited(part))
        return Pairs(part, self.captions.bind(part), self.preprocess, self.products, self.seed, None, self.decoder)

    def _training_pairs(self, products: Mapping[str, int] | None) -> Callable[[Catalogue], Pairs]:
        augment = None
        if self.augment:
            from torchvision.transforms import v2

            augment = v2.Compose(self.augment)
        return partial(
            training_pairs,
            captions=self.captions,
            preprocess=self.preprocess,
            products=products,
            seed=self.seed,
            augment=augment,
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
        """Global batches in an epoch."""
        if self.stream is not None:
            return self.stream.length
        return len(self.pairs("train", train=True)) // self.batch_size

    def check(self, loss: Any) -> None:
        """Raises ModisteError where ``loss`` would not heed what batches carry, or a stream's shards do not fit."""
        given = [name for name, there in (("fields", self.fields), ("weight.column", self.weight.column)) if there]
        if given and not getattr(loss, "weighs_pairs", False):
            raise ModisteError(f"data.{given[0]} is for loss=gcl, and {type(loss).__name__} would not heed it.")
        if self.stream is not None:
            if self.fields is not None and self.fields.with_vocabulary:
                raise ModisteError(
                    f"data.fields.{self.fields.with_vocabulary[0]}.vocabulary takes all texts of a catalogue, which a "
                    "stream does not know beforehand: leave vocabulary out."
                )
            self.stream.check(self._columns)

    @property
    def _columns(self) -> set[str]:
        """The columns that training reads."""
        named = self.captions.columns | (self.fields.columns if self.fields else set())
        return named | ({self.weight.column} if self.weight.column is not None else set())

    def use(self, cache: Cache, splits: Sequence[str] = ("train", "val")) -> None:
        """From now on batches hold features of frozen trunks in the place of pixels and tokens, computed here.

        Raises:
            ModisteError: Training reads a stream, which is not known beforehand.
        """
        if self.stream is not None and "train" in splits:
            raise ModisteError("features.cache=true needs all images beforehand, data.stream has none: leave one out.")
        self.cache = cache
        texts: set[str] = set()
        for split in splits:
            pairs = self.pairs(split, train=split == "train")
            for index in range(len(pairs)):
                texts.update(pairs.texts(index) if split == "train" else [pairs.captions.first(index)])
            cache.images(pairs)
        self._text_features = cache.texts(texts)
        for part in self.transfer.values():
            part.data.use(cache, [part.split])

    def _loaded(self, split: str, train: bool = False) -> Pairs:
        pairs = self.pairs(split, train)
        if self.cache is not None:
            pairs.features = self.cache.images(pairs)
        return pairs

    def train_dataloader(self) -> ResumableLoader:
        loader = self._catalogue_loader() if self.stream is None else self._stream_loader(self.stream)
        if self.trainer is not None:
            assert isinstance(loader.batch_sampler, EpochBatchSampler)
            # Lightning makes the first iterator before it tells the epoch, and gives a run that had come to its end no
            # state of the loader.
            loop: Any = self.trainer.fit_loop
            loader.batch_sampler.set_epoch(loop.epoch_progress.current.processed)
        loader.position = self._position
        return loader

    def _catalogue_loader(self) -> ResumableLoader:
        pairs = self._loaded("train", train=True)
        rank, world = self._process()
        return ResumableLoader(
            pairs,
            batch_sampler=EpochBatchSampler(len(pairs), self.batch_size, self.seed, rank, world, self._order(pairs)),
            collate_fn=Collate(self._text_features or self.tokenizer, self.positives, pairs.fields),
            **self._workers(),
        )

    def _stream_loader(self, stream: Stream) -> ResumableLoader:
        from modiste.data.storage.streaming import stream_loader

        collate = Collate(self.tokenizer, self.positives, BoundFields([], self.fields.weights) if self.fields else None)
        make = self._training_pairs(None)
        rank, world = self._process()
        return stream_loader(
            stream, make, self._columns, collate, self.batch_size, self.seed, rank, world, self._workers(), self.weight
        )

    def _order(self, pairs: Pairs) -> Order:
        captions = [pairs.captions.first(index) for index in range(len(pairs))] if self.batches.mined else []
        return self.batches.bind(pairs.catalogue, captions, len(self.catalogue))

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The loader of ``val``, or with `transfer` a list: its sets' loaders after that of ``val``."""
        further = []
        for part in self.transfer.values():
            part.data.trainer = self.trainer
            further.append(part.data.split_loader(part.split))
        own = self.split_loader("val")
        return [own, *further] if further else own

    def split_loader(self, split: str) -> DataLoader:
        """The pairs of a split in order, each process its share, without augmentation."""
        pairs = self._loaded(split)
        rank, world = self._process()
        # Every process gets as many items; the repeated ones are dropped again by row when the metrics are computed.
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
            "worker_init_fn": leave_interrupts_to_the_trainer,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }

    def _position(self) -> dict[str, int]:
        assert self.trainer is not None
        loop: Any = self.trainer.fit_loop
        # `ready` counts the batch in hand, which the step that is being saved has used, and the epoch that it is of,
        # which `processed` counts as soon as it is over.
        epoch = max(loop.epoch_progress.current.ready - 1, 0)
        return {"epoch": epoch, "batch": loop.epoch_loop.batch_progress.current.ready}
