import json

import pytest

from helpers.tiny_data import encoded, picture
from modiste.data.datasets.multimodal import MultiModal
from modiste.errors import ModisteError

NAMES = [
    "WOMEN-Dresses-id_00000002-02_1_front.jpg",
    "WOMEN-Dresses-id_00000002-02_4_full.jpg",
    "MEN-Jackets_Vests-id_00000084-01_7_additional.jpg",
]
CAPTIONS = {
    NAMES[0]: "The dress has short sleeves, cotton fabric and solid color patterns.",
    NAMES[1]: "The lady wears a short-sleeve dress with a round neckline.",
    NAMES[2]: "The jacket has long sleeves. It is made of denim.",
}
SHAPE = ["1 4 0 0 0 0 1 2 4 2 2 1", "1 4 3 0 1 0 0 0 1 2 2 1", "3 3 0 1 4 1 0 0 0 3 1 0"]
FABRIC = ["1 7 7", "1 7 7", "4 0 0"]
PATTERN = ["3 7 7", "0 7 7", "6 3 4"]


def lines(values):
    return "".join(f"{name} {value}\n" for name, value in zip(NAMES, values, strict=False))


def write(root, captions=CAPTIONS, shape=SHAPE):
    for folder in ("images", "labels/shape", "labels/texture"):
        (root / folder).mkdir(parents=True)
    (root / "captions.json").write_text(json.dumps(captions))
    (root / "labels/shape/shape_anno_all.txt").write_text(lines(shape))
    (root / "labels/texture/fabric_ann.txt").write_text(lines(FABRIC))
    (root / "labels/texture/pattern_ann.txt").write_text(lines(PATTERN))
    for number, name in enumerate(NAMES):
        (root / "images" / name).write_bytes(encoded(picture(number), "JPEG"))
    return str(root)


def test_captions_names_and_labels_are_read(tmp_path):
    catalogue = MultiModal(write(tmp_path / "mm"))()
    assert catalogue.column("product_id") == ["id_00000002", "id_00000002", "id_00000084"]
    assert catalogue.column("text") == list(CAPTIONS.values())
    assert catalogue.column("gender") == ["WOMEN", "WOMEN", "MEN"]
    assert catalogue.column("category") == ["Dresses", "Dresses", "Jackets_Vests"]
    expected = {
        "sleeve_length": ["short-sleeve", "short-sleeve", "long-sleeve"],
        "lower_length": ["NA", "NA", "long"],
        "socks": ["no", "NA", "no"],
        "hat": ["no", "no", "yes"],
        "glasses": ["no", "eyeglasses", "NA"],
        "neckwear": ["no", "no", "yes"],
        "wrist_wearing": ["yes", "no", "no"],
        "ring": ["NA", "no", "no"],
        "waist_accessories": ["NA", "belt", "no"],
        "neckline": ["round", "round", "standing"],
        "cardigan": ["NA", "NA", "no"],
        "covers_navel": ["yes", "yes", "no"],
        "upper_fabric": ["cotton", "cotton", "knitted"],
        "lower_fabric": ["NA", "NA", "denim"],
        "outer_fabric": ["NA", "NA", "denim"],
        "upper_pattern": ["pure color", "floral", "color block"],
        "lower_pattern": ["NA", "NA", "pure color"],
        "outer_pattern": ["NA", "NA", "lattice"],
    }
    assert catalogue.attributes == ["gender", "category", *expected]
    assert {name: catalogue.column(name) for name in expected} == expected
    assert catalogue.report.bad == {}


def test_a_neckline_of_class_7_tells_the_other_numbering(tmp_path):
    shape = [line.split() for line in SHAPE]
    for row, neckline in zip(shape, ("4", "7", "6"), strict=True):
        row[9] = neckline
    catalogue = MultiModal(write(tmp_path / "mm", shape=[" ".join(row) for row in shape]))()
    assert catalogue.column("neckline") == ["standing", "NA", "suspenders"]


def test_images_without_a_caption_or_a_file_are_counted(tmp_path, caplog):
    root = tmp_path / "mm"
    write(root, captions={name: CAPTIONS[name] for name in NAMES[:2]})
    (root / "images" / NAMES[1]).unlink()
    catalogue = MultiModal(str(root))()
    assert catalogue.report.bad == {"empty caption": ["id_00000084"], "missing image": ["id_00000002"]}
    assert "3 of 44,096 rows" in caplog.text


def test_an_image_without_labels_has_none(tmp_path):
    root = tmp_path / "mm"
    write(root)
    (root / "labels/texture/fabric_ann.txt").write_text(f"{NAMES[0]} 1 7 7\n")
    assert MultiModal(str(root))().column("upper_fabric") == ["cotton", "", ""]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("labels/shape/shape_anno_all.txt", f"{NAMES[0]} 1 4 0\n", "has 3 labels, not 12"),
        ("labels/texture/fabric_ann.txt", f"{NAMES[0]} 1 8 7\n", "lower_fabric has no class 8"),
        ("labels/shape/shape_anno_all.txt", lines([SHAPE[2], SHAPE[2].replace("3 1 0", "7 1 0")]), "has no class 3"),
        ("captions.json", '{"WOMEN', "captions.json is damaged"),
        ("captions.json", "[]", "holds a list where a dict is expected"),
        ("captions.json", '{"1.jpg": "a dress"}', "1.jpg is not of the form"),
    ],
)
def test_damaged_files_are_named(tmp_path, file, content, message):
    root = tmp_path / "mm"
    write(root)
    (root / file).write_text(content)
    with pytest.raises(ModisteError, match=message):
        MultiModal(str(root))()


def test_absent_files_are_named_with_where_to_get_them(tmp_path):
    with pytest.raises(ModisteError, match=r"does not exist.*yumingj.*data\.catalogue\.path"):
        MultiModal(str(tmp_path / "gone"))()
    root = tmp_path / "mm"
    write(root)
    (root / "labels/texture/fabric_ann.txt").unlink()
    with pytest.raises(ModisteError, match=r"partial download.*: labels/texture/fabric_ann.txt is missing.*labels"):
        MultiModal(str(root))()
