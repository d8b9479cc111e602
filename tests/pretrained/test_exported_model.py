"""A folder is loaded by what its files say, never by code that lies in it."""

import json

import pytest
import torch

from helpers.tiny_export import towers
from helpers.tiny_models import TEXTS, pixels, two_tower
from modiste.errors import ModisteError
from modiste.export import export
from modiste.export.inputs import synthetic
from modiste.pretrained.exported import load_exported

FEW = synthetic(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported")
    return export(towers(path / "tokenizer", mean=[0.5] * 3), "transformers", path / "out", inputs=FEW).path


def test_code_in_the_folder_never_runs(folder):
    for file in folder.glob("*_modiste.py"):
        file.write_text("raise SystemExit('ran')")
    assert load_exported(str(folder)).embed_dim == 16


def test_weights_of_another_model_are_refused_in_a_sentence(folder, tmp_path):
    (tmp_path / "other").mkdir()
    for file in folder.iterdir():
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["projection_dim"] = 8
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModisteError, match=r"Cannot load .*size mismatch"):
        load_exported(str(tmp_path / "other"))


def test_an_export_can_be_trained_further(tmp_path):
    model = two_tower().eval()
    back = load_exported(str(export(model, "hub", tmp_path / "out", inputs=FEW).path))
    assert [len(back.layer_groups(tower)) for tower in ("image", "text")] == [
        len(model.layer_groups(tower)) for tower in ("image", "text")
    ]
    back.encode_image(pixels()).sum().backward()
    assert back.image_projection.weight.grad is not None
    assert torch.equal(back.encode_text(back.tokenizer(TEXTS)), model.encode_text(model.tokenizer(TEXTS)))


def test_a_path_without_anything_is_one_sentence(tmp_path):
    with pytest.raises(ModisteError, match="does not exist"):
        load_exported(str(tmp_path / "none" / "at" / "all"))
    with pytest.raises(ModisteError):
        load_exported(str(tmp_path))
