"""Result files lie in their run directory, whole."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import open_dict

from helpers.tiny_models import two_tower
from modiste.config import compose, instantiate
from modiste.data.augment import Thumbnail
from modiste.data.corruptions import corrupt
from modiste.data.synthetic import Synthetic
from modiste.errors import ModisteError
from modiste.evaluation.api import evaluate
from modiste.evaluation.store import ResultStore, identity, run_unless_stored
from modiste.metrics.intervals import Interval
from modiste.tasks.result import Result
from modiste.utils.run_dir import RunDir


@pytest.mark.parametrize("word", ["variant=../../elsewhere", "variant=a/b", "data.name=../x"])
def test_a_result_lies_in_its_run_directory(tmp_path, word):
    evaluation = SimpleNamespace(
        spec=SimpleNamespace(config=compose("evaluate", ["run=x", word])), catalogue=Synthetic(products=2, size=16)()
    )
    with pytest.raises(ModisteError, match="remove the / from variant"):
        ResultStore(RunDir(tmp_path)).path(evaluation, "retrieval")


def test_a_result_is_named_by_data_split_task_and_variant(tmp_path):
    config = compose("evaluate", ["run=x", "variant=a.b", "dim=8"])
    evaluation = SimpleNamespace(spec=SimpleNamespace(config=config), catalogue=Synthetic(products=2, size=16)())
    path = ResultStore(RunDir(tmp_path)).path(evaluation, "retrieval")
    assert path == Path(tmp_path, "results", "synthetic.test.retrieval.a.b_dim8.json")


def test_the_files_of_a_task_alone_count_and_no_other_path_is_read(tmp_path):
    """A configuration may be a stranger's: a result does not tell the digests of whatever it names."""
    judged, secret = tmp_path / "judged.json", tmp_path / "secret.txt"
    judged.write_text('{"red": {"a": 1}}')
    secret.write_text("1234")
    config = compose("evaluate", ["run=x", "task=[retrieval]"])
    with open_dict(config):
        config.task.retrieval.published = {"mine": str(judged)}
        config.task.retrieval.queries = {str(secret): {}, "x": {"colour": str(secret)}}
    task, catalogue = instantiate(config.task.retrieval), Synthetic(products=2, views=1, size=16)()
    evaluation = SimpleNamespace(
        spec=SimpleNamespace(config=config), catalogue=catalogue, tasks={"retrieval": task, "own": task.ranking}
    )
    before = identity(evaluation, "retrieval", {})
    assert list(before["files"]) == [str(judged)]
    judged.write_text('{"red": {"b": 1}}')
    assert identity(evaluation, "retrieval", {}) != before
    assert identity(evaluation, "own", {})["files"] == {}  # a task without files


def test_a_task_runs_unless_its_result_is_stored(tmp_path):
    ran, written = [], []

    def task(embedder, catalogue, split):
        ran.append(split)
        recall = {"recall": Interval(0.5, 0.4, 0.6, 9)}
        return Result(
            "own", "x", split, recall, higher_is_better={"recall": True}, counts={"run": len(ran)}, primary="recall"
        )

    garments = Synthetic(products=2, size=16)()
    evaluation = SimpleNamespace(spec=SimpleNamespace(split="val"), catalogue=garments, tasks={"own": task})
    path, expected = tmp_path / "own.json", {"seed": 0}

    def write(path, result, seconds):
        written.append(result.counts["run"])
        path.write_text('{"seed": 0}')

    assert run_unless_stored(evaluation, "own", None, path, expected, write).counts["run"] == 1
    assert run_unless_stored(evaluation, "own", None, path, expected, write) is None
    assert run_unless_stored(evaluation, "own", None, path, {"seed": 1}, write).counts["run"] == 2
    assert run_unless_stored(evaluation, "own", None, path, expected, write, overwrite=True).counts["run"] == 3
    assert run_unless_stored(evaluation, "own", None, None, expected, write).counts["run"] == 4
    assert written == [1, 2, 3], "without a path nothing is written"
    assert ran == ["val"] * 4
    evaluation.tasks["own"] = lambda *_: "recall 0.5"
    with pytest.raises(ModisteError, match=r"Task own returned 'recall 0\.5': return a modiste\.tasks\.result\.Result"):
        run_unless_stored(evaluation, "own", None, path, expected, write, overwrite=True)


# --- corrupted images

GARMENTS = {"data": "synthetic", "data.catalogue.products": 20, "data.catalogue.size": 32}
THUMBNAIL = "Thumbnail(p=1.0, size=28, invert=0.0)"
CORRUPTED = {"data.corruptions": [{"_target_": "modiste.data.augment.Thumbnail", "p": 1.0}]}
SCENES = {
    "data.corruptions": [*CORRUPTED["data.corruptions"], {"_target_": "modiste.data.augment.RoomLight", "p": 1.0}]
}


def results(folder):
    return {path.name: json.loads(path.read_text()) for path in (folder / "results").glob("*.json")}


def test_a_result_on_corrupted_images_has_a_file_name_and_a_protocol_of_its_own(tmp_path):
    model = two_tower()
    for more in ({}, CORRUPTED, SCENES, CORRUPTED | {"variant": "small"}, CORRUPTED | {"dim": 4}):
        settings = {key: value for key, value in more.items() if key in ("variant", "dim")}
        data = GARMENTS | {key: value for key, value in more.items() if key not in settings}
        evaluate(model, data, ["retrieval"], split="all", out=tmp_path, cache=False, **settings)
    found = results(tmp_path)
    clean = found.pop("synthetic.all.retrieval.json")
    assert clean["variant"] == ""
    assert "corruptions" not in {**clean, **clean["protocol"]}
    light = [name for name in found if "RoomLight" in name]
    assert light == ["synthetic.all.retrieval.corrupted_Thumbnail_RoomLight.json"]
    assert found.pop(light[0])["protocol"]["corruptions"].startswith(f"{THUMBNAIL}, RoomLight(p=1.0, ")
    variants = ("corrupted_Thumbnail", "small", "corrupted_Thumbnail_dim4")
    assert {name: content["variant"] for name, content in found.items()} == {
        f"synthetic.all.retrieval.{variant}.json": variant for variant in variants
    }
    assert all(content["protocol"] == clean["protocol"] | {"corruptions": THUMBNAIL} for content in found.values())


def test_a_corrupted_catalogue_in_memory_is_told_too(tmp_path):
    catalogue = corrupt(Synthetic(products=20, views=1, size=32)(), [Thumbnail(p=1.0)])
    evaluate(two_tower(), catalogue, ["retrieval"], split="all", out=tmp_path, cache=False)
    ((name, content),) = results(tmp_path).items()
    assert name == "synthetic.all.retrieval.corrupted_Thumbnail.json"
    assert content["protocol"]["corruptions"] == THUMBNAIL


def test_a_result_that_does_not_say_that_its_images_are_corrupted_is_computed_again(tmp_path):
    """As an earlier version left it under the variant of a suite."""
    data, settings = GARMENTS | CORRUPTED, {"variant": "small", "split": "all", "out": tmp_path, "cache": False}
    evaluate(two_tower(), data, ["retrieval"], **settings)
    path = tmp_path / "results" / "synthetic.all.retrieval.small.json"
    content = json.loads(path.read_text())
    del content["corruptions"], content["protocol"]["corruptions"]
    path.write_text(json.dumps(content))
    evaluate(two_tower(), data, ["retrieval"], **settings)
    assert json.loads(path.read_text())["protocol"]["corruptions"] == THUMBNAIL
