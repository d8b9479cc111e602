import json

import pytest

from helpers.tiny_data import encoded, picture
from modiste.data.catalogue import hash_pixels
from modiste.data.datasets.inshop import CARD, InShop
from modiste.data.sources import decode
from modiste.data.splits import GivenSplit
from modiste.errors import ModisteError

ROWS = [  # as list_eval_partition.txt has them
    ("img/WOMEN/Dresses/id_00000002/02_1_front.jpg", "id_00000002", "train"),
    ("img/WOMEN/Dresses/id_00000002/02_2_side.jpg", "id_00000002", "train"),
    ("img/WOMEN/Blouses_Shirts/id_00000001/02_1_front.jpg", "id_00000001", "query"),
    ("img/WOMEN/Blouses_Shirts/id_00000001/02_3_back.jpg", "id_00000001", "gallery"),
    ("img/MEN/Denim/id_00000080/01_1_front.jpg", "id_00000080", "gallery"),
]
DESCRIPTIONS = [
    {"item": "id_00000002", "color": "Red", "description": ["A maxi  dress,", "with a V-neck."]},
    {"item": "id_00000002", "color": "Red", "description": ["another"]},
    {"item": "id_00000080", "color": "Dark-navy", "description": []},
]


def counted(header, lines):
    return "\n".join([str(len(lines)), header, *lines, ""])


def write(root, anno="Anno/attributes", folder="img"):
    (root / "Eval").mkdir(parents=True)
    partition = counted("image_name item_id evaluation_status", ["  ".join(row) for row in ROWS])
    (root / "Eval/list_eval_partition.txt").write_text(partition)
    for number, (name, _, _) in enumerate(ROWS):
        file = root / "Img" / folder / name.removeprefix("img/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(picture(number), "JPEG"))
    if anno:
        (root / anno).mkdir(parents=True)
        (root / "Anno/list_description_inshop.json").write_text(json.dumps(DESCRIPTIONS))
        colours = ["Red", "Red", "Light grey", "Light grey", "Dark-navy"]
        lines = [f"{name}    {colour}" for (name, _, _), colour in zip(ROWS, colours, strict=True)]
        (root / anno / "list_color_cloth.txt").write_text(counted("image_name  color", lines))
        (root / anno / "list_attr_cloth.txt").write_text(
            counted("attribute_name", ["a-line", "abstract print", "maxi"])
        )
        labels = ["id_00000001 -1 1 -1", "id_00000002 1 -1 1", "id_00000080 -1 -1 0"]
        (root / anno / "list_attr_items.txt").write_text(counted("item_id attribute_labels", labels))
    return str(root)


@pytest.mark.parametrize("anno", ["Anno/attributes", "Anno"])
def test_partition_descriptions_colours_and_attributes_are_read(tmp_path, anno):
    catalogue = InShop(write(tmp_path / "inshop", anno))()
    assert catalogue.column("product_id") == [item for _, item, _ in ROWS]
    assert catalogue.column("split") == ["train", "train", "query", "gallery", "gallery"]
    assert catalogue.column("gender") == ["WOMEN"] * 4 + ["MEN"]
    assert catalogue.column("category") == ["Dresses", "Dresses", "Blouses_Shirts", "Blouses_Shirts", "Denim"]
    maxi = "A maxi dress, with a V-neck."
    assert catalogue.column("text") == [maxi, maxi, "women blouses shirts", "women blouses shirts", "men denim"]
    assert catalogue.column("color") == ["Red", "Red", "Light grey", "Light grey", "Dark-navy"]
    assert catalogue.column("attributes") == ["a-line, maxi", "a-line, maxi", "abstract print", "abstract print", ""]
    expected = [hash_pixels(decode(encoded(picture(i), "JPEG"))) for i in range(5)]
    assert catalogue.column("pixels") == expected
    assert catalogue.report.bad == {}


def test_without_annotations_the_text_is_gender_and_category(tmp_path):
    catalogue = InShop(write(tmp_path / "inshop", anno=None))()
    assert catalogue.column("text")[::2] == ["women dresses", "women blouses shirts", "men denim"]
    assert catalogue.attributes == ["gender", "category"]


def test_the_large_images_are_read_from_their_own_folder(tmp_path):
    root = write(tmp_path / "inshop", folder="img_highres")
    images = InShop(root, images="img_highres")().column("image")
    assert images[0] == "img_highres/WOMEN/Dresses/id_00000002/02_1_front.jpg"
    with pytest.raises(ModisteError, match=r"partial download.*Img/img is missing"):
        InShop(root)()
    with pytest.raises(ModisteError, match="Did you mean 'img_highres'"):
        InShop(root, images="img_high")()


def test_query_and_gallery_keep_their_products_under_the_given_split(tmp_path):
    catalogue = GivenSplit()(InShop(write(tmp_path / "inshop"))())
    assert catalogue.splits == {"train": 2, "gallery": 2, "query": 1}


def test_missing_images_are_counted_and_a_partial_download_is_noted(tmp_path, caplog):
    root = tmp_path / "inshop"
    write(root)
    (root / "Img" / ROWS[4][0]).unlink()
    catalogue = InShop(str(root))()
    assert catalogue.report.bad == {"missing image": ["id_00000080"]}
    assert "a partial download? It has 4 of 52,712 images, 2 of 7,982 products" in caplog.text
    assert CARD.download in caplog.text
    with pytest.raises(ModisteError, match="max_bad=0"):
        InShop(str(root), max_bad=0)()


def test_mistakes_have_a_remedy(tmp_path):
    with pytest.raises(ModisteError, match=r"does not exist.*In-shop.*data\.catalogue\.path"):
        InShop(str(tmp_path / "gone"))()
    root = tmp_path / "inshop"
    write(root)
    whole = (root / "Eval/list_eval_partition.txt").read_text()
    (root / "Eval/list_eval_partition.txt").write_text("\n".join(whole.split("\n")[:4]))
    with pytest.raises(ModisteError, match=r"says 5 lines, it holds 2.*download it again"):
        InShop(str(root))()
    (root / "Eval/list_eval_partition.txt").write_text(whole.replace("query", "probe"))
    with pytest.raises(ModisteError, match=r"not a row of image, item and status: .* probe"):
        InShop(str(root))()
    (root / "Eval/list_eval_partition.txt").write_text(whole)
    (root / "Anno/attributes/list_attr_items.txt").write_text(counted("item_id attribute_labels", ["id_00000001 -1 1"]))
    with pytest.raises(ModisteError, match=r"2 labels, but list_attr_cloth\.txt has 3 names"):
        InShop(str(root))()
    (root / "Anno/list_description_inshop.json").write_text('[{"item": "id_000')
    with pytest.raises(ModisteError, match=r"list_description_inshop.json is damaged"):
        InShop(str(root))()
