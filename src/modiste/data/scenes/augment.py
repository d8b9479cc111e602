"""Single products in scenes or as silhouettes: augmentations for ``data.augment``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage

from modiste.data.augment import apply, bound, check_fractions
from modiste.data.catalogue import Catalogue
from modiste.data.masks import Mask, as_image
from modiste.data.scenes.backgrounds import background
from modiste.data.scenes.composer import Canvas
from modiste.data.scenes.cutouts import CutOut, cut_out, foreground
from modiste.data.scenes.zones import ZONES, zone_of
from modiste.errors import ModisteError
from modiste.utils.ranges import Fraction

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InScene:
    """Put a product on a generated background, in front of other products, with probability ``p``.

    Photos without a clean background stay unchanged. The distractors are sampled from the training rows, to which
    `modiste.data.module.FashionDataModule` binds this transform; an unbound transform has none.

    Attributes:
        p: Probability.
        size: Side of the square scene in pixels.
        scale: Minimum and maximum length of the product's longer side, as fractions of ``size``.
        turn: Maximum rotation in degrees.
        distractors: Maximum number of other products, which are smaller.
        occlusion: Probability that a patch covers part of the scene.
        tolerance: See `modiste.data.scenes.cutouts.foreground`.
        catalogue: Rows that distractors are sampled from; see `bind`.

    Raises:
        ModisteError: A number is out of range.

    >>> photo = Image.new("RGB", (60, 80), "white")
    >>> photo.paste("navy", (20, 10, 40, 70))
    >>> InScene(p=1.0, size=96)(photo).size
    (96, 96)
    """

    p: float = 0.5
    size: int = 128
    scale: Sequence[float] = (0.5, 1.0)
    turn: float = 15.0
    distractors: int = 2
    occlusion: float = 0.1
    tolerance: int = 20
    catalogue: Catalogue | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_fractions("InScene", p=self.p, occlusion=self.occlusion)
        if self.size < 16 or self.distractors < 0:
            raise ModisteError("InScene.size must be at least 16 pixels, and InScene.distractors at least 0.")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ModisteError(
                f"InScene.scale={list(self.scale)} must be a minimum and a maximum fraction, such as [0.5,1.0]."
            )

    def bind(self, catalogue: Catalogue) -> InScene:
        """Return this transform with distractors from the rows of a catalogue."""
        return replace(self, catalogue=catalogue) if self.distractors else self

    def __call__(self, image: Image.Image) -> Image.Image:
        # One number from torch's generator, which is seeded per item, seeds all others.
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        if rng.random() >= self.p:
            return image
        product = cut_out(image, tolerance=self.tolerance)
        if product is None:
            return image
        canvas = Canvas(background(rng, (self.size, self.size)))
        for other in self._distractors(rng):
            canvas.place(rng, 1, other, rng.uniform(0.2, 0.45), self.turn)
        smallest, largest = self.scale
        side = rng.uniform(smallest, largest)
        room = max(1 - side, 0) / 2
        canvas.place(rng, 0, product, side, self.turn, around=(0.5 - room, 0.5 + room))
        if rng.random() < self.occlusion:
            canvas.cover(rng)
        return canvas.image

    def _distractors(self, rng: np.random.Generator) -> list[CutOut]:
        if self.catalogue is None:
            return []
        rows = rng.integers(len(self.catalogue), size=int(rng.integers(self.distractors + 1)))
        found = [cut_out(self.catalogue.read_image(int(row)), tolerance=self.tolerance) for row in rows]
        return [other for other in found if other is not None]


@dataclass(frozen=True)
class GarmentOnly:
    """Show a garment on white without its wearer and what else the wearer has on, with probability ``p``.

    The garment's part of a photo of a model is that of its zone without skin (`modiste.data.scenes.cutouts.cut_out`).
    Products without a zone and photos without a clean background are not cut out.

    Attributes:
        p: Probability.
        attribute: Attribute that names the product's type, which determines the zone.
        otherwise: Transforms of the images that are not cut out, applied in order.
        zones: ``row`` number → zone; see `bind`.

    Raises:
        ModisteError: ``p`` is outside [0, 1].

    >>> photo = Image.new("RGB", (60, 80), "white")
    >>> photo.paste((224, 172, 140), (25, 0, 35, 20))  # a head
    >>> photo.paste("navy", (15, 20, 45, 60))
    >>> photo.paste("red", (15, 60, 45, 72))  # trousers
    >>> GarmentOnly(p=1.0, zones={7: "top"})(photo, 7).size
    (30, 40)
    """

    p: Fraction = 0.5
    attribute: str = "category"
    otherwise: Sequence[Callable[[Image.Image], Image.Image]] = ()
    zones: Mapping[int, str] = field(default_factory=dict)
    takes_row: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fractions("GarmentOnly", p=self.p)

    def bind(self, catalogue: Catalogue) -> GarmentOnly:
        """Return this transform with the zones of a catalogue's rows, with a warning if nothing in it is worn.

        Raises:
            ModisteError: The catalogue has no such attribute.
        """
        kinds = zip(catalogue.column("row"), catalogue.column(self.attribute), strict=True)
        zones = {int(row): zone for row, kind in kinds if (zone := zone_of(kind or ""))}
        if not zones:
            log.warning("No '%s' names something that is worn: GarmentOnly cuts out nothing.", self.attribute)
        return replace(self, zones=zones, otherwise=bound(self.otherwise, catalogue))

    def __call__(self, image: Image.Image, row: int) -> Image.Image:
        zone = self.zones.get(row)
        if torch.rand(()).item() < self.p and zone and (garment := cut_garment(image, zone)):
            return garment
        return apply(self.otherwise, image, row)


def cut_garment(image: Image.Image, zone: str) -> Image.Image | None:
    """Return the garment of a zone on white, cropped to it; None where it cannot be cut out."""
    product = cut_out(image, ZONES[zone])
    if product is None or not (mask := without_specks(np.asarray(product.garment) > 0)).any():
        return None
    garment = as_image(mask)
    white = Image.new("RGB", product.image.size, "white")
    return Image.composite(product.image, white, garment).crop(garment.getbbox())


def without_specks(mask: Mask, least: float = 0.02) -> Mask:
    """Drop the connected parts of a mask (h, w) that are smaller than ``least`` of it.

    >>> mask = np.ones((10, 10), dtype=bool)
    >>> mask[7] = mask[8:, 1:] = False
    >>> without_specks(mask, least=0.05).sum(), mask.sum()
    (np.int64(70), np.int64(72))
    """
    parts, _ = ndimage.label(mask)
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    return (areas >= least * mask.sum())[parts] & mask


@dataclass(frozen=True)
class Silhouette:
    """Draw a product on white as a grey silhouette or as its edges, with probability ``p``.

    Without colour and texture, only shape is left to learn from (Geirhos et al., ICLR 2019, arXiv:1811.12231). Photos
    without a clean background stay unchanged.

    Attributes:
        p: Probability.
        edges: Probability that a drawn product is its edges.
        tolerance: See `modiste.data.scenes.cutouts.foreground`.

    Raises:
        ModisteError: A probability is outside [0, 1].

    >>> photo = Image.new("RGB", (60, 80), "white")
    >>> photo.paste("navy", (20, 10, 40, 70))
    >>> flat = Silhouette(p=1.0, edges=0.0)(photo)
    >>> flat.getpixel((0, 0)), len(flat.getcolors())
    ((255, 255, 255), 2)
    """

    p: float = 0.2
    edges: float = 0.5
    tolerance: int = 20

    def __post_init__(self) -> None:
        check_fractions("Silhouette", p=self.p, edges=self.edges)

    def __call__(self, image: Image.Image) -> Image.Image:
        # All numbers are always drawn, from torch's generator, which is seeded per item.
        taken, drawn, shade = torch.rand(3).tolist()
        front = foreground(image, self.tolerance) if taken < self.p else None
        if front is None:
            return image
        if drawn < self.edges:
            edges = ImageOps.crop(
                image.convert("L").filter(ImageFilter.FIND_EDGES), 1
            )  # it copies the outermost pixels
            return ImageOps.expand(ImageOps.invert(ImageOps.autocontrast(edges)), 1, 255).convert("RGB")
        flat, white = (Image.new("L", image.size, grey) for grey in (round(shade * 200), 255))
        return Image.composite(flat, white, as_image(front)).convert("RGB")
