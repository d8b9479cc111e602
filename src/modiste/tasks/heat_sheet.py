"""Sheets of heat maps laid over their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from modiste.errors import ModisteError
from modiste.utils.drawing import write

INK, FAINT, PAPER, GAP = "#1A1A1A", "#6A6A6A", "#FFFFFF", 14
HEAT_CELL = (150, 190)  # width, height that images are fitted into
HEAT_COLOURS = "inferno"
SCALE = (150, 12)  # width, height of the scale of colours
OUTLINE = ("#000000", "#56B4E9")  # a dark seam and the line, to be seen on any ground


def heat_sheet(rows: Sequence[Mapping[str, Any]]) -> Image.Image:
    """One row per phrase: the image with the outline of the mask, and the heat map of each method laid over it.

    Below stands the scale of colours, from the map's minimum (0) to its maximum (1).

    Args:
        rows: ``title``; ``image``; ``mask`` (h, w), True inside; ``maps``, method → (h, w) in [0, 1]; ``words``,
            method → what stands below its map. The same methods in each row; maps and masks of any resolution.

    Raises:
        ModisteError: no rows.
    """
    if not rows:
        raise ModisteError("There are no heat maps to draw.")
    methods = list(rows[0]["maps"])
    head, title, words = 24, 24, 20
    width, height = HEAT_CELL[0] + GAP, title + HEAT_CELL[1] + words + GAP
    sheet = Image.new("RGB", (GAP + width * (1 + len(methods)), head + height * len(rows) + SCALE[1] + 24), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(["mask", *methods]):
        write(draw, (GAP + column * width, 6), name, 13, FAINT, HEAT_CELL[0])
    for i, row in enumerate(rows):
        top = head + i * height
        write(draw, (GAP, top), f"“{row['title']}”", 14, INK, sheet.width - 2 * GAP)
        image = row["image"].convert("RGB")
        scale = min(HEAT_CELL[0] / image.width, HEAT_CELL[1] / image.height)
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        sheet.paste(_outlined(image, row["mask"]), (GAP, top + title))
        for column, name in enumerate(methods, 1):
            sheet.paste(_outlined(_heated(image, row["maps"][name]), row["mask"]), (GAP + column * width, top + title))
            corner = GAP + column * width, top + title + image.height + 3
            write(draw, corner, row["words"][name], 11, FAINT, HEAT_CELL[0])
    _scale(sheet, (GAP, head + height * len(rows) + 4))
    return sheet


def _scale(sheet: Image.Image, corner: tuple[int, int]) -> None:
    """The scale of colours with its ends."""
    from matplotlib import colormaps

    left, top = corner
    colours = colormaps[HEAT_COLOURS](np.linspace(0, 1, SCALE[0]))[None, :, :3] * 255
    bar = Image.fromarray(colours.astype(np.uint8)).resize(SCALE)
    sheet.paste(bar, (left + 14, top))
    draw = ImageDraw.Draw(sheet)
    write(draw, (left, top - 1), "0", 11, FAINT, 14)
    write(draw, (left + SCALE[0] + 18, top - 1), "1  heat, minimum to maximum of each map", 11, FAINT, 300)


def _heated(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """A grey copy of the image with the heat laid over it."""
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
