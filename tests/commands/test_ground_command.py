"""modiste ground: one photo, a run or a model, several phrases."""

import json

import pytest
from PIL import Image

from helpers.tiny_models import two_tower
from modiste.cli import main


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A working directory with a photo, and a run whose model is a tiny one."""
    monkeypatch.chdir(tmp_path)
    image = Image.new("RGB", (60, 90), "white")
    image.paste((200, 0, 0), (10, 60, 30, 85))
    image.save("photo.jpg")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    monkeypatch.setattr("modiste.evaluation.ground.load", lambda *_: _Loaded())
    return tmp_path


class _Loaded:
    model = two_tower().eval()


def test_a_picture_boxes_and_what_is_not_known(shop, capsys):
    assert main(["ground", "run", "photo.jpg", "red shoes", "hat", "size=64"]) == 0
    out = capsys.readouterr().out
    first, second = out.splitlines()[:2]
    assert first.startswith("red shoes  ")
    assert second.startswith("hat        ")
    assert "box " in first
    assert "score " in first
    assert "Whether 'patches' grounds with this model is not measured: modiste evaluate run=run" in out
    picture = Image.open("photo.ground.png")
    assert picture.width > 3 * 280


def test_a_stored_result_says_whether_the_model_grounds_and_gives_the_threshold(shop, capsys):
    results = shop / "run" / "results"
    results.mkdir()
    content = {"task": "grounding", "data": "ccp", "split": "test", "protocol": {"thresholds": {"patches": 1.0}}}
    content["findings"] = ["patches does not ground: …", "cam grounds: …"]
    (results / "ccp.test.grounding.json").write_text(json.dumps(content))
    assert main(["ground", "run", "photo.jpg", "red shoes", "size=64", "out=found.png"]) == 0
    out = capsys.readouterr().out
    assert "On ccp (test): patches does not ground: …" in out
    assert "cam grounds" not in out
    left, top, right, bottom = (int(n) for n in out.split("box ")[1].split("  ")[0].replace(" to ", ",").split(","))
    assert (right - left) * (bottom - top) < 30  # nothing but the highest pixels
    assert (shop / "found.png").is_file()


def test_without_a_method_the_one_that_points_best_in_the_runs_result_is_taken(shop, capsys):
    metrics = {"patches/pointing": 0.2, "cam/pointing": 0.5, "gradcam/pointing": 0.3}
    content = {"task": "grounding", "data": "ccp", "split": "test", "protocol": {}}
    content["metrics"] = {name: {"value": value, "low": 0.0, "high": 1.0, "n": 9} for name, value in metrics.items()}
    content["findings"] = [f"{name} …" for name in ("patches", "cam", "gradcam")]
    (shop / "run" / "results").mkdir(exist_ok=True)
    (shop / "run" / "results" / "ccp.test.grounding.json").write_text(json.dumps(content))
    said = {}
    for words in ([], ["method=cam"], ["method=patches"]):
        assert main(["ground", "run", "photo.jpg", "red shoes", "size=64", *words]) == 0
        said[tuple(words)] = capsys.readouterr().out
    assert said[()] == said[("method=cam",)] != said[("method=patches",)]
    assert "On ccp (test): cam …" in said[()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "photo.jpg"], "needs a photo and a phrase"),
        (["run", "other.jpg", "hat"], "Photo 'other.jpg' does not exist"),
        (["run", "photo.jpg", "hat", "method=patch"], "Did you mean 'patches'"),
        (["run", "photo.jpg", "hat", "out=nowhere/a.png"], "name a .png file in a folder that exists"),
        (["run", "photo.jpg", "hat", "size=0"], "size"),
        (["run", "photo.jpg", "hat", " "], "A phrase is empty"),
        (["photo=photo.jpg", "phrases=[hat]"], "No model given"),
        (["run", "run/notes.txt", "hat"], "not a readable image"),
        (["rum", "photo.jpg", "hat"], "Did you mean 'run'?"),
        (["folder", "photo.jpg", "hat"], "folder"),
    ],
)
def test_mistakes_are_one_sentence(shop, capsys, arguments, message):
    (shop / "run" / "notes.txt").write_text("no image")
    (shop / "folder").mkdir()
    assert main(["ground", *arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_published_model_takes_the_first_argument_as_the_photo(shop, capsys):
    words = ["image=timm", "image.name=test_efficientnet", "image.size=32", "image.pretrained=false"]
    assert main(["ground", "model=two_tower", *words, "photo.jpg", "hat", "size=64"]) == 0
    assert "modiste evaluate model=NAME" in capsys.readouterr().out
