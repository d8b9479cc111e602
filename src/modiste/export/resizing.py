"""A model's image transform as tensor operations, for runtimes that resize differently from PIL."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modiste.models.preprocess import Preprocess


class Resizing(nn.Module):
    """`Preprocess` for pixels (B, 3, H, W) of any size, traceable by exporters.

    Resizing multiplies by one matrix per axis, with PIL's kernels, which widen with the reduction (antialiasing).

    Args:
        preprocess: The transform.

    >>> Resizing(Preprocess(size=8, resize="pad"))(torch.zeros(1, 3, 32, 16))[0, 0, 0].tolist()
    [255.0, 255.0, 0.0, 0.0, 0.0, 0.0, 255.0, 255.0]
    """

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.preprocess = preprocess

    def forward(self, pixels: Tensor) -> Tensor:
        """Return pixels (B, 3, size, size) from 0 to 255, rounded to integers and not normalised."""
        rows, columns = (torch.arange(side, dtype=torch.float64) for side in pixels.shape[-2:])
        height, width = rows[-1] + 1, columns[-1] + 1
        high, wide = self.sides(height, width)
        across, inside_x = self.weights(columns, width, wide)
        down, inside_y = self.weights(rows, height, high)
        # PIL rounds after each axis. Pillow 13 begins with the height if that saves much; tests check against it.
        down_first = (height > high) & (height - high > 2 * (width - wide))
        pixels = torch.where(
            down_first,
            rounded(rounded(down @ pixels) @ across.mT),
            rounded(down @ rounded(pixels @ across.mT)),
        )
        fill = torch.tensor(self.preprocess.fill, dtype=torch.float32).view(3, 1, 1)
        return torch.where(inside_y[:, None] & inside_x, pixels, fill)

    def sides(self, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """`Preprocess.resized` for scalar tensors."""
        size = torch.full_like(height, self.preprocess.size)
        if self.preprocess.resize == "squash":
            return size, size
        if self.preprocess.resize == "pad":
            ratio = torch.maximum(height, width) / size
            return (height / ratio).round().clamp(min=1), (width / ratio).round().clamp(min=1)
        target = int(self.preprocess.size / self.preprocess.crop_pct)
        short = torch.minimum(height, width)
        return (target * height / short).floor(), (target * width / short).floor()

    def weights(self, places: Tensor, side: Tensor, resized: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights (size, side) of an axis, and a mask (size,) of the outputs inside the image."""
        extra = resized - self.preprocess.size  # negative: padding
        cropped = (extra / 2).round() if self.preprocess.crop == "round" else (extra / 2).floor()
        begin = cropped if self.preprocess.resize == "shortest" else -(-extra / 2).floor()
        outputs = torch.arange(self.preprocess.size, dtype=torch.float64) + begin
        scale = side / resized
        centres = ((outputs + 0.5) * scale)[:, None]
        if self.preprocess.interpolation == "nearest":
            weights = (places == centres.floor()).double()
        else:
            weights = kernel(self.preprocess.interpolation, (places + 0.5 - centres) / scale.clamp(min=1))
            weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-9)
        return weights.float(), (outputs >= 0) & (outputs < resized)


def rounded(pixels: Tensor) -> Tensor:
    """Round to the nearest uint8 values."""
    return (pixels + 0.5).floor().clamp(0, 255)


def kernel(interpolation: str, distance: Tensor) -> Tensor:
    """PIL's resampling kernels; 0 beyond their support.

    >>> kernel("bilinear", torch.tensor([0.0, 0.25, 1.5])).tolist()
    [1.0, 0.75, 0.0]
    """
    x = distance.abs()
    if interpolation == "bilinear":
        return (1 - x).clamp(min=0)
    if interpolation == "bicubic":  # a = -0.5
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    return torch.where(x < 3, sinc(x) * sinc(x / 3), 0.0)


def sinc(x: Tensor) -> Tensor:
    """sin(πx) / πx in operations that ONNX supports, for x ≥ 0."""
    angle = torch.pi * x.clamp(min=1e-9)
    return angle.sin() / angle
