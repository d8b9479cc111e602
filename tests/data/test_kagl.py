import io
import zipfile

import pytest
from tiny_data import encoded, picture

from modiste.data.catalogue import hash_pixels
from modiste.data.kagl import HEADER, HUB_COLUMNS, Kagl
from modiste.data.sources import decode
from modiste.errors import ModisteError

# id, the eight attributes, title: as the real file has them.
ROWS = [
    "15970,Men,Apparel,Topwear,Shirts,Navy Blue,Fall,2011,Casual,Turtle Check Men Navy Blue Shirt",
    "44065,Men,Personal Care,Fragrance,Perfume and Body Mist,Blue,Spring,2017,Casual,Boss Men Perfume, After Shave Balm and Shower Gel Set",  # noqa: E501
    "7491,Women,Apparel,Bottomwear,Shorts,Pink,Summer,2011,Sports,Nike Women's EM Tempo 3.5\" Pink Short",
    "30991,Women,Personal Care,Fragrance,Perfume and Body Mist,NA,,2017,NA,NA",
]
MISSING = "39403,Men,Apparel,Topwear,Shirts,Black,Summer,2016,,fusion beats black shirt"
CUT = "12347,Men,Apparel"
PICTURES = {row.split(",")[0]: encoded(picture(i, (60, 80)), "JPEG") for i, row in enumerate(ROWS)}


def styles(rows):
    return "\n".join([",".join(HEADER), *rows, ""]).encode()


def write_zip(path, rows, pictures=PICTURES, prefixes=("",)):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for prefix in prefixes:
            archive.writestr(f"{prefix}styles.csv", styles(rows))
            for product, data in pictures.items():
                archive.writestr(f"{prefix}images/{product}.jpg", data)
    return str(path)


def write_folder(root, rows, pictures=PICTURES):
    (root / "images").mkdir(parents=True)
    (root / "styles.csv").write_bytes(styles(rows))
    for product, data in pictures.items():
        (root / "images" / f"{product}.jpg").write_bytes(data)
    return str(root)


def write_parquet(root, rows):
    """The hub's layout: two files, the title and categories under Marqo's names, no value where pandas saw NA."""
    import datasets

    names = {kaggle: hub for hub, kaggle in {v: k for k, v in HUB_COLUMNS.items()}.items()}
    cells = [dict(zip(("product_id", *HEADER[1:-1], "text"), row.split(",", 9), strict=True)) for row in rows]
    records = [{names[name]: value or None for name, value in cell.items()} for cell in cells]
    for record in records:
        record["year"] = float(record["year"])
        record["image"] = {"bytes": PICTURES[record["item_ID"]], "path": None}
    features = datasets.Features(
        {
            name: datasets.Image() if name == "image" else datasets.Value("float64" if name == "year" else "string")
            for name in records[0]
        }
    )
    (root / "data").mkdir(parents=True)
    for part, chosen in enumerate((records[:2], records[2:])):
        columns = {name: [record[name] for record in chosen] for name in features}
        dataset = datasets.Dataset.from_dict(columns, features=features)
        dataset.to_parquet(root / "data" / f"data-{part:05d}-of-00002.parquet")
    return str(root)


@pytest.fixture(params=["zip", "zip within a folder", "folder", "parquet"])
def layout(request, tmp_path):
    if request.param == "folder":
        return write_folder(tmp_path / "kagl", ROWS)
    if request.param == "parquet":
        return write_parquet(tmp_path / "kagl", ROWS)
    prefixes = ("",) if request.param == "zip" else ("fashion/",)
    return write_zip(tmp_path / "kagl.zip", ROWS, prefixes=prefixes)


def test_every_layout_gives_the_same_catalogue(layout):
    catalogue = Kagl(layout)()
    assert catalogue.column("product_id") == ["15970", "44065", "7491", "30991"]
    assert catalogue.column("text") == [
        "Turtle Check Men Navy Blue Shirt",
        "Boss Men Perfume, After Shave Balm and Shower Gel Set",
        "Nike Women's EM Tempo 3.5\" Pink Short",
        "NA",
    ]
    assert catalogue.attributes == list(HEADER[1:-1])
    assert catalogue.column("articleType") == ["Shirts", "Perfume and Body Mist", "Shorts", "Perfume and Body Mist"]
    assert catalogue.column("baseColour") == ["Navy Blue", "Blue", "Pink", "NA"]
    assert catalogue.column("season") == ["Fall", "Spring", "Summer", ""]
    assert catalogue.column("year") == ["2011", "2017", "2011", "2017"]
    assert catalogue.column("pixels") == [hash_pixels(decode(data)) for data in PICTURES.values()]
    assert [catalogue.read_image(i).size for i in range(4)] == [(60, 80)] * 4
    assert catalogue.report.bad == {}


def test_bad_rows_are_counted_by_reason(tmp_path):
    pictures = {**PICTURES, "7491": PICTURES["7491"][:700]}
    catalogue = Kagl(write_zip(tmp_path / "kagl.zip", [*ROWS, MISSING, CUT], pictures))()
    assert catalogue.report.bad == {
        "unreadable image": ["7491"],
        "missing image": ["39403"],
        "empty caption": ["12347"],
    }
    assert (catalogue.report.rows, catalogue.report.kept) == (6, 3)
    with pytest.raises(ModisteError, match=r"max_bad=2"):
        Kagl(str(tmp_path / "kagl.zip"), max_bad=2)()


def test_kaggles_repeated_inner_folder_is_not_read_twice(tmp_path):
    path = write_zip(tmp_path / "kagl.zip", ROWS, prefixes=("myntradataset/", ""))
    catalogue = Kagl(path)()
    assert catalogue.report.rows == 4
    assert catalogue.images.prefix == "images/"


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_the_data(tmp_path):
    root = tmp_path / "kagl"
    write_folder(root, ROWS)
    (root / "styles.csv").write_bytes(b"\xef\xbb\xbf" + styles(ROWS).replace(b"\n", b"\r\n"))
    assert Kagl(str(root))().column("text")[0] == "Turtle Check Men Navy Blue Shirt"


def test_mistakes_have_a_remedy(tmp_path):
    with pytest.raises(ModisteError, match=r"does not exist.*Kaggle.*data.catalogue.path"):
        Kagl(str(tmp_path / "gone.zip"))()
    with pytest.raises(ModisteError, match=r"holds neither"):
        Kagl(str(tmp_path))()
    write_zip(tmp_path / "kagl.zip", ROWS)
    whole = (tmp_path / "kagl.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModisteError, match=r"not a whole zip file.*again"):
        Kagl(str(tmp_path / "half.zip"))()
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    (tmp_path / "empty.zip").write_bytes(buffer.getvalue())
    with pytest.raises(ModisteError, match=r"holds no styles\.csv"):
        Kagl(str(tmp_path / "empty.zip"))()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "styles.csv").write_text("id;title\n1;hat\n")
    with pytest.raises(ModisteError, match=r"begins with 'id;title'"):
        Kagl(str(tmp_path / "other"))()


def test_the_prompt_words_are_of_values_that_exist(real_kagl):
    from omegaconf import OmegaConf

    from modiste.config import config_dir

    node = OmegaConf.load(config_dir() / "data" / "kagl.yaml")
    for attribute, words in node.classes.items():
        assert set(words) >= set(real_kagl.column(attribute)) - {""}
    assert set(node.prompts) - {"default"} <= set(real_kagl.attributes)


def test_the_real_file_has_its_published_counts(real_kagl):
    assert (real_kagl.report.rows, real_kagl.report.kept) == (44446, 44441)
    assert {reason: len(ids) for reason, ids in real_kagl.report.bad.items()} == {"missing image": 5}
    assert len(set(real_kagl.column("product_id"))) == 44441
    assert real_kagl.column("baseColour").count("NA") == 15
    row = real_kagl.column("product_id").index("44065")
    assert real_kagl.column("text")[row] == "Boss Men Perfume, After Shave Balm and Shower Gel Set"
    assert real_kagl.read_image(row).size == (60, 80)
