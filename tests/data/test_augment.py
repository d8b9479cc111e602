"""Domain randomisation: what changes, what must not, and how often."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from modiste.data.augment import (
    CropEnds,
    HideSkin,
    Lengthen,
    OpenFront,
    RoomLight,
    Thumbnail,
    Where,
    bound,
    negate_garment,
)
from modiste.data.catalogue import Card, Catalogue
from modiste.data.sources import FolderImages
from modiste.errors import ModisteError

SKIN = (224, 172, 140)


@pytest.fixture
def worn():
    """A navy garment between a head and legs of the colour of skin, on white."""
    photo = Image.new("RGB", (60, 80), "white")
    photo.paste(SKIN, (20, 0, 40, 80))
    photo.paste("navy", (15, 20, 45, 60))
    return photo


@pytest.mark.parametrize("make", [Thumbnail, CropEnds, HideSkin, RoomLight, OpenFront, Lengthen])
def test_p_is_how_often_and_the_generator_decides(make, worn):
    untouched = sum(np.array_equal(make(p=0.3)(worn), worn) for _ in range(300))
    assert 170 < untouched < 250
    torch.manual_seed(3)
    first = np.asarray(make(p=1.0)(worn))
    torch.manual_seed(3)
    assert np.array_equal(make(p=1.0)(worn), first)


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


def white(image):
    return (np.asarray(image) == 255).all(axis=2)


def test_an_open_garment_lacks_its_middle_and_one_under_it_has_nothing_else(worn):
    garment = Image.new("RGB", (60, 80), "white")
    garment.paste("navy", (10, 10, 50, 70))
    opened = [white(OpenFront(p=1.0, widest=0.5)(garment)) for _ in range(200)]
    below = [white(OpenFront(p=1.0, widest=0.8, under=1.0)(garment)) for _ in range(200)]
    assert {mask.shape for mask in (*opened, *below)} == {(60, 40)}, "trimmed, and not resized"
    assert np.mean([mask[:, 17:23].mean() for mask in opened]) > 0.5 > 0.1 > np.mean([m[:, :3].mean() for m in opened])
    assert max(mask.mean() for mask in opened) < 0.62
    assert np.mean([mask[:, 17:23].mean() for mask in below]) < 0.1 < 0.8 < np.mean([m[:, :3].mean() for m in below])
    mixed = sum(white(OpenFront(p=1.0, under=0.25)(garment))[:, :2].mean() > 0.5 for _ in range(300))
    assert 40 < mixed < 110


def test_a_longer_garment_is_as_wide_and_at_most_so_much_longer(worn):
    sizes = [Lengthen(p=1.0, factor=1.5)(worn).size for _ in range(200)]
    assert {width for width, _ in sizes} == {30}
    assert 80 <= min(height for _, height in sizes) < 85
    assert 115 < max(height for _, height in sizes) <= 120


@pytest.fixture
def coats_and_dresses():
    table = {
        name: list(values)
        for name, values in {"product_id": "abcd", "image": "abcd", "text": "abcd", "pixels": "abcd"}.items()
    }
    table["kind"] = ["coat", "dress", "raincoat", ""]
    return Catalogue.build(Card("wardrobe"), table, FolderImages("."))


def test_a_transform_of_some_classes_leaves_others_alone(coats_and_dresses, worn):
    step = Where("kind", "coat$", [Lengthen(p=1.0, factor=3.0), HideSkin(p=1.0)]).bind(coats_and_dresses)
    assert [step(worn, row) is worn for row in coats_and_dresses.column("row")] == [False, True, False, True]
    assert (np.asarray(step(worn, 0))[0] == 255).all(), "all transforms, in order"
    assert Where("kind", "coat", [])(worn, 0) is worn, "unbound, it knows no row"


def test_transforms_inside_others_are_bound_too_or_refused(coats_and_dresses, worn):
    inner = Where("kind", "^rain", [Lengthen(p=1.0, factor=3.0)])
    (step,) = bound([Where("kind", "coat", [inner])], coats_and_dresses)
    assert [step(worn, row) is worn for row in coats_and_dresses.column("row")] == [True, True, False, True]
    for outer in (v2.RandomChoice([inner]), v2.Compose([v2.RandomApply([inner])])):
        with pytest.raises(
            ModisteError, match=r"Where in data\.augment lies inside .*: list it in data\.augment itself"
        ):
            bound([outer], coats_and_dresses)


def test_a_class_that_is_not_there_is_said(coats_and_dresses, worn, caplog):
    step = Where("kind", "shoe", [HideSkin(p=1.0)]).bind(coats_and_dresses)
    assert step(worn, 0) is worn
    assert "No training image has 'kind' like 'shoe'" in caplog.text


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda rows: Where("kind", "(", []), "no regular expression"),
        (lambda rows: Where("kin", "coat", []).bind(rows), "has no column 'kin'. Did you mean 'kind'"),
    ],
)
def test_a_condition_that_can_not_be_is_one_sentence(coats_and_dresses, make, said):
    with pytest.raises(ModisteError, match=re.escape(said)):
        make(coats_and_dresses)


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
    [
        lambda: Thumbnail(p=2),
        lambda: CropEnds(top=-1),
        lambda: CropEnds(top=0.5, bottom=0.5),
        lambda: HideSkin(most=3),
        lambda: OpenFront(widest=1.5),
        lambda: Lengthen(factor=0.5),
    ],
)
def test_numbers_out_of_range_are_said(make):
    with pytest.raises(ModisteError):
        make()
