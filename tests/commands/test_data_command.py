import json

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from modiste.commands.data import CELL, HEADING, MARGIN, run

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
        {"data": {"catalogue": catalogue, "split": split}, "run_dir": str(tmp_path / "run"), "seed": 0}
    )


@pytest.fixture
def given(cfg, monkeypatch):
    """With splits that do leak, which no splitter of ours makes."""
    import modiste.commands.data as command
    from modiste.config import instantiate

    monkeypatch.setattr(command, "load", lambda data: instantiate(data.catalogue)())
    return cfg


def test_data_json_holds_the_counts(given, tmp_path):
    run(given)
    facts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert facts["rows"] == {"read": 5, "kept": 4}
    assert facts["bad"] == {"missing image": ["s4"]}
    assert facts["distinct"] == {"product_id": 3, "pixels": 3, "text": 3}
    assert facts["splits"] == {"train": 2, "test": 2}
    assert facts["columns"] == {
        "colour": {"values": 2, "missing": 1, "top": [["red", 2], ["blue", 1]], "rarest": 1},
    }
    assert facts["leaks"] == {"train – test": {"products": 0, "pixels": 1, "titles": 1}}
    assert facts["text"] == {
        "words_mean": 2.5,
        "words_median": 2,
        "words_95": 2,
        "words_max": 4,
        "characters_max": 17,
    }


def test_the_screen_says_what_was_left_out_what_leaks_and_where_the_sheet_is(given, tmp_path, capsys):
    run(given)
    out = " ".join(capsys.readouterr().out.split())
    for expected in ("5 rows read, 4 kept", "left out: 1 missing image: s4", "train – test 0 1 1", "red 50.0%"):
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
