"""Sheets of heat maps overlaid on their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from modiste.errors import ModisteError
from modiste.models.grounding import Grounded
from modiste.utils.drawing import write

INK, FAINT, PAPER, GAP = "#1A1A1A", "#6A6A6A", "#FFFFFF", 14
HEAT_CELL = (150, 190)  # width, height of the box that images are fitted into
PHOTO_CELL = (300, 420)
HEAT_COLOURS = "inferno"
SCALE = (150, 12)  # width, height of the colour scale
OUTLINE = ("#000000", "#56B4E9")  # dark edge and bright line, visible on any background


def heat_sheet(rows: Sequence[Mapping[str, Any]], verdicts: Sequence[str] = ()) -> Image.Image:
    """One row per phrase: the image with the outline of the mask, and each method's map overlaid on it.

    Each map shows the outline of the mask and a cross at its highest pixel, with a caption below. The footer has the
    colour scale, from a map's minimum (0) to its maximum (1), and the verdicts.

    Args:
        rows: ``title``; ``image``; ``mask`` (h, w), True inside; ``maps``, method → (h, w) in [0, 1]; ``words``,
            method → caption of its map. The same methods in each row; maps and masks of any resolution.
        verdicts: Sentences for the footer.

    Raises:
        ModisteError: ``rows`` is empty.
    """
    if not rows:
        raise ModisteError("There are no heat maps to draw.")
    methods = list(rows[0]["maps"])
    head, title, words, foot = 24, 24, 20, SCALE[1] + 24
    width, height = HEAT_CELL[0] + GAP, title + HEAT_CELL[1] + words + GAP
    size = (GAP + width * (1 + len(methods)), head + height * len(rows) + foot + 56 * len(verdicts))
    sheet = Image.new("RGB", size, PAPER)
    for column, name in enumerate(["mask", *methods]):
        write(sheet, (GAP + column * width, 6), name, 13, FAINT, HEAT_CELL[0])
    for i, row in enumerate(rows):
        top = head + i * height
        write(sheet, (GAP, top), f"“{row['title']}”", 14, INK, sheet.width - 2 * GAP)
        image = fitted(row["image"], HEAT_CELL)
        sheet.paste(_outlined(image, row["mask"]), (GAP, top + title))
        for column, name in enumerate(methods, 1):
            heat = row["maps"][name]
            y, x = np.unravel_index(int(np.argmax(heat)), np.shape(heat))
            drawn = _outlined(_heated(image, heat), row["mask"])
            _cross(drawn, ((x + 0.5) * image.width / heat.shape[1], (y + 0.5) * image.height / heat.shape[0]))
            sheet.paste(drawn, (GAP + column * width, top + title))
            corner = GAP + column * width, top + title + image.height + 3
            write(sheet, corner, row["words"][name], 11, FAINT, HEAT_CELL[0])
    top = head + height * len(rows) + 4
    _scale(sheet, (GAP, top))
    for i, verdict in enumerate(verdicts):
        write(sheet, (GAP, top + foot - 4 + 56 * i), verdict, 12, INK, sheet.width - 2 * GAP, lines=3)
    return sheet


def photo_sheet(image: Image.Image, found: Sequence[tuple[str, Grounded]]) -> Image.Image:
    """A photo, and a copy for each phrase with its heat map, its box and a cross at its highest pixel.

    Args:
        image: The photo.
        found: Phrases with their results of `modiste.models.dual_encoder.DualEncoder.ground`.
    """
    photo = fitted(image, PHOTO_CELL)
    scale = photo.width / image.width
    width, head = photo.width + GAP, 30
    sheet = Image.new("RGB", (GAP + width * (1 + len(found)), head + photo.height + GAP + SCALE[1] + 16), PAPER)
    sheet.paste(photo, (GAP, head))
    for column, (phrase, one) in enumerate(found, 1):
        left = GAP + column * width
        write(sheet, (left, 8), f"“{phrase}”", 15, INK, photo.width)
        drawn = _heated(photo, one.heat)
        corners = [scale * side for side in one.box]
        for colour, line in zip(OUTLINE, (4, 2), strict=True):
            ImageDraw.Draw(drawn).rectangle([*corners[:2], corners[2] - 1, corners[3] - 1], outline=colour, width=line)
        _cross(drawn, (one.point[0] * scale, one.point[1] * scale))
        sheet.paste(drawn, (left, head))
    _scale(sheet, (GAP, head + photo.height + GAP))
    return sheet


def fitted(image: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """Resize an image to fit into a cell (width, height), as RGB."""
    scale = min(cell[0] / image.width, cell[1] / image.height)
    return image.convert("RGB").resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _cross(image: Image.Image, point: tuple[float, float]) -> None:
    """Draw a cross at a point (x, y)."""
    x, y = point
    draw = ImageDraw.Draw(image)
    for colour, line in (("#000000", 5), ("#FFFFFF", 2)):
        draw.line([x - 6, y, x + 6, y], fill=colour, width=line)
        draw.line([x, y - 6, x, y + 6], fill=colour, width=line)


def _scale(sheet: Image.Image, corner: tuple[int, int]) -> None:
    """Draw the colour scale and its end labels."""
    from matplotlib import colormaps

    left, top = corner
    colours = colormaps[HEAT_COLOURS](np.linspace(0, 1, SCALE[0]))[None, :, :3] * 255
    bar = Image.fromarray(colours.astype(np.uint8)).resize(SCALE)
    sheet.paste(bar, (left + 14, top))
    write(sheet, (left, top - 1), "0", 11, FAINT, 14)
    write(sheet, (left + SCALE[0] + 18, top - 1), "1  heat, minimum to maximum of each map", 11, FAINT, 300)


def _heated(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """A grey copy of the image with the heat map overlaid."""
    from matplotlib import colormaps

    fitted = Image.fromarray(np.asarray(heat, np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    colours = colormaps[HEAT_COLOURS](np.asarray(fitted))[..., :3] * 255
    grey = np.asarray(image.convert("L"), np.float64)[..., None]
    return Image.fromarray((0.35 * grey + 0.65 * colours).astype(np.uint8))


def _outlined(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """A copy with the border of the mask."""
    fitted = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST))
    padded = np.pad(fitted, 2)
    shifts = [np.roll(padded, (dy, dx), (0, 1))[2:-2, 2:-2] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    inner, outer = np.min(shifts, axis=0).astype(bool), np.max(shifts, axis=0).astype(bool)
    inside = fitted.astype(bool)
    drawn = np.array(image)
    for ring, colour in zip((outer & ~inside, inside & ~inner), OUTLINE, strict=True):
        drawn[ring] = ImageColor.getrgb(colour)
    return Image.fromarray(drawn)
