"""Result files lie in their run directory, whole."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from modiste.config import compose
from modiste.errors import ModisteError
from modiste.evaluation.store import ResultStore
from modiste.utils.run_dir import RunDir


@pytest.mark.parametrize("word", ["variant=../../elsewhere", "variant=a/b", "data.name=../x"])
def test_a_result_lies_in_its_run_directory(tmp_path, word):
    evaluation = SimpleNamespace(spec=SimpleNamespace(config=compose("evaluate", ["run=x", word])))
    with pytest.raises(ModisteError, match="leave out the / in variant"):
        ResultStore(RunDir(tmp_path)).path(evaluation, "retrieval")


def test_a_result_is_named_by_data_split_task_and_variant(tmp_path):
    evaluation = SimpleNamespace(spec=SimpleNamespace(config=compose("evaluate", ["run=x", "variant=a.b"])))
    path = ResultStore(RunDir(tmp_path)).path(evaluation, "retrieval")
    assert path == Path(tmp_path, "results", "synthetic.test.retrieval.a.b.json")
