"""Domain randomisation: what changes, what must not, and how often."""

import numpy as np
import pytest
import torch
from PIL import Image

from modiste.data.augment import CropEnds, HideSkin, RoomLight, Thumbnail, negate_garment
from modiste.errors import ModisteError

SKIN = (224, 172, 140)


@pytest.fixture
def worn():
    """A navy garment between a head and legs of the colour of skin, on white."""
    photo = Image.new("RGB", (60, 80), "white")
    photo.paste(SKIN, (20, 0, 40, 80))
    photo.paste("navy", (15, 20, 45, 60))
    return photo


@pytest.mark.parametrize(
    "make", [lambda p: Thumbnail(p=p), lambda p: CropEnds(p=p), lambda p: HideSkin(p=p), lambda p: RoomLight(p=p)]
)
def test_p_is_how_often_and_the_generator_decides(make, worn):
    untouched = sum(np.array_equal(make(0.3)(worn), worn) for _ in range(300))
    assert 170 < untouched < 250
    torch.manual_seed(3)
    first = np.asarray(make(1.0)(worn))
    torch.manual_seed(3)
    assert np.array_equal(make(1.0)(worn), first)


def test_ends_are_cut_within_their_limits_and_the_width_stays(worn):
    heights = {CropEnds(p=1.0, top=0.25, bottom=0.5)(worn).size for _ in range(300)}
    assert {width for width, _ in heights} == {60}
    assert min(height for _, height in heights) in range(20, 30)
    assert max(height for _, height in heights) in range(70, 81)


def test_skin_goes_and_the_garment_stays(worn):
    hidden = np.asarray(HideSkin(p=1.0)(worn))
    assert (hidden[:20] == 255).all()
    assert (hidden[60:] == 255).all()
    assert (hidden[20:60, 15:45] == np.array([0, 0, 128])).all()


def test_goods_of_the_colour_of_skin_stay(worn):
    beige = Image.new("RGB", (60, 80), "white")
    beige.paste(SKIN, (15, 20, 45, 60))
    assert np.array_equal(HideSkin(p=1.0)(beige), beige)


def test_light_is_uneven_and_hues_stay(worn):
    torch.manual_seed(0)
    lit = np.stack([np.asarray(RoomLight(p=1.0)(worn), np.float64) for _ in range(50)])
    garment = lit[:, 25:55, 20:40]
    assert (garment.mean((1, 2))[:, 2] > 3 * garment.mean((1, 2))[:, :2].max(1)).all(), "navy stays blue"
    assert garment.std((1, 2))[:, 2].mean() > 3, "brighter here than there"
    assert garment.mean((1, 2, 3)).std() > 3, "brighter in one photo than in another"
    still = RoomLight(p=1.0, exposure=0, cast=0, slope=0, folds=0)
    assert np.array_equal(np.asarray(still(worn)), np.asarray(worn))


def test_the_negative_of_a_garment_leaves_the_ground_white():
    grey = Image.new("L", (28, 28), 255)
    grey.paste(30, (10, 10, 20, 20))
    negative = np.asarray(negate_garment(grey))
    assert (negative[10:20, 10:20] == 225).all()
    assert negative[:10].min() == 255
    twice = sum(np.asarray(Thumbnail(p=1.0, invert=0.5)(grey.convert("RGB")))[14, 14, 0] > 128 for _ in range(200))
    assert 70 < twice < 130


@pytest.mark.parametrize(
    "make",
    [lambda: Thumbnail(p=2), lambda: CropEnds(top=-1), lambda: CropEnds(top=0.5, bottom=0.5), lambda: HideSkin(most=3)],
)
def test_numbers_out_of_range_are_said(make):
    with pytest.raises(ModisteError):
        make()
