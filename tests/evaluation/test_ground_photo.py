"""A photo for `modiste ground` is an image of a known format, whatever its name says."""

import pytest
from PIL import EpsImagePlugin, Image

from modiste.compat.fashion_clip import open_image
from modiste.errors import ModisteError
from modiste.evaluation.ground import read_photo


def test_postscript_starts_no_ghostscript(tmp_path, monkeypatch):
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: pytest.fail("it starts Ghostscript"))
    for read in (read_photo, open_image):
        with pytest.raises(ModisteError, match=r"photo\.jpg"):
            read(path)


def test_a_photo_is_upright_rgb(tmp_path):
    Image.new("L", (8, 4)).save(tmp_path / "a.png")
    assert read_photo(tmp_path / "a.png").mode == open_image(str(tmp_path / "a.png")).mode == "RGB"
    with pytest.raises(ModisteError, match="does not exist"):
        read_photo(tmp_path / "absent.png")
