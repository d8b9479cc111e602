"""Result files lie in their run directory, whole."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import open_dict

from modiste.config import compose, instantiate
from modiste.data.synthetic import Synthetic
from modiste.errors import ModisteError
from modiste.evaluation.store import ResultStore, identity, run_unless_stored
from modiste.metrics.intervals import Interval
from modiste.tasks.result import Result
from modiste.utils.run_dir import RunDir


@pytest.mark.parametrize("word", ["variant=../../elsewhere", "variant=a/b", "data.name=../x"])
def test_a_result_lies_in_its_run_directory(tmp_path, word):
    evaluation = SimpleNamespace(spec=SimpleNamespace(config=compose("evaluate", ["run=x", word])))
    with pytest.raises(ModisteError, match="remove the / from variant"):
        ResultStore(RunDir(tmp_path)).path(evaluation, "retrieval")


def test_a_result_is_named_by_data_split_task_and_variant(tmp_path):
    evaluation = SimpleNamespace(spec=SimpleNamespace(config=compose("evaluate", ["run=x", "variant=a.b"])))
    path = ResultStore(RunDir(tmp_path)).path(evaluation, "retrieval")
    assert path == Path(tmp_path, "results", "synthetic.test.retrieval.a.b.json")


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

    evaluation = SimpleNamespace(spec=SimpleNamespace(split="val"), catalogue=None, tasks={"own": task})
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
