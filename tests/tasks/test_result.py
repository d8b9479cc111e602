"""Results go to JSON and back."""

import json

import numpy as np
import pytest

from modiste.errors import ModisteError
from modiste.metrics.intervals import Interval
from modiste.tasks.result import Result


def result():
    return Result(
        task="zeroshot",
        data="kagl",
        split="test",
        metrics={"gender/accuracy": Interval(0.1 + 0.2, 0.25, 1 / 3, 7)},
        higher_is_better={"gender/accuracy": True},
        protocol={"prompts": {"gender": ["a {}"]}, "seed": 0},
        counts={"gender/queries": 7},
        primary="gender/accuracy",
        per_query={"gender/accuracy": np.array([1.0, 0.0])},
        tables={"gender": {"columns": ["class", "f1"], "rows": [["Men", 0.5]]}},
        confusion={"gender": {"labels": ["Men"], "matrix": [[7]]}},
        examples=[{"kind": "i2t", "search": "i2t", "query": 3, "rank": 1, "results": []}],
    )


def test_json_and_back_is_the_same():
    """Every field survives strict JSON, floats to the last bit; the per-query values travel next to it."""
    text = json.dumps(result().to_json(), allow_nan=False)
    again = Result.from_json(json.loads(text), per_query=result().per_query)
    assert again == result()
    assert again.per_query["gender/accuracy"].tolist() == [1.0, 0.0]
    assert "per_query" not in json.loads(text)


def test_other_keys_of_a_result_file_are_left_alone():
    content = result().to_json() | {"schema": 1, "model": {"name": "clip"}, "seconds": 2.5}
    assert Result.from_json(content) == result()


def test_what_is_no_result_is_an_error():
    with pytest.raises(ModisteError, match="Not a result file: it has no metrics"):
        Result.from_json({k: v for k, v in result().to_json().items() if k not in ("metrics", "examples")})
    with pytest.raises(ModisteError, match="primary metric 'mrr'"):
        Result.from_json(result().to_json() | {"primary": "mrr"})


def test_every_metric_states_its_direction():
    """An error metric and a distance are better when lower because the result says so, whatever their names."""
    lower = {"hue/error": Interval(0.2, 0.1, 0.3, 5), "hue/frank": Interval(0.5, 0.4, 0.6, 5)}
    better = {"hue/error": False, "hue/frank": True}
    made = Result("colour", "kagl", "test", lower, higher_is_better=better, primary="hue/error")
    assert [made.direction(name) for name in lower] == ["min", "max"]
    assert Result.from_json(json.loads(json.dumps(made.to_json()))).higher_is_better == better
    with pytest.raises(ModisteError, match="differ in 'hue/frank'"):
        Result("colour", "kagl", "test", lower, higher_is_better={"hue/error": False}, primary="hue/error")


def test_results_stored_before_directions_were_have_them_too():
    metrics = {name: {"value": 0.5, "low": 0.4, "high": 0.6, "n": 3} for name in ("t2i/mrr", "t2i/median_rank")}
    old = {"task": "retrieval", "data": "kagl", "split": "test", "metrics": metrics, "primary": "t2i/mrr"}
    assert Result.from_json(old).higher_is_better == {"t2i/mrr": True, "t2i/median_rank": False}
