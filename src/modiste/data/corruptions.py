"""Corrupted catalogues, whose images are transformed to evaluate robustness."""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from modiste.data.catalogue import Catalogue
from modiste.data.sources import ImageSource, PixelSource
from modiste.errors import ModisteError

_GENERATOR = threading.Lock()
"""torchvision's transforms draw from the global generator, which the threads of an embedder share."""


@dataclass(frozen=True)
class CorruptedImages:
    """Image source with transformed images; random transforms are seeded by the content of the image.

    Attributes:
        images: The source of the originals.
        transforms: Transforms of a PIL image, in order.
        pixels: Reference → pixel hash of the original, the seed.
    """

    images: ImageSource
    transforms: Sequence[Callable[[Any], Any]]
    pixels: Mapping[str, str]

    def read(self, ref: str) -> Image.Image:
        """Return the transformed RGB image. Raises as the source of the originals does."""
        image = self.images.read(ref)
        with _GENERATOR, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(zlib.crc32(self.pixels[ref].encode()))
            for transform in self.transforms:
                image = transform(image)
        return image.convert("RGB")


def corrupt(catalogue: Catalogue, transforms: Sequence[Callable[[Any], Any]]) -> Catalogue:
    """Return the catalogue with transformed images, as in ImageNet-C (arXiv:1903.12261).

    The column ``pixels`` becomes a hash of the original and the transforms, so that caches do not mix them. Masks and
    boxes, which the transforms may move, are dropped.

    Args:
        catalogue: The original.
        transforms: Transforms of a PIL image, in order; their ``repr`` must include their parameters.

    Raises:
        ModisteError: The images are preprocessed, so there are no originals to transform.

    >>> from modiste.data.augment import Thumbnail
    >>> from modiste.data.synthetic import Synthetic
    >>> garments = Synthetic(products=2, views=1, size=64)()
    >>> corrupt(garments, [Thumbnail(p=1.0)]).read_image(0).size
    (28, 28)
    """
    if isinstance(catalogue.images, PixelSource):
        raise ModisteError("data.corruptions needs the original images: remove data.preprocessed.")
    pixels = catalogue.column("pixels")
    images = CorruptedImages(catalogue.images, transforms, dict(zip(catalogue.column("image"), pixels, strict=True)))
    described = repr(list(transforms))
    renamed = [hashlib.sha1(f"{described}:{p}".encode(), usedforsecurity=False).hexdigest() for p in pixels]
    columns = [name for name in catalogue.table.column_names if name not in ("mask", "boxes")]
    return replace(catalogue, table=catalogue.table.select(columns), images=images).replace_column("pixels", renamed)


def corruptions_of(catalogue: Catalogue) -> list[Callable[[Any], Any]]:
    """Return the transforms of a corrupted catalogue's images, in order; empty for original images.

    >>> from modiste.data.augment import Thumbnail
    >>> from modiste.data.synthetic import Synthetic
    >>> garments = Synthetic(products=2, views=1, size=64)()
    >>> corruptions_of(garments), corruptions_of(corrupt(garments, [Thumbnail(p=1.0)]))
    ([], [Thumbnail(p=1.0, size=28, invert=0.0)])
    """
    images = catalogue.images
    transforms: list[Callable[[Any], Any]] = []
    while isinstance(images, CorruptedImages):
        transforms = [*images.transforms, *transforms]
        images = images.images
    return transforms
