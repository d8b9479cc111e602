"""A shop's export as a catalogue: families of exports, several images, HTML, numbers, ids, placeholders."""

import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers.linear import assert_linear
from helpers.tiny_data import encoded, picture
from modiste.data import from_table, shop
from modiste.data.datasets.table import PLACEHOLDER, Table
from modiste.errors import ModisteError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(12):
        (tmp_path / "images" / f"{number}.png").write_bytes(encoded(picture(number)))
    return tmp_path


def read(folder, name, text, **options):
    (folder / name).write_text(text, encoding="utf-8")
    return Table(str(folder / name), **options)()


def test_shopifys_further_rows_take_the_title_and_attributes_of_their_product(folder):
    text = "Handle,Title,Type,Variant Price,Image Src,Image Position\n"
    text += "hat,Red hat,Hats,19.90,0.png,1\nhat,,,,1.png,2\nbag,Blue bag,Bags,5,2.png,1\nbag,,,,3.png,2\n"
    catalogue = read(folder, "products_export.csv", text)
    assert catalogue.column("product_id") == ["hat", "hat", "bag", "bag"]
    assert catalogue.column("text") == ["Red hat", "Red hat", "Blue bag", "Blue bag"]
    assert catalogue.column("Type") == ["Hats", "Hats", "Bags", "Bags"]
    assert catalogue.table["Variant Price"].to_pylist() == [19.9, 19.9, 5.0, 5.0]


def test_woocommerces_images_in_a_cell_are_rows_of_one_product(folder):
    text = 'ID,SKU,Name,Images,Categories\n7,a1,Red hat,"0.png, 1.png",Hats\n8,a2,Blue bag,2.png,Bags\n'
    catalogue = read(folder, "wc.csv", text)
    assert catalogue.column("product_id") == ["a1", "a1", "a2"]
    assert catalogue.column("image") == ["0.png", "1.png", "2.png"]


FEED = """<?xml version="1.0" encoding="UTF-8"?>
<rss xmlns:g="http://base.google.com/ns/1.0" version="2.0"><channel><title>Shop</title>
<item><g:id>a1</g:id><g:title>Chapeau d\u2019été</g:title><g:image_link>0.png</g:image_link>
<g:additional_image_link>1.png</g:additional_image_link><g:additional_image_link>2.png</g:additional_image_link>
<g:price>12.50</g:price></item>
<item><g:id>a2</g:id><g:title>Sac</g:title><g:image_link>3.png</g:image_link><g:price>3</g:price></item>
</channel></rss>"""


def test_a_merchant_feed_is_read_as_xml_and_as_tabs(folder):
    xml = read(folder, "feed.xml", FEED)
    assert xml.column("product_id") == ["a1", "a1", "a1", "a2"]
    assert xml.column("text")[0] == "Chapeau d\u2019été"
    rows = "id\ttitle\timage_link\tadditional_image_link\tprice\n"
    rows += "a1\tChapeau d\u2019été\t0.png\t1.png,2.png\t12.50\na2\tSac\t3.png\t\t3\n"
    tabs = read(folder, "feed.tsv", rows)
    for name in ("product_id", "image", "text", "price"):
        assert tabs.column(name) == xml.column(name)
    with pytest.raises(ModisteError, match="document type"):
        read(folder, "evil.xml", '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + FEED[38:])


@pytest.mark.parametrize("kind", ["paths", "pictures", "json"])
def test_lists_of_images_are_rows_of_one_product(kind, folder):
    base = {"sku": ["a", "b"], "title": ["hat", "bag"]}
    if kind == "pictures":
        cells = [[{"bytes": encoded(picture(n)), "path": None} for n in pair] for pair in ((0, 1), (2, 3))]
    else:
        cells = [["0.png", "1.png"], ["2.png", "3.png"]]
    path = folder / ("t.json" if kind == "json" else "t.parquet")
    if kind == "json":
        path.write_text(
            json.dumps([{"sku": s, "title": t, "images": c} for s, t, c in zip(*base.values(), cells, strict=True)])
        )
    else:
        pq.write_table(pa.table({**base, "images": cells}), path)
    catalogue = Table(str(path))()
    assert catalogue.column("product_id") == ["a", "a", "b", "b"]
    assert catalogue.column("pixels") == [
        from_table({"text": ["x"], "image": [f"{n}.png"]}, folder / "images").column("pixels")[0] for n in range(4)
    ]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_text_of_pandas_3_and_polars_is_text(kind, folder):
    table = pa.table({"title": ["hat", "bag"], "image": pa.array(["0.png", "1.png"]).cast(kind), "kind": ["a", "b"]})
    pq.write_table(table.set_column(2, "kind", table["kind"].cast(kind)), folder / "t.parquet")
    catalogue = Table(str(folder / "t.parquet"))()
    assert catalogue.column("image") == ["0.png", "1.png"]
    assert catalogue.column("kind") == ["a", "b"]


def test_numbers_keep_their_type_and_tasks_see_text(folder):
    text = "title,image,stock,price,ean,size,sale\n"
    text += "hat,0.png,3,9.50,0012,38,yes\nbag,1.png,,12,0044,M,no\n"
    catalogue = read(folder, "t.csv", text)
    types = {name: str(catalogue.table.schema.field(name).type) for name in catalogue.attributes}
    assert types == {"stock": "int64", "price": "double", "ean": "string", "size": "string", "sale": "string"}
    assert catalogue.column("stock") == ["3", ""]
    assert catalogue.column("price") == ["9.5", "12"]
    assert catalogue.select(rows=[1]).column("ean") == ["0044"]


def test_columns_that_are_nearly_unique_long_or_numeric_are_no_classes(folder):
    rows = {
        "title": [f"hat {i % 12}" for i in range(40)],
        "image": [f"{i % 12}.png" for i in range(40)],
        "product_id": list(range(40)),
        "colour": ["red", "blue"] * 20,
        "price": [i % 3 + 0.5 for i in range(40)],
        "added": [f"2024-01-{i:02}T10:00" for i in range(40)],
        "about": ["a long story about a hat, " * 4, "and another one about its maker, " * 4] * 20,
    }
    assert from_table(rows, folder / "images").class_attributes == ["colour"]


def test_rows_without_a_product_id_are_products_of_their_own(folder, caplog):
    text = "sku,title,image\n,red hat,0.png\n,blue hat,1.png\na,bag,2.png\na,bag,3.png\n"
    catalogue = read(folder, "t.csv", text)
    assert len(set(catalogue.column("product_id"))) == 3
    assert "2 rows have no product_id" in caplog.text


def test_html_is_removed_and_emoji_right_to_left_text_and_na_are_kept(folder):
    cells = ["<b>Red</b> hat<br>new &amp; soft", "Kleid 👗 38 < 40", "شال أحمر", "NA"]
    text = "title,image\n" + "".join(f"{cell},{n}.png\n" for n, cell in enumerate(cells))
    assert read(folder, "t.csv", text).column("text") == ["Red hat new & soft", "Kleid 👗 38 < 40", "شال أحمر", "NA"]


def test_split_words_of_any_case_are_splits(folder):
    text = "title,image,Split\na,0.png,Train\nb,1.png,Validation\nc,2.png,TEST\n"
    assert read(folder, "t.csv", text).column("split") == ["train", "val", "test"]


def test_a_picture_of_many_products_is_named_and_can_be_dropped(folder, caplog):
    rows = [f"{n},title {n},{n if n < 8 else 9}.png" for n in range(33)]
    text = "sku,title,image\n" + "\n".join(rows)
    with caplog.at_level(logging.WARNING):
        assert len(read(folder, "t.csv", text)) == 33
    assert "25 products share one image" in caplog.text
    catalogue = read(folder, "t.csv", text, placeholders=19)
    assert len(catalogue) == 8
    assert catalogue.column("row") == list(range(8))
    assert len(catalogue.report.bad[PLACEHOLDER]) == 25


def test_addresses_are_refused_without_leave(folder):
    with pytest.raises(ModisteError, match=r"1 of 1 images are URLs .*download=true"):
        read(folder, "t.csv", "title,image\nhat,https://example.org/a.jpg\n")


def test_a_home_folder_is_expanded_and_a_missing_table_says_where_it_was_looked_for(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    (folder / "t.csv").write_text("title,image\nhat,0.png\n")
    assert len(Table("~/t.csv", "~/images")()) == 1
    monkeypatch.chdir(folder)
    with pytest.raises(ModisteError, match=f"Table gone.csv in {folder}"):
        Table("gone.csv")()


def test_a_table_in_memory_is_a_catalogue_in_one_line(folder):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"title": [f"hat {n}" for n in range(12)], "file": [f"{n}.png" for n in range(12)], "sale": [True, False] * 6}
    )
    frame["kind"] = pandas.Categorical(["a", "b", "c"] * 4)
    images = folder / "images"
    for table in (frame, pa.Table.from_pandas(frame), frame[frame.sale | True]):
        catalogue = from_table(table, images, split={"train": 0.5, "val": 0.5})
        assert len(catalogue) == 12
        assert set(catalogue.splits) <= {"train", "val"}
        assert catalogue.column("sale")[:2] == ["True", "False"]
        assert catalogue.column("kind")[:3] == ["a", "b", "c"]
    with pytest.raises(ModisteError, match=r"no column 'titel'. Did you mean 'title'"):
        from_table(frame, images, text="titel")
    with pytest.raises(ModisteError, match="is not a table"):
        from_table([1, 2], images)


TABLE = {"title": ["hat", "bag"], "file": ["0.png", "1.png"]}


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        ({**TABLE, "n": [1]}, {}, "different lengths"),
        ({**TABLE, "n": 5}, {}, "Column 'n' of the table is no list"),
        ({**TABLE, "n": "ab"}, {}, "Column 'n' of the table is no list"),
        (pa.table([*TABLE.values(), [1, 2], [3, 4]], ["title", "file", "n", "n"]), {}, "several columns 'n'"),
        (TABLE, {"images": None}, "images=None: give the folder"),
        (TABLE, {"text": ["title", "file"]}, "name one column; only image takes a list"),
        (TABLE, {"split": 0.8}, "split=0.8: give a column"),
        (TABLE, {"split": ["train", "test"]}, r"split=\['train', 'test'\]: give a column"),
        (TABLE, {"split": {"train": float("nan"), "test": 0.5}}, "positive and sum to 1"),
        (TABLE, {"split": {"train": "x", "test": 0.5}}, "positive and sum to 1"),
        (TABLE, {"split": {1: 0.5, 2: 0.5}}, "numbers by split name"),
        (TABLE, {"max_bad": -1}, "max_bad=-1: give a number of rows"),
        (TABLE, {"max_bad": float("nan")}, "max_bad=nan: give a number of rows"),
        (TABLE, {"max_bad": "few"}, "max_bad='few': give a number of rows"),
    ],
)
def test_a_table_in_memory_that_is_none_says_what_to_give(table, settings, message, folder):
    with pytest.raises(ModisteError, match=message):
        from_table(table, **{"images": folder / "images", **settings})


def test_columns_that_arrow_cannot_hold_are_named(folder):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({**TABLE, "size": [38, "M"]})
    for bad in (frame, frame["title"], frame.set_axis(["title", "file", "file"], axis=1)):
        with pytest.raises(ModisteError, match=r"cannot be read: .*: give columns of one type and different names"):
            from_table(bad, folder / "images")


def test_a_mapping_has_arrays_and_names_of_any_type(folder):
    table = {**TABLE, "n": np.arange(2), 5: pa.array(["a", "b"]), "size": [38, "M"]}
    catalogue = from_table(table, folder / "images")
    assert (catalogue.column("n"), catalogue.column("5"), catalogue.column("size")) == (
        ["0", "1"], ["a", "b"], ["38", "M"],
    )  # fmt: skip


def test_half_an_emoji_is_replaced(folder):
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps({"title": f"hat {n} \ud83d", "image": f"{n}.png"}) + "\n" for n in range(2)))
    assert Table(str(path))().column("text") == ["hat 0 \ufffd", "hat 1 \ufffd"]


def test_a_catalogue_of_placeholders_only_is_refused(folder):
    text = "sku,title,image\n" + "\n".join(f"{n},title {n},9.png" for n in range(3))
    with pytest.raises(ModisteError, match=r"no usable row: .*Raise data.catalogue.placeholders"):
        read(folder, "t.csv", text, placeholders=2)


def test_paths_in_parquet_rows_stay_within_the_folder(folder):
    Image.new("RGB", (8, 8)).save(folder / "secret.png")
    paths = ["0.png", str(folder / "secret.png"), "/dev/zero"]
    cells = [{"bytes": None, "path": path} for path in paths]
    pq.write_table(pa.table({"text": ["a", "b", "c"], "image": cells}), folder / "t.parquet")
    catalogue = Table(str(folder / "t.parquet"), str(folder / "images"))()
    assert len(catalogue) == 1
    assert catalogue.report.bad == {"image outside the folder, or not a regular file": ["1", "2"]}


@pytest.mark.parametrize(
    "name", ["Artikel Nr", "Art.-Nr.", "Artikelnummer", "Item number", "Référence", "Codice", "SKU"]
)
def test_an_article_number_is_the_product_id_in_common_languages(name, folder, caplog):
    text = f"{name};Title;Image;Image 2\nSKU-1;hat;0.png;1.png\n19702;bag;2.png;\n"
    with caplog.at_level(logging.INFO):
        catalogue = read(folder, "t.csv", text)
    assert catalogue.column("product_id") == ["SKU-1", "SKU-1", "19702"]
    assert f"product_id = {name}" in caplog.text
    assert f"images in {folder / 'images'}" in caplog.text


def test_a_column_that_looks_like_ids_gets_a_hint(folder, caplog):
    with caplog.at_level(logging.INFO):
        read(
            folder, "t.csv", "Ware (neu);Title;Image;Code\nA-1001;hat;0.png;x\nA-1002;bag;1.png;x\nA-1003;cap;2.png;x\n"
        )
    assert "'data.catalogue.columns.product_id=\"Ware (neu)\"'" in caplog.text
    assert "each row is a product" in caplog.text  # a code that all rows share is none


def test_rows_without_an_id_are_called_by_their_line_in_the_file(folder):
    text = 'title,image,about\nhat,"0.png,1.png","two\nlines"\nbag,gone.png,\n'
    catalogue = read(folder, "t.csv", text)
    assert catalogue.column("product_id") == ["line 2", "line 2"]
    assert catalogue.report.bad == {"missing image": ["line 4"]}


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ('<p title="a > b">linen</p>shirt', "linen shirt"),
        ("<p title=it's>don't</p>", "don't"),
        ("<!-- a <b> -->wool<!-- not closed", "wool"),
        ("<SCRIPT a>if (a < b) '<p>'</SCRIPT >silk", "silk"),
        ("a<br/>b<o:p>c</o:p> &lt;b&gt; &amp; &#8364;", "a bc <b> & €"),
        ("<b>sizes < 38</b> &#" + 5000 * "9" + ";", "sizes < 38 \ufffd"),
    ],
)
def test_html_is_read_as_browsers_read_it(html, text):
    assert shop.without_html(html) == text


@pytest.mark.parametrize(
    "unit", ["<a ", "<a '", "<a b=", "<!--", "</", "<script", "<a''\"\"", "<a \"'", "<![CDATA[", "&#", " <p>"]
)
def test_no_html_takes_more_than_linear_time(unit):
    for after in ("", ">", "'>"):
        assert_linear(shop.without_html, unit, "<b>", after)


@pytest.mark.parametrize("unit", [" ", "a.jpg ", ".jpg?", "a.jpg,", " http://", "\n "])
def test_no_list_of_images_takes_more_than_linear_time(unit):
    for after in ("x", "\n\nx"):
        assert_linear(shop.references, unit, "a", after)
        assert_linear(lambda text: shop.recognise({"image": [text]}), unit, "a", after)
