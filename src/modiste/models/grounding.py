"""Find phrases on a photo: the map, the box and the highest place of each."""

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
)

SIZE = 384
THRESHOLD = 0.5
METHODS: dict[str, HeatMap] = {
    "patches": PatchText(),
    "cam": Cam(),
    "gradcam": GradCam(),
    "occlusion": Occlusion(step=28),
}
"""The methods by name; occlusion with wide bands, which takes seconds on a photo instead of a minute."""


class Grounded(NamedTuple):
    """Where a phrase is on a photo.

    Attributes:
        heat: (H, W) float32 in [0, 1], minimum to maximum over the photo; 0 where the method sees no difference.
        box: Left, top, right, bottom in pixels of the photo, the ends excluded: the smallest box around the region of
            the highest pixel that reaches the threshold (pixels joined by their sides).
        point: x and y of the highest pixel; the middle of the photo where the map is the same everywhere.
        score: The method's own value there, not scaled: for ``patches`` the cosine of the best patch and the phrase.
    """

    heat: Heat
    box: Box
    point: tuple[int, int]
    score: float

    @property
    def place(self) -> str:
        """The third of the photo where the map is highest, in words: ``upper left``, ``middle centre``."""
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
    """Find phrases on a photo; see `modiste.models.dual_encoder.DualEncoder.ground`."""
    with torch.inference_mode():
        device = next(model.parameters()).device
        tokens = {name: tensor.to(device) for name, tensor in model.tokenizer(list(phrases)).items()}
        texts = model.encode_text(tokens)
    return locate(resized(model, size)[0], image, texts, method, threshold)


def locate(
    model: PatchEncoder,
    image: Image.Image,
    texts: Tensor,
    method: str = "patches",
    threshold: float = THRESHOLD,
    side: int | None = None,
) -> list[Grounded]:
    """Find texts that are embedded already on a photo.

    Args:
        model: In evaluation mode, at the size of input that is wanted.
        image: The photo.
        texts: Unit-norm vectors (K, D).
        method: A key of `METHODS`.
        threshold: Of the boxes, in [0, 1].
        side: Longer side of the maps in pixels; None: the photo's own.

    Raises:
        ModisteError: There is no such method, or the model does not have what it needs.
    """
    if method not in METHODS:
        raise ModisteError(f"There is no grounding method '{method}'. {did_you_mean(method, METHODS)}")
    device = next(model.parameters()).device
    try:
        maps = METHODS[method](model, input_pixels(model, image).to(device), texts.to(device))
    except (NotImplementedError, AttributeError) as error:
        others = " or ".join(name for name in METHODS if name != method)
        raise ModisteError(f"This model cannot do {method} ({error}): choose {others}.") from error
    scale = 1.0 if side is None else side / max(image.size)
    shape = max(1, round(image.height * scale)), max(1, round(image.width * scale))
    heats = on_image(maps, image.size, shape).numpy()
    return [_found(heat, float(raw.max()), image.size, threshold) for heat, raw in zip(heats, maps, strict=True)]


def _found(heat: Heat, score: float, size: tuple[int, int], threshold: float) -> Grounded:
    """Box and point in pixels of a photo of this width and height, from a map of any resolution."""
    from scipy.ndimage import label

    height, width = heat.shape
    across, down = size[0] / width, size[1] / height
    y, x = _peak(heat)
    regions = label(heat >= threshold)[0]
    left, top, right, bottom = box((regions == regions[y, x]) & (regions > 0)) or (0, 0, width, height)
    found = round(left * across), round(top * down), round(right * across), round(bottom * down)
    return Grounded(heat, found, (int((x + 0.5) * across), int((y + 0.5) * down)), score)


def _peak(heat: Heat) -> tuple[int, int]:
    """Row and column of the highest pixel, the middle of a map that is 0 everywhere."""
    height, width = heat.shape
    return divmod(int(heat.argmax()), width) if heat.any() else (height // 2, width // 2)
