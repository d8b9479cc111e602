"""An export is whole or not there, never takes the place of anything else, and refuses before it works."""

import os

import pytest

from helpers.tiny_export import described_run
from helpers.tiny_models import two_tower
from modiste.errors import ModisteError
from modiste.export import FORMATS, export, writing
from modiste.export.inputs import of_run, synthetic

FEW = synthetic(4)


def test_a_folder_with_anything_else_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(ModisteError, match="exists and is not an export of modiste: choose another out=DIR"):
        export(two_tower(), "hub", tmp_path / "out", inputs=FEW)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_a_folder_that_another_process_exports_to_is_refused(tmp_path):
    (tmp_path / f"out.{os.getppid()}.tmp").mkdir()
    with pytest.raises(ModisteError, match=f"being written by process {os.getppid()} on"):
        export(two_tower(), "hub", tmp_path / "out", inputs=FEW)
    assert [file.name for file in tmp_path.iterdir()] == [f"out.{os.getppid()}.tmp"]


def test_an_export_is_replaced_whole_and_stays_when_the_next_one_fails(tmp_path):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is nobody's
    export(two_tower(), "hub", out, inputs=FEW)
    (out / "old").write_text("of the first")
    export(two_tower(), "hub", out, inputs=FEW)
    assert not (out / "old").exists()
    before = sorted(file.name for file in out.iterdir())
    with pytest.raises(ModisteError, match="too far"):
        export(two_tower(), "hub", out, inputs=FEW, min_cosine={"image": 1.1, "text": 0.9})
    assert sorted(file.name for file in out.iterdir()) == before
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_not_a_number_is_refused(tmp_path, monkeypatch):
    nan = {"image": {"min": float("nan"), "mean": float("nan")}, "text": {"min": 1.0, "mean": 1.0}}
    monkeypatch.setattr(writing, "compare", lambda *_: nan)
    with pytest.raises(ModisteError, match="image cosine nan"):
        export(two_tower(), "hub", tmp_path / "out", inputs=FEW)


def test_mistakes_are_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ModisteError, match=r"format=open_clipp is not known. Did you mean 'open_clip'"):
        export(two_tower(), "open_clipp", tmp_path / "out")
    with pytest.raises(ModisteError, match="format=hub has no int8: choose from precision=fp32, bf16"):
        export(two_tower(), "hub", tmp_path / "out", precision="int8")
    with pytest.raises(ModisteError, match="precision=fp16 is not known"):
        export(two_tower(), "hub", tmp_path / "out", precision="fp16")
    monkeypatch.setattr(writing, "find_spec", lambda name: None)
    for format, (_, extra, packages) in FORMATS.items():
        if packages:
            with pytest.raises(ModisteError, match=rf"pip install 'modiste\[{extra}\]'"):
                export(two_tower(), format, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_synthetic_inputs_have_several_shapes():
    assert len({image.size for image in FEW.images}) > 1
    assert len(set(FEW.texts)) > 1


def test_a_run_whose_data_are_gone_is_checked_on_synthetic_garments(tmp_path, caplog):
    run = described_run(tmp_path / "run", "data=kagl", f"data_dir={tmp_path}")
    assert of_run(run, 3).source == "3 synthetic garments"
    assert "The run's data cannot be read" in caplog.text


def test_inputs_of_a_run_are_its_own_test_split_with_its_own_captions(tmp_path):
    words = ["data.catalogue.products=160", "data.catalogue.size=32", "data.captions.templates=['a {category}']"]
    run = described_run(tmp_path / "run", *words)
    inputs = of_run(run, 3)
    assert inputs.source == "3 products of synthetic, test split"
    assert all(text.startswith("a ") and len(text.split()) < 5 for text in inputs.texts)
    assert len(inputs.images) == 3
