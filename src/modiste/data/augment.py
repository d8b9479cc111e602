"""Domain randomisation of catalogue photos: PIL transforms for ``data.augment``."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from modiste.errors import ModisteError
from modiste.utils.ranges import Fraction, Range, Side

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue

log = logging.getLogger(__name__)
LEAST_OPEN = 0.05
"""Minimum width of what an open garment shows of another, as a fraction of the image's."""
LEAST_SEEN = 0.3
"""Minimum width of what is seen of a garment under an open one."""


class Thumbnail:
    """Convert the image to a small grey thumbnail, as Fashion-MNIST was made, with probability ``p``.

    Xiao et al., *Fashion-MNIST*, arXiv:1708.07747, section 2: trim edges near the corner's colour (5 % of the maximum
    intensity), scale the longest edge to 28 by skipping rows and columns, sharpen (Gaussian of radius 1), extend to a
    centred square, convert to grey. The negation is omitted, since the data set is used on white. This applies the
    recipe to photos of any catalogue; it uses no image of Fashion-MNIST.

    Args:
        p: Probability.
        size: Side of the thumbnail in pixels; the encoder's transform enlarges it.
        invert: Probability that a thumbnail is negated: dark garments become bright, the background stays white.

    Raises:
        ModisteError: A probability is outside [0, 1], or ``size`` < 1.

    >>> photo = Image.new("RGB", (60, 80), "white")
    >>> photo.paste("navy", (20, 10, 40, 70))
    >>> small = Thumbnail(p=1.0)(photo)
    >>> small.size, small.getpixel((0, 0)), small.getpixel((14, 14))
    ((28, 28), (255, 255, 255), (15, 15, 15))
    """

    def __init__(self, p: Fraction = 0.5, size: Side = 28, invert: Fraction = 0.0) -> None:
        check_fractions("Thumbnail", p=p, invert=invert)
        if size < 1:
            raise ModisteError(f"Thumbnail.size={size} must be at least 1.")
        self.p, self.size, self.invert = p, size, invert

    def __repr__(self) -> str:
        return f"Thumbnail(p={self.p}, size={self.size}, invert={self.invert})"

    def __call__(self, image: Image.Image) -> Image.Image:
        # Both numbers are always drawn, from torch's generator, which is seeded per item.
        taken, negated = torch.rand(2).tolist()
        if taken >= self.p:
            return image
        grey = trim(image.convert("RGB")).convert("L")
        ratio = self.size / max(grey.size)
        width, height = (max(1, round(side * ratio)) for side in grey.size)
        grey = grey.resize((width, height), Image.Resampling.NEAREST)
        grey = grey.filter(ImageFilter.UnsharpMask(radius=1, percent=100, threshold=0))
        if negated < self.invert:
            grey = negate_garment(grey)
        canvas = Image.new("L", (self.size, self.size), 255)
        canvas.paste(grey, ((self.size - width) // 2, (self.size - height) // 2))
        return canvas.convert("RGB")


class CropEnds:
    """Crop a random part of the image's top and bottom (head and legs) with probability ``p``.

    Shoes and bags, which catalogues show with wide margins, stay complete.

    Args:
        p: Probability.
        top: Maximum fraction of the height cropped at the top.
        bottom: Maximum fraction of the height cropped at the bottom.

    Raises:
        ModisteError: A number is outside [0, 1], or ``top`` + ``bottom`` ≥ 1.

    >>> CropEnds(p=0.0)(Image.new("RGB", (60, 80))).size
    (60, 80)
    """

    def __init__(self, p: Fraction = 0.5, top: Fraction = 0.25, bottom: Fraction = 0.25) -> None:
        check_fractions("CropEnds", p=p, top=top, bottom=bottom)
        if top + bottom >= 1:
            raise ModisteError(
                f"CropEnds would remove the whole image: top={top:g} and bottom={bottom:g} must sum to less than 1."
            )
        self.p, self.top, self.bottom = p, top, bottom

    def __repr__(self) -> str:
        return f"CropEnds(p={self.p}, top={self.top}, bottom={self.bottom})"

    def __call__(self, image: Image.Image) -> Image.Image:
        taken, top, bottom = torch.rand(3).tolist()
        if taken >= self.p:
            return image
        width, height = image.size
        return image.crop((0, round(top * self.top * height), width, round(height * (1 - bottom * self.bottom))))


class HideSkin:
    """Turn skin-coloured pixels white with probability ``p``, so that a worn garment looks laid flat.

    Chai and Ngan, *Face segmentation using skin-color map in videophone applications*, 1999: 77 ≤ Cb ≤ 127 and
    133 ≤ Cr ≤ 173. Beige and brown goods have that colour too, so an image stays unchanged if skin is more than a
    fraction ``most`` of its non-white pixels.

    Args:
        p: Probability.
        most: Maximum fraction of the non-white pixels that may be skin.

    Raises:
        ModisteError: A number is outside [0, 1].

    >>> photo = Image.new("RGB", (10, 10), "navy")
    >>> photo.paste((224, 172, 140), (0, 0, 10, 3))
    >>> hidden = HideSkin(p=1.0)(photo)
    >>> hidden.getpixel((0, 0)), hidden.getpixel((0, 9))
    ((255, 255, 255), (0, 0, 128))
    """

    def __init__(self, p: Fraction = 0.5, most: float = 0.5) -> None:
        check_fractions("HideSkin", p=p, most=most)
        self.p, self.most = p, most

    def __repr__(self) -> str:
        return f"HideSkin(p={self.p}, most={self.most})"

    def __call__(self, image: Image.Image) -> Image.Image:
        if torch.rand(()).item() >= self.p:
            return image
        skin = is_skin(image)
        if skin.sum() > self.most * (np.asarray(image.convert("YCbCr").getchannel("Y")) < 240).sum():
            return image
        pixels = np.asarray(image.convert("RGB")).copy()
        pixels[skin] = 255
        return Image.fromarray(pixels)


class OpenFront:
    """Show a garment open over another, or under an open one, with probability ``p``.

    In street photos, what another garment covers is no part of a garment. A band from the top to the bottom of the
    trimmed image, between two crooked lines about the middle, becomes white, or all but this band does.

    Args:
        p: Probability.
        widest: Maximum width of the band, as a fraction of the image's.
        under: Probability that the garment is worn under another: only the band is kept.

    Raises:
        ModisteError: A number is outside [0, 1].

    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator object at ...>
    >>> photo = Image.new("RGB", (60, 80), "white")
    >>> photo.paste("navy", (20, 10, 40, 70))
    >>> worn = OpenFront(p=1.0, widest=0.5)(photo)
    >>> worn.size, sorted(colour for _, colour in worn.getcolors())
    ((20, 60), [(0, 0, 128), (255, 255, 255)])
    """

    def __init__(self, p: Fraction = 0.5, widest: Fraction = 0.6, under: Fraction = 0.0) -> None:
        check_fractions("OpenFront", p=p, widest=widest, under=under)
        self.p, self.widest, self.under = p, widest, under

    def __repr__(self) -> str:
        return f"OpenFront(p={self.p}, widest={self.widest}, under={self.under})"

    def __call__(self, image: Image.Image) -> Image.Image:
        # One number from torch's generator, which is seeded per item, seeds all others.
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        if rng.random() >= self.p:
            return image
        image, under = trim(image.convert("RGB")), rng.random() < self.under
        band = self._band(rng, image.size, least=LEAST_SEEN if under else LEAST_OPEN)
        white = Image.new("RGB", image.size, "white")
        return Image.composite(image, white, band) if under else Image.composite(white, image, band)

    def _band(self, rng: np.random.Generator, size: tuple[int, int], least: float) -> Image.Image:
        """Mask of the band, which widens towards the hem."""
        width, height = size
        knots = 4
        gap = rng.uniform(min(least, self.widest), self.widest) * np.linspace(rng.uniform(0.2, 1.0), 1.0, knots)
        middle = rng.normal(0.5, 0.07) + rng.normal(0, 0.02, knots)
        heights = np.linspace(0, height, knots)
        left, right = ((middle + side * gap / 2 + rng.normal(0, 0.02, knots)) * width for side in (-1, 1))
        outline = [*zip(left, heights, strict=True), *zip(right[::-1], heights[::-1], strict=True)]
        band = Image.new("L", size)
        ImageDraw.Draw(band).polygon([(float(x), float(y)) for x, y in outline], fill=255)
        return band


class Lengthen:
    """Trim the image and stretch its height by a random factor, with probability ``p``.

    Args:
        p: Probability.
        factor: Maximum factor.

    Raises:
        ModisteError: ``p`` is outside [0, 1], or ``factor`` < 1.

    >>> photo = Image.new("RGB", (60, 80), "white")
    >>> photo.paste("navy", (20, 10, 40, 70))
    >>> longer = Lengthen(p=1.0, factor=2.0)(photo)
    >>> longer.width, 60 <= longer.height <= 120
    (20, True)
    """

    def __init__(self, p: Fraction = 0.5, factor: Annotated[float, Range(least=1)] = 1.5) -> None:
        check_fractions("Lengthen", p=p)
        if factor < 1:
            raise ModisteError(f"Lengthen.factor={factor:g} must be at least 1.")
        self.p, self.factor = p, factor

    def __repr__(self) -> str:
        return f"Lengthen(p={self.p}, factor={self.factor})"

    def __call__(self, image: Image.Image) -> Image.Image:
        taken, amount = torch.rand(2).tolist()
        if taken >= self.p:
            return image
        image = trim(image.convert("RGB"))
        return image.resize((image.width, round(image.height * (1 + amount * (self.factor - 1)))))


@dataclass(frozen=True)
class Where:
    """Apply transforms to the images whose attribute matches a pattern, and no transform to others.

    Attributes:
        attribute: Name of the attribute.
        pattern: Regular expression that is searched for in its value.
        transforms: Transforms of a PIL image, applied in order.
        rows: ``row`` numbers of the images that match; see `bind`.

    Raises:
        ModisteError: ``pattern`` is no regular expression.

    >>> from modiste.data.synthetic import Synthetic
    >>> garments = Synthetic(products=20, views=1)()
    >>> longer = Where("category", "^dress$", [Lengthen(p=1.0, factor=3.0)]).bind(garments)
    >>> all((longer(Image.new("RGB", (9, 9)), row).height > 9) <= (kind == "dress")
    ...     for row, kind in zip(garments.column("row"), garments.column("category")))
    True
    """

    attribute: str
    pattern: str
    transforms: Sequence[Callable[[Image.Image], Image.Image]]
    rows: frozenset[int] = frozenset()  # shown: features are cached by what a transform shows
    takes_row: ClassVar[bool] = True

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ModisteError(f"Where.pattern='{self.pattern}' is no regular expression: {error}.") from None

    def bind(self, catalogue: Catalogue) -> Where:
        """Return this transform for the rows of a catalogue, with a warning if none matches.

        Raises:
            ModisteError: The catalogue has no such attribute.
        """
        values = zip(catalogue.column("row"), catalogue.column(self.attribute), strict=True)
        rows = frozenset(int(row) for row, value in values if re.search(self.pattern, value or ""))
        if not rows:
            log.warning(
                "No training image has '%s' like '%s': this part of data.augment is not used.",
                self.attribute,
                self.pattern,
            )
        return replace(self, rows=rows, transforms=bound(self.transforms, catalogue))

    def __call__(self, image: Image.Image, row: int) -> Image.Image:
        return apply(self.transforms, image, row) if row in self.rows else image


def bound(transforms: Sequence[Callable[..., Image.Image]], catalogue: Catalogue) -> list[Callable[..., Image.Image]]:
    """Return the transforms, those bound to a catalogue that use its rows.

    Raises:
        ModisteError: One that takes the row number lies inside one of torchvision's, which does not pass it on.
    """
    for transform in transforms:
        if not getattr(transform, "takes_row", False) and (hidden := _taking_rows(transform)):
            raise ModisteError(
                f"{hidden[0]} in data.augment lies inside {type(transform).__name__}, which does not tell it the row "
                "of the image: list it in data.augment itself."
            )
    return [transform.bind(catalogue) if hasattr(transform, "bind") else transform for transform in transforms]


def _taking_rows(transform: object) -> list[str]:
    """Names of the transforms inside this one, at any depth, that take a row number."""
    inner = getattr(transform, "transforms", [])
    names = [type(step).__name__ for step in inner if getattr(step, "takes_row", False)]
    return names + [name for step in inner for name in _taking_rows(step)]


def apply(transforms: Sequence[Callable[..., Image.Image]], image: Image.Image, row: int) -> Image.Image:
    """Apply transforms in order.

    Args:
        transforms: Each takes an image, and if its attribute ``takes_row`` is true the row number, too.
        image: What the first one takes.
        row: The image's row number in the full catalogue.

    >>> apply([lambda image: image.rotate(90, expand=True)], Image.new("RGB", (60, 80)), 0).size
    (80, 60)
    """
    for transform in transforms:
        image = transform(image, row) if getattr(transform, "takes_row", False) else transform(image)
    return image


class RoomLight:
    """Simulate the light of phone photos with probability ``p``: exposure, colour cast, slope, folds.

    Each channel is multiplied by a field: a gain for the exposure, a gain per channel for the cast, a slope across the
    image, and low-frequency noise for folds and shadows. Colours stay recognisable: a blue shirt stays blue.

    Args:
        p: Probability.
        exposure: Standard deviation of the log gain.
        cast: Standard deviation of the log gain of each channel.
        slope: Standard deviation of the relative change from the centre to the edge, horizontally and vertically.
        folds: Maximum standard deviation of the noise.

    Raises:
        ModisteError: A number is outside [0, 1].

    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator object at ...>
    >>> RoomLight(p=1.0)(Image.new("RGB", (20, 20), (100, 100, 100))).getpixel((10, 10)) != (100, 100, 100)
    True
    """

    def __init__(
        self, p: float = 0.5, exposure: float = 0.15, cast: float = 0.05, slope: float = 0.12, folds: float = 0.12
    ) -> None:
        check_fractions("RoomLight", p=p, exposure=exposure, cast=cast, slope=slope, folds=folds)
        self.p, self.exposure, self.cast, self.slope, self.folds = p, exposure, cast, slope, folds

    def __repr__(self) -> str:
        return (
            f"RoomLight(p={self.p}, exposure={self.exposure}, cast={self.cast}, slope={self.slope}, folds={self.folds})"
        )

    def __call__(self, image: Image.Image) -> Image.Image:
        # One number from torch's generator, which is seeded per item, seeds all others.
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        if rng.random() >= self.p:
            return image
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
        across, down = (np.linspace(-1, 1, side, dtype=np.float32) for side in (image.width, image.height))
        slopes = rng.normal(0, self.slope, 2).astype(np.float32)
        field = 1 + slopes[0] * across[None, :] + slopes[1] * down[:, None] + self._folds(rng, image.size)
        gain = np.exp(rng.normal(0, self.exposure)) * np.exp(rng.normal(0, self.cast, 3))
        return Image.fromarray((pixels * field[..., None] * gain).clip(0, 255).astype(np.uint8))

    def _folds(self, rng: np.random.Generator, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Smooth noise (height, width)."""
        cells = rng.normal(0, rng.uniform(0, self.folds), rng.integers(3, 12, 2)).astype(np.float32)
        return np.asarray(Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC))


def check_fractions(name: str, **parts: float) -> None:
    """Raise ModisteError if one of the arguments of ``name`` is outside [0, 1]."""
    for key, value in parts.items():
        if not 0 <= value <= 1:
            raise ModisteError(f"{name}.{key}={value:g}: give a number from 0 to 1.")


def is_skin(image: Image.Image) -> npt.NDArray[np.bool_]:
    """Mask (h, w) of skin-coloured pixels: 77 ≤ Cb ≤ 127 and 133 ≤ Cr ≤ 173 (Chai and Ngan 1999).

    >>> is_skin(Image.new("RGB", (2, 1), (224, 172, 140))).tolist()
    [[True, True]]
    """
    _, blue, red = np.moveaxis(np.asarray(image.convert("YCbCr")), 2, 0)
    return (blue >= 77) & (blue <= 127) & (red >= 133) & (red <= 173)


def trim(image: Image.Image, tolerance: float = 0.05) -> Image.Image:
    """Trim margins whose channels differ from the corner pixel by at most ``tolerance`` of full intensity.

    >>> photo = Image.new("RGB", (60, 80), (250, 250, 250))
    >>> photo.paste("navy", (20, 10, 40, 70))
    >>> trim(photo).size, trim(Image.new("RGB", (8, 8))).size
    ((20, 60), (8, 8))
    """
    ground = Image.new("RGB", image.size, image.getpixel((0, 0)))
    difference = np.asarray(ImageChops.difference(image, ground)).max(axis=2) > 255 * tolerance
    if not difference.any():
        return image
    rows, columns = np.flatnonzero(difference.any(axis=1)), np.flatnonzero(difference.any(axis=0))
    return image.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))


def negate_garment(grey: Image.Image, ground: int = 242) -> Image.Image:
    """Negate a grey image except its background, which is everything brighter than ``ground``."""
    background = grey.point(lambda value: 255 if value > ground else 0)
    return Image.composite(grey, ImageOps.invert(grey), background)
