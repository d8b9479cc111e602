"""Tiny copies of Kaggle's folder and zip file: articles.csv with its 25 columns, images by the id's first digits."""

import csv
import io
import zipfile

import pytest

from helpers.tiny_data import encoded, picture
from modiste.config import compose
from modiste.data import text_tables
from modiste.data.build import load
from modiste.data.catalogue import hash_pixels
from modiste.data.datasets.hm import ATTRIBUTES, HM
from modiste.data.sources import decode
from modiste.errors import ModisteError

HEADER = [
    "article_id",
    "product_code",
    "prod_name",
    "product_type_no",
    "product_type_name",
    "product_group_name",
    "graphical_appearance_no",
    "graphical_appearance_name",
    "colour_group_code",
    "colour_group_name",
    "perceived_colour_value_id",
    "perceived_colour_value_name",
    "perceived_colour_master_id",
    "perceived_colour_master_name",
    "department_no",
    "department_name",
    "index_code",
    "index_name",
    "index_group_no",
    "index_group_name",
    "section_no",
    "section_name",
    "garment_group_no",
    "garment_group_name",
    "detail_desc",
]
ROWS = [
    {"article_id": "0108775015", "prod_name": "Strap top", "detail_desc": "Jersey top with narrow shoulder straps."},
    {"article_id": "0108775044", "prod_name": "Strap top", "detail_desc": 'A "top",\nin two lines, with commas.'},
    {"article_id": "0568601007", "prod_name": "PRIA.", "detail_desc": ""},
    {"article_id": "0956217002", "prod_name": "No photo", "detail_desc": "An article without one."},
]
for row in ROWS:
    row["product_code"] = row["article_id"][:7]
    for name in HEADER:
        row.setdefault(name, f"{name} of {row['article_id']}")
PICTURES = {row["article_id"]: encoded(picture(i), "JPEG") for i, row in enumerate(ROWS[:3])}


def table(rows=ROWS, header=HEADER):
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, header, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def write_folder(root, articles=None, pictures=PICTURES):
    root.mkdir(parents=True, exist_ok=True)
    (root / "articles.csv").write_bytes(articles or table())
    for article, data in pictures.items():
        (root / "images" / article[:3]).mkdir(parents=True, exist_ok=True)
        (root / "images" / article[:3] / f"{article}.jpg").write_bytes(data)
    return str(root)


def write_zip(path, articles=None, pictures=PICTURES, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{prefix}articles.csv", articles or table())
        archive.writestr(f"{prefix}customers.csv", "customer_id\n")
        for article, data in pictures.items():
            archive.writestr(f"{prefix}images/{article[:3]}/{article}.jpg", data)
    return str(path)


@pytest.fixture(params=["folder", "zip", "zip within a folder"])
def layout(request, tmp_path):
    if request.param == "folder":
        return write_folder(tmp_path / "hm")
    return write_zip(tmp_path / "hm.zip", prefix="hm/" if "within" in request.param else "")


def test_every_layout_gives_the_same_catalogue(layout):
    catalogue = HM(layout)()
    assert catalogue.column("product_id") == ["0108775015", "0108775044", "0568601007"]
    assert catalogue.column("product_code") == ["0108775", "0108775", "0568601"]
    assert catalogue.column("text") == [
        "Strap top. Jersey top with narrow shoulder straps.",
        'Strap top. A "top",\nin two lines, with commas.',
        "PRIA",
    ]
    assert catalogue.attributes == list(ATTRIBUTES)
    assert catalogue.column("colour_group_name")[1] == "colour_group_name of 0108775044"
    assert catalogue.column("pixels") == [hash_pixels(decode(data)) for data in PICTURES.values()]
    assert [catalogue.read_image(i).size for i in range(3)] == [(6, 8)] * 3


def test_missing_and_corrupt_photos_are_excluded_and_counted(tmp_path):
    pictures = {**PICTURES, "0108775044": PICTURES["0108775044"][:300]}
    for path in (write_folder(tmp_path / "hm", pictures=pictures), write_zip(tmp_path / "hm.zip", pictures=pictures)):
        catalogue = HM(path)()
        assert catalogue.report.bad == {"unreadable image": ["0108775044"], "missing image": ["0956217002"]}
        assert (catalogue.report.rows, len(catalogue)) == (4, 2)
        with pytest.raises(ModisteError, match="max_bad=1"):
            HM(path, max_bad=1)()


def test_ids_that_lost_their_zeros_get_them_back(tmp_path):
    cut = [{**row, "article_id": row["article_id"].lstrip("0")} for row in ROWS]
    catalogue = HM(write_folder(tmp_path / "hm", table(cut)))()
    assert catalogue.column("product_id") == ["0108775015", "0108775044", "0568601007"]


def test_fewer_articles_or_photos_than_published_are_warnings_with_the_remedy(tmp_path, caplog):
    HM(write_folder(tmp_path / "hm"))()
    assert "4 of 105,542 rows, 3 of 105,100 images" in caplog.text
    assert "kaggle competitions download" in caplog.text


def test_a_missing_download_has_a_remedy(tmp_path):
    with pytest.raises(ModisteError, match=r"does not exist\. .*kaggle.*data\.catalogue\.path"):
        HM(str(tmp_path / "gone.zip"))()
    with pytest.raises(ModisteError, match=r"holds no articles\.csv and no images"):
        HM(str(tmp_path))()


def test_the_table_without_the_photos_is_a_partial_download(tmp_path):
    with pytest.raises(ModisteError, match=r"partial download .*: images is missing\. .*kaggle"):
        HM(write_folder(tmp_path / "hm", pictures={}))()
    with pytest.raises(ModisteError, match=r"holds no images/\. .*kaggle"):
        HM(write_zip(tmp_path / "hm.zip", pictures={}))()


def test_half_a_zip_file_is_to_be_downloaded_again(tmp_path):
    whole = write_zip(tmp_path / "hm.zip")
    with open(whole, "rb") as file:
        (tmp_path / "half.zip").write_bytes(file.read()[:1500])
    with pytest.raises(ModisteError, match=r"is damaged .*download it again"):
        HM(str(tmp_path / "half.zip"))()


def test_a_small_zip_file_does_not_decompress_into_a_large_table(tmp_path, monkeypatch):
    monkeypatch.setattr(text_tables, "FREE_TEXT", 1000)
    with pytest.raises(ModisteError, match=r"articles\.csv cannot be read.*: its .* bytes decompress to more than"):
        HM(write_zip(tmp_path / "hm.zip", table() + b"," * 1_000_000))()


def test_another_table_is_not_taken_for_hms(tmp_path):
    with pytest.raises(ModisteError, match="'hm' has no column 'section_name'"):
        HM(write_folder(tmp_path / "hm", table(header=[name for name in HEADER if name != "section_name"])))()
    broken = table() + b"1,2" + b",x" * 30 + b"\n"
    for path in (write_folder(tmp_path / "a", broken), write_zip(tmp_path / "a.zip", broken)):
        with pytest.raises(ModisteError, match=r"articles\.csv cannot be read.*line 7 has 32 cells"):
            HM(path)()


def test_the_config_reads_it_and_its_prompts_name_attributes(tmp_path):
    cfg = compose("data", ["data=hm", f"data.catalogue.path={write_folder(tmp_path / 'hm')}"])
    catalogue = load(cfg.data)
    assert set(catalogue.column("split")) <= {"train", "val", "test"}
    assert set(cfg.data.prompts) - {"default"} <= set(catalogue.attributes)
