import pytest

from helpers.tiny_data import encoded, picture
from modiste.data.datasets.fashion200k import CATEGORIES, Fashion200k
from modiste.data.splits import GivenSplit
from modiste.errors import ModisteError

LABELS = {
    "dress_train": [
        ("women/dresses/casual_and_day_dresses/51727804/51727804_0.jpeg", "0.988", "black textured-leaf dress"),
        ("women/dresses/casual_and_day_dresses/51727804/51727804_1.jpeg", "0.512", "black textured-leaf dress"),
    ],
    "top_train": [("women/tops/blouses/91422080/91422080_0.jpeg", "0.9", "white élan top")],
    "top_test": [("women/tops/t-shirts/90000001/90000001_0.jpeg", "1.0", "grey v-neck tee")],
}
ROWS = [row for rows in LABELS.values() for row in rows]


def write(root):
    (root / "labels").mkdir(parents=True)
    for split in ("train", "test"):
        for word in CATEGORIES:
            text = "".join("\t".join(row) + "\n" for row in LABELS.get(f"{word}_{split}", []))
            (root / f"labels/{word}_{split}_detect_all.txt").write_text(text, encoding="utf-8")
    for number, (name, _, _) in enumerate(ROWS):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(picture(number), "JPEG"))
    return str(root)


def test_labels_and_folders_are_read(tmp_path):
    catalogue = Fashion200k(write(tmp_path / "f200k"))()
    assert catalogue.column("product_id") == ["51727804", "51727804", "91422080", "90000001"]
    assert catalogue.column("text") == [text for _, _, text in ROWS]
    assert catalogue.column("split") == ["train", "train", "train", "test"]
    assert catalogue.column("category") == ["dresses", "dresses", "tops", "tops"]
    assert catalogue.column("subcategory") == ["casual_and_day_dresses"] * 2 + ["blouses", "t-shirts"]
    assert catalogue.attributes == ["category", "subcategory"]
    assert catalogue.report.bad == {}
    assert GivenSplit()(catalogue).splits == {"train": 3, "test": 1}


def test_missing_images_and_repeated_lines_are_counted(tmp_path, caplog):
    root = tmp_path / "f200k"
    write(root)
    (root / ROWS[2][0]).unlink()
    with (root / "labels/dress_train_detect_all.txt").open("a") as file:
        file.write("\t".join(ROWS[0]) + "\n")
    catalogue = Fashion200k(str(root))()
    assert catalogue.report.bad == {"missing image": ["91422080"], "duplicate row": ["51727804"]}
    assert "3 of 201,824 images" in caplog.text


def test_absent_and_damaged_files_are_named_with_where_to_get_them(tmp_path):
    with pytest.raises(ModisteError, match=r"does not exist.*women\.tar\.gz.*data\.catalogue\.path"):
        Fashion200k(str(tmp_path / "gone"))()
    root = tmp_path / "f200k"
    write(root)
    file = root / "labels/top_test_detect_all.txt"
    file.write_text("women/tops/t-shirts/900000")
    with pytest.raises(ModisteError, match=r"top_test_detect_all.txt is damaged .*women/tops/t-shirts/900000.*again"):
        Fashion200k(str(root))()
    file.unlink()
    with pytest.raises(
        ModisteError, match=r"partial download of Fashion200k: labels/top_test_detect_all.txt is missing"
    ):
        Fashion200k(str(root))()
