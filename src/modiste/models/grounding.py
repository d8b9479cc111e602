"""Locate phrases on a photo: heat map, box and highest point of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from modiste.errors import ModisteError, did_you_mean
from modiste.metrics.localisation import Box, Heat, box
from modiste.models.heatmaps import (
    Cam,
    GradCam,
    HeatMap,
    Occlusion,
    PatchEncoder,
    PatchText,
    input_pixels,
    on_image,
    resized,
    without_padding,
)
from modiste.utils.texts import check_texts

SIZE = 384
MAP_SIDE = 2048
"""Longest side of a map of `ground`, in pixels: a map of 64 megapixels takes half a gigabyte per phrase."""
THRESHOLD = 0.5
METHODS: dict[str, HeatMap] = {
    "patches": PatchText(),
    "cam": Cam(),
    "gradcam": GradCam(),
    "occlusion": Occlusion(step=28),
}
"""The methods by name; occlusion with wide bands takes seconds per photo instead of a minute."""


class Grounded(NamedTuple):
    """A phrase located on a photo.

    Attributes:
        heat: Heat map (H, W), float32, scaled to [0, 1] over the photo; all 0 if the map is constant.
        box: Left, top, right, bottom in pixels of the photo (ends exclusive): the bounding box of the region of the
            highest pixel that reaches the threshold (4-connected).
        point: x and y of the highest pixel; the centre of the photo if the map is constant.
        score: Maximum of the unscaled map over the cells that show the photo, not the padding alone: for ``patches``
            the cosine of the best patch and the phrase.
    """

    heat: Heat
    box: Box
    point: tuple[int, int]
    score: float

    @property
    def place(self) -> str:
        """The third of the photo with the highest pixel, in words: ``upper left``, ``middle centre``."""
        y, x = _peak(self.heat)
        row, column = 3 * y // self.heat.shape[0], 3 * x // self.heat.shape[1]
        return f"{('upper', 'middle', 'lower')[row]} {('left', 'centre', 'right')[column]}"


def ground(
    model: PatchEncoder,
    image: Image.Image,
    phrases: Sequence[str],
    method: str = "patches",
    size: int | None = SIZE,
    threshold: float = THRESHOLD,
) -> list[Grounded]:
    """Locate phrases on a photo; see `modiste.models.dual_encoder.DualEncoder.ground`."""
    check_texts(phrases)
    if not all(phrase.strip() for phrase in phrases):
        raise ModisteError("A phrase is empty: give words, for instance a sleeve.")
    with torch.inference_mode():
        device = next(model.parameters()).device
        tokens = {name: tensor.to(device) for name, tensor in model.tokenizer(list(phrases)).items()}
        texts = model.encode_text(tokens)
    sized = resized(model, size)[0]
    side = min(max(image.size), MAP_SIDE)
    return locate(sized, input_pixels(sized, image), image.size, texts, method, threshold, side)


def locate(
    model: PatchEncoder,
    pixels: Tensor,
    size: tuple[int, int],
    texts: Tensor,
    method: str = "patches",
    threshold: float = THRESHOLD,
    side: int | None = None,
) -> list[Grounded]:
    """Locate embedded texts on a photo.

    Args:
        model: Model in evaluation mode, at the desired input size.
        pixels: The photo's pixels (3, S, S); see `modiste.models.heatmaps.input_pixels`.
        size: The photo's width and height.
        texts: Unit-norm embeddings (K, D).
        method: A key of `METHODS`.
        threshold: Threshold of the boxes, in [0, 1].
        side: Longer side of the maps in pixels; None: that of the photo.

    Raises:
        ModisteError: The method is unknown, or the model does not support it.
    """
    if method not in METHODS:
        raise ModisteError(f"There is no grounding method '{method}'. {did_you_mean(method, METHODS)}")
    device = next(model.parameters()).device
    try:
        maps = METHODS[method](model, pixels.to(device), texts.to(device))
    except (NotImplementedError, AttributeError) as error:
        others = " or ".join(name for name in METHODS if name != method)
        raise ModisteError(f"This model cannot do {method} ({error}): choose {others}.") from error
    scale = 1.0 if side is None else side / max(size)
    shape = max(1, round(size[1] * scale)), max(1, round(size[0] * scale))
    heats = on_image(maps, size, shape).numpy()
    scores = without_padding(maps, size).amax(dim=(1, 2)).tolist()
    return [_found(heat, score, size, threshold) for heat, score in zip(heats, scores, strict=True)]


def _found(heat: Heat, score: float, size: tuple[int, int], threshold: float) -> Grounded:
    """Box and point in pixels of a photo of ``size`` (width, height), from a map of any resolution."""
    from scipy.ndimage import label

    height, width = heat.shape
    across, down = size[0] / width, size[1] / height
    y, x = _peak(heat)
    regions = label(heat >= threshold)[0]
    left, top, right, bottom = box((regions == regions[y, x]) & (regions > 0)) or (0, 0, width, height)
    found = round(left * across), round(top * down), round(right * across), round(bottom * down)
    return Grounded(heat, found, (int((x + 0.5) * across), int((y + 0.5) * down)), score)


def _peak(heat: Heat) -> tuple[int, int]:
    """Row and column of the highest pixel, or the centre if the map is all 0."""
    height, width = heat.shape
    return divmod(int(heat.argmax()), width) if heat.any() else (height // 2, width // 2)
