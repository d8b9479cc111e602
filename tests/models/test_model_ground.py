"""`DualEncoder.ground`: its map is the method's at the photo's resolution, and box and point are read off it."""

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.tiny_models import two_tower
from modiste.errors import ModisteError
from modiste.models import grounding
from modiste.models.dual_encoder import DualEncoder, TwoTower
from modiste.models.grounding import METHODS, locate
from modiste.models.heatmaps import input_pixels, on_image


def region(inside, start):
    """The points that are joined with the first one by a chain of sides."""
    found, open_ends = {start}, [start]
    while open_ends:
        x, y = open_ends.pop()
        for near in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)):
            if 0 <= near[1] < inside.shape[0] and 0 <= near[0] < inside.shape[1] and inside[near[::-1]]:
                open_ends += [] if near in found else [near]
                found.add(near)
    return found


class Unpatched(TwoTower):
    patch_features = DualEncoder.patch_features


@pytest.fixture(scope="module")
def photo():
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((70, 50), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("method", METHODS)
def test_the_map_is_the_methods_on_the_photo_and_the_box_is_around_what_reaches_the_threshold(method, photo):
    model = two_tower().eval()
    found = model.ground(photo, ["red shoes", "a hat"], method, size=64, threshold=0.6)
    wide = model.at_size(64)
    with torch.inference_mode():
        texts = model.encode_text(model.tokenizer(["red shoes", "a hat"]))
    maps = METHODS[method](wide, input_pixels(wide, photo), texts)
    for one, raw, wanted in zip(found, maps, on_image(maps, photo.size, (50, 70)), strict=True):
        np.testing.assert_allclose(one.heat, wanted, atol=1e-5)
        if one.heat.any():
            xs, ys = zip(*region(one.heat >= 0.6, one.point), strict=True)
            assert one.box == (min(xs), min(ys), max(xs) + 1, max(ys) + 1)
            assert one.heat[one.point[1], one.point[0]] == one.heat.max() == 1
        cells = [
            value
            for y, row in enumerate(raw.tolist())
            for x, value in enumerate(row)
            if (y + 1) * 70 / len(raw) > 10 and y * 70 / len(raw) < 60  # the photo lies in rows 10 to 60 of its square
        ]
        assert one.score == pytest.approx(max(cells), abs=1e-5)
    alone = model.ground(photo, "red shoes", method, size=64, threshold=0.6)
    np.testing.assert_allclose(alone.heat, found[0].heat, atol=1e-5)


@pytest.mark.parametrize(("size", "best"), [((70, 50), 5.0), ((70, 48), 5.0), ((70, 70), 6.0), ((70, 1), 3.0)])
def test_the_score_is_of_the_photo_and_not_of_its_padding(size, best, photo, monkeypatch):
    def downwards(model, pixels, texts):
        return torch.arange(7.0)[None, :, None].expand(1, 7, 7)

    monkeypatch.setitem(METHODS, "patches", downwards)
    found = two_tower().eval().ground(photo.resize(size), "red shoes", size=64)
    assert found.score == best


def test_a_smaller_map_has_its_box_and_point_in_pixels_of_the_photo(photo):
    model = two_tower().eval()
    texts = torch.nn.functional.normalize(torch.randn(1, 16, generator=torch.Generator().manual_seed(0)))
    pixels = input_pixels(model, photo)
    (large,) = locate(model, pixels, photo.size, texts)
    (small,) = locate(model, pixels, photo.size, texts, side=35)
    assert small.heat.shape == (25, 35)
    assert np.abs(np.subtract(small.box, large.box)).max() <= 4
    assert np.abs(np.subtract(small.point, large.point)).max() <= 4
    assert small.place == large.place


def test_the_map_of_a_large_photo_is_bounded_and_its_box_is_in_pixels_of_the_photo(photo, monkeypatch):
    model = two_tower().eval()
    whole = model.ground(photo, "red shoes", size=64)
    monkeypatch.setattr(grounding, "MAP_SIDE", 35)
    found = model.ground(photo, "red shoes", size=64)
    assert whole.heat.shape == (50, 70)
    assert found.heat.shape == (25, 35)
    assert np.abs(np.subtract(found.box, whole.box)).max() <= 4
    assert np.abs(np.subtract(found.point, whole.point)).max() <= 4


def test_what_cannot_be_grounded_says_what_to_do(photo):
    model = two_tower().eval()
    with pytest.raises(ModisteError, match=r"no grounding method 'patch'\. Did you mean 'patches'"):
        model.ground(photo, "hat", method="patch")
    model.__class__ = Unpatched
    with pytest.raises(ModisteError, match=r"cannot do patches \(Unpatched has no patch embeddings\): choose cam or"):
        model.ground(photo, "hat", size=64)
