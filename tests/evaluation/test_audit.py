"""`modiste audit` on folders of drawings whose copies are known."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import modiste.evaluation.audit as audit_module
from modiste.commands.audit import run
from modiste.config import compose
from modiste.config.invocation import Invocation
from modiste.data.build import load
from modiste.errors import ModisteError
from modiste.evaluation.audit_report import CAPTION, HEADING, MARGIN, THUMB
from modiste.evaluation.subject import Subject


def drawing(number):
    small = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((60, 80), Image.Resampling.BICUBIC)


def copy_of(number):
    buffer = io.BytesIO()
    drawing(number).save(buffer, "JPEG", quality=75)
    return Image.open(buffer).convert("RGB")


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """One data set: 0 to 5 to train, then a copy of 0, a re-encoded 1 and 2, and two of its own to evaluate."""
    monkeypatch.setenv("MODISTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    pictures = [*map(drawing, range(6)), copy_of(1), drawing(10), drawing(11), copy_of(2)]
    splits = ["train"] * 6 + ["test"] * 4
    titles = ["hat", "tie", "bag", "shoe", "belt", "coat", "red tie", "SHOE.", "scarf", "sock"]
    return write_table(tmp_path / "shop", pictures, splits, titles)


def write_table(folder, pictures, splits, titles):
    folder.mkdir()
    lines = ["image,text,fold,sku"]
    for i, (picture, split, title) in enumerate(zip(pictures, splits, titles, strict=True)):
        picture.save(folder / f"{i}.png")
        lines.append(f"{i}.png,{title},{split},{folder.name}-{i}")
    (folder / "table.csv").write_text("\n".join(lines))
    return [
        "data=table",
        f"data.catalogue.path={folder}/table.csv",
        f"data.catalogue.images={folder}",
        f"data.catalogue.name={folder.name}",
        "data.catalogue.columns={image:image,text:text,split:fold,product_id:sku}",
        "data/split=given",
    ]


def audit(*overrides):
    run(compose("audit", ["copies=false", *overrides]))


def save_run(config, folder):
    """A run directory as far as an audit reads it."""
    folder.mkdir()
    OmegaConf.save(OmegaConf.create(OmegaConf.to_container(config, resolve=True)), folder / "config.yaml")


def read(folder):
    return json.loads((folder / "audit.json").read_text())


def images(facts):
    return {name: measure["images"] for name, measure in facts["measures"].items()}


def test_counts_shares_and_pairs_are_written(shop, tmp_path, capsys):
    audit(*shop)
    folder = tmp_path / "runs" / "audit" / "shop-shop"
    facts = read(folder)
    assert images(facts) == {"identical": 0, "near": 2, "title": 1, "similar title": 1, "product": 0}
    assert facts["measures"]["near"]["share"] == 0.5
    assert "4 of 64 bits" in facts["measures"]["near"]["meaning"]
    assert (facts["train"]["rows"], facts["test"]["rows"], facts["test"]["splits"]) == (6, 4, ["test"])
    assert {pair["test_product_id"]: pair["train_product_id"] for pair in facts["closest"]["near"]} == {
        "shop-6": "shop-1",
        "shop-9": "shop-2",
    }
    distances = [pair["distance"] for pair in facts["closest"]["near"]]
    assert distances == sorted(distances)
    rows = list(csv.DictReader((folder / "pairs.csv").open(encoding="utf-8")))
    assert [(row["measure"], row["test_text"], row["train_text"]) for row in rows] == [
        ("near", "red tie", "tie"),
        ("near", "sock", "bag"),
        ("title", "SHOE.", "shoe"),
        ("similar title", "SHOE.", "shoe"),
    ]
    out = " ".join(capsys.readouterr().out.split())
    for expected in ("near 2 50.00%", "shop-6: red tie", "pairs.png", "6 images (train)"):
        assert expected in out


def test_the_sheet_shows_the_evaluated_picture_left_and_the_training_picture_right(shop, tmp_path):
    audit(*shop, "out=out")
    sheet = Image.open(tmp_path / "out" / "pairs.png").convert("RGB")
    (first, *_) = read(tmp_path / "out")["closest"]["near"]
    for offset, side in ((0, "test"), (THUMB[0] + 2, "train")):
        number = int(first[f"{side}_product_id"].rpartition("-")[2])
        expected = Image.open(tmp_path / "shop" / f"{number}.png").resize(THUMB)
        box = (MARGIN + offset, HEADING, MARGIN + offset + THUMB[0], HEADING + THUMB[1])
        np.testing.assert_array_equal(np.asarray(sheet.crop(box)), np.asarray(expected))
    assert sheet.height == HEADING + THUMB[1] + CAPTION + MARGIN


def test_no_pair_leaves_no_sheet_not_even_an_earlier_one(shop, tmp_path):
    audit(*shop, "out=out")
    audit(*shop, "out=out", "hamming=0", "colour=0")
    assert not (tmp_path / "out" / "pairs.png").exists()
    assert images(read(tmp_path / "out"))["near"] == 0


def test_two_data_sets(shop, tmp_path, capsys):
    other = write_table(
        tmp_path / "other", [drawing(10), drawing(11), drawing(6)], ["train", "val", "train"], ["scarf", "b", "c"]
    )
    entry = ", ".join(f"{key}: {value}" for key, _, value in (word.partition("=") for word in other))
    audit(*shop, f"other={{{entry}}}")
    facts = read(tmp_path / "runs" / "audit" / "other-shop")
    assert images(facts) == {"identical": 1, "near": 1, "title": 1, "similar title": 1}
    assert facts["closest"]["near"] == []  # identical ones need not be looked at
    assert "not compared" in " ".join(capsys.readouterr().out.split())
    audit(*shop, f"other={{{entry}}}", "train_split=all")
    facts = read(tmp_path / "runs" / "audit" / "other-shop")
    assert (images(facts)["identical"], facts["test"]["rows"]) == (2, 4)
    audit(*shop, f"other={{{entry}}}", "split=all")
    facts = read(tmp_path / "runs" / "audit" / "other-shop")
    assert (facts["test"]["rows"], facts["test"]["splits"]) == (10, ["test", "train"])


def test_another_data_set_by_its_name(shop, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(audit_module, "load", lambda data: loaded.append(data.name) or load(data))
    with pytest.raises(ModisteError, match=r"train-images-idx3-ubyte.* is missing"):
        audit(*shop, "other=fashion_mnist", f"data_dir={tmp_path}")
    assert loaded == ["table", "fashion_mnist"]


def test_small_pictures_and_class_names_are_pointed_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MODISTE_CACHE", str(tmp_path / "cache"))
    pictures = [drawing(number).resize((28, 28)) for number in range(24)]
    audit(
        *write_table(tmp_path / "small", pictures, ["train", "test"] * 12, ["shirt", "shirt"] * 12),
        f"out={tmp_path}/out",
    )
    out = " ".join(capsys.readouterr().out.split())
    assert "small (28 pixels)" in out
    assert "titles: 1." in out


class Pixels:
    """The picture as it is."""

    def __call__(self, image):
        return torch.from_numpy(np.asarray(image, dtype=np.float32).transpose(2, 0, 1).copy())

    def describe(self):
        return {}


def test_a_run_gives_the_training_side_and_its_model_the_embeddings(shop, tmp_path, monkeypatch):
    class Model(torch.nn.Module):
        """Embeds the mean colour."""

        embed_dim, preprocess = 3, Pixels()

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def encode_image(self, pixels):
            return torch.nn.functional.normalize(pixels.mean(dim=(2, 3)) * self.scale, dim=-1)

    monkeypatch.setattr(audit_module, "subject_of", lambda cfg, choice: Subject(cfg.run, cfg.run, Model()))
    config = compose("train", [*shop, "run_dir=x"])
    save_run(config, tmp_path / "run")
    audit("run=run", "cosine=0.9999", "out=out")  # without data=, the run's own
    facts = read(tmp_path / "out")
    assert facts["settings"]["model"]["name"] == "run"
    vectors = [np.asarray(Image.open(tmp_path / "shop" / f"{i}.png"), dtype=float).mean(axis=(0, 1)) for i in range(10)]
    unit = np.stack([vector / np.linalg.norm(vector) for vector in vectors])
    nearest = (unit[6:] @ unit[:6].T).max(axis=1)
    assert {pair["test_product_id"] for pair in facts["closest"]["embedding"]} >= {"shop-6", "shop-9"}
    assert images(facts)["embedding"] == (nearest >= 0.9999).sum()
    assert images(facts)["near"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train_split=test"], "rows in common: set other"),
        (["split=all"], "rows in common: set other"),
        (["train_split=all"], "rows in common: set other"),
        (["split=null"], "'split' is null: it takes text"),
        (["split=tests"], "Did you mean 'test'"),
        (["run=absent"], "no run directory absent"),
    ],
)
def test_mistakes_are_one_sentence(shop, words, message):
    with pytest.raises(ModisteError, match=message):
        audit(*shop, *words)


def test_a_runs_model_compares_two_other_catalogues(shop, tmp_path, monkeypatch):
    save_run(compose("train", ["run_dir=x"]), tmp_path / "run")  # of the synthetic catalogue
    chosen = []
    monkeypatch.setattr(audit_module, "subject_of", lambda cfg, choice: chosen.append(cfg.run))
    entry = ", ".join(f"{key}: {value}" for key, _, value in (word.partition("=") for word in shop))
    words = (*shop, "run=run", f"other={{{entry}}}", "log_dir=logs", "copies=false")
    audit_module.audit_config(compose("audit", words), Invocation(overrides=words))
    facts = read(tmp_path / "logs" / "audit" / "shop-shop")
    assert chosen == ["run"]
    assert (facts["train"]["data"], facts["test"]["data"], images(facts)["near"]) == ("shop", "shop", 2)


def test_changed_copies_are_counted_and_what_is_not_seen_is_said(shop, tmp_path, capsys):
    audit(*shop, "out=out", "copies=true")
    facts = read(tmp_path / "out")
    assert images(facts)["copy"] == 2  # the re-encoded ones; tests/evaluation/test_copies.py has the changed ones
    assert any(note.startswith("Not detected: other photographs") for note in facts["notes"])
    audit(*shop, "out=out")
    assert "were not searched for: set copies=true" in " ".join(capsys.readouterr().out.split())
