"""Which validation each criterion chooses, on curves made by hand."""

import json
import math

import numpy as np
import pytest

from modiste.errors import ModisteError
from modiste.training.selection import Validation, choose, table, write
from modiste.utils.run_dir import RunDir

CURVES = {  # the loss is best at epoch 2, in-domain at 3, held-out at 1, out-of-domain at 0 (and as good at 1)
    "val/loss": [3.0, 2.0, 1.0, 1.5],
    "val/retrieval/t2i/mrr": [0.2, 0.4, 0.6, 0.7],
    "val/held_out/retrieval/t2i/mrr": [0.3, 0.5, 0.45, 0.4],
    "val/thumbnails/zeroshot/category/weighted_f1": [0.25, 0.25, 0.2, 0.1],
}
CRITERIA = dict(zip(CURVES, ("min", "max", "max", "max"), strict=True))


def curves(**columns):
    columns = CURVES | columns
    return [
        Validation(epoch, 10 * epoch + 9, {name: values[epoch] for name, values in columns.items()})
        for epoch in range(4)
    ]


def test_every_criterion_chooses_its_best_epoch_and_the_first_of_equals():
    assert [(c.criterion, c.epoch, c.step) for c in choose(curves(), CRITERIA)] == [
        ("val/loss", 2, 29),
        ("val/retrieval/t2i/mrr", 3, 39),
        ("val/held_out/retrieval/t2i/mrr", 1, 19),
        ("val/thumbnails/zeroshot/category/weighted_f1", 0, 9),
    ]


def test_a_choice_says_what_it_scores_on_the_others_and_what_it_loses():
    by_loss = choose(curves(), CRITERIA)[0]
    assert list(by_loss.values.values()) == [1.0, 0.6, 0.45, 0.2]
    assert list(by_loss.regret.values()) == pytest.approx([0, 0.1, 0.05, 0.05])
    by_thumbnails = choose(curves(), CRITERIA)[3]
    assert list(by_thumbnails.regret.values()) == pytest.approx([2.0, 0.5, 0.2, 0])


@pytest.mark.parametrize("seed", range(5))
def test_no_other_validation_is_better_and_regret_is_never_negative(seed):
    draw = np.random.default_rng(seed)
    names = {f"m{i}": ["min", "max"][i % 2] for i in range(5)}
    validations = [Validation(e, e, {n: round(float(draw.random()), 1) for n in names}) for e in range(12)]
    for choice in choose(validations, names):
        for name, mode in names.items():
            column = [v.values[name] for v in validations]
            best = min(column) if mode == "min" else max(column)
            assert choice.regret[name] == pytest.approx(abs(best - choice.values[name]))
        assert choice.regret[choice.criterion] == 0
        assert choice.values == validations[choice.epoch].values
        own = [v.values[choice.criterion] for v in validations]
        assert choice.epoch == own.index(choice.values[choice.criterion])


def test_values_that_are_missing_or_not_finite_choose_nothing():
    validations = curves(**{"val/loss": [math.nan, 2.0, math.inf, 2.5]})
    validations.append(Validation(4, 49, {"val/loss": 0.5}))
    choices = choose(validations, CRITERIA | {"val/absent": "max"})
    assert [c.epoch for c in choices] == [4, 3, 1, 0]
    assert choices[0].values == {"val/loss": 0.5}
    assert "val/loss" not in choices[3].values
    assert choose([], CRITERIA) == []
    with pytest.raises(ModisteError, match="not 'maximum'"):
        choose(curves(), {"val/loss": "maximum"})


def test_the_table_has_a_row_a_choice_and_a_column_a_criterion():
    header, _, *rows = table(choose(curves(), CRITERIA)).splitlines()
    assert header.count("|") == 4 + 4
    assert rows[0] == "| val/loss | 3 | 29 | **1** | 0.6 (0.1 worse) | 0.45 (0.05 worse) | 0.2 (0.05 worse) |"
    partial = table(choose([*curves(), Validation(4, 49, {"val/loss": 0.5})], CRITERIA))
    assert "| val/loss | 5 | 49 | **0.5** | — | — | — |" in partial


def test_json_and_table_are_in_the_run_directory(tmp_path):
    choices = write(RunDir(tmp_path), curves(), CRITERIA)
    content = json.loads((tmp_path / "selection.json").read_text())
    assert content["criteria"] == CRITERIA
    assert [(c["criterion"], c["epoch"]) for c in content["choices"]] == [(c.criterion, c.epoch) for c in choices]
    assert [v["values"]["val/loss"] for v in content["validations"]] == CURVES["val/loss"]
    assert (tmp_path / "selection.md").read_text() == table(choices) + "\n"


def test_a_run_without_validation_writes_nothing(tmp_path):
    assert write(RunDir(tmp_path), [], CRITERIA) == []
    assert not list(tmp_path.iterdir())
