"""Text on pictures stays in its column."""

from modiste.utils.drawing import typeface, wrap


def test_text_never_leaves_its_column():
    font = typeface(13)
    for text in ("word " * 40, "x" * 200, "", "Ärmel “weiß” – naïve"):
        lines = wrap(text, font, 100, 3)
        assert len(lines) <= 3
        assert all(font.getlength(line) <= 100 for line in lines)
    assert wrap("word " * 40, font, 100, 3)[-1].endswith("…")
    assert wrap("two words", font, 100, 3) == ["two words"]
