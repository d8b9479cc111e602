import hashlib
import io
import json
import zipfile
from collections import Counter
from dataclasses import replace

import pytest

from helpers.tiny_data import encoded, picture
from modiste.data import text_tables
from modiste.data.catalogue import hash_pixels
from modiste.data.datasets.kagl import HEADER, HUB_COLUMNS, Kagl, Subset, brands, read_styles
from modiste.data.sources import decode
from modiste.data.splits import MarqoSplit
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
    with pytest.raises(ModisteError, match=r"not a complete zip file.*again"):
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


# ------------------------------------------------------------------------------------------------- the paper's kind of

TYPES = ["Shirts"] * 8 + ["Tops"] * 6 + ["Jeans"] * 6 + ["Belts"] * 3 + [""] * 4


def test_a_small_zip_file_does_not_decompress_into_a_large_table(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "kagl.zip", [*ROWS, ROWS[0] + " x" * 100_000])
    monkeypatch.setattr(text_tables, "FREE_TEXT", 1000)
    with pytest.raises(ModisteError, match=r"styles\.csv of .*kagl\.zip cannot be read: its .* bytes decompress to"):
        Kagl(path)()


def typed_zip(path):
    rows = [f"{100 + i},Men,Apparel,Topwear,{kind},Blue,Fall,2011,Casual,title {i}" for i, kind in enumerate(TYPES)]
    pictures = {str(100 + i): encoded(picture(i, (6, 8)), "JPEG") for i in range(len(TYPES)) if i != 1}
    return write_zip(path, rows, pictures)


def test_a_subset_is_a_hashed_sample_of_the_most_frequent_classes(tmp_path):
    path = typed_zip(tmp_path / "kagl.zip")
    whole = Kagl(path)()
    subset = Kagl(path, subset={"products": 12, "classes": 3})()
    assert subset.card.name == "kagl_12"
    kinds = zip(whole.column("product_id"), whole.column("articleType"), strict=True)
    usable = [product for product, kind in kinds if kind in ("Shirts", "Tops", "Jeans")]
    assert len(usable) == 19  # one shirt has no picture
    lowest = sorted(usable, key=lambda i: hashlib.sha256(f"0:{i}".encode()).hexdigest())[:12]
    assert subset.column("product_id") == [i for i in whole.column("product_id") if i in lowest]
    assert subset.column("row") == list(range(12))
    assert [subset.read_image(i).size for i in range(12)] == [(6, 8)] * 12
    at = whole.column("product_id").index(subset.column("product_id")[5])
    assert subset.column("pixels")[5] == whole.column("pixels")[at]
    other = Kagl(path, subset={"products": 12, "classes": 3, "seed": 1})()
    assert other.column("product_id") != subset.column("product_id")


def test_equally_frequent_classes_are_taken_by_name(tmp_path):
    subset = Kagl(typed_zip(tmp_path / "kagl.zip"), subset={"products": 13, "classes": 2})()
    assert set(subset.column("articleType")) == {"Jeans", "Shirts"}


def test_a_larger_subset_holds_the_smaller(tmp_path):
    path = typed_zip(tmp_path / "kagl.zip")
    small, large = (Kagl(path, subset={"products": n, "classes": 3})().column("product_id") for n in (6, 12))
    assert set(small) < set(large)


def test_a_subset_that_cannot_be_is_an_error(tmp_path):
    path = typed_zip(tmp_path / "kagl.zip")
    with pytest.raises(ModisteError, match=r"asks for 30 products of 3 values of articleType; only 19 of 3 exist"):
        Kagl(path, subset={"products": 30, "classes": 3})()
    with pytest.raises(ModisteError, match=r"only 22 of 4 exist"):
        Kagl(path, subset={"products": 5, "classes": 9})()
    with pytest.raises(ModisteError, match="Did you mean 'products'"):
        Kagl(path, subset={"product": 5, "classes": 9})()
    with pytest.raises(ModisteError, match="needs products and classes"):
        Kagl(path, subset={"products": 5})()
    with pytest.raises(ModisteError, match=r"no column 'articletype'\. Did you mean 'articleType'"):
        Kagl(path, subset={"products": 5, "classes": 2, "column": "articletype"})()


def test_the_marqo_split_of_a_subset_is_that_of_the_whole(tmp_path):
    """The same products are test; none that shares a title or an image with one is train or val."""
    path = typed_zip(tmp_path / "kagl.zip")
    queries = tmp_path / "queries.json"
    queries.write_text(json.dumps({"q": {str(100 + i): 1 for i in range(0, 27, 2)}}))
    split = MarqoSplit(str(queries))
    whole, subset = split(Kagl(path)()), split(Kagl(path, subset={"products": 12, "classes": 3})())
    of = dict(zip(whole.column("product_id"), whole.column("split"), strict=True))
    assert [of[i] == "test" for i in subset.column("product_id")] == [s == "test" for s in subset.column("split")]


def test_the_real_subset_has_the_papers_size(real_kagl):
    subset = Subset(9990, 62)(real_kagl)
    assert len(subset) == len(set(subset.column("product_id"))) == 9990
    assert len(set(subset.column("articleType"))) == 62


def test_brand_is_a_column_on_request_only_and_found_alike_in_every_layout(layout):
    plain, branded = Kagl(str(layout))(), Kagl(str(layout), brand=True)()
    assert "brand" not in plain.attributes
    assert branded.column("brand") == brands(branded.column("text"))
    assert plain.fingerprint() == replace(branded, table=branded.table.drop_columns(["brand"])).fingerprint()


def test_most_real_titles_have_a_brand(data_dir):
    path = data_dir / "fashion-product-images-small.zip"
    if not path.is_file():
        pytest.skip("KAGL is not in MODISTE_DATA")
    with zipfile.ZipFile(path) as archive:
        titles = read_styles(archive.read("styles.csv"))["text"]
    found = brands(titles)
    counts = Counter(found)
    assert counts[""] / len(found) < 0.05
    assert [counts[name] > 1500 for name in ("nike", "puma", "adidas")] == [True] * 3
    assert {"united colors of benetton", "lino perros", "kids ville", "lakme"} < set(counts)
    # No title without a brand begins with another's: a brand that is held out would be trained by it.
    alone = [title.casefold().split() for title, brand in zip(titles, found, strict=True) if not brand]
    assert not [words for words in alone if any(" ".join(words[:k]) in counts for k in range(1, len(words) + 1))]
