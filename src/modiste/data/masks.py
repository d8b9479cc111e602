"""Segmentation masks: run lengths and polygons as in COCO and Kaggle, and captions from labels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from modiste.errors import ModisteError, did_you_mean

Mask = npt.NDArray[np.bool_]
UNREADABLE_MASK = "unreadable mask"
OTHER_SIZE = "mask of another size than the image"
NO_ANNOTATION = "no annotation"
COSTLY_MASKS = "masks that take minutes to draw"
MAX_COST = 2**33
"""Limit on `Shape.cost`, summed over an image: 500 instances on 16 megapixels, or a minute or two of drawing."""
LONGEST = 60
"""Bits of a compressed run length; longer numbers fit no image."""


@dataclass(frozen=True, eq=False)
class Shape:
    """Segmentation of one object: polygons, or run lengths.

    Attributes:
        polygons: Each (2n,) float32, alternating x and y in pixels from the upper left corner of the image.
        counts: (k,) int64, lengths of runs of pixels that alternate between outside and inside, in column-major order.
    """

    polygons: tuple[npt.NDArray[np.float32], ...] = ()
    counts: npt.NDArray[np.int64] | None = None

    @classmethod
    def from_coco(cls, segmentation: object) -> Shape | None:
        """Parse COCO's ``segmentation``: polygons, or ``{"size": [h, w], "counts": list or string}``.

        Polygons of fewer than three points have no area and are dropped; None: no polygon remains.

        Raises:
            ValueError: The segmentation is malformed, or the run lengths do not add up to the size.
        """
        if isinstance(segmentation, Mapping) and {"counts", "size"} <= set(segmentation):
            counts = segmentation["counts"]
            counts = decode_counts(counts) if isinstance(counts, str) else np.asarray(counts, dtype=np.int64)
            _check_counts(counts, *segmentation["size"])
            return cls(counts=counts)
        if not isinstance(segmentation, list):
            raise ValueError(f"a segmentation must be polygons or run lengths, not {type(segmentation).__name__}")
        polygons = [np.asarray(polygon, dtype=np.float32) for polygon in segmentation]
        if any(polygon.ndim != 1 or len(polygon) % 2 for polygon in polygons):
            raise ValueError("a polygon must be a list of alternating x and y")
        if not all(np.isfinite(polygon).all() for polygon in polygons):
            raise ValueError("a polygon's points must be finite")
        polygons = [polygon for polygon in polygons if len(polygon) >= 6]
        return cls(polygons=tuple(polygons)) if polygons else None

    @classmethod
    def from_kaggle(cls, text: str, height: int, width: int) -> Shape:
        """Parse Kaggle's ``EncodedPixels``: alternating starts (from 1, column-major) and lengths of runs.

        Raises:
            ValueError: The text is malformed, or the runs do not fit the image.

        >>> Shape.from_kaggle("3 2", 2, 3).fill(2, 3).astype(int)
        array([[0, 1, 0],
               [0, 1, 0]])
        """
        numbers = np.array(text.split(), dtype=np.int64)
        if not len(numbers) or len(numbers) % 2:
            raise ValueError("run lengths must be pairs of start and length")
        starts, lengths = numbers[::2] - 1, numbers[1::2]
        ends = starts + lengths
        gaps = starts - np.concatenate([[0], ends[:-1]])
        counts = np.append(np.stack([gaps, lengths], axis=1).ravel(), height * width - ends[-1])
        _check_counts(counts, height, width)
        return cls(counts=counts)

    def cost(self, height: int, width: int) -> int:
        """Upper bound on the cost of `fill`, in pixels: a row that a polygon's edge crosses costs about 16."""
        return height * (width + 16 * sum(len(polygon) // 2 for polygon in self.polygons))

    def fill(self, height: int, width: int) -> Mask:
        """Return the mask (height, width), True inside. Raises ValueError if the runs do not fit the size."""
        return (
            fill_polygons(self.polygons, height, width)
            if self.counts is None
            else fill_runs(self.counts, height, width)
        )


def decode_counts(text: str) -> npt.NDArray[np.int64]:
    """Decode the run lengths of COCO's compressed string (``rleFrString`` in cocoapi's maskApi.c).

    Each character, minus 48, holds six bits: five bits of the number (two's complement, lowest first) and a
    continuation bit. From the fourth on, a number is stored as the difference from the number two before it.

    Raises:
        ValueError: A character is invalid, a number has more than `LONGEST` bits, or the last one is truncated.

    >>> decode_counts("52203").tolist()
    [5, 2, 2, 2, 5]
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"{character!r} is not valid in COCO run lengths")
        value |= (code & 31) << shift
        shift += 5
        if shift > LONGEST:
            raise ValueError("the run lengths have a number of more bits than any image has pixels")
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the run lengths are truncated")
    return np.array(counts, dtype=np.int64)


def _check_counts(counts: npt.NDArray[np.int64], height: int, width: int) -> None:
    size = int(height) * int(width)
    # A sum of larger numbers may wrap to the size, and NumPy would write past the end of the mask.
    bounded = counts.ndim == 1 and counts.min(initial=0) >= 0 and int(counts.max(initial=0)) * len(counts) < 2**63
    if not bounded or counts.sum() != size:
        raise ValueError(f"run lengths do not match an image of {width}×{height} pixels")


def fill_runs(counts: npt.NDArray[np.int64], height: int, width: int) -> Mask:
    """Mask (height, width), True in every second run. Raises ValueError if the runs do not fit the size.

    >>> fill_runs(np.array([1, 2, 1]), 2, 2).astype(int)
    array([[0, 1],
           [1, 0]])
    """
    _check_counts(counts, height, width)
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return inside.reshape(width, height).T


def fill_polygons(polygons: Iterable[npt.NDArray[np.float32]], height: int, width: int) -> Mask:
    """Mask (height, width), True inside any polygon (Pillow's outline rule; COCO's differs at the border)."""
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    for polygon in polygons:
        # Pillow's coordinates refer to the centres of pixels, COCO's to their corners.
        draw.polygon((polygon - 0.5).tolist(), fill=1)
    return np.asarray(image).astype(bool)


def as_image(mask: Mask) -> Image.Image:
    """Convert a mask to an image of mode L: 255 inside, 0 outside."""
    return Image.fromarray(mask.astype(np.uint8) * 255)


def fit(mask: Image.Image, size: tuple[int, int], ref: str) -> Image.Image:
    """Resize a mask to the (width, height) of an image of the same proportions, such as a smaller copy.

    Raises:
        ModisteError: The proportions differ by more than a pixel.
    """
    if mask.size == size:
        return mask
    if abs(mask.height * size[0] / mask.width - size[1]) > 1 and abs(mask.width * size[1] / mask.height - size[0]) > 1:
        raise ModisteError(
            f"Image '{ref}' is {size[0]}×{size[1]}, but its annotation is {mask.width}×{mask.height} pixels: the "
            "images are cropped or from another data set; use the images that were annotated."
        )
    return mask.resize(size, Image.Resampling.NEAREST)


def no_such_part(ref: str, part: str, known: Collection[str]) -> ModisteError:
    """Error of a `MaskSource` whose image has no such part."""
    return ModisteError(f"Image '{ref}' has no part '{part}'. {did_you_mean(part, known)}")


def part_of(parts: Mapping[str, Sequence[str]], labels: Collection[str]) -> dict[str, str]:
    """Invert part → labels to label → part.

    Args:
        parts: Part → its labels.
        labels: All labels that exist.

    Raises:
        ModisteError: A label does not exist, or is in two parts.

    >>> part_of({"shoes": ["pumps", "boots"]}, ["boots", "pumps", "hat"])
    {'pumps': 'shoes', 'boots': 'shoes'}
    """
    found: dict[str, str] = {}
    for part, names in parts.items():
        for name in names:
            if name not in labels:
                raise ModisteError(f"Part '{part}' names the label '{name}'. {did_you_mean(str(name), labels)}")
            if name in found:
                raise ModisteError(f"The label '{name}' is in two parts, '{found[name]}' and '{part}': remove one.")
            found[name] = part
    return found


def wearing(parts: Sequence[str]) -> str:
    """Caption of a person who wears ``parts``; "" for none.

    Plurals and words such as "underwear" have no article.

    >>> wearing(["dress", "shoes", "umbrella"])
    'a person wearing a dress, shoes and an umbrella'
    >>> wearing(["underwear"]), wearing([])
    ('a person wearing underwear', '')
    """
    if not parts:
        return ""
    *first, last = [_with_article(part) for part in parts]
    return f"a person wearing {', '.join(first)}{' and ' if first else ''}{last}"


def _with_article(noun: str) -> str:
    plural = noun.endswith("s") and not noun.endswith("ss")
    if plural or noun.endswith(("wear", "jewellery")):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
