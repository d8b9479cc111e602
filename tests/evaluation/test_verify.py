"""`modiste verify`: the sentence about each result, and whole recomputations of tiny models."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from helpers.commands import TINY, modiste
from modiste.commands import verify as command
from modiste.config import compose, instantiate
from modiste.errors import ModisteError
from modiste.evaluation import verify as again
from modiste.evaluation.verify import Recipe, Verdict, compare, find_run, recipe
from modiste.reporting.tables import differences
from modiste.reporting.tables.results import read_result

METRICS = {"t2i/mrr": {"value": 0.1 + 0.2, "low": 0.1, "high": 0.7, "n": 8}}
RESULT = {
    "schema": 1,
    "task": "retrieval",
    "data": "tiny",
    "split": "test",
    "metrics": METRICS,
    "protocol": {"ties": "index", "queries": "/here/queries.json"},
    "counts": {"queries": 8},
    "primary": "t2i/mrr",
    "model": {"name": "a", "source": "runs/a", "fingerprint": "f0", "describe": {"precision": "fp32"}},
    "data_fingerprint": "d0",
    "config": {"queries": "/here/queries.json", "ks": [1, 10]},
    "files": {"/here/queries.json": "sha"},
    "seed": 0,
    "command": "modiste evaluate run=runs/a 'task=[retrieval,zeroshot]'",
}

HOME = Path(__file__).parents[2]
RECORDS = {file: json.loads(file.read_text()) for file in sorted(HOME.glob("experiments/*/results/*.json"))}
STORED = list(RECORDS)
PER_QUERY = ({"mrr": np.array([0.5])},) * 2


def edited(**changes):
    """`RESULT` with values at dotted keys (with __ for the dot)."""
    result = json.loads(json.dumps(RESULT))
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = result
        for parent in parents:
            node = node[parent]
        node[last] = value
    return result


def write(path, result, per_query=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    if per_query is not None:
        np.savez_compressed(path.with_suffix(".npz"), **per_query)
    return path


@pytest.fixture
def judge(tmp_path):
    """The verdict on a result, given what was computed again."""

    def _judge(before, after, tolerance=0.0, per_query=PER_QUERY):
        files = [
            write(tmp_path / name / "r.json", result, values)
            for name, result, values in zip("ab", (before, after), per_query, strict=True)
        ]
        return compare(*files, tolerance)

    return _judge


def next_float(value):
    return float(np.nextafter(value, 1))


# ---------------------------------------------------------------------------------------------------------- comparison


def test_the_same_again_is_identical_whatever_the_folders(judge):
    moved = edited(files={"/there/q.json": "sha"}, config__queries="/there/q.json", protocol__queries="/there/q.json")
    moved["model"]["source"] = "elsewhere"
    assert judge(RESULT, moved).word == "identical"
    assert judge(RESULT, edited(created="later", seconds=3)).sound


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model__fingerprint": "f1"}, "other weights"),
        ({"model__describe": {"precision": "bf16"}}, "other weights"),
        ({"data_fingerprint": "d1"}, "other data"),
        ({"config__ks": [1, 5]}, "other settings"),
        ({"files": {"/here/queries.json": "another"}}, "other settings"),
        ({"seed": 1}, "other seed"),
        ({"counts__queries": 9}, "DIFFERENT"),
    ],
)
def test_what_it_is_a_result_of_comes_before_its_numbers(judge, changes, word):
    verdict = judge(RESULT, edited(**changes))
    assert verdict.word == word
    assert not verdict.sound
    assert verdict.details


@pytest.mark.parametrize("end", ["value", "low", "high"])
def test_the_last_bit_of_every_number_counts(judge, end):
    value = METRICS["t2i/mrr"][end]
    verdict = judge(RESULT, edited(**{f"metrics__t2i/mrr__{end}": next_float(value)}))
    assert verdict.word == "DIFFERENT"
    assert f"metrics.t2i/mrr.{end}" in str(verdict)
    assert "|Δ|" in str(verdict)


def test_the_last_bit_of_every_query_counts_and_the_largest_difference_is_told(judge):
    values = np.array([0.5, 1.0, np.nan, 0.25])
    other = values.copy()
    other[[0, 3]] = next_float(0.5), 0.125
    assert judge(RESULT, RESULT, per_query=({"mrr": values}, {"mrr": values.copy()})).word == "identical"
    assert "per_query.mrr.3 0.25 → 0.125, |Δ| 0.125" in str(judge(RESULT, RESULT, 0, ({"mrr": values}, {"mrr": other})))
    other[2] = 1.0
    assert "per_query.mrr.2 nan → 1.0" in str(judge(RESULT, RESULT, 9, ({"mrr": values}, {"mrr": other})))
    shorter = ({"mrr": values}, {"mrr": values[:2]})
    assert "(4,) → (2,)" in str(judge(RESULT, RESULT, 9, shorter))
    assert "nothing" in str(judge(RESULT, RESULT, 9, ({"mrr": values}, {"map": values})))


def test_a_tolerance_forgives_numbers_only(judge):
    near = edited(**{"metrics__t2i/mrr__value": 0.3 + 1e-7})
    assert judge(RESULT, near, tolerance=1e-6).word == "within tolerance"
    assert judge(RESULT, near, tolerance=1e-8).word == "DIFFERENT"
    assert judge(RESULT, edited(protocol__ties="random"), tolerance=9).word == "DIFFERENT"
    assert judge(RESULT, edited(**{"metrics__t2i/mrr__value": float("nan")}), tolerance=9).word == "DIFFERENT"


def test_values_per_query_that_are_not_beside_it_are_missed_aloud(judge, tmp_path):
    verdict = judge(RESULT, RESULT, per_query=(None, {"mrr": np.array([1.0])}))
    assert verdict.sound
    assert "no values per query" in str(verdict)


@pytest.mark.parametrize("kind", ["text", "pipe"])
def test_values_per_query_that_cannot_be_read_are_a_verdict(tmp_path, kind):
    one, other = (write(tmp_path / name / "r.json", RESULT, PER_QUERY[0]) for name in "ab")
    file = one.with_suffix(".npz")
    file.unlink()
    file.write_text("x") if kind == "text" else os.mkfifo(file)
    verdict = compare(one, other, 0)
    assert not verdict.sound
    assert re.search(rf"DAMAGED: .*The values per query in '{file}' cannot be read .*: evaluate again", str(verdict))


def test_an_overlap_counts_unless_the_training_data_is_gone(judge):
    one, other = edited(overlap={"near": 3}), edited(overlap={"near": 4})
    assert judge(one, other).word == "DIFFERENT"
    assert judge(one, edited(overlap={"unknown": "gone"})).word == "identical"


def test_a_result_with_names_and_words_of_an_earlier_version_is_identical(judge):
    former = {"t2i/queries_left_out": 2}, {"without_relevant": "left_out"}, {"accuracy": "share of right predictions"}
    current = (
        {"t2i/queries_excluded": 2},
        {"without_relevant": "excluded"},
        {"accuracy": "fraction of correct predictions"},
    )
    before, after = (
        edited(counts=counts, config=config, protocol=words) for counts, config, words in (former, current)
    )
    assert judge(before, after).word == "identical"


def test_another_machine_is_named_where_numbers_differ(judge):
    before, after = (edited(environment={"threads": n, "packages": {"torch": "2"}}) for n in (2, 4))
    after["counts"]["queries"] = 9
    assert "threads 2 then, 4 now" in str(judge(before, after))


def test_differences_reach_into_lists_and_dicts():
    assert list(differences([1, {"a": [float("nan"), 2]}], [1, {"a": [float("nan"), 3]}])) == [(".1.a.1", 2, 3)]
    assert list(differences({"a": [1]}, {"a": [1, 2]})) == [("a", [1], [1, 2])]


# -------------------------------------------------------------------------------------------------------------- recipes


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: a\n")
    return folder


def test_overrides_come_before_the_command_and_what_says_where_to_write_is_excluded(run_dir):
    result = edited(
        command="modiste evaluate --config-dir=own hydra.run.dir=x 'hydra.job_logging.handlers.x=y' run=r 'task=[a,b]'",
        environment={"threads": 3},
    )
    path = run_dir / "results" / "x.json"
    assert recipe(result, path) == Recipe(("task=[a,b]",), run_dir, 3)
    result["overrides"] = ["run=r", "+hydra.x=1", "hydra/launcher=y", "data=kagl", "task=[a]", "overwrite=true"]
    assert recipe(result, path).overrides == ("data=kagl", "task=[a]")
    result["overrides"] = ["model=two_tower"]
    assert recipe(result, path).run is None


@pytest.mark.parametrize("words", ["", "modiste train data=kagl", "rm -rf /", "modiste evaluate 'open"])
def test_a_result_that_does_not_say_how_it_was_made_is_one_sentence(words, run_dir):
    with pytest.raises(ModisteError, match="has no record of its modiste evaluate"):
        recipe(edited(command=words), run_dir / "results" / "x.json")


def test_the_run_is_where_one_says_or_around_the_result_or_where_it_was(run_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "copies" / "x.json"
    assert find_run(RESULT, elsewhere, None).resolve() == run_dir
    moved = shutil.copytree(run_dir, tmp_path / "moved")
    assert find_run(RESULT, elsewhere, str(moved)) == moved
    assert find_run(RESULT, moved / "results" / "x.json", None) == moved  # a stranger's file may name a run of yours
    shutil.rmtree(run_dir)
    with pytest.raises(ModisteError, match="give its location with run=DIR"):
        find_run(RESULT, elsewhere, None)
    with pytest.raises(ModisteError, match="no run directory"):
        find_run(RESULT, elsewhere, "absent")


def test_a_result_that_is_damaged_or_whose_run_is_gone_does_not_keep_others_from_being_verified(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(again, "verify", lambda how, paths, *rest: (Verdict(path, "identical") for path in paths))
    write(tmp_path / "results" / "a.json", RESULT)
    write(tmp_path / "results" / "b.json", edited(command="modiste evaluate model=two_tower 'task=[retrieval]'"))
    (tmp_path / "results" / "c.json").write_text("{")
    gone, damaged, there = again.verify_results([str(tmp_path)])
    assert (gone.path.name, gone.word) == ("a.json", "not computed")
    assert "no run directory" in str(gone)
    assert (damaged.path.name, damaged.word) == ("c.json", "not computed")
    assert (there.path.name, there.word) == ("b.json", "identical")


def test_without_paths_the_user_is_asked_for_them():
    with pytest.raises(ModisteError, match="No results given"):
        command.run(compose("verify"))


# ------------------------------------------------------------------------------------------------------------ the whole


SMALL = ["data=synthetic", "data.catalogue.products=60", "data.catalogue.size=32", "task=[retrieval]"]


@pytest.mark.slow
def test_a_result_is_computed_again_bit_for_bit_and_what_was_tampered_with_is_named(tmp_path):
    made = modiste("evaluate", "model=two_tower", *SMALL, "hydra.run.dir=out", cwd=tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr
    (original,) = (tmp_path / "out").glob("*/results/*.json")
    changes = {
        "number": lambda result: result["metrics"]["t2i/mrr"].update(
            value=next_float(result["metrics"]["t2i/mrr"]["value"])
        ),
        "weights": lambda result: result["overrides"].append("seed=1"),
        "task": lambda result: result["overrides"].append("task.retrieval.k=3"),
    }
    for name, change in changes.items():
        result = json.loads(original.read_text())
        change(result)
        write(tmp_path / name / "results" / original.name, result)
        shutil.copy(original.with_suffix(".npz"), tmp_path / name / "results" / f"{original.stem}.npz")
    refused = modiste("verify", original, *changes, cwd=tmp_path)
    assert refused.returncode == 1
    sound, number, weights, task = refused.stdout.splitlines()
    assert sound == f"identical: {original}"
    assert number.startswith("DIFFERENT: number/results")
    assert "metrics.t2i/mrr.value" in number
    assert weights.startswith("other weights: weights/results")
    assert task.startswith("not computed: task/results")
    assert "task.retrieval.k" in task
    assert "3 of 4 results are not confirmed" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_a_run_that_was_moved_is_verified_and_nothing_is_written_to_it(tmp_path):
    from modiste.models.load import build_model

    config = compose("train", [*TINY, "data.catalogue.products=60", "run_dir=run", "name=moved"])
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    torch.manual_seed(0)
    model = build_model(config)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    OmegaConf.save(config, tmp_path / "run" / "config.yaml")
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "run" / "checkpoints" / "best.ckpt")
    made = modiste("evaluate", "run=run", "task=[retrieval]", cwd=tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr
    (tmp_path / "run").rename(tmp_path / "moved")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "moved").rglob("*")}
    sound = modiste("verify", "moved", cwd=tmp_path)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert sound.stdout.startswith("identical: moved/results/synthetic.test.retrieval.json")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "moved").rglob("*")} == before


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.relative_to(HOME / "experiments").as_posix())
def test_a_stored_result_can_be_computed_again_once_its_run_is_there(path, tmp_path):
    """Its record composes to the task that its file names; the weights are not in the repository."""
    (tmp_path / "config.yaml").write_text("{}")
    result = read_result(path)
    how = recipe(result, path, str(tmp_path))
    config = compose("evaluate", list(how.overrides))
    assert config.task[result["task"]]._target_ == result["config"]["_target_"]
    assert type(instantiate(result["config"])).__name__ == result["config"]["_target_"].rpartition(".")[2]
