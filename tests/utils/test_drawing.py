"""Text on pictures stays in its column, and is drawn in a font that has it, or said to have none."""

import logging
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from modiste.utils import drawing
from modiste.utils.drawing import Typeface, wrap, write

STIX = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "STIXGeneral.ttf"


@pytest.fixture
def fonts(monkeypatch):
    """Sets the fonts of the machine."""

    def clear():
        for cached in (drawing._font_of, drawing._say_missing):
            cached.cache_clear()

    def of(*paths):
        monkeypatch.setattr(drawing, "machine_fonts", lambda: list(paths))
        clear()

    yield of
    clear()


def test_text_never_leaves_its_column():
    font = Typeface(13)
    for text in ("word " * 40, "x" * 200, "", "Ärmel “weiß” – naïve", "赤いワンピース " * 9, "👗 dress"):
        lines = wrap(text, font, 100, 3)
        assert len(lines) <= 3
        assert all(font.length(line) <= 100 for line in lines)
    assert wrap("word " * 40, font, 100, 3)[-1].endswith("…")
    assert wrap("two words", font, 100, 3) == ["two words"]


def test_what_no_font_has_is_named_and_not_a_row_of_boxes(fonts, caplog):
    fonts()
    with caplog.at_level(logging.WARNING):
        runs = [run for run, _ in Typeface(11).runs("赤いワンピース 3 👗\ufe0f")]
    assert runs == ["‹cjk›", "‹hiragana›", "‹katakana›", " 3 ", "‹dress›"]
    assert "no font for ‹cjk›" in caplog.text


def test_what_dejavu_lacks_is_drawn_in_a_font_that_has_it(fonts):
    lacked = next(chr(c) for c in sorted(drawing._characters(STIX) - drawing._characters(drawing._default())))
    fonts(STIX)
    (plain, _), (other, font) = Typeface(20).runs(f"x {lacked}")
    assert (plain, other) == ("x ", lacked)
    assert Path(font.path) == STIX
    sheet = Image.new("RGB", (60, 30), "white")
    assert write(sheet, (2, 2), lacked, 20, "black", 50) == 28
    assert np.asarray(sheet).min() < 128


def test_a_damaged_font_is_left_alone(fonts, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    fonts(tmp_path / "broken.ttf")
    assert Typeface(11).runs("赤")[0][0] == "‹cjk›"
