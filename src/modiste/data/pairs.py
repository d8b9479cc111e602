"""Image–text pairs of a catalogue and their collation into batches."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from modiste.data.augment import apply
from modiste.data.captions import BoundCaptions, Captions
from modiste.data.catalogue import Catalogue
from modiste.data.decode import Decoder
from modiste.data.fields import BoundFields, Fields, PairWeights
from modiste.models.dual_encoder import Tokenizer
from modiste.models.preprocess import Preprocess
from modiste.utils.seeds import mix

Batch = dict[str, Any]
Key = tuple[int, int] | int
"""(epoch, index) in training, otherwise the index."""
ImageFeatures = Callable[[Key], Tensor]
"""Key → cached features (dim,) that replace the item's pixels."""


class Pairs(Dataset[Batch]):
    """Image–text pairs of a catalogue; item (epoch, index) is a pure function of the seed and this key.

    Args:
        catalogue: The rows.
        captions: Their captions.
        preprocess: The model's image transform.
        products: Product id → integer.
        seed: Determines captions and augmentation, with the key.
        augment: Transforms of a PIL image, applied in order; see `modiste.data.augment.apply`.
        decoder: Decodes the images; None: Pillow.
        fields: Text fields of the catalogue, or None.
        weights: Weight of each pair, or None.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        captions: BoundCaptions,
        preprocess: Preprocess,
        products: Mapping[str, int],
        seed: int = 0,
        augment: Sequence[Callable[..., Any]] = (),
        decoder: Decoder | None = None,
        fields: BoundFields | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.catalogue, self.captions, self.preprocess = catalogue, captions, preprocess
        self.seed, self.augment, self.decoder = seed, augment, decoder or Decoder()
        self.fields, self.weights = fields, weights
        self.features: ImageFeatures | None = None
        self.product = [products[product] for product in catalogue.column("product_id")]
        self.rows = catalogue.column("row")

    def __len__(self) -> int:
        return len(self.catalogue)

    def __getitem__(self, key: Key) -> Batch:
        index = key[1] if isinstance(key, tuple) else key
        pixels = self._pixels(key) if self.features is None else self.features(key)
        item = {"pixels": pixels, "text": self.caption(key), "product": self.product[index], "row": self.rows[index]}
        if self.fields is not None:
            generator = random.Random(mix(self.seed, *key, 1) if isinstance(key, tuple) else 0)
            item["fields"] = self.fields.sample(index, generator)
        if self.weights is not None:
            item["weight"] = self.weights[index]
        return item

    def caption(self, key: Key) -> str:
        """Return the caption of an item: sampled in training, otherwise the first."""
        if not isinstance(key, tuple):
            return self.captions.first(key)
        return self.captions.sample(key[1], random.Random(mix(self.seed, *key)))

    def texts(self, index: int) -> set[str]:
        """Return every text that training may embed for an item, including "" of a batch without field texts."""
        return self.captions.all(index) if self.fields is None else self.fields.all(index) | {""}

    def with_features(self, features: ImageFeatures | None) -> Pairs:
        """Return a copy with cached features instead of pixels; None: with pixels."""
        pairs = copy.copy(self)
        pairs.features = features
        return pairs

    def _pixels(self, key: Key) -> Tensor:
        if not isinstance(key, tuple) or not self.augment:
            return self.decoder.pixels(self.catalogue, key[1] if isinstance(key, tuple) else key, self.preprocess)
        epoch, index = key
        # torchvision's transforms draw from the global generator.
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed also looks for accelerators, which takes 0.4 ms per item.
            torch.default_generator.manual_seed(mix(self.seed, epoch, index))
            image = self.decoder.image(self.catalogue, index, self.preprocess)
            return self.preprocess(apply(self.augment, image.convert("RGB"), self.rows[index]), ready=True)


def text_id(text: str) -> int:
    """Return a 63-bit hash of a caption or product id, the same in every process.

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
    augment: Sequence[Callable[..., Any]] = (),
    decoder: Decoder | None = None,
    fields: Fields | None = None,
    weight: PairWeights | None = None,
) -> Pairs:
    """Return the training pairs of a catalogue, with augmentation, text fields and weights.

    Args:
        catalogue: The training rows.
        captions: Caption templates.
        preprocess: The model's image transform.
        products: Product id → integer; None: `text_id`, for products that are not known in advance.
        seed: Determines captions and augmentation, with the key.
        augment: Transforms of a PIL image, applied in order; see `modiste.data.augment.apply`.
        decoder: Decodes the images; None: Pillow.
        fields: Text fields, or None.
        weight: Weight of each pair, or None.

    Raises:
        ModisteError: A template or the weight names an unknown column, or a weight is not a valid number.
    """
    if products is None:
        products = {product: text_id(product) for product in catalogue.column("product_id")}
    return Pairs(
        catalogue,
        captions.bind(catalogue),
        preprocess,
        products,
        seed,
        augment,
        decoder,
        fields.bind(catalogue) if fields else None,
        weight.bind(catalogue) if weight else None,
    )


class Collate:
    """Collate items to a batch: pixels (B, 3, S, S) uint8, tokens, product (B,), row (B,), texts.

    Cached features (B, dim) replace the pixels. With ``fields``, the tokens are those of the batch's distinct field
    texts, and ``fields`` indexes them (`modiste.data.fields.BoundFields.collate`). Items with a weight add ``weight``
    (B,).

    Args:
        tokenizer: Maps texts to tokens.
        positives: ``product``, or ``caption``: pairs with the same caption count as one product in the loss.
        fields: Text fields of the items, or None.
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
