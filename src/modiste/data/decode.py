"""Decode JPEG files with libjpeg-turbo and torchvision, several times faster than Pillow."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from modiste.data.catalogue import Catalogue
from modiste.data.sources import MAX_PIXELS, EncodedSource, PixelSource, decode
from modiste.errors import ModisteError, did_you_mean
from modiste.models.preprocess import Preprocess

MODES = ("pil", "exact", "scaled")
ORIENTATION = 274  # EXIF tag; 1 is upright


@dataclass(frozen=True)
class Decoder:
    """Decode the images of a catalogue to the pixels of a model.

    Attributes:
        mode: ``pil`` (Pillow); ``exact`` (decoded at full size, resized by torchvision; PSNR to Pillow's bicubic 70 dB
            when reducing by a factor of two or more, otherwise at least 55 dB); or ``scaled`` (for training: the
            decoder reduces a JPEG by 2, 4 or 8 while it stays at least as large as needed; 30 to 45 dB).

    Pillow decodes everything but upright three-channel JPEGs in every mode.

    Raises:
        ModisteError: The mode is unknown, or needs simplejpeg, which is not installed.
    """

    mode: str = "pil"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ModisteError(f"data.decode={self.mode} is not known. {did_you_mean(self.mode, MODES)}")
        if self.mode != "pil":
            try:
                import simplejpeg  # noqa: F401
            except ImportError:
                raise ModisteError(
                    f"data.decode={self.mode} needs simplejpeg: pip install 'modiste[fast]', or use data.decode=pil."
                ) from None

    def pixels(self, catalogue: Catalogue, i: int, preprocess: Preprocess) -> Tensor:
        """Return the pixels (3, size, size), uint8, of the i-th row."""
        images, reference = catalogue.images, catalogue.reference(i)
        if isinstance(images, PixelSource):
            return images.preprocessed_pixels(reference, preprocess)
        if self.mode == "pil" or not isinstance(images, EncodedSource):
            return preprocess(images.read(reference))
        data = images.read_bytes(reference)
        array = self._array(data, preprocess)
        return preprocess(decode(data)) if array is None else preprocess.from_array(array)

    def identity(self, catalogue: Catalogue) -> dict[str, Any]:
        """What determines the pixels besides the column ``pixels`` and the image transform, for cache keys.

        Empty for files decoded by Pillow. The column ``pixels`` of preprocessed images is only a claim of their folder,
        so the identity of the folder is included.
        """
        images = catalogue.images
        if isinstance(images, PixelSource):
            return {"preprocessed": images.identity([])}
        return {} if self.mode == "pil" else {"decode": self.mode}

    def image(self, catalogue: Catalogue, i: int, preprocess: Preprocess) -> Image.Image:
        """Return the i-th row's RGB image to augment before ``preprocess``; mode ``scaled`` may reduce it."""
        images, reference = catalogue.images, catalogue.reference(i)
        if isinstance(images, PixelSource):
            return Image.fromarray(images.preprocessed_pixels(reference, preprocess).permute(1, 2, 0).numpy())
        if self.mode == "pil" or not isinstance(images, EncodedSource):
            return images.read(reference)
        data = images.read_bytes(reference)
        array = self._array(data, preprocess)
        return decode(data) if array is None else Image.fromarray(array)

    def _array(self, data: bytes, preprocess: Preprocess) -> np.ndarray | None:
        """The RGB array (H, W, 3) of a plain JPEG, or None if Pillow must decode it."""
        if data[:3] != b"\xff\xd8\xff" or not _is_upright(data):
            return None
        import simplejpeg

        try:
            height, width, space, _ = simplejpeg.decode_jpeg_header(data)
            if space != "YCbCr" or height * width > MAX_PIXELS:
                return None
            smallest: dict[str, Any] = {}
            factor = self._factor(width, height, preprocess) if self.mode == "scaled" else 1
            if factor > 1:
                smallest = {"min_height": -(-height // factor), "min_width": -(-width // factor)}
            return simplejpeg.decode_jpeg(data, "RGB", **smallest)
        except ValueError:  # a damaged file: Pillow's error is more specific
            return None

    @staticmethod
    def _factor(width: int, height: int, preprocess: Preprocess) -> int:
        """Largest divisor of the sides, of 8, 4, 2 and 1, that leaves both as large as after resizing."""
        wanted_width, wanted_height = preprocess.resized(width, height)
        return next(f for f in (8, 4, 2, 1) if f == 1 or (width >= f * wanted_width and height >= f * wanted_height))


def _is_upright(data: bytes) -> bool:
    """Whether EXIF does not rotate or flip the image."""
    if b"Exif\x00" not in data[: 2**16]:
        return True
    try:
        return Image.open(io.BytesIO(data), formats=["JPEG", "MPO"]).getexif().get(ORIENTATION, 1) == 1
    except Exception:  # a damaged header makes the reader raise nearly anything
        return False
