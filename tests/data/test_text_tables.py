"""Text tables: what a spreadsheet or a shop writes is read as it was meant, or refused with its line."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest

from modiste.data import text_tables
from modiste.data.text_tables import TextFormat, parse_table, read_text
from modiste.errors import ModisteError

HEADER = "sku,title,image\n"
ROWS = [("0", "Robe d'été, rouge – 19,90 €", "0.jpg"), ("1", 'Hose 32" lang', "1.jpg"), ("2", "a\nb", "2.jpg")]


def table(delimiter=","):
    quoted = [[f'"{cell}"'.replace('32"', '32""') for cell in row] for row in ROWS]
    return "\n".join(delimiter.join(row) for row in [["sku", "title", "image"], *quoted])


def zipped(data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.csv", data)
    return buffer.getvalue()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_encoding_and_delimiter_are_recognised(encoding, delimiter, tmp_path):
    (tmp_path / "t.csv").write_bytes(table(delimiter).encode(encoding))
    text, found = read_text(tmp_path / "t.csv")
    columns, found = parse_table(text, found, suffix=".csv")
    assert list(zip(*columns.values(), strict=True)) == ROWS
    assert (found.encoding, found.delimiter, found.quoted) == (encoding, delimiter, True)


@pytest.mark.parametrize(
    ("name", "pack"), [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress), ("zip", zipped)]
)
def test_compression_is_recognised_by_content(name, pack, tmp_path):
    (tmp_path / "t.csv").write_bytes(pack(table().encode()))
    text, found = read_text(tmp_path / "t.csv")
    assert text == table()
    assert found.compression == name


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zipped])
def test_a_small_file_does_not_decompress_into_a_large_table(pack, tmp_path, monkeypatch):
    """205 KB became 200 MB, and 1.4 GB of cells."""
    monkeypatch.setattr(text_tables, "FREE_TEXT", 100_000)
    (tmp_path / "t.csv").write_bytes(pack(b"a,b\n" + b"x" * 90_000))
    assert len(read_text(tmp_path / "t.csv")[0]) == 90_004
    (tmp_path / "t.csv").write_bytes(pack(b"a,b\n" + b"x" * 900_000))
    with pytest.raises(ValueError, match="decompress to more than 100,"):
        read_text(tmp_path / "t.csv")


def test_the_size_that_a_zip_file_claims_is_not_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(text_tables, "FREE_TEXT", 100_000)
    content = bytearray(zipped(b"a,b\n" + b"x" * 900_000))
    entry = content.rindex(b"PK\1\2")
    content[entry + 20 : entry + 24] = (10**9).to_bytes(4, "little")  # the compressed size in the directory
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(Exception, match=r"decompress to more than 100,|Overlapped entries"):
        read_text(tmp_path / "t.csv")


def test_empty_cells_are_no_values_of_a_table(monkeypatch):
    monkeypatch.setattr(text_tables, "FREE_CELLS", 1000)
    header = ",".join(map("c{}".format, range(500)))
    assert len(parse_table(f"{header}\n1{499 * ','}\n", TextFormat())[0]) == 500
    with pytest.raises(ModisteError, match="has only 3 cells with a value: remove rare columns"):
        parse_table(f"{header}\n" + 3 * ("1" + 499 * "," + "\n"), TextFormat())


def test_a_long_header_over_short_rows_is_no_table():
    """39 KB of them became 31 million cells."""
    names = ",".join(f"c{i}" for i in range(3000))
    assert len(parse_table(names + "\n" + "x\n" * 1000, TextFormat())[0]) == 3000
    with pytest.raises(ModisteError, match=r"2,000 rows and 3,000 columns has only 2,000 cells with a value"):
        parse_table(names + "\n" + "x\n" * 2000, TextFormat())


def test_what_is_given_overrides_what_would_be_recognised(tmp_path):
    (tmp_path / "t.csv").write_bytes("a;b,c\nñ;1,2\n".encode("cp1252"))
    text, found = read_text(tmp_path / "t.csv", "cp437")
    columns, _ = parse_table(text, found, ",")
    assert columns == {"a;b": ["±;1"], "c": ["2"]}
    with pytest.raises(ValueError, match=r"line 2 is not utf-8 .*data.catalogue.encoding"):
        read_text(tmp_path / "t.csv", "utf-8")
    with pytest.raises(ValueError, match="encoding utf8000 is unknown"):
        read_text(tmp_path / "t.csv", "utf8000")


def test_a_spreadsheets_own_word_for_the_delimiter_is_heeded_and_a_tab_may_be_spelled_out():
    assert parse_table("sep=;\na;b\n1;2\n", TextFormat())[0] == {"a": ["1"], "b": ["2"]}
    for word in ("\\t", "tab", "\t"):
        assert parse_table("a\tb\n1\t2\n", TextFormat(), word)[0] == {"a": ["1"], "b": ["2"]}


def test_stray_quotes_in_a_table_without_quoting_are_ordinary_characters():
    rows = "".join(f"{i}\t{chr(34) if i in (5, 30) else ''}title {i}\t{i}.jpg\n" for i in range(40))
    columns, found = parse_table("id\ttitle\timage\n" + rows, TextFormat())
    assert len(columns["id"]) == 40
    assert columns["title"][5] == '"title 5'
    assert not found.quoted


@pytest.mark.parametrize("closed", ["title 30", 'title 30"'])
def test_a_quote_that_swallows_rows_names_its_line(closed):
    rows = [f"{i},title {i},{i}.jpg,x,y\n" for i in range(40)]
    rows[5] = '5,"title 5,5.jpg,x,y\n'
    rows[30] = f"30,{closed},30.jpg,x,y\n"
    rows[35] = '35,"a, b",35.jpg,x,y\n'  # so that the table does quote
    with pytest.raises(ValueError, match=r"line 7: a quote is opened .*quoting=none"):
        parse_table("id,title,image,c,d\n" + "".join(rows), TextFormat())


def test_a_description_of_several_lines_with_commas_is_no_swallowed_row():
    text = 'id,title,image\n1,"Soft, warm, red\nNice, cosy, blue\nOld, grey",1.jpg\n2,b,2.jpg\n'
    assert parse_table(text, TextFormat())[0]["id"] == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n1,2,3\n", "line 3 has 3 cells, not 2"),
        ("a,b,a\n1,2,3\n", "two columns are named 'a'"),
        ('a,b\n1,"2\n3,4\n', "line 2: a quote is opened"),
    ],
)
def test_mistakes_name_the_line(text, message):
    with pytest.raises(ValueError, match=message):
        parse_table(text, TextFormat(), ",", True)


def test_the_end_of_lines_and_empty_rows_do_not_matter():
    expected = {"a": ["1", "2"], "b": ["x", ""]}
    for end in ("\n", "\r\n", "\r"):
        assert parse_table(end.join(["a,b,", "1,x,", "", ",,", "2"]), TextFormat(), ",")[0] == expected
