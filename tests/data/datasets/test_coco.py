"""Masks in COCO's and Kaggle's form against pycocotools, and the data sets that have them in their real layouts."""

import csv
import io
import json
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from pycocotools import mask as reference

from helpers.linear import assert_linear
from helpers.tiny_data import encoded, picture
from modiste.config import compose, instantiate
from modiste.data.build import load
from modiste.data.datasets.coco import plain
from modiste.data.masks import Shape, decode_counts, fill_polygons, fill_runs, fit, wearing
from modiste.errors import ModisteError

# -------------------------------------------------------------------------------------------------------------- masks


def blobs(seed, height, width):
    """A mask with holes, islands and pieces at the border."""
    noise = np.random.default_rng(seed).normal(size=(height // 4 + 2, width // 4 + 2)).repeat(4, 0).repeat(4, 1)
    return noise[:height, :width] > 0.3


def runs(mask):
    """The uncompressed run lengths of a mask, by a loop over its columns."""
    counts, current = [0], False
    for value in mask.T.ravel():
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    return counts


MASKS = [
    *(blobs(seed, *size) for seed, size in enumerate([(7, 5), (40, 61), (300, 200), (1, 50), (50, 1)])),
    np.zeros((9, 4), bool),
    np.ones((9, 4), bool),
]


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_run_lengths_are_decoded_as_pycocotools_encodes_them(mask):
    height, width = mask.shape
    compressed = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = compressed["counts"].decode()
    assert decode_counts(text).tolist() == runs(mask)
    for counts in (text, runs(mask)):
        shape = Shape.from_coco({"size": [height, width], "counts": counts})
        assert np.array_equal(shape.fill(height, width), mask)


def test_long_runs_and_negative_differences_are_decoded():
    counts = [5, 1_000_000, 3, 2, 999_983, 40, 7]
    text = reference.frPyObjects({"size": [sum(counts), 1], "counts": counts}, sum(counts), 1)["counts"].decode()
    assert decode_counts(text).tolist() == counts


@pytest.mark.parametrize("mask", [m for m in MASKS if m.any()], ids=str)
def test_kaggles_run_lengths_are_those_of_the_mask(mask):
    inside = np.flatnonzero(mask.T.ravel())
    pieces = np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1)
    text = " ".join(f"{piece[0] + 1} {len(piece)}" for piece in pieces)
    assert np.array_equal(Shape.from_kaggle(text, *mask.shape).fill(*mask.shape), mask)


def polygons(seed):
    """One to three stars of floats, some of whose points lie outside a 120 × 160 image."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(random.integers(1, 4)):
        angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(5, 30)))
        radii = random.uniform(25, 60, len(angles))
        points = random.uniform(40, 100, 2) + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        found.append(points.ravel().round(2).tolist())
    return found


@pytest.mark.parametrize("seed", range(12))
def test_polygons_cover_what_pycocotools_says_but_for_the_border(seed):
    shapes = polygons(seed)
    expected = reference.decode(reference.merge(reference.frPyObjects(shapes, 120, 160))).astype(bool)
    found = Shape.from_coco(shapes).fill(120, 160)
    assert (found & expected).sum() / (found | expected).sum() > 0.95


def test_a_polygon_of_whole_pixels_is_these_pixels():
    box = np.array([3, 2, 7, 2, 7, 5, 3, 5], np.float32)
    found = fill_polygons([box], 8, 10)
    expected = reference.decode(reference.frPyObjects([box.tolist()], 8, 10))[..., 0].astype(bool)
    assert found[2:5, 3:7].all()
    assert (found ^ expected).sum() <= 8


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [4, 4], "counts": [3, 4]},
        {"size": [4, 4], "counts": [-1, 17]},
        {"size": [4, 4], "counts": "5"},
        {"size": [4, 4], "counts": "T"},
        {"size": [4, 4], "counts": "~~"},
        {"size": [8, 8], "counts": [2**62, 2**62, 2**62, 2**62 + 64]},
        {"size": [2**31, 2**31], "counts": [2**62, 2**62, 2**62, 2**62]},
        {"size": ["4" * 10, [0]], "counts": [4]},
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [["a", "b"]],
        "polygon",
    ],
    ids=str,
)
def test_what_is_no_segmentation_is_a_value_error(segmentation):
    with pytest.raises((ValueError, TypeError), match=r"."):
        Shape.from_coco(segmentation)


def test_a_number_without_end_is_refused_at_its_first_characters():
    """Each further character lengthened one number: 200,000 of them took seconds, and four times as many a minute."""
    with pytest.raises(ValueError, match="more bits than any image"):
        decode_counts("o" * 10_000_000)


@pytest.mark.parametrize("text", ["", "1", "1 2 3", "a b", "0 2", "1 20", "5 2 1 2", "3 -1"])
def test_what_is_no_run_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        Shape.from_kaggle(text, 4, 4)


def test_polygons_without_area_are_excluded():
    assert Shape.from_coco([[1, 2, 3, 4]]) is None
    assert Shape.from_coco([]) is None
    assert len(Shape.from_coco([[1, 2, 3, 4], [1, 1, 5, 1, 5, 5]]).polygons) == 1


def test_runs_of_another_image_are_an_error():
    with pytest.raises(ValueError, match="5×3"):
        fill_runs(np.array([4, 4]), 3, 5)


def test_a_mask_fits_a_smaller_copy_of_its_image_and_no_other():
    mask = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 50, 1).repeat(60, 0))
    small = fit(mask, (50, 30), "x")
    assert np.array_equal(np.asarray(small), np.asarray(mask)[::2, ::2])
    with pytest.raises(ModisteError, match=r"'x' is 50×40, but its annotation is 100×60"):
        fit(mask, (50, 40), "x")


def test_what_is_worn_has_its_articles():
    assert wearing(["vest"]) == "a person wearing a vest"
    assert wearing(["umbrella", "jeans", "headwear"]) == "a person wearing an umbrella, jeans and headwear"


# ------------------------------------------------------------------------------------------------ Fashionpedia, ModaNet

CATEGORIES = [
    {"id": 0, "name": "shirt, blouse", "supercategory": "upperbody", "level": 2},
    {"id": 10, "name": "dress", "supercategory": "wholebody", "level": 2},
    {"id": 23, "name": "shoe", "supercategory": "legs and feet", "level": 2},
    {"id": 17, "name": "glove", "supercategory": "arms and hands", "level": 2},
    {"id": 20, "name": "leg warmer", "supercategory": "legs and feet", "level": 2},
    {"id": 22, "name": "sock", "supercategory": "legs and feet", "level": 2},
    {"id": 31, "name": "sleeve", "supercategory": "garment parts", "level": 2},
]
ATTRIBUTES = [
    {"id": 1, "name": "letters, numbers", "supercategory": "textile pattern"},
    {"id": 160, "name": "maxi (length)", "supercategory": "length"},
]
SIZE = (20, 30)
LEFT, RIGHT = [[2, 2, 9, 2, 9, 28, 2, 28]], [[11, 20, 18, 20, 18, 28, 11, 28]]


def run_lengths(polygon, compressed):
    """A polygon as the run lengths that pycocotools makes of it."""
    mask = reference.decode(reference.frPyObjects(polygon, SIZE[1], SIZE[0]))[..., 0]
    counts = reference.encode(mask)["counts"].decode() if compressed else runs(mask)
    return {"size": [SIZE[1], SIZE[0]], "counts": counts}


def instance(image, category, segmentation, attributes=()):
    return {
        "id": 1,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "bbox": [2.0, 2.0, 7.0, 26.0],
        "area": 182,
        "iscrowd": 0,
        "attribute_ids": list(attributes),
    }


def annotations(names, instances, size=SIZE):
    images = [{"id": i, "file_name": name, "width": size[0], "height": size[1]} for i, name in enumerate(names)]
    return {"images": images, "annotations": instances, "categories": CATEGORIES, "attributes": ATTRIBUTES}


TRAIN = annotations(
    ["a.jpg", "b.jpg", "c.jpg"],
    [
        instance(0, 10, LEFT, [1, 160]),
        instance(0, 23, RIGHT),
        instance(0, 23, run_lengths(LEFT, compressed=True), [160]),
        instance(0, 31, []),
        instance(1, 0, run_lengths(RIGHT, compressed=False)),
        instance(2, 31, RIGHT),
    ],
)
TEST = annotations(["d.jpg"], [instance(0, 0, LEFT, [1])])


def write_fashionpedia(root, train=TRAIN, test=TEST, zipped=False):
    root.mkdir(exist_ok=True)
    for split, year, content in (("train", "train2020", train), ("test", "val2020", test)):
        (root / f"instances_attributes_{year}.json").write_text(json.dumps(content))
        names = [image["file_name"] for image in content["images"]]
        files = {name: encoded(picture(ord(name[0]), SIZE), "JPEG") for name in names}
        if zipped:
            with zipfile.ZipFile(root / f"{split}.zip", "w") as archive:
                archive.writestr(f"{split}/", "")
                for name, data in files.items():
                    archive.writestr(f"{split}/{name}", data)
        else:
            (root / split).mkdir(exist_ok=True)
            for name, data in files.items():
                (root / split / name).write_bytes(data)
    return root


def fashionpedia(root, *overrides):
    cfg = compose("evaluate", ["data=fashionpedia", f"data.catalogue.path={root}", *overrides])
    return instantiate(cfg.data.catalogue)()


@pytest.fixture(params=["folders", "zip files"])
def outfits(request, tmp_path):
    zipped = request.param == "zip files"
    root = write_fashionpedia(tmp_path / "fashionpedia", zipped=zipped)
    images = ["data.catalogue.images.train=train.zip", "data.catalogue.images.test=test.zip"] if zipped else []
    return fashionpedia(root, *images)


def test_fashionpedia_is_one_row_an_image(outfits):
    assert outfits.column("product_id") == ["a", "b", "c", "d"]
    assert outfits.column("split") == ["train", "train", "train", "test"]
    assert outfits.column("categories") == ["dress, shoes, sleeve", "shirt or blouse", "sleeve", "shirt or blouse"]
    assert outfits.column("attributes") == ["letters or numbers, maxi (length)", "", "", "letters or numbers"]
    assert outfits.attributes == ["categories", "attributes"]
    assert outfits.report.bad == {}


def test_the_text_says_what_is_worn_and_details_only_where_there_is_nothing_else(outfits):
    assert outfits.column("text") == [
        "a person wearing a dress and shoes",
        "a person wearing a shirt or blouse",
        "a person wearing a sleeve",
        "a person wearing a shirt or blouse",
    ]


def test_boxes_are_those_of_the_file(outfits):
    boxes = json.loads(outfits.column("boxes")[0])
    assert [box["part"] for box in boxes] == ["dress", "shoes", "shoes", "sleeve"]
    assert boxes[0]["box"] == [2, 2, 7, 26]


def test_a_mask_is_the_union_of_the_instances_of_its_part(outfits):
    left, right = (Shape.from_coco(polygon).fill(SIZE[1], SIZE[0]) for polygon in (LEFT, RIGHT))
    compressed = Shape.from_coco(run_lengths(LEFT, compressed=True)).fill(SIZE[1], SIZE[0])
    assert outfits.parts(0) == ["dress", "shoes"]  # the sleeve has no mask
    for part, expected in {"dress": left, "shoes": right | compressed, "whole": left | right | compressed}.items():
        mask = outfits.read_mask(0, part)
        assert (mask.mode, mask.size) == ("L", SIZE)
        assert np.array_equal(np.asarray(mask), expected * 255)
    with pytest.raises(ModisteError, match="has no part 'sleeve'"):
        outfits.read_mask(0, "sleeve")


def test_masks_survive_pickling_and_threads(outfits):
    images = pickle.loads(pickle.dumps(outfits)).images
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: images.read_mask("train/a.jpg", "shoes").tobytes(), range(40)))
    assert found == {outfits.read_mask(0, "shoes").tobytes()}


def test_the_published_splits_are_kept(tmp_path):
    root = write_fashionpedia(tmp_path / "fashionpedia")
    cfg = compose("evaluate", ["data=fashionpedia", f"data.catalogue.path={root}", "data.split.val_fraction=0.5"])
    splits = load(cfg.data).column("split")
    assert splits[3] == "test"
    assert set(splits[:3]) <= {"train", "val"}


def test_what_cannot_be_used_is_excluded_by_its_reason(tmp_path):
    broken = {"size": [30, 20], "counts": "5"}
    train = annotations(
        ["a.jpg", "b.jpg", "c.jpg"], [instance(0, 10, broken), instance(0, 23, RIGHT), instance(1, 10, LEFT)]
    )
    root = write_fashionpedia(tmp_path / "fashionpedia", train)
    (root / "test" / "d.jpg").unlink()
    catalogue = fashionpedia(root)
    assert catalogue.report.bad == {"unreadable mask": ["a"], "no annotation": ["c"], "missing image": ["d"]}
    assert catalogue.column("product_id") == ["b"]


def test_a_partial_download_is_said(tmp_path, caplog):
    root = write_fashionpedia(tmp_path / "fashionpedia")
    fashionpedia(root)
    assert "3 of 45,623 train" in caplog.text
    (root / "instances_attributes_val2020.json").unlink()
    with pytest.raises(ModisteError, match=r"partial download.*val2020\.json.*annotations\.SPLIT=null"):
        fashionpedia(root)
    assert set(fashionpedia(root, "data.catalogue.annotations.test=null").splits) == {"train"}


def test_nothing_at_the_path_is_one_error_with_the_remedy(tmp_path):
    with pytest.raises(ModisteError, match=r"does not exist\. Download train2020\.zip.*set data\.catalogue\.path"):
        fashionpedia(tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "no list 'images'"),
        (json.dumps({**TRAIN, "annotations": None}), "no list 'annotations'"),
        (json.dumps({**TRAIN, "annotations": [instance(9, 10, LEFT)]}), "unlisted image, category or attribute: 9"),
        (json.dumps({**TRAIN, "annotations": [instance(0, 77, LEFT)]}), "unlisted image, category or attribute: 77"),
        (
            json.dumps({**TRAIN, "annotations": [instance(0, 10, LEFT, [5])]}),
            "unlisted image, category or attribute: 5",
        ),
    ],
    ids=["cut", "list", "unlabelled", "image", "category", "attribute"],
)
def test_a_damaged_annotation_file_is_one_error(tmp_path, content, message):
    root = write_fashionpedia(tmp_path / "fashionpedia")
    (root / "instances_attributes_train2020.json").write_text(content)
    with pytest.raises(ModisteError, match=message):
        fashionpedia(root)


def test_images_of_other_proportions_are_no_silent_wrong_mask(tmp_path):
    root = write_fashionpedia(tmp_path / "fashionpedia")
    (root / "train" / "a.jpg").write_bytes(encoded(picture(1, (30, 20)), "JPEG"))
    with pytest.raises(ModisteError, match="annotation is 20×30"):
        fashionpedia(root).read_mask(0, "dress")


def test_modanet_is_read_by_its_declaration(tmp_path):
    categories = [{"id": i, "name": name, "supercategory": "fashion"} for i, name in enumerate(MODANET, start=1)]
    polygon = [[2, 2, 9, 2, 9, 28, 2, 28], [11, 11, 15, 11, 15, 19, 11, 19]]
    content = {
        "info": {},
        "images": [{"id": 100014, "file_name": "0100014.jpg", "width": 20, "height": 30, "license": 3}],
        "annotations": [
            {"id": 1, "image_id": 100014, "category_id": number, "segmentation": polygon, "bbox": [2, 2, 7, 26]}
            for number in (5, 4, 13)
        ],
        "categories": categories,
        "year": 2018,
        "type": "instances",
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations/modanet2018_instances_train.json").write_text(json.dumps(content))
    (tmp_path / "images/0100014.jpg").write_bytes(encoded(picture(1, SIZE), "JPEG"))
    catalogue = load(compose("evaluate", ["data=modanet", f"data.catalogue.path={tmp_path}"]).data)
    assert catalogue.column("text") == ["a person wearing a coat or jacket, shoes and a scarf or tie"]
    assert catalogue.attributes == ["categories"]
    assert catalogue.parts(0) == ["coat or jacket", "shoes", "scarf or tie"]
    assert np.asarray(catalogue.read_mask(0, "shoes"))[15, [5, 13, 17]].tolist() == [255, 255, 0]


MODANET = ["bag", "belt", "boots", "footwear", "outer", "dress", "sunglasses", "pants", "top", "shorts", "skirt"]
MODANET += ["headwear", "scarf & tie"]


# --------------------------------------------------------------------------------------------------------- iMaterialist


def encoded_pixels(mask):
    inside = np.flatnonzero(mask.T.ravel())
    pieces = np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1)
    return " ".join(f"{piece[0] + 1} {len(piece)}" for piece in pieces)


BLOBS = [blobs(seed, SIZE[1], SIZE[0]) for seed in (1, 2, 3)]
KAGGLE_ROWS = [("a", 10, [1, 160], 0), ("a", 23, [], 1), ("b", 31, [160], 2)]


def write_imaterialist(root, year, rows=KAGGLE_ROWS):
    """2019: files with suffix and attributes after the class; 2020: without, and in a separate column."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["ImageId", "EncodedPixels", "Height", "Width", "ClassId", *(["AttributesIds"] * (year == 2020))])
    for image, category, attributes, number in rows:
        pixels = encoded_pixels(BLOBS[number]) if isinstance(number, int) else number
        joined = ",".join(map(str, attributes))
        if year == 2019:
            writer.writerow([f"{image}.jpg", pixels, 30, 20, "_".join(map(str, [category, *attributes]))])
        else:
            writer.writerow([image, pixels, "30.0", "20.0", category, joined])
    (root / "train").mkdir(parents=True, exist_ok=True)
    (root / "train.csv").write_text(buffer.getvalue())
    labels = {"info": {}, "categories": CATEGORIES, "attributes": ATTRIBUTES}
    (root / "label_descriptions.json").write_text(json.dumps(labels))
    for name in {image for image, *_ in rows}:
        (root / "train" / f"{name}.jpg").write_bytes(encoded(picture(ord(name), SIZE), "JPEG"))
    return root


def imaterialist(root):
    return instantiate(compose("evaluate", ["data=imaterialist", f"data.catalogue.path={root}"]).data.catalogue)()


@pytest.mark.parametrize("year", [2019, 2020])
def test_imaterialist_of_both_years_is_the_same_catalogue(tmp_path, year):
    catalogue = imaterialist(write_imaterialist(tmp_path / "im", year))
    assert catalogue.column("product_id") == ["a", "b"]
    assert catalogue.column("categories") == ["dress, shoes", "sleeve"]
    assert catalogue.column("attributes") == ["letters or numbers, maxi (length)", "maxi (length)"]
    assert catalogue.column("text")[0] == "a person wearing a dress and shoes"
    assert np.array_equal(np.asarray(catalogue.read_mask(0, "dress")) > 0, BLOBS[0])
    assert np.array_equal(np.asarray(catalogue.read_mask(0)) > 0, BLOBS[0] | BLOBS[1])
    assert "boxes" not in catalogue.table.column_names


def test_bad_rows_of_imaterialist_are_counted_and_damage_is_one_error(tmp_path):
    rows = [*KAGGLE_ROWS, ("c", 10, [], "700 1"), ("c", 23, [], 1)]
    assert imaterialist(write_imaterialist(tmp_path / "im", 2020, rows)).report.bad == {"unreadable mask": ["c"]}
    write_imaterialist(tmp_path / "im", 2019, [("a", 99, [], 0)])
    with pytest.raises(ModisteError, match=r"line 2 has no size, or an unlisted class"):
        imaterialist(tmp_path / "im")
    (tmp_path / "im" / "train.csv").write_text("ImageId,Height\na,1\n")
    with pytest.raises(ModisteError, match="has no column ClassId"):
        imaterialist(tmp_path / "im")


def test_the_tables_of_parts_name_categories_that_the_data_sets_have():
    """The published names, which a typo in a declaration would miss only on the user's machine."""
    joined = {name: OmegaConf.to_container(compose("evaluate", [f"data={name}"]).data.catalogue.parts) for name in SETS}
    assert {name for names in joined["modanet"].values() for name in names} <= set(MODANET)
    for name in ("fashionpedia", "imaterialist"):
        assert sorted(label for labels in joined[name].values() for label in labels) == PAIRS


PAIRS = ["glove", "leg warmer", "shoe", "sock"]
SETS = ("fashionpedia", "modanet", "imaterialist")


def test_no_name_of_a_category_takes_more_than_linear_time():
    assert_linear(plain, " ", "top", "x")
    assert plain("top , t-shirt,,x ") == "top or t-shirt or  or x"


def test_runs_whose_sum_wraps_and_runs_of_text_are_bad_rows(tmp_path):
    """The former wrote past the end of the mask; an array of the latter took 4 MB per number."""
    wrapping = {"size": [8, 8], "counts": [2**62, 2**62, 2**62, 2**62 + 64]}
    texts = {"size": [8, 8], "counts": ["x" * 10**6, *["1"] * 100]}
    instances = [instance(0, 10, wrapping), instance(1, 10, texts), instance(2, 10, LEFT)]
    content = annotations(["a.jpg", "b.jpg", "c.jpg"], instances)
    catalogue = fashionpedia(write_fashionpedia(tmp_path / "f", train=content), "data.catalogue.max_bad=5")
    assert {reason: len(rows) for reason, rows in catalogue.report.bad.items()} == {"unreadable mask": 2}


@pytest.mark.parametrize(
    ("size", "shapes"),
    [
        ((1, 1_000_000), [[[0, 0, 0.9, 999_999] * 500]]),
        ((8000, 8000), [{"size": [8000, 8000], "counts": [64 * 10**6]}] * 200),
    ],
    ids=["edges × rows", "instances × pixels"],
)
def test_masks_that_take_minutes_to_draw_are_a_bad_row(size, shapes, tmp_path):
    instances = [*(instance(0, 10, shape) for shape in shapes), instance(1, 10, LEFT)]
    content = annotations(["a.jpg", "b.jpg"], instances)
    content["images"][0] |= {"width": size[0], "height": size[1]}
    catalogue = fashionpedia(write_fashionpedia(tmp_path / "f", train=content), "data.catalogue.max_bad=5")
    assert list(catalogue.report.bad) == ["masks that take minutes to draw"]


@pytest.mark.parametrize("size", [(100_000, 100_000), (0, 20), (-20, 30)])
def test_an_impossible_size_of_an_image_is_a_bad_row(size, tmp_path):
    """Masks are made at the size that the annotations say: two small files took eight gigabytes."""
    instances = [instance(0, 10, LEFT), instance(1, 10, LEFT)]
    wrong = annotations(["a.jpg", "b.jpg"], instances)
    wrong["images"][0] |= {"width": size[0], "height": size[1]}
    catalogue = fashionpedia(write_fashionpedia(tmp_path / "f", train=wrong), "data.catalogue.max_bad=5")
    assert [ref for ref in catalogue.column("image") if ref.startswith("train")] == ["train/b.jpg"]
