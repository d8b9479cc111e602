import json
import pickle

import pytest

from helpers.tiny_data import encoded, picture
from modiste.data.catalogue import hash_pixels
from modiste.data.datasets.fashion_iq import CARD, FashionIQ
from modiste.data.splits import GivenSplit
from modiste.errors import ModisteError

LISTS = {
    "val": {"dress": ["B009PMCJLW", "B0084Y8XIU"], "shirt": ["B000KENMD8", "B00SHARED1"], "toptee": ["B00SHARED1"]},
    "train": {"dress": ["B00TRAIN01"], "shirt": ["B00TRAIN02"], "toptee": ["B000KENMD8"]},
}
ASINS = sorted({asin for lists in LISTS.values() for asins in lists.values() for asin in asins})


def write(root, splits=("val",), suffix="jpg", missing=(), by_category=False):
    (root / "image_splits").mkdir(parents=True)
    (root / "images").mkdir()
    for split in splits:
        for category, asins in LISTS[split].items():
            (root / f"image_splits/split.{category}.{split}.json").write_text(json.dumps(asins))
            for asin in set(asins) - set(missing):
                folder = root / "images" / (category if by_category else "")
                folder.mkdir(exist_ok=True)
                kind = "JPEG" if suffix == "jpg" else "PNG"
                (folder / f"{asin}.{suffix}").write_bytes(encoded(picture(ASINS.index(asin)), kind))
    return str(root)


@pytest.mark.parametrize("by_category", [False, True])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_row_is_a_category_and_an_image(tmp_path, suffix, by_category):
    """An image that is in two categories' lists is two rows of one product."""
    catalogue = FashionIQ(write(tmp_path / "fiq", suffix=suffix, by_category=by_category))()
    assert catalogue.column("product_id") == ["B009PMCJLW", "B0084Y8XIU", "B000KENMD8", "B00SHARED1", "B00SHARED1"]
    assert catalogue.column("category") == ["dress", "dress", "shirt", "shirt", "toptee"]
    assert catalogue.column("text") == ["a dress", "a dress", "a shirt", "a shirt", "a top"]
    assert set(catalogue.column("split")) == {"val"}
    pixels = catalogue.column("pixels")
    assert pixels[3] == pixels[4]
    assert len(set(pixels)) == 4
    if suffix == "png":
        assert pixels == [hash_pixels(picture(ASINS.index(asin))) for asin in catalogue.column("product_id")]
    assert GivenSplit()(catalogue).splits == {"val": 5}
    assert pickle.loads(pickle.dumps(catalogue.images)).read("toptee/B00SHARED1").size == (6, 8)


def test_dead_links_are_counted_and_no_error(tmp_path, caplog):
    catalogue = FashionIQ(write(tmp_path / "fiq", missing=["B0084Y8XIU", "B00SHARED1"]))()
    assert catalogue.report.bad == {"missing image": ["B0084Y8XIU", "B00SHARED1", "B00SHARED1"]}
    assert len(catalogue) == 2
    assert "5 of 15,536 rows" in caplog.text  # rows of the lists, not images


def test_training_rows_that_are_also_validation_rows_are_excluded_by_the_given_split(tmp_path):
    catalogue = FashionIQ(write(tmp_path / "fiq", splits=("val", "train")), splits=["train", "val"])()
    assert catalogue.splits == {"val": 5, "train": 3}
    assert GivenSplit()(catalogue).splits == {"val": 5, "train": 2, "excluded": 1}


def test_absent_files_are_named_with_where_to_get_them(tmp_path):
    with pytest.raises(ModisteError, match=r"does not exist.*fashion-iq.*data\.catalogue\.path"):
        FashionIQ(str(tmp_path / "gone"))()
    root = tmp_path / "fiq"
    write(root)
    with pytest.raises(ModisteError, match=r"partial download.*split\.dress\.test\.json.*splits=\[val\]"):
        FashionIQ(str(root), splits=["val", "test"])()
    with pytest.raises(ModisteError, match="Did you mean 'val'"):
        FashionIQ(str(root), splits=["vall"])()
    (root / "image_splits/split.dress.val.json").write_text('["B009')
    with pytest.raises(ModisteError, match=r"split\.dress\.val\.json is damaged"):
        FashionIQ(str(root))()
    write(tmp_path / "lists")
    for file in (tmp_path / "lists/images").iterdir():
        file.unlink()
    (tmp_path / "lists/images").rmdir()
    with pytest.raises(ModisteError, match=r"has the lists but no folder 'images'\. .*asin2url"):
        FashionIQ(str(tmp_path / "lists"))()


def test_the_real_lists_have_their_published_counts(data_dir, tmp_path):
    """With a picture for the 121 images that are both shirt and toptee: each is two rows of one product."""
    lists = data_dir / "fashion-iq" / "image_splits"
    if not lists.is_dir():
        pytest.skip("fashion-iq is not in MODISTE_DATA")
    asins = {c: json.loads((lists / f"split.{c}.val.json").read_text()) for c in ("dress", "shirt", "toptee")}
    both = set(asins["shirt"]) & set(asins["toptee"])
    (tmp_path / "images").mkdir()
    (tmp_path / "image_splits").symlink_to(lists)
    for number, asin in enumerate(sorted(both)):
        (tmp_path / "images" / f"{asin}.png").write_bytes(encoded(picture(number)))
    catalogue = FashionIQ(str(tmp_path))()
    assert catalogue.report.rows == CARD.expected["rows"] == sum(map(len, asins.values()))
    assert len(both) == 121
    assert len(catalogue) == 242
    assert set(catalogue.report.bad) == {"missing image"}
