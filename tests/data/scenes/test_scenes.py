"""Cut-outs, scenes and their labels: exact where masks are known, and a function of seed, epoch and index."""

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.tiny_data import rectangles
from modiste.config import instantiate
from modiste.data import augment
from modiste.data.catalogue import Card, Catalogue
from modiste.data.module import FashionDataModule
from modiste.data.scenes import Composer, GarmentOnly, InScene, Silhouette, cut_out
from modiste.data.scenes import augment as scenes_augment
from modiste.data.scenes.composer import Canvas, Scene
from modiste.data.scenes.cutouts import CutOut, foreground
from modiste.data.scenes.zones import ZONES, zone_of
from modiste.data.sources import ArrayImages
from modiste.data.synthetic import Synthetic
from modiste.errors import ModisteError
from modiste.models.preprocess import Preprocess
from modiste.texts.words import HashTokenizer

COLOURS = {"Tshirts": (200, 20, 20), "Jeans": (20, 20, 200), "Sports Shoes": (20, 160, 20), "Perfume": (160, 20, 160)}


@pytest.fixture(scope="module")
def synthetic():
    return Synthetic(products=12, views=2, size=96, occlusion=0.0)()


@pytest.fixture(scope="module")
def plain():
    """Rectangles of one colour per type, on white."""
    return rectangles(COLOURS, 16, split=["train"] * 16)


def solid(colour, size=(10, 20)):
    full = Image.new("L", size, 255)
    return CutOut(Image.new("RGB", size, colour), full, full, Image.new("L", size))


@pytest.mark.slow
def test_cut_outs_are_the_exact_masks_of_the_synthetic_catalogue(synthetic):
    overlaps = []
    for row in range(len(synthetic)):
        found, true = foreground(synthetic.read_image(row)), np.asarray(synthetic.read_mask(row)) >= 128
        overlaps.append(0 if found is None else (found & true).sum() / (found | true).sum())
    assert np.mean(overlaps) > 0.88
    assert min(overlaps) > 0.7


def test_a_cut_out_is_what_differs_from_a_plain_background_and_its_soft_shadow():
    pixels = np.full((60, 60, 3), (220, 210, 230), dtype=np.float64)
    y, x = np.mgrid[:60, :60]
    pixels *= (1 - 0.25 * np.exp(-((x - 34) ** 2 + (y - 44) ** 2) / 200))[..., None]
    pixels[10:40, 20:40] = (30, 90, 40)
    found = foreground(Image.fromarray(pixels.astype(np.uint8)))
    true = np.zeros((60, 60), bool)
    true[10:40, 20:40] = True
    assert (found == true).mean() > 0.99
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    assert foreground(Image.fromarray(noise)) is None
    assert foreground(Image.new("RGB", (60, 60), "white")) is None, "there is nothing on it"


def test_of_a_worn_top_only_the_band_below_the_shoulders_without_skin_is_the_garment():
    photo = Image.new("RGB", (60, 80), "white")
    photo.paste((224, 172, 140), (25, 0, 35, 20))  # head
    photo.paste((20, 20, 120), (12, 20, 48, 66))  # top
    photo.paste((224, 172, 140), (12, 40, 17, 66))  # arm
    photo.paste((90, 90, 90), (16, 66, 44, 80))  # trousers
    top, anything = cut_out(photo, ZONES["top"]), cut_out(photo)
    assert top.worn
    assert not anything.worn
    garment = np.asarray(top.garment) > 0
    assert not garment[:20].any()
    assert not garment[67:].any()
    assert garment[25:60, 10:30].all()
    assert not garment[42:60, 0:4].any()
    assert (np.asarray(top.body) > 0)[:20, 13:23].all()
    assert top.undressed().image.size[1] <= 47


@pytest.mark.parametrize(
    ("kind", "zone"),
    [("Casual Shoes", "shoes"), ("Flip Flops", "shoes"), ("Laptop Bag", "hand"), ("Tshirts", "top"),
     ("Shorts", "bottom"), ("Dresses", "full"), ("Rain Jacket", "top"),
     ("Ties and Cufflinks", "neck"), ("Sunglasses", "eyes"),
     ("ankle boot", "shoes"), ("high heel", "shoes"), ("pair of jeans", "bottom"), ("Perfume", None), ("laptop", None)],
)  # fmt: skip
def test_words_say_where_a_type_is_worn(kind, zone):
    assert zone_of(kind) == zone


def test_a_zone_may_be_given_and_must_exist():
    assert zone_of("Tshirts", {"none": ["Tshirts"]}) is None
    with pytest.raises(ModisteError, match="Zone 'tops' of a figure is not known"):
        zone_of("Tshirts", {"tops": ["Tshirts"]})


def test_labels_are_where_the_pixels_of_a_product_are():
    canvas = Canvas(Image.new("RGB", (60, 50), "white"))
    canvas.paste(5, solid("red"), (20, 20), (10, 20))
    canvas.paste(3, solid("blue"), (24, 28), (10, 20))  # over a part of the first
    canvas.paste(5, solid("red"), (58, 48), (10, 20))  # the same product again, beyond the border
    pixels = np.asarray(canvas.image)
    for k, colour in enumerate([(255, 0, 0), (0, 0, 255)], 1):
        assert ((canvas.labels == k) == (pixels == colour).all(axis=2)).all()
    assert canvas.products == [5, 3]
    assert (canvas.labels == 1).sum() == 200 - 6 * 12 + 7 * 12


def test_cells_are_the_majority_of_their_pixels_by_brute_force():
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 0, 1, 2], size=(12, 12), p=[0.1, 0.4, 0.3, 0.2]).astype(np.int16)
    cells = Scene(Image.new("RGB", (12, 12)), labels, [9, 4]).cells(4)
    for y in range(4):
        for x in range(4):
            values, counts = np.unique(labels[3 * y : 3 * y + 3, 3 * x : 3 * x + 3], return_counts=True)
            expected = values[counts.argmax()] if counts.max() >= 4.5 else -1
            assert cells[y, x] == expected


def test_a_scene_is_a_function_of_seed_epoch_and_index(plain):
    scenes, same = (Composer(size=64).bind(plain, seed=1) for _ in range(2))
    one, again = scenes[(2, 7)], same[(2, 7)]
    assert one.image.tobytes() == again.image.tobytes()
    assert (one.labels == again.labels).all()
    others = [scenes[(2, 8)], scenes[(3, 7)], Composer(size=64).bind(plain, seed=2)[(2, 7)]]
    assert all(other.image.tobytes() != one.image.tobytes() for other in others)


def test_scenes_show_products_of_the_labels_and_figures_wear_only_what_is_worn(plain, monkeypatch):
    figures = Composer(size=64, figures=1.0, occlusion=0.0).bind(plain)
    collages = Composer(size=64, figures=0.0, products=(2, 4)).bind(plain)
    for scenes in (figures, collages):
        for index in range(6):
            scene = scenes[index]
            assert scene.image.size == scene.labels.shape[::-1] == (64, 64)
            assert scene.labels.max() <= len(scene.products)
            assert len(set(scene.products)) == len(scene.products)

    def shown():
        return {plain.column("articleType")[row] for index in range(24) for row in figures[index].products}

    assert "Perfume" in shown(), "around a figure"
    monkeypatch.setattr(Canvas, "place", lambda *args, **options: None)  # what is not worn
    assert shown() == {"Tshirts", "Jeans", "Sports Shoes"}


def test_a_softened_scene_is_the_same_scene_with_less_detail(plain):
    """Products and background alike; the labels stay."""
    sharp, soft = (Composer(size=64, softened=often).bind(plain) for often in (0.0, 1.0))

    def detail(scene):
        grey = np.asarray(scene.image.convert("L"), dtype=float)
        return np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()

    pairs = [(sharp[index], soft[index]) for index in range(8)]
    assert all(np.array_equal(one.labels, other.labels) for one, other in pairs)
    assert all(detail(other) < detail(one) for one, other in pairs)
    assert all(np.abs(np.mean(one.image) - np.mean(other.image)) < 3 for one, other in pairs)


def test_a_catalogue_without_clean_backgrounds_or_types_is_refused(plain):
    noise = np.random.default_rng(0).integers(0, 256, (4, 40, 30, 3), dtype=np.uint8)
    numbers = list("0123")
    columns = {"product_id": numbers, "image": numbers, "text": numbers, "articleType": ["Tops"] * 4}
    with pytest.raises(ModisteError, match="clean background"):
        Composer().bind(Catalogue.build(Card("noise"), columns, ArrayImages(noise)))
    with pytest.raises(ModisteError, match="no column 'kind'"):
        Composer(column="kind").bind(plain)
    with pytest.raises(ModisteError, match="figures"):
        Composer(figures=2)
    with pytest.raises(ModisteError, match="products"):
        Composer(products=(5, 2))


def test_a_product_in_a_scene_keeps_its_colour_and_gets_another_background():
    photo = Image.new("RGB", (60, 80), "white")
    photo.paste((10, 200, 30), (20, 10, 40, 70))
    torch.manual_seed(3)
    one = InScene(p=1.0, size=64, occlusion=0.0, scale=(0.6, 0.6))(photo)
    torch.manual_seed(3)
    assert InScene(p=1.0, size=64, occlusion=0.0, scale=(0.6, 0.6))(photo).tobytes() == one.tobytes()
    green = (np.abs(np.asarray(one).astype(int) - (10, 200, 30)).max(axis=2) < 30).sum()
    assert 0.7 < green / (38.4 * 12.8) < 1.3
    kept = sum(InScene(p=0.25, size=64)(photo).size == photo.size for _ in range(200))
    assert 130 < kept < 170
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8))
    assert InScene(p=1.0)(noise) is noise


def test_distractors_come_from_the_training_rows(plain):
    class Model:
        preprocess, tokenizer = Preprocess(48), HashTokenizer()

    def pixels(distractors):
        step = InScene(p=1.0, size=48, occlusion=0.0, distractors=distractors)
        data = FashionDataModule(plain, Model(), augment=[step], batch_size=4, num_workers=0)
        return [data.pairs("train", train=True)[(0, index)]["pixels"].permute(1, 2, 0).int() for index in range(16)]

    def kinds(image):
        near = [(image - torch.tensor(colour)).abs().amax(2) < 12 for colour in COLOURS.values()]
        return sum(int(mask.sum()) > 8 for mask in near)

    assert max(kinds(image) for image in pixels(0)) == 1
    assert max(kinds(image) for image in pixels(3)) > 1


# Found by their modules, so that a new one is among them.
AUGMENTATIONS = [
    f"modiste.data.{place}.{name}"
    for place, module in (("augment", augment), ("scenes", scenes_augment))
    for name, found in vars(module).items()
    if isinstance(found, type) and found.__module__ == module.__name__
]


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_may_be_named_in_a_config(name):
    made = {"modiste.data.augment.Where": {"attribute": "category", "pattern": "dress", "transforms": []}}
    assert type(instantiate({"_target_": name, **made.get(name, {"p": 0.5})})).__name__ == name.rpartition(".")[2]


def test_a_garment_is_shown_without_its_wearer_and_its_neighbours():
    """A blue top between a head, arms and red trousers; a photo without a zone, or with a busy background, stays."""
    photo = Image.new("RGB", (60, 80), "white")
    photo.paste((224, 172, 140), (25, 0, 35, 20))
    photo.paste((224, 172, 140), (6, 20, 12, 60))
    photo.paste("navy", (15, 20, 45, 66))
    photo.paste((200, 20, 30), (15, 70, 45, 80))
    stay = [lambda image: image.rotate(90, expand=True)]
    step = GarmentOnly(p=1.0, attribute="kind", otherwise=stay, zones={1: "top"})
    shown = step(photo, 1)
    colours = {colour for _, colour in shown.getcolors()}
    assert colours <= {(0, 0, 128), (255, 255, 255)}
    assert shown.size == (30, 46)
    assert step(photo, 2).size == (80, 60), "no zone"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8))
    assert step(noise, 1).size == (80, 60), "no clean background"
    assert 60 < sum(GarmentOnly(p=0.5, zones={1: "top"})(photo, 1).size == photo.size for _ in range(200)) < 140


def test_zones_are_those_of_the_training_rows(plain, caplog):
    bound = GarmentOnly(attribute="articleType").bind(plain)
    kinds = dict(zip(plain.column("row"), plain.column("articleType"), strict=True))
    assert {row: zone_of(kind) for row, kind in kinds.items() if zone_of(kind)} == bound.zones
    assert not caplog.text
    assert GarmentOnly(attribute="split").bind(plain).zones == {}
    assert "No 'split' names something that is worn" in caplog.text


def test_a_silhouette_has_no_colour_and_no_texture():
    photo = Image.new("RGB", (60, 80), "white")
    photo.paste((10, 200, 30), (20, 10, 40, 70))
    photo.paste((200, 20, 30), (26, 30, 34, 50))  # a print
    inside = np.zeros((80, 60), dtype=bool)
    inside[12:68, 22:38] = True
    torch.manual_seed(1)
    flat = np.asarray(Silhouette(p=1.0, edges=0.0)(photo)).astype(int)
    assert len(np.unique(flat[inside])) == 1
    assert flat[40, 30].max() <= 200
    assert (flat[:8] == 255).all()
    assert (flat[:, :18] == 255).all()
    lines = np.asarray(Silhouette(p=1.0, edges=1.0)(photo)).astype(int)
    assert (np.ptp(lines, axis=2) == 0).all()
    assert lines.shape == flat.shape
    assert (lines[0] == 255).all()
    assert (lines[:, -1] == 255).all()
    outline, edge, area = lines[40, 18:21].min(), lines[40, 24:27].min(), lines[40, 30].max()
    assert outline < edge < 128 < area, "the garment and its print have edges and no area"
    kept = sum(Silhouette(p=0.25)(photo) is photo for _ in range(200))
    assert 130 < kept < 170
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8))
    assert Silhouette(p=1.0)(noise) is noise
