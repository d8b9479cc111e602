"""Fashion-MNIST: 70,000 grey images of garments, 28×28, in ten classes, for out-of-domain zero-shot."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from modiste.data.catalogue import Card, Catalogue
from modiste.data.sources import ArrayImages
from modiste.errors import ModisteError
from modiste.utils.ranges import BadRows

CARD = Card(
    name="fashion_mnist",
    title="Fashion-MNIST",
    licence="MIT",
    citation="H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017",
    homepage="https://github.com/zalandoresearch/fashion-mnist",
    expected={"rows": 70000, "images": 70000},
    download="Set data.catalogue.download=true, or put the four idx files (train-images-idx3-ubyte[.gz], …) there.",
)
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
PARTS = {"train": "train", "test": "t10k"}
FOLDERS = ("", "raw", "FashionMNIST/raw")
MAX_BYTES = 2**30


@dataclass(frozen=True)
class FashionMnist:
    """Read the four idx files, with the official train and test splits.

    text = attribute ``category`` = class name.

    Attributes:
        path: Folder of the idx files, compressed (``.gz``) or not, or the root that torchvision downloads to.
        invert: Show garments on white, as in product photos and in FashionCLIP's evaluation; the files have black.
        download: Download missing files through torchvision.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: A file is missing or damaged, the download fails, or images and labels do not match.
    """

    path: str
    invert: bool = True
    download: bool = field(default=False, kw_only=True)
    max_bad: BadRows | None = None

    def __call__(self) -> Catalogue:
        if self.download and self._find("train-images-idx3-ubyte") is None:
            self._download()
        images, labels, products, splits = [], [], [], []
        for split, part in PARTS.items():
            pixels = self._read(f"{part}-images-idx3-ubyte", 3)
            classes = self._read(f"{part}-labels-idx1-ubyte", 1)
            if len(pixels) != len(classes) or classes.max(initial=0) >= len(CLASSES):
                raise ModisteError(
                    f"{len(pixels)} images and {len(classes)} labels in {self.path} do not match: download them again."
                )
            images.append(pixels)
            labels += [CLASSES[label] for label in classes]
            products += [f"{split}-{i}" for i in range(len(pixels))]
            splits += [split] * len(pixels)
        array = np.concatenate(images)
        columns = {
            "product_id": products,
            "image": [str(i) for i in range(len(array))],
            "text": labels,
            "split": splits,
            "category": labels,
        }
        return Catalogue.build(CARD, columns, ArrayImages(255 - array if self.invert else array), self.max_bad)

    def _find(self, name: str) -> Path | None:
        candidates = (Path(self.path) / folder / (name + suffix) for folder in FOLDERS for suffix in ("", ".gz"))
        return next((file for file in candidates if file.is_file()), None)

    def _read(self, name: str, dimensions: int) -> np.ndarray:
        file = self._find(name)
        if file is None:
            raise ModisteError(f"{name}[.gz] is missing in {self.path}. {CARD.download}")
        return read_idx(file, dimensions)

    def _download(self) -> None:
        from torchvision.datasets import FashionMNIST

        try:
            FashionMNIST(self.path, download=True)
        except (OSError, RuntimeError) as error:
            raise ModisteError(
                f"Fashion-MNIST could not be downloaded: {error}. Download its files manually."
            ) from error


def read_idx(file: Path, dimensions: int) -> np.ndarray:
    """Read an idx file, compressed or not, as uint8 array (format: http://yann.lecun.com/exdb/mnist).

    The number of decompressed bytes is checked; a checksum of the file would depend on its compression.

    Raises:
        ModisteError: The file is not an idx file of uint8 with this number of dimensions, or its length differs from
            its header.
    """
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            data = stream.read(MAX_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise ModisteError(f"{file} is damaged ({error}). {CARD.download}") from error
    start = 4 + 4 * dimensions
    if len(data) < start or data[:4] != bytes([0, 0, 8, dimensions]):
        raise ModisteError(f"{file} is not an idx file of {dimensions} dimensions. {CARD.download}")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    expected = int(np.prod(shape, dtype=object))
    if len(data) - start != expected:
        raise ModisteError(
            f"{file} has {len(data) - start:,} bytes of values, not {expected:,} as in its header. {CARD.download}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
