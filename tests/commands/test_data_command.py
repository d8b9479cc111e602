import json
import re

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from helpers.commands import modiste
from modiste.commands.data import run
from modiste.config import compose, quote
from modiste.data.build import load
from modiste.data.proposal import write
from modiste.reporting.data_sheet import CELL, HEADING, MARGIN

ROWS = [
    # sku, title, path, colour, fold
    ("s1", "red hat", "0.png", "red", "train"),
    ("s1", "the red hat again", "1.png", "red", "train"),
    ("s2", "blue shirt", "2.png", "blue", "test"),
    ("s3", "red hat", "3.png", "", "test"),
    ("s4", "lost", "gone.png", "red", "test"),
]
COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 0, 0)]


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    monkeypatch.setenv("MODISTE_CACHE", str(tmp_path / "cache"))
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (30, 40), colour).save(tmp_path / f"{number}.png")
    lines = ["sku,title,path,colour,fold", *(",".join(row) for row in ROWS)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    catalogue = {
        "_target_": "modiste.data.datasets.table.Table",
        "path": str(tmp_path / "table.csv"),
        "images": str(tmp_path),
        "columns": {"text": "title", "image": "path", "product_id": "sku", "split": "fold"},
    }
    split = {"_target_": "modiste.data.splits.RandomSplit", "fractions": {"train": 1.0}}
    return OmegaConf.create(
        {
            "data": {"catalogue": catalogue, "split": split},
            "run_dir": str(tmp_path / "run"),
            "seed": 0,
            "scenes": None,
            "write": None,
            "write_to": str(tmp_path / "conf"),
        }
    )


@pytest.fixture
def given(cfg, monkeypatch):
    """With splits that do leak, which no splitter of ours makes."""
    from modiste.config import instantiate

    monkeypatch.setattr("modiste.data.build.load", lambda data: instantiate(data.catalogue)())
    return cfg


def test_data_json_holds_the_counts(given, tmp_path):
    run(given)
    facts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert facts["rows"] == {"read": 5, "kept": 4}
    assert facts["bad"] == {"missing image": ["s4"]}
    assert facts["distinct"] == {"product_id": 3, "pixels": 3, "text": 3}
    assert facts["splits"] == {"train": 2, "test": 2}
    assert facts["columns"] == {
        "colour": {
            "type": "string", "range": None, "values": 2, "missing": 1, "top": [["red", 2], ["blue", 1]], "rarest": 1,
        },
    }  # fmt: skip
    assert facts["leaks"] == {"train – test": {"products": 0, "pixels": 1, "titles": 1}}
    assert facts["text"] == {
        "words_mean": 2.5,
        "words_median": 2,
        "words_95": 2,
        "words_max": 4,
        "characters_max": 17,
    }


def test_the_screen_says_what_was_excluded_what_leaks_and_where_the_sheet_is(given, tmp_path, capsys):
    run(given)
    out = " ".join(capsys.readouterr().out.split())
    for expected in ("5 rows read, 4 kept", "dropped: 1 missing image: s4", "train – test 0 1 1", "red 50.0%"):
        assert expected in out
    assert "sheet.png" in out


def test_the_sheet_shows_every_split_with_its_pictures(given, tmp_path):
    run(given)
    sheet = np.asarray(Image.open(tmp_path / "run" / "sheet.png").convert("RGB"))
    block = (sheet.shape[0] - MARGIN) // 2
    middle = HEADING + (CELL - MARGIN) // 2
    shown = [
        tuple(sheet[split * block + middle, MARGIN + place * CELL + (CELL - MARGIN) // 2].tolist())
        for split in (0, 1)
        for place in (0, 1)
    ]
    assert shown == COLOURS


def test_the_sheet_is_the_same_for_a_seed(cfg, tmp_path):
    pictures = []
    for _ in range(2):
        run(cfg)
        pictures.append((tmp_path / "run" / "sheet.png").read_bytes())
    assert pictures[0] == pictures[1]


def test_the_split_of_the_config_is_applied(cfg, tmp_path):
    run(cfg)
    assert json.loads((tmp_path / "run" / "data.json").read_text())["splits"] == {"train": 4}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A semicolon table of a German shop in cp1252, with prices, HTML and column names with spaces."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "photos").mkdir()
    lines = ["SKU;Product title;Bild;Größe EU;Preis;Bestand;Beschreibung"]
    for number in range(30):
        Image.new("RGB", (12, 16), (8 * number, 40, 99)).save(folder / "photos" / f"{number}.png")
        lines.append(
            f"{number:05};Kleid Nr. {number};{number}.png;{'SML'[number % 3]};{9.5 + number:.2f};{number};"
            f'"<p>Schönes Kleid Nr. {number} für alle Tage, an die man sich gern erinnert &amp; mehr</p>"'
        )
    (folder / "shop.csv").write_text("\n".join(lines), encoding="cp1252")
    return folder


@pytest.mark.slow
def test_a_table_alone_is_enough_and_is_kept_as_a_data_set(shop):
    done = modiste("data", "shop.csv", "write=mode", cwd=shop)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cp1252, cells separated by semicolons; 30 rows, 7 columns" in done.stdout + done.stderr
    rows = {line.split()[0]: " ".join(line.split()) for line in done.stdout.splitlines() if line.strip()}
    assert "Größe EU classes" in rows["Größe"]
    assert "from 9.5 to 38.5" in done.stdout
    assert "Beschreibung text, too varied for classes" in " ".join(done.stdout.split())
    hint = r"Train on it: modiste train --config-dir conf data=mode data\.batch_size=(4|8|16)$"
    assert re.search(hint, done.stdout, re.MULTILINE)
    again = modiste("data", "--config-dir", "conf", "data=mode", "name=again", cwd=shop)
    assert again.returncode == 0, again.stdout + again.stderr
    (facts,) = (json.loads(path.read_text()) for path in (shop / "runs/data/again").glob("*/data.json"))
    assert facts["card"]["name"] == "mode"
    assert facts["classes"] == ["Größe EU"]
    assert {name: column["type"] for name, column in facts["columns"].items()} == {
        "Größe EU": "string", "Preis": "double", "Bestand": "int64", "Beschreibung": "string",
    }  # fmt: skip
    refused = modiste("data", "shop.csv", "write=mode", cwd=shop)
    assert (refused.returncode, "exists: choose another write=NAME" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["gone.csv"], "Table 'gone.csv' does not exist"), (["shop.csv", "shop.csv"], "is a second table")],
)
def test_a_table_that_is_not_there_is_one_sentence(words, message, shop):
    done = modiste("data", *words, cwd=shop)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", ["", "image,text,price\n"], ids=["empty", "header only"])
def test_a_table_without_rows_is_one_sentence(content, tmp_path):
    (tmp_path / "shop.csv").write_text(content)
    done = modiste("data", "shop.csv", cwd=tmp_path)
    assert done.returncode
    assert done.stderr.splitlines()[-1].endswith("The table has no rows: give one with a header and at least one row.")


def test_a_data_set_written_of_a_strangers_table_holds_plain_values_alone(tmp_path, monkeypatch):
    """The file is trusted later: neither the table's name nor its columns say more in it than they are."""
    monkeypatch.setenv("secret", "hunter2")
    column, word = "${oc.env:secret,a}", "# x\n@package _global_\nhydra: {x: 1}\nseed: 7\n#.csv"
    place = tmp_path / "theirs"
    place.mkdir()
    lines = [f'image,text,product_id,"{column}"']
    for number in range(12):
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(place / f"{number}.png")
        lines.append(f"{number}.png,a dress {number},p{number},kind {number % 2}")
    (place / word).write_text("\n".join(lines))
    config = compose("data", ["data=table", f"data.catalogue.path={quote(str(place / word))}"])
    catalogue = load(config.data)
    assert column.lower() in catalogue.attributes or column in catalogue.attributes
    write("shop", config.data, catalogue, tmp_path / "conf")
    again = compose("train", ["data=shop"], [tmp_path / "conf"])
    assert again.seed == 0
    assert [f"a photo of a product, {column}: {{}}"] in OmegaConf.to_container(
        again.data.prompts, resolve=True
    ).values()
    assert again.data.catalogue.path == str(place / word)
