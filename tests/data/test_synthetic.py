"""The generated catalogue: the same everywhere, drawn as it is described, and described truthfully."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image, ImageFilter

from modiste.config import compose
from modiste.data.catalogue import hash_pixels
from modiste.data.splits import RandomSplit, leaks
from modiste.data.synthetic import Synthetic, SyntheticImages, ceiling
from modiste.data.synthetic.drawing import OCCLUDER, picture, plate
from modiste.data.synthetic.grammar import ADJECTIVES, NOUNS, PHRASES, caption, lexicon, parse, unexplained
from modiste.data.synthetic.sketches import BADGES, SKETCHES
from modiste.data.synthetic.wardrobe import (
    ATTRIBUTES,
    BRANDS,
    COLOURS,
    MENTIONED,
    TYPES,
    WARDROBES,
    Dice,
    Product,
    product,
)
from modiste.errors import ModisteError

CONFIGS = {"synthetic": "basics", "synthetic_hard": "full"}
REFS = ["0/0", "1/1", "2/0", "7/3", "12/1", "99/0"]


def made(category: str, number: int = 0, **values: str) -> Product:
    """A product of a type with chosen values; the rest are the type's first ones."""
    garment = TYPES[category]
    attributes = {
        "category": category,
        "super_category": garment.super_category,
        "colour": garment.colour[0],
        "pattern": "plain",
        "gender": garment.gender[0],
        "brand": BRANDS[0],
        **{name: options[0] for name, options in garment.options.items()},
        **values,
    }
    return Product(0, number, tuple((name, attributes.get(name, "")) for name in ATTRIBUTES))


def drawn(item: Product, view: int = 0, size: int = 64) -> np.ndarray:
    return np.asarray(picture(plate(item, view, size)))


def inside(images: SyntheticImages, ref: str, part: str = "whole") -> np.ndarray:
    return np.asarray(images.read_mask(ref, part)) == 255


# ---------------------------------------------------------------------------------------------------------------------
# The same on every machine


def test_dice_follow_the_documented_hash():
    """A draw is the first 53 bits of BLAKE2b of the key and the name: nothing of Python's or NumPy's own."""
    word = hashlib.blake2b(b"product/0/7/width", digest_size=8).digest()
    expected = (int.from_bytes(word, "big") >> 11) / 2**53
    assert Dice("product", 0, 7).uniform("width") == expected


PINNED = {
    "full": "89c566185b3966428c0583c87add8940a00b8bde9f8e98f1de399c754ff1b6e2",
    "basics": "f6ea91b91f8518540b85ef0d76a106caa6a94044b6a2586fe89fe8cfdcab5c43",
}


@pytest.mark.parametrize("wardrobe", WARDROBES)
def test_products_and_captions_are_pinned(wardrobe: str):
    """A change of these changes every published number on the synthetic data: raise drawing.VERSION and say so."""
    made = [product(0, n, wardrobe) for n in range(200)]
    rows = [[item.values, caption(item, 0), caption(item, 1)] for item in made]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest() == PINNED[wardrobe]


def test_the_basics_are_a_selection_of_the_full_wardrobe():
    """So that whatever holds for every type, value and word of the full one holds for them."""
    full, basics = WARDROBES["full"], WARDROBES["basics"]
    for name, garment in basics.types.items():
        whole = full.types[name]
        assert set(garment.colour) <= set(whole.colour)
        assert set(garment.pattern) <= set(whole.pattern)
        assert garment.options.keys() == whole.options.keys()
        for attribute, values in garment.options.items():
            assert values
            assert set(values) <= set(whole.options[attribute]), f"{name}: {attribute}"
    catalogue = Synthetic(products=300, views=1, wardrobe="basics")()
    for name, garment in basics.types.items():
        of_type = catalogue.select(rows=[i for i, c in enumerate(catalogue.column("category")) if c == name])
        assert set(of_type.column("colour")) <= set(garment.colour)
        assert set(of_type.column("pattern")) <= set(garment.pattern)


def test_the_wardrobes_are_two_data_sets():
    """Nothing that was computed on one is taken for the other's."""
    full, basics = (Synthetic(products=20, size=32, wardrobe=name)() for name in ("full", "basics"))
    assert not set(full.column("pixels")) & set(basics.column("pixels"))
    assert full.card != basics.card


def test_two_fresh_processes_draw_the_same_pictures():
    """Images do not depend on the process, its hash seed, or what was drawn before."""
    code = (
        "from modiste.data.catalogue import hash_pixels\n"
        "from modiste.data.synthetic import SyntheticImages\n"
        f"print([hash_pixels(SyntheticImages(64, 0, 0.5).read(ref)) for ref in {REFS[::-1]}])"
    )
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == str([hash_pixels(SyntheticImages(64, 0, 0.5).read(ref)) for ref in REFS[::-1]])


def test_more_products_and_views_leave_the_others_as_they_are():
    small, large = Synthetic(products=20, views=1)(), Synthetic(products=30, views=3)()
    first = large.select(rows=[3 * n for n in range(20)])
    for name in ("product_id", "image", "text", "pixels", *ATTRIBUTES):
        assert small.column(name) == first.column(name)


def test_seeds_give_other_products():
    assert Synthetic(products=50, seed=0)().column("text") != Synthetic(products=50, seed=1)().column("text")


def test_images_are_picklable_and_do_not_depend_on_the_order_of_reading():
    images = SyntheticImages(64, 0, 0.1)
    forward = {ref: hash_pixels(images.read(ref)) for ref in REFS}
    copy = pickle.loads(pickle.dumps(images))
    assert {ref: hash_pixels(copy.read(ref)) for ref in reversed(REFS)} == forward


# ---------------------------------------------------------------------------------------------------------------------
# Drawn as described


@pytest.mark.parametrize("category", TYPES)
def test_every_value_of_every_attribute_is_visible(category: str):
    """With all else equal, two values of an attribute never give the same picture."""
    garment = TYPES[category]
    options = {"pattern": garment.pattern, "colour": garment.colour, "gender": garment.gender, **garment.options}
    for name, values in options.items():
        pictures = [drawn(made(category, **{name: value})) for value in values]
        for one, other in itertools.combinations(pictures, 2):
            changed = (np.abs(one.astype(int) - other.astype(int)).max(-1) > 12).mean()
            assert changed > 0.01, f"{category}: {name}"


def test_every_type_is_drawn_and_described():
    assert set(SKETCHES) == set(TYPES) == set(NOUNS)
    assert set(BADGES) == set(BRANDS)


def test_brands_are_told_apart_by_the_badge_alone():
    """Every two badges differ, and nothing outside the badge does."""
    images = [drawn(made("t-shirt", brand=brand), size=128) for brand in BRANDS]
    badge = np.asarray(plate(made("t-shirt"), 0, 128).coverage({"badge"})) > 0
    for one, other in itertools.combinations(images, 2):
        different = (one != other).any(-1)
        assert different[badge].mean() > 0.05
        assert not different[~badge].any()


@pytest.mark.parametrize("view", [0, 1])
def test_the_cloth_has_the_named_colour(view: int):
    """The median colour of plain cloth is nearer to its own name than to any other."""
    names, palette = list(COLOURS), np.array(list(COLOURS.values()), float)
    for category, garment in TYPES.items():
        for number, colour in enumerate(garment.colour):
            item = made(category, number, colour=colour)
            view_plate = plate(item, view, 64)
            cloth = np.asarray(picture(view_plate))[np.asarray(view_plate.coverage(_cloth(view_plate))) == 255]
            nearest = names[np.abs(np.median(cloth, 0) - palette).sum(-1).argmin()]
            assert nearest == colour, f"{category} in {colour} looks {nearest}"


def _cloth(view_plate) -> set[str]:
    return {part for part, paint in view_plate.keys if paint == "fabric"}


def test_the_named_colour_is_the_largest_of_a_pattern():
    names, palette = list(COLOURS), np.array(list(COLOURS.values()), float)
    right = 0
    cases = [(pattern, colour) for pattern in TYPES["skirt"].pattern[1:] for colour in COLOURS]
    for number, (pattern, colour) in enumerate(cases):
        view_plate = plate(made("skirt", number, colour=colour, pattern=pattern, length="maxi"), 0, 96)
        cloth = np.asarray(picture(view_plate))[np.asarray(view_plate.coverage({"body"})) == 255].astype(float)
        nearest = np.abs(cloth[:, None] - palette).sum(-1).argmin(-1)
        right += names[np.bincount(nearest).argmax()] == colour
    assert right >= 0.95 * len(cases)


def test_products_alike_in_every_attribute_still_differ():
    images = {hash_pixels(picture(plate(made("coat", number), 0, 64))) for number in range(20)}
    assert len(images) == 20


def test_the_pixel_hash_of_a_row_is_as_unique_as_its_picture():
    catalogue = Synthetic(products=60, views=2, size=48)()
    assert len(set(catalogue.column("pixels"))) == len(catalogue)
    assert len({hash_pixels(catalogue.read_image(i)) for i in range(len(catalogue))}) == len(catalogue)
    for other in (Synthetic(60, 2, 64), Synthetic(60, 2, 48, seed=1), Synthetic(60, 2, 48, occlusion=0.5)):
        assert not set(catalogue.column("pixels")) & set(other().column("pixels"))


@pytest.mark.parametrize("size", [16, 33, 64, 96, 225])
def test_any_size(size: int):
    image = SyntheticImages(size).read("5/1")
    assert image.size == (size, size)
    assert image.mode == "RGB"


def test_the_garment_lies_within_the_picture():
    """Nothing is cut off: the outermost pixels belong to the background."""
    images = SyntheticImages(64)
    for number in range(60):
        for view in (0, 1):
            whole = inside(images, f"{number}/{view}")
            border = np.concatenate([whole[0], whole[-1], whole[:, 0], whole[:, -1]])
            assert not border.any()
            assert whole.mean() > 0.05


# ---------------------------------------------------------------------------------------------------------------------
# Masks


def test_the_mask_is_where_the_garment_is():
    """On a white page, a dark garment is dark where its mask is, and the page is light where it is not."""
    images, found = SyntheticImages(64), 0
    for number in range(400):
        attributes = product(0, number).attributes
        pixels = np.asarray(images.read(f"{number}/0").convert("L"))
        white_page = (np.concatenate([pixels[0], pixels[-1]]) > 235).all()
        if attributes["colour"] not in ("black", "navy") or attributes["pattern"] != "plain" or not white_page:
            continue
        mask = images.read_mask(f"{number}/0")
        near = np.asarray(mask.filter(ImageFilter.MaxFilter(3))) == 255
        deep = np.asarray(mask.filter(ImageFilter.MinFilter(3))) == 255
        assert (pixels[~near] > 130).all()
        assert np.median(pixels[deep]) < 90
        found += 1
    assert found >= 5


@pytest.mark.parametrize(
    ("category", "parts"),
    [
        ("t-shirt", {"body", "neckline"}),
        ("shirt", {"body", "sleeves", "collar", "buttons", "placket"}),
        ("hoodie", {"body", "sleeves", "hood", "pocket", "drawstring", "cuffs"}),
        ("jacket", {"body", "sleeves", "collar", "zip"}),
        ("coat", {"body", "sleeves", "collar", "buttons"}),
        ("trousers", {"legs", "waistband"}),
        ("handbag", {"body", "handle", "flap", "clasp"}),
        ("sneaker", {"body", "sole", "laces", "toe"}),
        ("ankle boot", {"body", "sole", "heel"}),
        ("cap", {"crown", "brim"}),
        ("scarf", {"loop", "ends", "fringe"}),
    ],
)
def test_parts_lie_inside_the_whole_and_are_smaller(category: str, parts: set[str]):
    number = next(n for n in range(500) if product(0, n).attributes["category"] == category)
    images, ref = SyntheticImages(128), f"{number}/1"
    whole = inside(images, ref)
    assert parts | {"badge"} <= set(images.parts(ref))
    union = np.zeros_like(whole)
    for part in images.parts(ref):
        mask = inside(images, ref, part)
        assert not (mask & ~whole).any()
        assert mask.sum() < whole.sum()
        union |= mask
    assert union.sum() > 0.97 * whole.sum()
    for part in parts:
        assert inside(images, ref, part).any()


def test_parts_are_where_they_belong():
    """Independent of the drawing code: hoods are on top, soles at the bottom, sleeves at the sides."""
    images = SyntheticImages(96)

    def centre(number: int, part: str) -> tuple[float, float]:
        rows, columns = np.nonzero(inside(images, f"{number}/0", part))
        return rows.mean(), np.abs(columns - np.nonzero(inside(images, f"{number}/0"))[1].mean()).mean()

    for number in range(150):
        category, parts = product(0, number).attributes["category"], images.parts(f"{number}/0")
        if category == "hoodie":
            assert centre(number, "hood")[0] < centre(number, "pocket")[0]
        if "sole" in parts:
            assert centre(number, "sole")[0] > centre(number, "body")[0]
        if "sleeves" in parts:
            assert centre(number, "sleeves")[1] > centre(number, "body")[1]


def test_occlusion_hides_a_part_of_the_garment_and_its_mask_says_so():
    clear, covered = SyntheticImages(64), SyntheticImages(64, occlusion=1.0)
    shares = []
    for number in range(40):
        before, after = inside(clear, f"{number}/0"), inside(covered, f"{number}/0")
        assert not (after & ~before).any()
        shares.append(after.sum() / before.sum())
        assert OCCLUDER not in covered.parts(f"{number}/0")
    assert 0.6 < np.mean(shares) < 0.98
    assert min(shares) > 0.2


def test_unknown_parts_are_named():
    with pytest.raises(ModisteError, match="Did you mean 'whole'"):
        SyntheticImages(32).read_mask("0/0", "whol")


def test_what_is_no_reference_is_an_error():
    with pytest.raises(ValueError, match="unpack"):
        SyntheticImages(32).read("3")


# ---------------------------------------------------------------------------------------------------------------------
# Described truthfully


@pytest.mark.parametrize("wardrobe", WARDROBES)
def test_captions_say_only_what_is_true_and_always_the_type(wardrobe: str):
    for number in range(1500):
        item = product(0, number, wardrobe)
        text = caption(item, number % 3)
        said = parse(text)
        assert said["category"] == item.attributes["category"]
        assert said.items() <= item.attributes.items(), text
        assert set(unexplained(text)) <= {"a", "an", "and", "by", "for", "from", "in", "of", "pair", "with"}, text


@pytest.mark.parametrize("wardrobe", WARDROBES)
def test_captions_name_each_attribute_as_often_as_they_should(wardrobe: str):
    """And as often for one value as for another, which the ceiling relies on."""
    for name, rate in WARDROBES[wardrobe].mentioned.items():
        named: dict[str, list[bool]] = {}
        for number in range(3000):
            item = product(0, number, wardrobe)
            if value := item.attributes[name]:
                named.setdefault(value, []).append(name in parse(caption(item)))
        assert len(named) > 1
        for value, answers in named.items():
            sigma = (rate * (1 - rate) / len(answers)) ** 0.5
            assert abs(np.mean(answers) - rate) < 4 * sigma + 1e-9, f"{name}={value}"


def test_no_expression_has_two_meanings():
    seen: dict[str, tuple[str, str]] = {}
    for table in ({"category": NOUNS}, ADJECTIVES, PHRASES):
        for name, values in table.items():
            for value, expressions in values.items():
                for expression in expressions:
                    assert parse(expression) == {name: value}
                    assert seen.setdefault(expression, (name, value)) == (name, value)
    assert {meaning[0] for meaning in lexicon().values()} == {"category", *MENTIONED}


def test_every_value_has_words():
    for category, garment in TYPES.items():
        for name, values in {**garment.options, "colour": garment.colour, "gender": garment.gender}.items():
            assert set(values) <= set(ADJECTIVES[name]), category
            assert set(values) <= set(PHRASES[name]), category


def test_views_share_the_product_and_its_attributes():
    catalogue = Synthetic(products=40, views=3)()
    assert len(catalogue) == 120
    rows = zip(*(catalogue.column(name) for name in ("product_id", *ATTRIBUTES)), strict=True)
    assert len(set(rows)) == 40
    assert catalogue.report.kept == 120
    assert not catalogue.report.bad
    assert isinstance(catalogue.images.read_mask(catalogue.column("mask")[4]), Image.Image)


@pytest.mark.parametrize(
    "wrong",
    [{"products": 0}, {"views": 0}, {"size": 4}, {"size": 5000}, {"occlusion": 1.5}, {"wardrobe": "basic"}],
)
def test_numbers_out_of_range_are_refused(wrong: dict):
    with pytest.raises(ModisteError, match=next(iter(wrong))):
        Synthetic(**wrong)


# ---------------------------------------------------------------------------------------------------------------------
# The ceiling


def test_the_ceiling_is_what_an_ideal_model_reaches():
    """A model that reads captions perfectly and breaks ties at random reaches the ceiling on average, and not more."""
    catalogue = Synthetic(products=150, views=2)()
    products = np.array(catalogue.column("product_id"))
    truth = list(zip(*(catalogue.column(name) for name in ATTRIBUTES), strict=True))
    values = [dict(zip(ATTRIBUTES, row, strict=True)).items() for row in truth]
    agrees = np.array([[parse(text).items() <= row for row in values] for text in catalogue.column("text")])
    relevant = products[:, None] == products
    generator, hit, recall, rounds = np.random.default_rng(0), 0.0, 0.0, 60
    for _ in range(rounds):
        order = np.argsort(-(agrees + generator.random(agrees.shape) * 0.5), axis=1)
        ranked = np.take_along_axis(relevant, order, 1)
        hit += ranked[:, 0].mean() / rounds
        recall += (ranked[:, :2].sum(1) / relevant.sum(1)).mean() / rounds
    best = ceiling(catalogue, ks=(1, 2))
    assert best["t2i/hit_rate@1"] == pytest.approx(hit, abs=0.01)
    assert best["t2i/recall@2"] == pytest.approx(recall, abs=0.01)
    assert best["t2i/recall@1"] == pytest.approx(best["t2i/hit_rate@1"] / 2)
    assert 0.8 < best["t2i/hit_rate@1"] < 1


def test_the_ceiling_by_hand():
    """Four products, two of which the caption of each cannot tell apart: half a hit, a quarter of a recall."""
    catalogue = Synthetic(products=4, views=1)()
    attributes = {
        "category": ["cap", "cap", "scarf", "scarf"],
        "colour": ["red", "red", "red", "blue"],
        "text": ["crimson cap", "a cap", "a scarf", "a cobalt scarf"],
    }
    for name, column in attributes.items():
        catalogue = catalogue.replace_column(name, column)
    best = ceiling(catalogue, ks=(1, 2))
    assert best["t2i/hit_rate@1"] == pytest.approx((0.5 + 0.5 + 0.5 + 1) / 4)
    assert best["t2i/mrr"] == pytest.approx((0.75 + 0.75 + 0.75 + 1) / 4)
    assert best["t2i/recall@2"] == 1


# ---------------------------------------------------------------------------------------------------------------------
# conf/data/synthetic.yaml, synthetic_hard.yaml


def configured(name: str) -> dict:
    """The data node of a data set, and the wardrobe that it is of."""
    config = OmegaConf.to_container(compose("train", [f"data={name}"]).data, resolve=True)
    assert config["catalogue"]["wardrobe"] == CONFIGS[name]
    assert config["name"] == name
    return config


@pytest.mark.parametrize("products", [1, 12, 80])
@pytest.mark.parametrize("name", CONFIGS)
def test_few_products_have_no_rows_to_hold_out_rather_than_an_error(name, products, caplog):
    hold_out = configured(name)["split"]["hold_out"]
    catalogue = Synthetic(products=products, size=24, wardrobe=CONFIGS[name])()
    split = RandomSplit({"train": 0.8, "val": 0.1, "test": 0.1}, hold_out=hold_out)(catalogue)
    for entry in set(hold_out) - set(split.splits):
        assert f"data.split.hold_out.{entry} matches no product" in caplog.text
    with pytest.raises(ModisteError, match="Did you mean 'hoodie'"):
        RandomSplit({"train": 1.0}, hold_out={"hout_c": {"category": ["hodie"]}})(catalogue)


@pytest.mark.parametrize("name", CONFIGS)
def test_held_out_splits_hold_what_they_should(name: str):
    config = configured(name)
    hold_out = config["split"]["hold_out"]
    catalogue = Synthetic(**{k: v for k, v in config["catalogue"].items() if k != "_target_"})()
    split = RandomSplit({"train": 0.8, "val": 0.1, "test": 0.1}, hold_out=hold_out)(catalogue)
    assert set(split.splits) == {"train", "val", "test", *hold_out}
    assert split.splits["train"] > 2000
    assert leaks(split)["products"] == leaks(split)["pixels"] == 0
    trained = split.select(split="train")
    for name, conditions in hold_out.items():
        rows = zip(*(trained.column(column) for column in conditions), strict=True)
        assert not any(all(v in ok for v, ok in zip(row, conditions.values(), strict=True)) for row in rows), name
        assert split.splits[name] >= 40
    seen = set(zip(trained.column("category"), trained.column("colour"), strict=True))
    pairs = hold_out["hout_p"]
    for category, colour in itertools.product(pairs["category"], pairs["colour"]):
        assert any(c == category for c, _ in seen)
        assert any(c == colour for _, c in seen)


@pytest.mark.parametrize("name", CONFIGS)
def test_prompts_mean_the_class_in_the_words_of_the_captions(name: str):
    config = configured(name)
    catalogue = Synthetic(products=500, views=1, wardrobe=CONFIGS[name])()
    assert set(config["prompts"]) - {"default"} <= set(catalogue.attributes)
    for name, templates in config["prompts"].items():
        for value in set(catalogue.column(name)) - {""} if name != "default" else ():
            word = config["classes"].get(name, {}).get(value, value)
            for template in templates:
                assert parse(template.format(word)).get(name) == value, template.format(word)


def test_a_picture_that_is_read_again_is_the_same_and_ones_own():
    """Pictures are kept: whoever draws into one leaves the next reader's as it was."""
    images = SyntheticImages(48)
    first = images.read("3/0")
    before = first.tobytes()
    first.paste("red", (0, 0, 48, 48))
    assert images.read("3/0").tobytes() == before
    assert SyntheticImages(48, seed=1).read("3/0").tobytes() != before
