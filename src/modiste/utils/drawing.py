"""Text on pictures that are sheets of images."""

from __future__ import annotations

from pathlib import Path

from PIL import ImageDraw, ImageFont


def write(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, size: int, colour: str, width: int, lines: int = 1
) -> int:
    """Text wrapped to ``width`` pixels, cut with … after ``lines``; returns the y below it."""
    font = typeface(size)
    left, top = corner
    for line in wrap(text, font, width, lines):
        draw.text((left, top), line, font=font, fill=colour)
        top += round(size * 1.3)
    return top


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int) -> list[str]:
    """``text`` in at most ``lines`` lines of ``width`` pixels."""
    wrapped = [""]
    for word in text.split():
        longer = f"{wrapped[-1]} {word}".strip()
        if font.getlength(longer) <= width or not wrapped[-1]:
            wrapped[-1] = longer
        else:
            wrapped.append(word)
    cut = len(wrapped) > lines
    return [_fit(line + ("…" if cut and i == lines - 1 else ""), font, width) for i, line in enumerate(wrapped[:lines])]


def _fit(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The line, shortened with … until it is no wider than ``width``."""
    while font.getlength(line) > width and len(line) > 1:
        line = line[:-2] + "…"
    return line


def typeface(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib, so that pictures look the same on every machine."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
