"""Text rendering for contact sheets."""

from __future__ import annotations

import functools
import logging
import unicodedata
from itertools import groupby
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

log = logging.getLogger(__name__)
STRIKE = 109
"""The only size, in pixels, of bitmap fonts with colour emoji."""


def write(
    sheet: Image.Image, corner: tuple[int, int], text: str, size: int, colour: str, width: int, lines: int = 1
) -> int:
    """Draw text wrapped to ``width`` pixels, cut with … after ``lines`` lines; return the y below it."""
    typeface = Typeface(size)
    left, top = corner
    for line in wrap(text, typeface, width, lines):
        typeface.draw(sheet, (left, top), line, colour)
        top += round(size * 1.3)
    return top


def wrap(text: str, typeface: Typeface, width: int, lines: int) -> list[str]:
    """Wrap ``text`` into at most ``lines`` lines of ``width`` pixels; … marks text that was cut."""
    wrapped = [""]
    for word in text.split():
        longer = f"{wrapped[-1]} {word}".strip()
        if typeface.length(longer) <= width or not wrapped[-1]:
            wrapped[-1] = longer
        else:
            wrapped.append(word)
    cut = len(wrapped) > lines
    return [
        _fit(line + ("…" if cut and i == lines - 1 else ""), typeface, width) for i, line in enumerate(wrapped[:lines])
    ]


def _fit(line: str, typeface: Typeface, width: int) -> str:
    """Shorten the line with … until it fits into ``width`` pixels."""
    while typeface.length(line) > width and len(line) > 1:
        line = line[:-2] + "…"
    return line


class Typeface:
    """DejaVu Sans as shipped with matplotlib, so that sheets look the same on every machine.

    Characters that it lacks, such as Chinese, are drawn in a font of the machine. Without one, the script's name is
    drawn instead, and a warning is logged.

    Args:
        size: Font size in pixels.

    >>> [run for run, _ in Typeface(11).runs("Ärmel “weiß”")]
    ['Ärmel “weiß”']
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def length(self, text: str) -> float:
        """Width in pixels."""
        return sum(font.getlength(run) * self.size / font.size for run, font in self.runs(text))

    def draw(self, sheet: Image.Image, corner: tuple[int, int], text: str, colour: str) -> None:
        """Draw a line of text whose upper left corner is ``corner``."""
        x: float
        x, y = corner
        baseline = y + _loaded(_default(), self.size).getmetrics()[0]
        for run, font in self.runs(text):
            width = font.getlength(run) * self.size / font.size
            if font.size == self.size:
                ImageDraw.Draw(sheet).text((x, baseline), run, colour, font, anchor="ls")
            else:
                _draw_scaled(sheet, (round(x), y), run, font, self.size / font.size)
            x += width

    def runs(self, text: str) -> list[tuple[str, ImageFont.FreeTypeFont]]:
        """Split the text into runs, each with a font that has its characters."""
        if all(ord(character) in _characters(_default()) for character in text):
            return [(text, _loaded(_default(), self.size))]
        shown = [c for c in text if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f"]
        groups = groupby(shown, key=lambda c: (path := _font_of(c), "" if path else script(c)))
        found = []
        for (path, missing), characters in groups:
            run = f"‹{missing}›" if missing else "".join(characters)
            if missing:
                _say_missing(missing)
            found.append((run, _loaded(path or _default(), self.size)))
        return found


def _draw_scaled(
    sheet: Image.Image, corner: tuple[int, int], run: str, font: ImageFont.FreeTypeFont, scale: float
) -> None:
    """Draw a run in a colour font, which exists in one size only and is scaled."""
    tile = Image.new("RGBA", (max(1, round(font.getlength(run))), round(1.25 * font.size)))
    ImageDraw.Draw(tile).text((0, 0), run, font=font, embedded_color=True)
    tile = tile.resize([max(1, round(side * scale)) for side in tile.size])
    sheet.paste(tile, corner, tile)


def script(character: str) -> str:
    """Return the script of a letter, or the name of a symbol.

    >>> script("赤"), script("ン"), script("👗")
    ('cjk', 'katakana', 'dress')
    """
    name = unicodedata.name(character, "unknown").lower()
    return name.split()[0].split("-")[0] if unicodedata.category(character)[0] in "LM" else name


@functools.cache
def _say_missing(script: str) -> None:
    log.warning("This machine has no font for ‹%s›: install one, for instance fonts-noto-cjk, and draw again.", script)


@functools.cache
def _default() -> Path:
    from matplotlib import get_data_path

    return Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@functools.cache
def machine_fonts() -> list[Path]:
    """Font files of this machine, regular sans-serif fonts first."""
    from matplotlib.font_manager import findSystemFonts

    paths = sorted(map(Path, findSystemFonts()))
    return sorted(paths, key=lambda path: ("Sans" not in path.name, "Regular" not in path.name))


@functools.cache
def _font_of(character: str) -> Path | None:
    """The first font that has the character, or None."""
    return next((path for path in (_default(), *machine_fonts()) if ord(character) in _characters(path)), None)


@functools.cache
def _characters(path: Path) -> frozenset[int]:
    """Code points that a font has; none for a damaged font."""
    from fontTools.ttLib import TTFont, TTLibError

    try:
        return frozenset(TTFont(path, fontNumber=0, lazy=True).getBestCmap() or ())
    except (OSError, TTLibError):
        return frozenset()


@functools.cache
def _loaded(path: Path, size: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(path, size)
    except OSError:  # a colour font
        return ImageFont.truetype(path, STRIKE)
