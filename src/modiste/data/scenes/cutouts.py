"""Products cut out of photos with a clean background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from modiste.data.augment import is_skin
from modiste.data.masks import as_image
from modiste.data.scenes.zones import Zone

Mask = npt.NDArray[np.bool_]

CLEAN_BORDER = 0.6
"""Minimum fraction of the border with the background's colour; a garment on a model may reach the border."""
AREA = (0.02, 0.9)
"""Minimum and maximum fraction of the image that a product covers; otherwise the cut-out failed."""
DARKEST_SHADOW = 0.6
"""Minimum brightness of a shadow, as a fraction of the background's."""
SPECKS_FROM = 32
"""Minimum side of images in which single foreground pixels are dropped as noise."""
WORN = 0.06
"""Minimum fraction of skin in a cut-out of a worn garment."""
SHOULDERS = 0.62
"""Width of the silhouette at the shoulders, as a fraction of its maximum width."""


@dataclass(frozen=True)
class CutOut:
    """The foreground of a photo, cropped to its bounding box.

    Attributes:
        image: RGB.
        mask: Foreground; mode L, of the image's size, 255 inside, as are the other masks.
        garment: The product itself; smaller than ``mask`` if a model wears it.
        body: Skin and head of the model. The rest of ``mask`` may show other garments.
    """

    image: Image.Image
    mask: Image.Image
    garment: Image.Image
    body: Image.Image

    @property
    def worn(self) -> bool:
        """Whether a model wears the product."""
        return self.body.getbbox() is not None

    def undressed(self) -> CutOut | None:
        """Return the product without the model, or None if nothing is left."""
        box = self.garment.getbbox()
        if box is None:
            return None
        garment = self.garment.crop(box)
        return CutOut(self.image.crop(box), garment, garment, Image.new("L", garment.size))


def foreground(image: Image.Image, tolerance: int = 20) -> Mask | None:
    """Foreground mask (h, w) of a photo on a plain background, or None if the background is not clean.

    The background is connected to the border, and each channel differs from the border's median colour by at most
    ``tolerance`` of 255; soft shadows are part of it. A foreground outside the limits of `AREA` gives None, too.

    >>> photo = Image.new("RGB", (8, 10), "white")
    >>> photo.paste("navy", (2, 3, 6, 9))
    >>> int(foreground(photo).sum())
    24
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.int16)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    colour = np.median(edge, axis=0)
    alike = np.abs(pixels - colour).max(axis=2) <= tolerance
    border = np.ones(alike.shape, dtype=bool)
    border[1:-1, 1:-1] = False
    if alike[border].mean() < CLEAN_BORDER:
        return None
    parts, _ = ndimage.label(alike | _shadow(pixels, colour, tolerance))
    front = ~np.isin(parts, np.unique(parts[border & alike]))
    if min(front.shape) >= SPECKS_FROM:
        front &= ndimage.binary_dilation(ndimage.binary_erosion(front, border_value=1))
    return front if AREA[0] <= front.mean() <= AREA[1] else None


def _shadow(pixels: npt.NDArray[np.int16], colour: npt.NDArray[np.float64], tolerance: int) -> Mask:
    """Mask (h, w) of soft shadows: darker shades of the background that change slowly, unlike edges."""
    light = pixels.sum(axis=2) / max(colour.sum(), 1.0)
    shade = np.abs(pixels - light[..., None] * colour).max(axis=2) <= tolerance / 2
    sums = pixels.max(axis=2)
    steep = ndimage.maximum_filter(sums, 3) - ndimage.minimum_filter(sums, 3) > tolerance
    return shade & ~steep & (light >= DARKEST_SHADOW) & (light <= 1)


def cut_out(image: Image.Image, zone: Zone | None = None, tolerance: int = 20) -> CutOut | None:
    """Cut a product out of its photo.

    Args:
        image: The photo.
        zone: Where the product is worn, which determines the garment's part of a photo of a model; None: all of it.
        tolerance: See `foreground`.

    Returns:
        The cut-out, or None if the background is not clean.

    >>> photo = Image.new("RGB", (8, 10), "white")
    >>> photo.paste("navy", (2, 3, 6, 9))
    >>> cut_out(photo).image.size, cut_out(photo).worn
    ((4, 6), False)
    """
    front = foreground(image, tolerance)
    if front is None:
        return None
    box = as_image(front).getbbox()
    assert box is not None
    image, front = image.convert("RGB").crop(box), front[box[1] : box[3], box[0] : box[2]]
    body = np.zeros_like(front)
    garment = front
    skin = ndimage.binary_opening(is_skin(image) & front)  # drops single pixels of a print
    if zone is not None and zone.band is not None and WORN <= skin.sum() / front.sum() <= 0.6:
        first, last = zone.band
        height = len(front)
        begin = shoulders(front) if first is None else round(first * height)
        rows = np.arange(height)[:, None]
        garment = front & ~skin & (rows >= begin) & (rows < round(last * height))
        body = skin | (front & (rows < begin)) if first is None else skin
    return CutOut(image, as_image(front), as_image(garment), as_image(body))


def shoulders(front: Mask) -> int:
    """First row at which a silhouette (h, w) is about as wide as shoulders; at most 35 % of the height.

    >>> shoulders(np.repeat(np.array([[0, 1, 0], [1, 1, 1]], dtype=bool), 10, axis=0))
    7
    """
    width = front.sum(axis=1)
    wide = int(np.argmax(width >= SHOULDERS * width.max()))
    return min(wide, round(0.35 * len(front)))
