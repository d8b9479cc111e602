import contextlib
import csv
import gzip
import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.tiny_data import encoded, picture
from modiste.data.catalogue import UNSAFE_IMAGE, hash_pixels
from modiste.data.datasets.table import Table, concatenated, map_columns, read_table
from modiste.errors import ModisteError

HEADER = ["sku", "title", "path", "Colour", "price", "fold"]
ROWS = [
    ["s1", "Hat, knitted", "a.png", "NA", "10", "train"],
    ["s1", "Hat from behind", "sub/b.png", "red", "10", "train"],
    ["s2", 'Shirt 3.5" long\nslim', "c.png", "", "2.5", "validation"],
]
COLUMNS = {"text": "title", "image": "path", "product_id": "sku", "split": "fold"}


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    for number, row in enumerate(ROWS):
        (root / row[2]).write_bytes(encoded(picture(number)))
    return str(root)


def write_delimited(path, rows=ROWS, header=HEADER, delimiter=",", encoding="utf-8", opener=open):
    with opener(path, "wt", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])


def write_jsonl(path, opener=open):
    with opener(path, "wt", encoding="utf-8") as file:
        for row in ROWS:
            file.write(json.dumps({name: cell for name, cell in zip(HEADER, row, strict=True) if cell}) + "\n")


def write_parquet(path):
    pq.write_table(pa.table({name: [row[i] or None for row in ROWS] for i, name in enumerate(HEADER)}), path)


WRITERS = {
    "t.csv": write_delimited,
    "t.tsv": lambda path: write_delimited(path, delimiter="\t"),
    "t.txt": lambda path: write_delimited(path, delimiter="\t"),
    "excel.csv": lambda path: write_delimited(path, encoding="utf-8-sig"),
    "t.csv.gz": lambda path: write_delimited(path, opener=gzip.open),
    "t.jsonl": write_jsonl,
    "t.ndjson": write_jsonl,
    "t.jsonl.gz": lambda path: write_jsonl(path, gzip.open),
    "t.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_table_gives_the_same_catalogue(name, tmp_path, images):
    WRITERS[name](tmp_path / name)
    catalogue = Table(str(tmp_path / name), images, COLUMNS)()
    assert catalogue.column("product_id") == ["s1", "s1", "s2"]
    assert catalogue.column("text") == ["Hat, knitted", "Hat from behind", 'Shirt 3.5" long\nslim']
    assert catalogue.column("split") == ["train", "train", "val"]
    assert catalogue.attributes == ["Colour", "price"]
    assert catalogue.column("Colour") == ["NA", "red", ""]
    assert catalogue.column("price") == ["10", "10", "2.5"]
    assert catalogue.column("pixels") == [hash_pixels(picture(i)) for i in range(3)]


def test_a_delimiter_may_be_given(tmp_path, images):
    write_delimited(tmp_path / "t.csv", delimiter=";")
    assert len(Table(str(tmp_path / "t.csv"), images, COLUMNS, delimiter=";")()) == 3
    write_delimited(tmp_path / "t.dat", delimiter="|")
    assert len(Table(str(tmp_path / "t.dat"), images, COLUMNS, delimiter="|")()) == 3


def test_images_may_be_in_a_zip_file(tmp_path, images):
    write_delimited(tmp_path / "t.csv")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number, row in enumerate(ROWS):
            archive.writestr(row[2], encoded(picture(number)))
    zipped = Table(str(tmp_path / "t.csv"), str(tmp_path / "images.zip"), COLUMNS)()
    assert zipped.fingerprint() == Table(str(tmp_path / "t.csv"), images, COLUMNS)().fingerprint()


def test_images_may_be_in_the_parquet_file(tmp_path):
    cells = [{"bytes": encoded(picture(i)), "path": f"{i}.png"} for i in range(3)]
    pq.write_table(pa.table({"photo": cells, "title": ["a", "b", "c"], "size": [38, None, 40]}), tmp_path / "t.parquet")
    catalogue = Table(str(tmp_path / "t.parquet"), columns={"text": "title", "image": "photo"})()
    assert catalogue.column("pixels") == [hash_pixels(picture(i)) for i in range(3)]
    assert catalogue.column("size") == ["38", "", "40"]
    assert len(set(catalogue.column("product_id"))) == 3


def test_without_a_product_id_an_image_is_a_product(tmp_path, images):
    write_delimited(tmp_path / "t.csv")
    catalogue = Table(str(tmp_path / "t.csv"), images, {**COLUMNS, "product_id": "path"})()
    assert catalogue.column("product_id") == [row[2] for row in ROWS]
    assert catalogue.attributes == ["sku", "Colour", "price"]


def test_attributes_may_be_listed_and_renamed(tmp_path, images):
    write_delimited(tmp_path / "t.csv")
    path = str(tmp_path / "t.csv")
    assert Table(path, images, COLUMNS, attributes=["price"])().attributes == ["price"]
    renamed = Table(path, images, {**COLUMNS, "colour": "Colour"}, attributes=[])()
    assert renamed.attributes == ["colour"]
    assert renamed.column("colour") == ["NA", "red", ""]


def test_a_column_of_the_users_cannot_pass_for_one_of_the_catalogues(tmp_path, images, caplog):
    header = ["sku", "title", "path", "pixels", "row", "text"]
    write_delimited(tmp_path / "t.csv", header=header)
    catalogue = Table(str(tmp_path / "t.csv"), images, {"text": "title", "image": "path", "product_id": "sku"})()
    assert catalogue.attributes == []
    assert catalogue.column("pixels")[0] == hash_pixels(picture(0))
    assert catalogue.column("row") == [0, 1, 2]
    assert catalogue.column("text")[0] == "Hat, knitted"
    assert "not used: pixels, row, text, since a catalogue has columns of these names" in caplog.text


def test_columns_that_can_be_no_attributes_are_named(caplog):
    raw = {"title": ["a hat"], "file": ["1.jpg"], "size": [{"width": 3}], "note": [None], "price": [9.5]}
    kept = map_columns(raw, {"text": "title", "image": "file"}, None, "x")
    assert [*kept] == ["text", "image", "product_id", "price"]
    assert caplog.messages == ["x: not used: size, note, which are empty or nested"]
    caplog.clear()
    map_columns(raw, {"text": "title", "image": "file"}, ["price"], "x")
    assert not caplog.messages, "the attributes were chosen"


@pytest.mark.parametrize(
    "settings", [{"columns": {**COLUMNS, "pixels": "Colour"}}, {"columns": COLUMNS, "attributes": ["pixels"]}]
)
def test_a_table_cannot_claim_what_its_pixels_are(tmp_path, images, settings):
    write_delimited(tmp_path / "t.csv", header=["pixels" if name == "price" else name for name in HEADER])
    with pytest.raises(ModisteError, match="pixels is computed from the images: give the table's column another name"):
        Table(str(tmp_path / "t.csv"), images, **settings)()
    own = Table(str(tmp_path / "t.csv"), images, {**COLUMNS, "cost": "pixels"})()
    assert "cost" in own.attributes
    assert own.column("pixels")[0] == hash_pixels(picture(0))


def test_small_files_are_not_spread_over_large_tables(tmp_path, images):
    """Records of one key each, and one row of many captions, take rows × columns cells."""
    records = [{f"{i:x}": 1} for i in range(3000)]
    for name, content in (("t.json", json.dumps(records)), ("t.jsonl", "\n".join(map(json.dumps, records)))):
        (tmp_path / name).write_text(content)
        with pytest.raises(ModisteError, match=r"3,000 rows and 3,000 columns has only 3,000 cells with a value"):
            read_table(tmp_path / name)
    captions = [["x"] * 30_000] + [["x"]] * 300
    with pytest.raises(ModisteError, match=r"301 rows and 30,000 columns"):
        map_columns({"c": captions, "i": ["a.png"] * 301}, {"text": "c", "image": "i"}, None, "x")
    with pytest.raises(ModisteError, match=r"60,001 rows and 201 columns"):
        concatenated([{"a": [1] * 60_000}, {f"c{i}": [1] for i in range(200)}])


def test_several_captions_in_a_cell_become_columns(tmp_path, images):
    records = [
        {"image": "a.png", "captions": ["one", "two", "three"], "tags": ["red", "wool"]},
        {"image": "c.png", "captions": ["four"], "tags": []},
        {"image": "sub/b.png", "captions": [], "tags": None},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, records)))
    catalogue = Table(str(tmp_path / "t.jsonl"), images, {"text": "captions", "image": "image"})()
    assert catalogue.column("text") == ["one", "four"]
    assert catalogue.column("text_2") == ["two", ""]
    assert catalogue.column("text_3") == ["three", ""]
    assert catalogue.column("tags") == ["red, wool", ""]
    assert catalogue.report.bad == {"empty caption": ["sub/b.png"]}


def test_nested_cells_are_no_attributes(tmp_path, images):
    record = {"image": "a.png", "text": "x", "box": {"x": 1}, "sizes": [1, 2], "in_stock": True}
    (tmp_path / "t.jsonl").write_text(json.dumps(record))
    catalogue = Table(str(tmp_path / "t.jsonl"), images)()
    assert catalogue.attributes == ["in_stock"]
    assert catalogue.column("in_stock") == ["True"]


def test_bad_rows_are_reported_with_the_products_own_ids(tmp_path, images):
    write_delimited(tmp_path / "t.csv", [*ROWS, ["s9", "gone", "gone.png", "", "", "train"], ["s8", "", "c.png"]])
    report = Table(str(tmp_path / "t.csv"), images, COLUMNS)().report
    assert report.bad == {"missing image": ["s9"], "empty caption": ["s8"]}


def test_paths_out_of_the_folder_are_bad_rows(tmp_path, images):
    (tmp_path / "secret.png").write_bytes(encoded(picture(9)))
    write_delimited(tmp_path / "t.csv", [*ROWS, ["s9", "secret", "../secret.png", "", "", "train"]])
    assert Table(str(tmp_path / "t.csv"), images, COLUMNS)().report.bad == {UNSAFE_IMAGE: ["s9"]}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({**COLUMNS, "text": "titel"}, r"columns\.text: data set 'table' has no column 'titel'. Did you mean 'title'"),
        ({**COLUMNS, "colour": "colour"}, r"columns\.colour: .* Did you mean 'Colour'"),
        (
            {"text": "title"},
            r"no column found for image: set data\.catalogue\.columns\.image=<column>, one of: sku, title",
        ),
        ({"image": "path", "text": None}, r"no column found for text"),
    ],
)
def test_a_wrong_column_is_answered_with_the_likely_one(tmp_path, images, columns, message):
    header = ["sku", "title", "where", "Colour", "price", "fold"] if "image" not in columns else HEADER
    header = ["sku", "words", *header[2:]] if columns.get("text", "") is None else header
    write_delimited(tmp_path / "t.csv", [[*row[:2], row[2][:-4], *row[3:]] for row in ROWS], header)
    with pytest.raises(ModisteError, match=message):
        Table(str(tmp_path / "t.csv"), images, columns)()


def test_a_wrong_attribute_is_answered_with_the_likely_one(tmp_path, images):
    write_delimited(tmp_path / "t.csv")
    with pytest.raises(ModisteError, match=r"attributes: .* Did you mean 'price'"):
        Table(str(tmp_path / "t.csv"), images, COLUMNS, attributes=["prize"])()


def test_mistakes_about_files_have_a_remedy(tmp_path, images):
    with pytest.raises(ModisteError, match=r"Table .*gone\.csv"):
        Table(str(tmp_path / "gone.csv"), images)()
    (tmp_path / "t.xlsx").write_text("")
    with pytest.raises(ModisteError, match=r"suffix '\.xlsx'"):
        Table(str(tmp_path / "t.xlsx"), images)()
    write_delimited(tmp_path / "t.csv")
    with pytest.raises(ModisteError, match=r"neither a folder nor a zip file"):
        Table(str(tmp_path / "t.csv"), str(tmp_path / "nowhere"), COLUMNS)()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a,b\n1,2\n1,2,3\n", r"line 3 has 3 cells, not 2"),
        ("t.csv.gz", b"\x1f\x8bno", "cannot be read as its file type"),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', "Expecting value"),
        ("t.jsonl", b"[1, 2]\n", "JSON object"),
        ("t.parquet", b"PAR1 no", "cannot be read as its file type"),
    ],
)
def test_damaged_tables_are_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModisteError, match=message):
        read_table(tmp_path / name)
    with pytest.raises(ModisteError, match=message):
        Table(str(tmp_path / name), str(tmp_path))()


def test_a_very_long_cell_is_read(tmp_path):
    write_delimited(tmp_path / "t.csv", [["x" * 300_000, "b"]], ["a", "b"])
    assert len(read_table(tmp_path / "t.csv")["a"][0]) == 300_000


def test_local_files_are_read_without_a_word_to_the_hub(tmp_path, monkeypatch):
    """`datasets` reports every load, also of files on disk, unless it is told not to."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    seen = []
    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *words, **options: seen.append(datasets.config.HF_UPDATE_DOWNLOAD_COUNTS) or load(*words, **options),
    )
    pq.write_table(
        pa.table({"text": ["a hat"], "image": [{"bytes": encoded(picture(0)), "path": None}]}), tmp_path / "a.parquet"
    )
    assert len(Table(str(tmp_path / "a.parquet"))()) == 1
    assert seen == [False]
    assert datasets.config.HF_UPDATE_DOWNLOAD_COUNTS


@pytest.mark.parametrize(
    ("key", "cell"), [("id", {"a": 1}), ("id", ["x", "y"]), ("image", "0.png"), ("image", 7), ("image", {"bytes": "x"})]
)
def test_a_cell_of_another_kind_is_a_bad_row_or_a_word(tmp_path, key, cell):
    """One mutated cell in JSON: an id that is no plain value, a path among pictures."""
    picture(1).save(tmp_path / "0.png")
    rows = [{"image": "0.png", "text": "a hat", "id": str(number)} for number in range(3)]
    if key == "image":
        rows[0]["image"] = {"bytes": None}
    rows[1][key] = cell
    (tmp_path / "t.json").write_text(json.dumps(rows))
    with contextlib.suppress(ModisteError):  # pictures of no kind that is known leave no usable row
        assert 1 <= len(Table(str(tmp_path / "t.json"), str(tmp_path), {"product_id": "id"})()) <= 3
