"""Image preprocessing: resized as uint8 on the CPU, normalised on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modiste.errors import ModisteError, did_you_mean

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
RESIZES = ("shortest", "squash", "pad")
CROPS = ("round", "floor")
LONGEST = 512
"""Aspect ratio beyond which an image is cropped before it is resized: an enlarged line would fill the memory."""


@dataclass(frozen=True)
class Preprocess:
    """The deterministic image transform of an encoder.

    Attributes:
        size: Side of the square input in pixels.
        mean: Per-channel mean of pixels scaled to [0, 1].
        std: Per-channel standard deviation of pixels scaled to [0, 1].
        interpolation: A key of `INTERPOLATIONS`.
        resize: ``shortest`` scales the short side to ``size / crop_pct`` and crops the centre (CLIP, timm), ``squash``
            scales both sides to ``size`` (SigLIP), ``pad`` fits the long side and fills the rest with ``fill``.
        crop_pct: Fraction of the resized short side that the centre crop keeps, as in timm; only for ``shortest``.
        fill: RGB value of the padding.
        crop: Rounding of the centre crop's offset if the margin is odd: ``round`` (half to even: torchvision,
            open_clip, timm) or ``floor`` (transformers); one pixel apart.

    Raises:
        ModisteError: Unknown ``interpolation``, ``resize`` or ``crop``.

    >>> Preprocess(size=32)(Image.new("RGB", (60, 80))).shape
    torch.Size([3, 32, 32])
    """

    size: int
    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.5, 0.5, 0.5)
    interpolation: str = "bicubic"
    resize: str = "shortest"
    crop_pct: float = 1.0
    fill: Sequence[int] = (255, 255, 255)
    crop: str = "round"

    def __post_init__(self) -> None:
        for field, options in (("interpolation", INTERPOLATIONS), ("resize", RESIZES), ("crop", CROPS)):
            value = getattr(self, field)
            if value not in options:
                raise ModisteError(f"preprocess.{field}={value} is not known. {did_you_mean(value, options)}")

    def __call__(self, image: Image.Image, ready: bool = False) -> Tensor:
        """Pixels (3, size, size), uint8; ``ready``: an image that already has the final size is kept as it is."""
        image = image.convert("RGB")
        if not (ready and image.size == (self.size, self.size)):
            image = getattr(self, f"_{self.resize}")(image)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    def from_array(self, array: np.ndarray) -> Tensor:
        """Pixels of an RGB array (H, W, 3), uint8, resized by torchvision (`Decoder`)."""
        from torchvision.transforms.v2 import functional

        modes = {"nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic"}
        if self.interpolation not in modes:
            return self(Image.fromarray(array))
        if max(array.shape[:2]) > LONGEST * min(array.shape[:2]):
            return self(Image.fromarray(array))
        pixels = torch.from_numpy(array).permute(2, 0, 1)
        width, height = self.resized(array.shape[1], array.shape[0])
        mode = functional.InterpolationMode(modes[self.interpolation])
        pixels = functional.resize(
            pixels, [height, width], interpolation=mode, antialias=self.interpolation != "nearest"
        )
        if self.resize == "shortest":
            left, top = self._margin(width), self._margin(height)
            pixels = pixels[:, top : top + self.size, left : left + self.size]
        elif self.resize == "pad":
            canvas = torch.tensor(self.fill, dtype=torch.uint8).view(3, 1, 1).repeat(1, self.size, self.size)
            left, top = (self.size - width) // 2, (self.size - height) // 2
            canvas[:, top : top + height, left : left + width] = pixels
            pixels = canvas
        return pixels.contiguous()

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height to which an image is resized, before it is cropped or padded.

        >>> [Preprocess(size=32, resize=how).resized(60, 80) for how in RESIZES]
        [(32, 42), (32, 32), (24, 32)]
        """
        if self.resize == "squash":
            return self.size, self.size
        if self.resize == "pad":
            ratio = max(width, height) / self.size
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        target = int(self.size / self.crop_pct)
        if width <= height:
            return target, int(target * height / width)
        return int(target * width / height), target

    def margins(self) -> tuple[int, int, int, int]:
        """Pixels that the centre crop removes from a resized square image: left, right, top, bottom.

        >>> Preprocess(size=28, crop_pct=0.875).margins()
        (2, 2, 2, 2)
        """
        target = int(self.size / self.crop_pct) if self.resize == "shortest" else self.size
        begin = self._margin(target)
        return (begin, target - self.size - begin) * 2

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (B, 3, H, W) to float32 with the encoder's mean and standard deviation."""
        # Creating them on a GPU would wait for its pending work.
        mean, std = (
            torch.tensor(values).view(3, 1, 1).to(pixels.device, non_blocking=True) for values in (self.mean, self.std)
        )
        return pixels.float().div(255).sub(mean).div(std)

    def describe(self) -> dict[str, Any]:
        """The transform as plain values, for cache keys."""
        return {name: list(v) if isinstance(v, (tuple, list)) else v for name, v in sorted(vars(self).items())}

    def _shortest(self, image: Image.Image) -> Image.Image:
        image = self._resized(_without_far_ends(image))
        left, top = (self._margin(side) for side in image.size)
        return image.crop((left, top, left + self.size, top + self.size))

    def _margin(self, side: int) -> int:
        extra = side - self.size
        return extra // 2 if self.crop == "floor" else round(extra / 2)

    def _squash(self, image: Image.Image) -> Image.Image:
        return self._resized(image)

    def _pad(self, image: Image.Image) -> Image.Image:
        canvas = Image.new("RGB", (self.size, self.size), tuple(self.fill))
        resized = self._resized(image)
        canvas.paste(resized, ((self.size - resized.width) // 2, (self.size - resized.height) // 2))
        return canvas

    def _resized(self, image: Image.Image) -> Image.Image:
        return image.resize(self.resized(*image.size), INTERPOLATIONS[self.interpolation])


def _without_far_ends(image: Image.Image) -> Image.Image:
    """Crop a very long image to its middle, which contains the centre crop that follows."""
    width, height = image.size
    longest = LONGEST * min(width, height)
    left, top = max(width - longest, 0) // 2, max(height - longest, 0) // 2
    return image.crop((left, top, width - left, height - top)) if left or top else image
