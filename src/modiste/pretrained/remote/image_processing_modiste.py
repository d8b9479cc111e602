"""Image preprocessing of a dual encoder exported by modiste, with PIL, as in training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor


class ModisteImageProcessor(BaseImageProcessor):
    """Resize (``shortest`` with a centre crop, ``squash``, or ``pad`` with ``fill``), then normalise."""

    model_input_names = ["pixel_values"]  # noqa: RUF012

    def __init__(
        self,
        size: int = 224,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        interpolation: str = "bicubic",
        resize: str = "shortest",
        crop_pct: float = 1.0,
        fill: Sequence[int] = (255, 255, 255),
        crop: str = "round",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size, self.mean, self.std = size, list(mean), list(std)
        self.interpolation, self.resize, self.crop_pct, self.crop = interpolation, resize, crop_pct, crop
        self.fill = list(fill)

    def preprocess(self, images: Any, return_tensors: str | None = None, **kwargs: Any) -> BatchFeature:
        """Convert PIL images, or uint8 arrays (H, W, 3), to ``pixel_values`` (B, 3, size, size), float32."""
        images = images if isinstance(images, (list, tuple)) else [images]
        pixels = [self._pixels(image if isinstance(image, Image.Image) else Image.fromarray(image)) for image in images]
        return BatchFeature({"pixel_values": np.stack(pixels)}, tensor_type=return_tensors)

    def _pixels(self, image: Image.Image) -> np.ndarray:
        image = image.convert("RGB")
        resized = image.resize(self._resized(*image.size), Image.Resampling[self.interpolation.upper()])
        if self.resize == "pad":
            canvas = Image.new("RGB", (self.size, self.size), tuple(self.fill))
            canvas.paste(resized, ((self.size - resized.width) // 2, (self.size - resized.height) // 2))
            resized = canvas
        elif self.resize == "shortest":
            left, top = (self._margin(side) for side in resized.size)
            resized = resized.crop((left, top, left + self.size, top + self.size))
        array = np.asarray(resized, dtype=np.float32) / 255
        array = (array - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return array.transpose(2, 0, 1)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.resize == "squash":
            return self.size, self.size
        if self.resize == "pad":
            ratio = max(width, height) / self.size
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        target = int(self.size / self.crop_pct)
        if width <= height:
            return target, int(target * height / width)
        return int(target * width / height), target

    def _margin(self, side: int) -> int:
        extra = side - self.size
        return extra // 2 if self.crop == "floor" else round(extra / 2)
