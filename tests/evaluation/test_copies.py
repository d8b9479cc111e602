"""Changed copies of pictures are found, and other pictures are not taken for copies."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from helpers.tiny_data import falsely_prepared
from modiste.data.synthetic import Synthetic
from modiste.evaluation import copies
from modiste.evaluation.copies import Thumbnails, align, between, match_copies, thumbnail, thumbnails, warp

COUNT = 12


def darker(image):
    return ImageEnhance.Brightness(image).enhance(0.9)


def drawing(number):
    """A patterned patch on white, as a product photo has it."""
    random = np.random.default_rng(number)
    patch = Image.fromarray(random.integers(0, 256, (7, 6, 3), dtype=np.uint8))
    width, height = (int(side) for side in random.integers((70, 100), (110, 150)))
    picture = Image.new("RGB", (120, 160), "white")
    picture.paste(patch.resize((width, height), Image.Resampling.BICUBIC), ((120 - width) // 2, (160 - height) // 2))
    return picture


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return Image.open(buffer).convert("RGB")


def cropped(image, part):
    width, height = image.size
    x, y = round(part * width), round(part * height)
    return image.crop((x, y, width - x, height - y))


CHANGES = {
    "mirrored": ImageOps.mirror,
    "cropped by 5 %": lambda image: cropped(image, 0.05),
    "cropped by 2 %": lambda image: cropped(image, 0.02),
    "cropped at one side": lambda image: image.crop((round(0.05 * image.width), 0, *image.size)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "padded": lambda image: ImageOps.expand(image, 12, "white"),
    "padded in black": lambda image: ImageOps.expand(image, 12, "black"),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "rotated by 2°": lambda image: image.rotate(2, Image.Resampling.BICUBIC),
    "mirrored, cropped, darker": lambda image: ImageEnhance.Brightness(cropped(ImageOps.mirror(image), 0.03)).enhance(
        0.9
    ),
}

FOUND = {"mirrored": 0.95, "brighter": 0.95, "grey": 0.95, "cropped by 2 %": 0.95, "cropped by 5 %": 0.6}
"""Least fraction that is found of these patches, which have fewer details than photos; of the others 0.75."""


def of(images):
    return Thumbnails.unpacked(np.stack([thumbnail(image) for image in images]))


@pytest.fixture(scope="module")
def train():
    return of([drawing(number) for number in range(COUNT)])


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found(change, train):
    """Most of them, and never another's."""
    found = match_copies(train, of([encoded(CHANGES[change](drawing(number))) for number in range(COUNT)])).train
    assert all(row in (-1, number) for number, row in enumerate(found.tolist()))
    assert (found >= 0).mean() > FOUND.get(change, 0.75)


def test_other_pictures_are_no_copies(train):
    assert not match_copies(train, of([drawing(number) for number in range(100, 130)])).touched.any()


def test_the_alignment_finds_an_affine_map(train):
    """The map that made a picture, to a tenth of a pixel at the corners."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, copies.SIDE)] * 2)
    blobs = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / 0.1) for a, b in ((-0.4, -0.3), (0.3, -0.5), (0.1, 0.4)))
    original = torch.from_numpy(100 * blobs).float()[None]
    made = torch.tensor([[[0.96, 0.05, 0.02], [-0.05, 0.97, -0.03]]])
    changed = warp(original[:, None], made)[0][:, 0]
    inverse = torch.linalg.inv(torch.cat([made, torch.tensor([[[0.0, 0.0, 1.0]]])], 1))[:, :2]
    found = align(changed, original, torch.eye(3)[None, :2], 20)
    corners = torch.tensor([[-1.0, -1, 1], [1, -1, 1], [-1, 1, 1], [1, 1, 1]]).T
    assert (found @ corners - inverse @ corners).abs().max() < 0.2 * 2 / copies.SIDE


def test_a_box_is_taken_to_another():
    theta = between(torch.tensor([[0.0, 0.0, 1.0, 0.5]]), torch.tensor([[0.25, 0.0, 0.75, 1.0]]))
    corner = theta @ torch.tensor([[-1.0], [-1.0], [1.0]])
    other = theta @ torch.tensor([[1.0], [0.0], [1.0]])
    assert corner.flatten().tolist() == pytest.approx([-0.5, -1])
    assert other.flatten().tolist() == pytest.approx([0.5, 1])


def test_what_a_prepared_folder_claims_of_its_images_is_not_believed_of_others(tmp_path, monkeypatch):
    monkeypatch.setenv("MODISTE_CACHE", str(tmp_path / "cache"))
    real = Synthetic(products=3, views=1, size=32)()
    false = falsely_prepared(real, tmp_path / "prepared")
    assert set(thumbnails(false).rgb.flatten().tolist()) == {128.0}
    seen = of([real.read_image(row) for row in range(3)])
    torch.testing.assert_close(thumbnails(real).rgb, seen.rgb)
    names = {file.name for file in (tmp_path / "cache" / "thumbnails").glob("*.npy")}
    assert f"1-{real.fingerprint()}.npy" in names, "earlier versions' files are of use no longer"
    assert len(names) == 2
