"""`modiste compare`: the same queries, every metric tested, and a refusal where two results may not be compared."""

import csv
import io
import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from helpers.stored_results import store, values
from modiste.commands import compare as command
from modiste.config import compose
from modiste.errors import ModisteError
from modiste.evaluation.compare import compare
from modiste.metrics import comparison
from modiste.metrics.comparison import compare_predictions, holm, mcnemar

HIT, MRR = "t2i/hit_rate@1", "t2i/mrr"


def per_query(p, seed, n=300):
    right = values(n, p, seed)
    return {HIT: right, MRR: np.maximum(right, np.random.default_rng(seed + 99).random(n) / 2)}


@pytest.fixture
def runs(tmp_path):
    """Two runs of the same task; the first is better."""
    a, b = per_query(0.6, 0), per_query(0.4, 1)
    store(tmp_path / "a", a, name="mine", task="retrieval", fingerprint="a")
    store(tmp_path / "b", b, name="theirs", task="retrieval", fingerprint="b")
    return tmp_path / "a", tmp_path / "b", a, b


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def arguments(*paths, **changes):
    listed = ",".join(map(str, paths))
    return compose("compare", [f"sources=[{listed}]", *(f"{key}={value}" for key, value in changes.items())])


def test_every_common_metric_has_its_test_and_holms_correction(runs):
    path_a, path_b, a, b = runs
    found = rows(compare(path_a, path_b).text("csv"))
    assert [row["metric"] for row in found] == [HIT, MRR]
    hit, mrr = found
    bootstrap = comparison.compare({MRR: a[MRR]}, {MRR: b[MRR]})[MRR]
    assert (hit["test"], mrr["test"]) == ("McNemar", "bootstrap")
    assert float(hit["p"]) == mcnemar(a[HIT], b[HIT])
    expected = (bootstrap.p, bootstrap.low, bootstrap.high)
    assert (float(mrr["p"]), float(mrr["low"]), float(mrr["high"])) == pytest.approx(expected)
    assert [float(row["p_holm"]) for row in found] == pytest.approx(holm([float(row["p"]) for row in found]))
    assert float(hit["difference"]) == pytest.approx(a[HIT].mean() - b[HIT].mean())
    assert (hit["model_a"], hit["model_b"], hit["verdict"], hit["n"]) == ("mine", "theirs", "A better", "300")
    assert rows(compare(path_b, path_a).text("csv"))[0]["verdict"] == "B better"


def test_holm_counts_the_tests_of_all_results(runs):
    """With more tasks, the same difference is less remarkable."""
    path_a, path_b, *_ = runs
    alone = rows(compare(path_a, path_b).text("csv"))
    for name, path in (("mine", path_a), ("theirs", path_b)):
        store(path, {"x/accuracy": values(80, 0.5, len(name))}, name=name, task="zeroshot", fingerprint=path.name)
    found = rows(compare(path_a, path_b).text("csv"))
    assert [row["metric"] for row in found] == [HIT, MRR, "x/accuracy"]
    assert [float(row["p_holm"]) for row in found] == pytest.approx(holm([float(row["p"]) for row in found]))
    assert float(found[0]["p_holm"]) > float(alone[0]["p_holm"])


def test_models_that_do_not_differ_are_called_so(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        store(tmp_path / name, per_query(0.5, seed), name=name)
    found = rows(compare(tmp_path / "a", tmp_path / "b").text("csv"))
    assert {row["verdict"] for row in found} == {"≈"}


def test_f1_is_tested_where_the_predictions_are_there(tmp_path):
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 4, 200)
    predictions = {n: np.where(generator.random(200) < p, targets, 3) for n, p in (("a", 0.9), ("b", 0.6))}
    for name, found in predictions.items():
        right = {"type/accuracy": (found == targets).astype(float)}
        path = store(tmp_path / name, right, name=name, task="zeroshot")
        content = json.loads(path.read_text())
        f1 = f1_score(targets, found, average="weighted")
        content["metrics"]["type/weighted_f1"] = {"value": f1, "low": f1, "high": f1, "n": 200}
        path.write_text(json.dumps(content))
        np.savez_compressed(path.with_suffix(".npz"), **right, **{"type/target": targets, "type/prediction": found})
    accuracy, f1 = rows(compare(tmp_path / "a", tmp_path / "b").text("csv"))
    reference = compare_predictions(targets, predictions["a"], predictions["b"])["weighted_f1"]
    assert (float(f1["p"]), float(f1["low"])) == (reference.p, reference.low)
    assert (accuracy["test"], f1["test"], f1["verdict"]) == ("McNemar", "bootstrap", "A better")


def test_a_metric_without_values_per_query_has_its_difference_and_no_test(runs):
    path_a, path_b, a, b = runs
    next(path_b.rglob("*.npz")).unlink()
    found = compare(path_a, path_b)
    assert [row["p"] for row in rows(found.text("csv"))] == ["", ""]
    assert float(rows(found.text("csv"))[0]["difference"]) == pytest.approx(a[HIT].mean() - b[HIT].mean())
    assert "2 metrics have no values per query next to both results, and no test." in found.text("markdown")


REFUSED = {
    "data": ({"data_fingerprint": "e" * 16}, "the data differ: their fingerprint is dddddddd in A and eeeeeeee in B"),
    "prompts": (
        {"config": {"query_prefix": "a photo of a ", "seed": 0}},
        "task.retrieval.query_prefix is '' in A and 'a photo of a ' in B",
    ),
    "protocol": ({"protocol": {"ties": "random"}}, "protocol.ties is not set in A and 'random' in B"),
    "gallery": ({"gallery": 7}, "t2i has 9 gallery in A and 7 in B"),
    "queries": ({"n": 299}, "t2i has 300 queries in A and 299 in B"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_results_that_may_not_be_compared_are_refused_with_what_differs(tmp_path, what):
    extra, why = REFUSED[what]
    extra = dict(extra)
    store(tmp_path / "a", per_query(0.5, 0), name="a", task="retrieval", gallery=9)
    other = per_query(0.5, 1, extra.pop("n", 300))
    store(tmp_path / "b", other, name="b", task="retrieval", **({"gallery": 9} | extra))
    with pytest.raises(ModisteError) as error:
        compare(tmp_path / "a", tmp_path / "b")
    assert f"Not compared: kagl · retrieval · test, because {why}." in str(error.value)


def test_a_setting_may_differ_when_it_is_allowed(tmp_path):
    for name, prefix in (("a", ""), ("b", "a photo of a ")):
        config, protocol = {"query_prefix": prefix, "seed": 0}, {"query_prefix": prefix}
        store(tmp_path / name, per_query(0.5, 0), name=name, config=config, protocol=protocol)
    with pytest.raises(ModisteError, match="query_prefix"):
        compare(tmp_path / "a", tmp_path / "b")
    assert len(compare(tmp_path / "a", tmp_path / "b", allow=["query_prefix"]).pairs) == 1


def test_the_same_files_under_other_paths_are_the_same_setting(tmp_path):
    for name in ("a", "b"):
        files, config = {f"/{name}/kagl": "5ha", "": "of the working folder"}, {"path": f"/{name}/kagl", "prefix": ""}
        store(
            tmp_path / name,
            per_query(0.5, 0),
            name=name,
            config=config,
            files=files if name == "a" else {"/b/kagl": "5ha"},
        )
    assert compare(tmp_path / "a", tmp_path / "b").pairs


def test_what_only_one_side_has_or_may_not_be_compared_is_named_beside_the_rest(runs):
    path_a, path_b, *_ = runs
    store(path_a, {"x/accuracy": values(9, 0.5, 0)}, name="mine", task="zeroshot")
    for path, fingerprint in ((path_a, "d"), (path_b, "e")):
        store(path, {"y/accuracy": values(9, 0.5, 0)}, name="any", task="probe", data_fingerprint=fingerprint)
    text = compare(path_a, path_b).text("markdown")
    assert "Only in A: kagl · zeroshot · test." in text
    assert "Not compared: kagl · probe · test, because the data differ" in text


def test_a_side_is_one_result_for_each_task(tmp_path, runs):
    with pytest.raises(ModisteError, match="two results of kagl · retrieval · test"):
        compare(tmp_path, runs[1])
    with pytest.raises(ModisteError, match="no result with the same data, split and task: kagl · retrieval · test and"):
        compare(runs[0], store(tmp_path / "c", per_query(0.5, 0), task="zeroshot"))


def test_models_of_one_name_are_told_apart_by_their_paths(tmp_path):
    for name in ("a", "b"):
        store(tmp_path / name, per_query(0.5, 0), name="same", fingerprint=name)
    assert compare(tmp_path / "a", tmp_path / "b").names == (str(tmp_path / "a"), str(tmp_path / "b"))


@pytest.mark.parametrize(
    ("style", "words"),
    [
        ("terminal", "A better"),
        ("markdown", "| hit_rate@1 |"),
        ("csv", "t2i/hit_rate@1,mine,theirs"),
        ("latex", r"\textbf{A better}"),
    ],
)
def test_the_command_prints_every_format(runs, capsys, style, words):
    command.run(arguments(*runs[:2], format=style))
    printed = capsys.readouterr().out
    assert words in printed
    if style != "csv":
        assert "Holm's correction for all 2 tests" in " ".join(printed.split())


def test_the_command_writes_a_file(runs, tmp_path, capsys):
    command.run(arguments(*runs[:2], out=tmp_path / "out" / "c.md"))
    assert "| hit_rate@1 |" in (tmp_path / "out" / "c.md").read_text()
    assert "Wrote" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"format": "markdwon"}, "Did you mean 'markdown'"), ({"resamples": 0}, "at least one resample")],
)
def test_mistakes_are_told(runs, changes, words):
    with pytest.raises(ModisteError, match=words):
        command.run(arguments(*runs[:2], **changes))
    with pytest.raises(ModisteError, match="modiste compare runs/a runs/b"):
        command.run(arguments(runs[0]))
