import json

import pytest

from helpers.tiny_data import encoded, picture
from modiste.data.datasets.polyvore import Polyvore
from modiste.data.splits import GivenSplit
from modiste.errors import ModisteError

META = {  # as polyvore_item_metadata.json has them, "catgeories" and all
    "211990161": {
        "url_name": "neck print chiffon plus size",
        "description": "Plus size blouse",
        "catgeories": ["Women's Fashion", "Clothing", "Tops"],
        "title": "V-Neck Print  Plus Size Blouse",
        "related": ["Blouses"],
        "category_id": "15",
        "semantic_category": "tops",
    },
    "183179503": {
        "url_name": "christian pellizzari skirt",
        "title": "",
        "description": "",
        "category_id": "8",
        "semantic_category": "bottoms",
    },
    "190445143": {"url_name": "", "description": "Leather boots.", "category_id": "261", "semantic_category": "shoes"},
    "162799044": {"url_name": "", "title": "", "description": "", "category_id": "15", "semantic_category": "tops"},
    "100000001": {"url_name": "a bag", "title": "A bag", "category_id": "999", "semantic_category": "bags"},
}
OUTFITS = {
    "nondisjoint": {
        "train": [["211990161", "183179503", "190445143"]],
        "valid": [["190445143", "183179503"]],
        "test": [["183179503", "162799044"]],
    },
    "disjoint": {"train": [["211990161"]], "valid": [["190445143"]], "test": [["162799044", "183179503"]]},
}
CATEGORIES = "15,blouse,tops\n8,skirt,bottoms\n261,ankle booties,shoes\n"


def write(root, kinds=("nondisjoint", "disjoint")):
    (root / "images").mkdir(parents=True)
    (root / "polyvore_item_metadata.json").write_text(json.dumps(META))
    (root / "categories.csv").write_text(CATEGORIES)
    for kind in kinds:
        (root / kind).mkdir()
        for name, outfits in OUTFITS[kind].items():
            content = [
                {"set_id": f"{name}{i}", "items": [{"item_id": item, "index": n + 1} for n, item in enumerate(outfit)]}
                for i, outfit in enumerate(outfits)
            ]
            (root / kind / f"{name}.json").write_text(json.dumps(content))
    for number, item in enumerate(META):
        (root / "images" / f"{item}.jpg").write_bytes(encoded(picture(number), "JPEG"))
    return str(root)


def test_a_row_is_an_item(tmp_path):
    catalogue = Polyvore(write(tmp_path / "po"))()
    assert catalogue.column("product_id") == list(META)
    assert catalogue.column("text") == [
        "V-Neck Print Plus Size Blouse",
        "christian pellizzari skirt",
        "Leather boots.",
        "blouse",
        "A bag",
    ]
    assert catalogue.column("category") == ["blouse", "skirt", "ankle booties", "blouse", ""]
    assert catalogue.column("category_id") == ["15", "8", "261", "15", "999"]
    assert catalogue.column("semantic_category") == ["tops", "bottoms", "shoes", "tops", "bags"]
    assert catalogue.attributes == ["category", "category_id", "semantic_category"]
    assert catalogue.report.bad == {}


def test_an_item_of_several_splits_is_test_before_val_before_train(tmp_path):
    catalogue = Polyvore(write(tmp_path / "po"))()
    assert catalogue.column("split") == ["train", "test", "val", "test", ""]
    assert GivenSplit()(catalogue).splits == {"test": 2, "train": 1, "val": 1, "excluded": 1}
    disjoint = Polyvore(str(tmp_path / "po"), split_kind="disjoint")()
    assert disjoint.column("split") == ["train", "test", "val", "test", ""]
    assert len(disjoint) == 5  # outfits are looked up in the whole catalogue


def test_the_kind_of_split_decides(tmp_path):
    root = tmp_path / "po"
    write(root, kinds=["nondisjoint"])
    with pytest.raises(
        ModisteError, match=r"disjoint/test\.json, disjoint/valid\.json, disjoint/train\.json are missing"
    ):
        Polyvore(str(root), split_kind="disjoint")()
    with pytest.raises(ModisteError, match="Did you mean 'nondisjoint'"):
        Polyvore(str(root), split_kind="nondisjunct")()


def test_items_without_metadata_or_image_are_counted(tmp_path, caplog):
    root = tmp_path / "po"
    write(root)
    (root / "images/190445143.jpg").unlink()
    outfits = [{"set_id": "1", "items": [{"item_id": "7", "index": 1}]}]
    (root / "nondisjoint/train.json").write_text(json.dumps(outfits))
    catalogue = Polyvore(str(root))()
    assert catalogue.report.bad == {"missing image": ["190445143"], "empty caption": ["7"]}
    assert "6 of 251,008 rows, 4 of 251,008 images" in caplog.text


def test_absent_and_damaged_files_are_named_with_where_to_get_them(tmp_path):
    with pytest.raises(ModisteError, match=r"does not exist.*polyvore_outfits\.zip.*data\.catalogue\.path"):
        Polyvore(str(tmp_path / "gone"))()
    root = tmp_path / "po"
    write(root)
    (root / "categories.csv").unlink()
    with pytest.raises(ModisteError, match=r"partial download of Polyvore Outfits: categories\.csv is missing"):
        Polyvore(str(root))()
    (root / "categories.csv").write_text(CATEGORIES)
    (root / "nondisjoint/test.json").write_text('[{"set_id": "1", "item')
    with pytest.raises(ModisteError, match=r"nondisjoint/test\.json is damaged"):
        Polyvore(str(root))()
    (root / "nondisjoint/test.json").write_text('[{"set_id": "1"}]')
    with pytest.raises(ModisteError, match="not a list of outfits with items"):
        Polyvore(str(root))()
