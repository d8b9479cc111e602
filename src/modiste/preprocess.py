"""How a PIL image becomes a model's pixels: resized as uint8 on the CPU, normalised on the device."""

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
        crop_pct: Part of the resized short side that the centre crop keeps (timm's word); 1 but for ``shortest``.
        fill: RGB value of the padding.
        crop: Where the centre crop begins when the margin is odd: ``round`` (half to even: torchvision, open_clip,
            timm) or ``floor`` (transformers); one pixel apart.

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
        """Pixels (3, size, size) as uint8; ``ready`` leaves an image that already has the final size alone."""
        image = image.convert("RGB")
        if not (ready and image.size == (self.size, self.size)):
            image = getattr(self, f"_{self.resize}")(image)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (B, 3, H, W) to float32 with the encoder's mean and standard deviation."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return pixels.float().div(255).sub(mean).div(std)

    def describe(self) -> dict[str, Any]:
        """Plain values: the part of a cache key that this transform decides."""
        return {name: list(v) if isinstance(v, (tuple, list)) else v for name, v in sorted(vars(self).items())}

    def _shortest(self, image: Image.Image) -> Image.Image:
        target = int(self.size / self.crop_pct)
        width, height = image.size
        if width <= height:
            width, height = target, int(target * height / width)
        else:
            width, height = int(target * width / height), target
        image = image.resize((width, height), INTERPOLATIONS[self.interpolation])
        left, top = self._margin(width), self._margin(height)
        return image.crop((left, top, left + self.size, top + self.size))

    def _margin(self, side: int) -> int:
        extra = side - self.size
        return extra // 2 if self.crop == "floor" else round(extra / 2)

    def _squash(self, image: Image.Image) -> Image.Image:
        return image.resize((self.size, self.size), INTERPOLATIONS[self.interpolation])

    def _pad(self, image: Image.Image) -> Image.Image:
        ratio = max(image.size) / self.size
        width, height = (max(1, round(side / ratio)) for side in image.size)
        canvas = Image.new("RGB", (self.size, self.size), tuple(self.fill))
        resized = image.resize((width, height), INTERPOLATIONS[self.interpolation])
        canvas.paste(resized, ((self.size - width) // 2, (self.size - height) // 2))
        return canvas
