"""Small pictures, and small catalogues whose every pixel hash, product and text is chosen by the test."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from modiste.data.catalogue import Card, Catalogue
from modiste.data.sources import ArrayImages
from modiste.data.storage.preprocessed import Preprocessed, write
from modiste.models.preprocess import Preprocess
from modiste.texts.words import HashTokenizer

SPARSE = {"GNU.sparse.map": "268435456,0", "GNU.sparse.size": "268435456"}
"""Headers of a tar member of no bytes that unpacks into 256 MB."""


def picture(number: int, size: tuple[int, int] = (6, 8)) -> Image.Image:
    """A picture of random pixels that ``number`` decides."""
    width, height = size
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_catalogue(products, pixels, texts=None, splits=None, **attributes) -> Catalogue:
    """A catalogue whose rows look alike exactly where their entry in ``pixels`` is equal."""
    count = len(products)
    columns = {
        "product_id": list(map(str, products)),
        "image": [str(i) for i in range(count)],
        "text": texts or [f"title {i}" for i in range(count)],
        "split": splits or [""] * count,
        "pixels": [f"{p:040x}" for p in pixels],
        **attributes,
    }
    return Catalogue.build(Card("tiny"), columns, ArrayImages(np.zeros((count, 4, 4), np.uint8)))


def rectangles(colours: dict[str, tuple[int, int, int]], count: int, **columns) -> Catalogue:
    """A product per row, of the types in turn (``articleType``, and its text): a rectangle of its colour on white."""
    kinds = [list(colours)[row % len(colours)] for row in range(count)]
    photos = np.full((count, 40, 30, 3), 255, dtype=np.uint8)
    for row, kind in enumerate(kinds):
        photos[row, 6:34, 6:24] = colours[kind]
    numbers = list(map(str, range(count)))
    own = {"product_id": numbers, "image": numbers, "text": kinds, "articleType": kinds}
    return Catalogue.build(Card("plain"), own | columns, ArrayImages(photos))


def falsely_prepared(catalogue: Catalogue, folder: Path) -> Catalogue:
    """Grey images that a prepared folder says to be those of ``catalogue``."""
    grey = ArrayImages(np.full((len(catalogue), 8, 8), 128, np.uint8))
    positions = [str(row) for row in range(len(catalogue))]
    write(replace(catalogue, images=grey).replace_column("image", positions), Preprocess(32), folder)
    return Preprocessed(str(folder))()


def inputs(preprocess: int | Preprocess) -> SimpleNamespace:
    """What a data module needs of a model: an image transform (or its size) and a tokenizer."""
    transform = Preprocess(preprocess) if isinstance(preprocess, int) else preprocess
    return SimpleNamespace(preprocess=transform, tokenizer=HashTokenizer())
