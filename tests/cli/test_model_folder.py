"""``model=DIR`` is short for the option that loads a folder."""

from modiste.cli.outline import Outline
from modiste.cli.overrides import normalised
from modiste.config import config_dir


def given(*arguments):
    return normalised(arguments, Outline.read([config_dir()], "evaluate"), multirun=False)


def test_a_folder_is_loaded_and_an_option_stays_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my model (1)"
    folder.mkdir()
    assert given(f"model={folder}") == ["model=exported", f'model.source="{folder}"']
    (tmp_path / "fashionclip_2").mkdir()
    assert given("model=fashionclip_2") == ["model=fashionclip_2"]
    assert given("model=./fashionclip_2") == ["model=exported", 'model.source="fashionclip_2"']
    assert given("model=nowhere", "run=a") == ["model=nowhere", "run=a"]


def test_a_command_without_models_is_left_alone(tmp_path):
    outline = Outline.read([config_dir()], "table")
    assert normalised([f"model={tmp_path}"], outline, multirun=False) == [f"model={tmp_path}"]
