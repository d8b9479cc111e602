"""The fast decoder gives Pillow's picture: near to it pixel by pixel, upright, in its colours, or Pillow's own."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from modiste.data.catalogue import Card, Catalogue
from modiste.data.decode import Decoder
from modiste.data.sources import ArrayImages, FolderImages
from modiste.errors import ModisteError
from modiste.models.preprocess import RESIZES, Preprocess

pytest.importorskip("simplejpeg", reason="the extra 'fast' is not installed")


def photo(width=600, height=800, seed=0):
    """Soft textures and some grain, as photos have."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    return Image.fromarray((smooth + generator.normal(0, 4, (height, width, 1))).clip(0, 255).astype(np.uint8))


def catalogue(folder, files):
    for name, data in files.items():
        (folder / name).write_bytes(data)
    names = list(files)
    columns = {"product_id": names, "image": names, "text": names, "pixels": names}
    return Catalogue.build(Card("photos"), columns, FolderImages(folder))


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.double() - b.double()).numpy() ** 2))


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize(("width", "height", "decibels"), [(600, 800, 70), (801, 599, 70), (230, 260, 55)])
def test_pixels_are_as_near_to_pillows_as_is_said(width, height, decibels, resize, tmp_path):
    photos = catalogue(tmp_path, {"a.jpg": encoded(photo(width, height), quality=87)})
    preprocess = Preprocess(size=224, resize=resize, crop_pct=0.875 if resize == "shortest" else 1.0)
    pillow, exact, scaled = (Decoder(mode).pixels(photos, 0, preprocess) for mode in ("pil", "exact", "scaled"))
    assert pillow.dtype == exact.dtype == torch.uint8
    assert pillow.shape == exact.shape == scaled.shape == (3, 224, 224)
    assert psnr(exact, pillow) >= decibels
    assert psnr(scaled, pillow) >= 30


def test_scaled_mode_halves_what_is_twice_as_large_as_needed_and_nothing_smaller(tmp_path):
    files = {f"{side}.jpg": encoded(photo(side, side)) for side in (112, 223, 224, 225, 447, 448, 449, 900)}
    photos = catalogue(tmp_path, files)
    sides = {
        name: Decoder("scaled").image(photos, index, Preprocess(size=112)).width for index, name in enumerate(files)
    }
    assert sides == {
        "112.jpg": 112, "223.jpg": 223, "224.jpg": 112, "225.jpg": 113, "447.jpg": 224, "448.jpg": 112,
        "449.jpg": 113, "900.jpg": 113,
    }  # fmt: skip


def turned():
    exif = Image.Exif()
    exif[274] = 6
    return encoded(photo(300, 200), exif=exif)


ODD = {
    "turned by EXIF": turned(),
    "grey": encoded(photo(300, 400).convert("L")),
    "CMYK": encoded(photo(300, 400).convert("CMYK")),
    "PNG with transparency": encoded(photo(300, 400).convert("RGBA"), "PNG"),
    "WebP": encoded(photo(300, 400), "WEBP"),
}


@pytest.mark.parametrize("mode", ["exact", "scaled"])
@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_upright_three_channel_jpeg_is_pillows(kind, mode, tmp_path):
    photos = catalogue(tmp_path, {"a.jpg": ODD[kind]})
    preprocess = Preprocess(size=64, resize="pad")
    expected = Decoder("pil").pixels(photos, 0, preprocess)
    assert torch.equal(Decoder(mode).pixels(photos, 0, preprocess), expected)
    picture = Decoder(mode).image(photos, 0, preprocess)
    assert picture.mode == "RGB"
    assert picture.size == photos.read_image(0).size


def test_a_progressive_jpeg_and_one_with_upright_exif_are_decoded_alike(tmp_path):
    exif = Image.Exif()
    exif[274] = 1
    files = {"a.jpg": encoded(photo(), progressive=True), "b.jpg": encoded(photo(), exif=exif)}
    photos = catalogue(tmp_path, files)
    for index in range(2):
        pixels = [Decoder(mode).pixels(photos, index, Preprocess(size=96)) for mode in ("pil", "exact")]
        assert psnr(*pixels) >= 70


@pytest.mark.parametrize("mode", ["pil", "exact", "scaled"])
def test_a_truncated_file_is_the_same_error_in_every_mode(mode, tmp_path):
    photos = catalogue(tmp_path, {"a.jpg": encoded(photo())[:3000]})
    with pytest.raises(OSError, match="truncated"):
        Decoder(mode).pixels(photos, 0, Preprocess(size=32))


def test_images_that_are_no_files_are_read_as_they_are():
    array = np.random.default_rng(0).integers(0, 256, (1, 40, 30, 3), dtype=np.uint8)
    columns = {"product_id": ["a"], "image": ["0"], "text": ["a"]}
    arrays = Catalogue.build(Card("array"), columns, ArrayImages(array))
    preprocess = Preprocess(size=16)
    assert torch.equal(Decoder("scaled").pixels(arrays, 0, preprocess), preprocess(arrays.read_image(0)))


def test_an_unknown_mode_is_one_sentence():
    with pytest.raises(ModisteError, match="Did you mean 'scaled'"):
        Decoder("scald")
