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
        protocol={"prompts": {"gender": ["a {}"]}, "seed": 0},
        counts={"gender/queries": 7},
        primary="gender/accuracy",
        per_query={"gender/accuracy": np.array([1.0, 0.0])},
        tables={"gender": {"columns": ["class", "f1"], "rows": [["Men", 0.5]]}},
        confusion={"gender": {"labels": ["Men"], "matrix": [[7]]}},
        examples=[{"kind": "i2t", "search": "i2t", "query": 3, "rank": 1, "results": []}],
    )


def test_json_and_back_is_the_same():
    """Every field survives strict JSON, floats to the last bit; the per-query values travel beside it."""
    text = json.dumps(result().to_json(), allow_nan=False)
    again = Result.from_json(json.loads(text), per_query=result().per_query)
    assert again == result()
    assert again.per_query["gender/accuracy"].tolist() == [1.0, 0.0]
    assert "per_query" not in json.loads(text)


def test_other_keys_of_a_result_file_are_left_alone():
    content = result().to_json() | {"schema": 1, "model": {"name": "clip"}, "seconds": 2.5}
    assert Result.from_json(content) == result()


def test_what_is_no_result_is_an_error():
    with pytest.raises(ModisteError, match="not a result file: it has no metrics"):
        Result.from_json({k: v for k, v in result().to_json().items() if k not in ("metrics", "examples")})
    with pytest.raises(ModisteError, match="primary metric 'mrr'"):
        Result.from_json(result().to_json() | {"primary": "mrr"})
