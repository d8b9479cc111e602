"""A paper's tables: what fills a cell, what does not and why; and the tables that the repository holds."""

import csv
import io
import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import yaml

import modiste
from helpers.stored_results import store, values
from modiste.commands import table as command
from modiste.config import compose, list_groups
from modiste.errors import ModisteError
from modiste.reporting.papers import Paper, format_papers, is_paper, spec
from modiste.reporting.papers.measure import measure
from modiste.reporting.tables import packaged_namings, read_published

LOOKBENCH = {"RealStudioFlat": 1011, "AIGen-Studio": 193, "RealStreetLook": 981, "AIGen-StreetLook": 160}
ROOT = Path(modiste.__file__).resolve().parents[2]
PAPERS = sorted(path.parent for path in ROOT.glob("experiments/*/table.yaml"))
T2I = "text-to-image/recall@1"
PUBLISHED = [
    {"source": "a paper", "dataset": "KAGL", "task": "t2i", "model": model, "metric": metric, "value": value}
    for model, metric, value in (
        ("Their best", "R@1", "0.5"),
        ("Theirs", "R@1", "0.4"),
        ("Theirs", "MRR", "0.45"),
        ("Theirs", "MRR", "0.47"),
    )
]


def paper(folder, **changes):
    """A table of two models and one column; the row ``ours`` is measured."""
    content = {
        "title": "A paper",
        "results": ["runs/{model}"],
        "command": "modiste evaluate model={model}",
        "defaults": {"data": "kagl", "split": "test", "task": "marqo", "part": "text-to-image"},
        "rows": [{"label": "Ours", "model": "ours", "published": "Theirs"}],
        "tables": {
            "one": {
                "title": "One",
                "queries": 50,
                "gallery": 900,
                "config": {"query_prefix": ""},
                "published": {"source": "a paper", "dataset": "KAGL", "task": "t2i"},
                "columns": {"R@1": "recall@1"},
            }
        },
    }
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) and key != "tables" else value
    (folder / "table.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return Paper.read(folder)


def run(folder, of="ours", seed=0, p=0.4, n=50, gallery=900, **extra):
    """A result of ``model`` in its place."""
    return store(folder / "runs" / of, {T2I: values(n, p, seed)}, name=of, gallery=gallery, **extra)


def lines(folder, style="csv"):
    text = format_papers([folder], PUBLISHED, style)
    return list(csv.DictReader(io.StringIO(text))) if style == "csv" else text


def cell(folder):
    """The one measured number, and the footnotes about results that are not used."""
    (line,) = lines(folder)
    notes = re.findall(r"^.*a result is not used, because (.*)\.$", lines(folder, "markdown"), flags=re.M)
    return line["measured"], notes


# --- what fills a cell


def test_a_result_fills_its_cell_next_to_the_published_number(tmp_path):
    paper(tmp_path)
    path = run(tmp_path)
    mean = json.loads(path.read_text())["metrics"][T2I]["value"]
    (line,) = lines(tmp_path)
    assert (float(line["published"]), float(line["measured"])) == (0.4, mean)
    assert float(line["difference"]) == pytest.approx(mean - 0.4)
    assert (float(line["low"]), float(line["high"])) == pytest.approx((mean - 0.01, mean + 0.01))
    assert line["fingerprint"] == "f" * 16
    text = lines(tmp_path, "markdown")
    assert "| Ours | published | 0.4 |" in text
    assert f"|  | measured | {mean:.3f} [{mean - 0.01:.3f}, {mean + 0.01:.3f}] |" in text
    assert f"|  | difference | {mean - 0.4:+.3f} |".replace("-0", "−0") in text
    assert "queries 50, gallery 900." in text
    assert "Published: a paper." in text
    assert "- Ours: `modiste evaluate model=ours`" in text


def test_a_papers_tables_end_with_what_the_rows_cost_to_train(tmp_path):
    paper(tmp_path)
    run(tmp_path)
    assert "Cost of training" not in lines(tmp_path, "markdown")
    (tmp_path / "runs" / "ours" / "cost.json").write_text('{"seconds": 65, "pairs": 130, "energy_kwh": 0.25}')
    assert "| Ours | 1 min 5 s | 130 | 2.0 | 0.25 kWh |" in lines(tmp_path, "markdown")


def test_what_was_not_run_is_a_dash(tmp_path):
    paper(tmp_path)
    assert cell(tmp_path) == ("", [])
    assert "|  | measured | — |" in lines(tmp_path, "markdown")
    assert "difference" not in lines(tmp_path, "markdown")
    assert " & measured & --- " in lines(tmp_path, "latex")


WRONG = {
    "another model": ({"model": {"name": "other", "fingerprint": "f"}}, "it is of the model other, not ours"),
    "other prompts": ({"config": {"query_prefix": "a "}}, "its marqo.query_prefix is 'a ', not ''"),
    "fewer queries": ({"n": 49}, "it has 49 queries, not 50"),
    "another gallery": ({"gallery": 899}, "it has 899 documents, not 900"),
    "corrupted images": (
        {"protocol": {"corruptions": "Thumbnail(p=1.0)"}},
        "its images were corrupted by Thumbnail(p=1.0)",
    ),
    "no gallery": ({"gallery": None}, "it has 0 documents, not 900"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_result_of_something_else_fills_no_cell_and_the_footnote_says_why(tmp_path, what):
    extra, why = WRONG[what]
    paper(tmp_path)
    run(tmp_path, **extra)
    assert cell(tmp_path) == ("", [why])


@pytest.mark.parametrize("extra", [{"data": "other"}, {"split": "val"}, {"task": "retrieval"}])
def test_results_of_other_data_splits_and_tasks_are_no_candidates(tmp_path, extra):
    paper(tmp_path)
    run(tmp_path, **extra)
    assert cell(tmp_path) == ("", [])


def test_a_result_without_the_metric_is_told(tmp_path):
    paper(tmp_path)
    store(tmp_path / "runs" / "ours", {"text-to-image/map@1": np.ones(50)}, name="ours", gallery=900)
    assert cell(tmp_path) == ("", [f"it has no metric {T2I}"])


def test_the_row_may_state_its_weights(tmp_path):
    paper(tmp_path, rows=[{"label": "Ours", "model": "ours", "fingerprint": "aaaa"}])
    run(tmp_path, fingerprint="b" * 16)
    (why,) = cell(tmp_path)[1]
    assert "other weights: their fingerprint is bbbbbbbb, not aaaa" in why
    run(tmp_path, fingerprint="a" * 16, file="again")  # next to it, the right one
    assert cell(tmp_path)[0]
    assert cell(tmp_path)[1] == []


def test_all_results_of_a_row_have_one_fingerprint(tmp_path):
    paper(tmp_path)
    run(tmp_path, fingerprint="a" * 16)
    store(tmp_path / "runs" / "ours" / "old", {"t2i/mrr": np.ones(3)}, name="ours", fingerprint="b" * 16, task="x")
    value, (why,) = cell(tmp_path)
    assert value == ""
    assert "2 sets of weights (aaaaaaaa, bbbbbbbb): state the row's fingerprint" in why


def test_the_models_overrides_must_be_what_the_result_says_of_its_model(tmp_path):
    paper(tmp_path, rows=[{"label": "Ours", "model": "ours", "overrides": ["model.pretrained=right"]}])
    model = {"name": "ours", "fingerprint": "f", "describe": {"pretrained": "wrong"}}
    run(tmp_path, model=model)
    assert cell(tmp_path) == ("", ["its model's pretrained is wrong, not right"])
    run(tmp_path, model=model | {"describe": {"pretrained": "right"}})
    assert cell(tmp_path)[0]
    assert "`modiste evaluate model=ours model.pretrained=right`" in lines(tmp_path, "markdown")


def test_two_results_that_fit_and_differ_fill_no_cell(tmp_path):
    paper(tmp_path)
    run(tmp_path, seed=1)
    run(tmp_path, seed=2, file="other")
    value, (why,) = cell(tmp_path)
    assert value == ""
    assert why.startswith("several results fit and differ")


def two_rows(folder, **own):
    rows = [{"label": "Ours", "model": "ours"}, {"label": "Mine", "model": "mine", **own}]
    table = {"columns": {"R@1": "recall@1"}, "config": {"query_prefix": ""}}
    return paper(folder, rows=rows, tables={"one": table})


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ({"data_fingerprint": "e" * 16}, "the data differ: their fingerprint is dddddddd in A and eeeeeeee in B"),
        ({"config": {"query_prefix": "", "seed": 0, "k": 2}}, "task.marqo.k is not set in A and 2 in B"),
        ({"protocol": {"ties": "other"}}, "protocol.ties is not set in A and 'other' in B"),
    ],
)
def test_all_rows_of_a_column_are_of_the_same_data_and_protocol(tmp_path, extra, why):
    two_rows(tmp_path)
    run(tmp_path, "ours")
    run(tmp_path, "mine", fingerprint="a", **extra)
    first, second = lines(tmp_path)
    assert first["measured"]
    assert second["measured"] == ""
    assert f"comparing Ours (A) and Mine (B), {why}" in lines(tmp_path, "markdown")


def test_a_row_may_state_a_setting_of_its_own(tmp_path):
    two_rows(tmp_path, config={"marqo": {"query_prefix": "a photo of a "}})
    run(tmp_path, "ours")
    run(tmp_path, "mine", fingerprint="a", config={"query_prefix": "a photo of a ", "seed": 0})
    assert all(line["measured"] for line in lines(tmp_path))
    run(tmp_path, "mine", fingerprint="a")
    assert "its marqo.query_prefix is '', not 'a photo of a '" in lines(tmp_path, "markdown")


def test_rows_are_marked_against_the_best(tmp_path):
    two_rows(tmp_path)
    run(tmp_path, "ours", p=0.9)
    run(tmp_path, "mine", p=0.1, fingerprint="a")
    text = lines(tmp_path, "markdown")
    assert re.search(r"\| Ours \| measured \| \*\*0\.", text)
    assert re.search(r"\| Mine \| measured \| 0\..* ↓ \|", text)
    assert "McNemar's exact test" in text
    assert [line["best"] for line in lines(tmp_path)] == ["True", "False"]


def test_in_domain_results_and_overlaps_carry_their_footnotes(tmp_path):
    paper(tmp_path)
    overlap = {"train": "kagl", "identical": 2, "near": 3, "title": 0, "product": 0, "images": 50}
    run(tmp_path, protocol={"in_domain": True}, overlap=overlap)
    text = lines(tmp_path, "markdown")
    assert "|  | measured † [a] |" in text
    assert "† in-domain" in text
    assert "[a] Of the 50 evaluated images, the training images (kagl) hold 2 identical, 3 near-identical." in text


# --- seeds and means


def seeded(folder, prints):
    row = {"label": "Ours", "model": "ours", "published": "Theirs", "results": "runs/ours/{seed}", "seeds": [0, 1, 2]}
    paper(folder, rows=[row])
    return [
        store(
            folder / "runs" / "ours" / str(i), {T2I: values(50, 0.5, i)}, name="ours", gallery=900, fingerprint=print_
        )
        for i, print_ in enumerate(prints)
    ]


def test_seeds_give_their_mean_and_standard_deviation(tmp_path):
    seeded(tmp_path, ["a", "b", "c"])
    means = [values(50, 0.5, i).mean() for i in range(3)]
    (line,) = lines(tmp_path)
    assert float(line["measured"]) == pytest.approx(np.mean(means))
    assert float(line["sd"]) == pytest.approx(np.std(means, ddof=1))
    assert (line["seeds"], line["low"]) == ("3", "")
    text = lines(tmp_path, "markdown")
    assert f"{np.mean(means):.3f} ± {np.std(means, ddof=1):.3f}" in text
    assert "sample standard deviation" in text
    assert r"$\pm$" in lines(tmp_path, "latex")


def test_a_missing_seed_is_told_and_the_same_weights_are_no_second_seed(tmp_path):
    seeded(tmp_path, ["a", "b"])
    assert lines(tmp_path)[0]["seeds"] == "2"
    assert "Ours: 2 of 3 seeds were measured." in lines(tmp_path, "markdown")
    seeded(tmp_path, ["a", "a"])
    assert lines(tmp_path)[0]["seeds"] == "1"
    assert "seeds 0 and 1 have the same weights (a)" in lines(tmp_path, "markdown")


def means(folder):
    tables = {name: {"data": name, "columns": {"R@1": "recall@1"}} for name in ("first", "second")}
    tables["mean"] = {"mean_of": ["first", "second"], "columns": {"R@1": "recall@1"}}
    return paper(folder, rows=[{"label": "Ours", "model": "ours"}], tables=tables)


def test_a_mean_needs_all_its_parts(tmp_path):
    means(tmp_path)
    run(tmp_path, data="first", n=40)
    assert [line["measured"] != "" for line in lines(tmp_path)] == [True, False, False]
    run(tmp_path, data="second", n=400, seed=1)
    first, second, mean = lines(tmp_path)
    assert float(mean["measured"]) == pytest.approx((float(first["measured"]) + float(second["measured"])) / 2)
    groups = [values(40, 0.4, 0), values(400, 0.4, 1)]
    half = 1.96 * np.sqrt(sum(group.var() / len(group) for group in groups)) / 2
    assert (float(mean["high"]) - float(mean["low"])) / 2 == pytest.approx(half, rel=0.1)


def test_a_mean_has_no_interval_without_all_values_per_query(tmp_path):
    means(tmp_path)
    run(tmp_path, data="first")
    run(tmp_path, data="second", beside=False)
    assert [line["low"] != "" for line in lines(tmp_path)] == [True, True, False]


# --- published numbers


def test_the_rest_of_the_publication_follows_and_a_model_that_is_listed_twice_is_two_rows(tmp_path):
    table = {
        "rest": True,
        "published": {"source": "a paper", "dataset": "KAGL", "task": "t2i"},
        "columns": {"R@1": "recall@1", "MRR": "mrr@10"},
    }
    paper(tmp_path, rows=[{"label": "Ours", "model": "ours"}], tables={"one": table})
    text = lines(tmp_path, "markdown")
    assert "| *Their best* | published | 0.50 | — |" in text
    assert "| *Theirs #1* | published | 0.40 | 0.45 |" in text
    assert "| *Theirs #2* | published | — | 0.47 |" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"title": ""}, "the key 'title' is missing"),
        ({"rows": [{"model": "x"}]}, "no label"),
        ({"rows": [{"label": "x", "modell": "x"}]}, "unknown key 'modell'. Did you mean 'model'"),
        ({"rows": [{"label": "x"}, {"label": "x"}]}, "two rows are called 'x'"),
        ({"rows": [{"label": "x", "published": "Thers"}]}, "published as 'Thers'.*Did you mean 'Theirs'"),
        ({"rows": [{"label": "x", "model": "x", "seeds": [0]}]}, "write {seed} into its results"),
        ({"tables": {"a": {"columns": "recal"}}, "columns": {"recall": {}}}, "Did you mean 'recall'"),
        ({"tables": {"a": {"columns": {"R@1": "r"}, "mean_of": ["b"]}}}, "the mean of 'b'"),
        ({"tables": {"a": {"columns": {"R@1": {"data": "kagl"}}}}}, "does not say its metric"),
        ({"tables": {"a": {"columns": ["R@1"]}}}, "must be a mapping"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place(tmp_path, changes, words):
    content = {"columns": {}}
    (tmp_path / "table.yaml").write_text("")
    with pytest.raises(ModisteError, match=words) as error:
        paper_with(tmp_path, content | changes)
    assert "table.yaml" in str(error.value)


def paper_with(folder, changes):
    paper(folder)
    content = yaml.safe_load((folder / "table.yaml").read_text()) | changes
    (folder / "table.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    format_papers([folder], PUBLISHED)


@pytest.mark.parametrize("key", ["source", "dataset", "task", "metric"])
def test_a_place_that_the_reference_file_does_not_have_is_refused(tmp_path, key):
    place = {"source": "a paper", "dataset": "KAGL", "task": "t2i", "metric": "R@1"} | {key: "R@2"}
    table = {"published": place, "columns": {"R@1": "recall@1"}}
    paper(tmp_path, rows=[{"label": "x", "model": "x"}], tables={"one": table})
    with pytest.raises(ModisteError, match=f"under the {key} 'R@2'"):
        format_papers([tmp_path], PUBLISHED)


# --- the command


def arguments(**changes):
    return compose("table", [f"{key}={value}" for key, value in changes.items()])


def test_the_command_makes_a_papers_table_and_goes_on_making_those_of_runs(tmp_path, capsys):
    paper(tmp_path)
    run(tmp_path)
    published = tmp_path / "published.csv"
    with published.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(PUBLISHED[0]))
        writer.writeheader()
        writer.writerows(PUBLISHED)
    command.run(arguments(sources=f"[{tmp_path}]", published=published))
    assert "A paper" in capsys.readouterr().out
    command.run(arguments(sources=f"[{tmp_path}]", published=published, format="markdown"))
    assert "## A paper" in capsys.readouterr().out
    command.run(arguments(sources=f"[{tmp_path / 'runs'}]", published=published))
    assert "kagl · marqo · test" in capsys.readouterr().out
    command.run(arguments(sources=f"[{tmp_path}]", published=published, format="latex", out=tmp_path / "t.tex"))
    assert r"\begin{tabular}" in (tmp_path / "t.tex").read_text()
    with pytest.raises(ModisteError, match="make a table of each"):
        command.run(arguments(sources=f"[{tmp_path},{tmp_path / 'runs'}]", published=published))
    with pytest.raises(ModisteError, match="Did you mean 'csv'"):
        command.run(arguments(sources=f"[{tmp_path}]", published=published, format="cvs"))


# --- a table of one's own runs


def test_the_documented_example_is_built(tmp_path, capsys):
    """The first block of the schema's docstring, with results where it says."""
    example = spec.__doc__.split("::\n")[1].partition("\nAll keys")[0]
    (tmp_path / "table.yaml").write_text(textwrap.dedent(example))
    scores = {seed: values(60, 0.3 + 0.1 * seed, seed) for seed in range(3)}
    for place, seed in {"runs/clip": 2, **{f"runs/siglip/{seed}": seed for seed in range(3)}}.items():
        metrics = {"t2i/mrr": scores[seed], "t2i/recall@10": scores[seed]}
        store(tmp_path / place, metrics, name="kagl", fingerprint=place[-1] * 16, task="retrieval")
    rows = lines(tmp_path)
    assert [(row["model"], row["column"]) for row in rows] == [
        (label, column) for label in ("InfoNCE", "sigmoid") for column in ("MRR", "Recall@10")
    ]
    means = [scores[seed].mean() for seed in range(3)]
    assert float(rows[0]["measured"]) == scores[2].mean()
    assert (float(rows[2]["measured"]), float(rows[2]["sd"])) == pytest.approx((np.mean(means), np.std(means, ddof=1)))
    command.run(arguments(sources=f"[{tmp_path}]"))
    assert "KAGL, text-to-image" in capsys.readouterr().out


def test_a_run_that_does_not_exist_is_told(tmp_path):
    with pytest.raises(ModisteError, match="the run 'runs/nope', which does not exist"):
        paper(tmp_path, rows=[{"label": "ours", "run": "runs/nope"}])
    with pytest.raises(ModisteError, match="has run and results"):
        paper(tmp_path, rows=[{"label": "ours", "run": ".", "results": "runs"}])


# --- the repository's papers


@pytest.fixture(scope="module")
def published():
    return read_published()


def test_a_run_is_no_paper_whatever_lies_in_it(tmp_path):
    (tmp_path / "table.yaml").write_text("title: x")
    assert is_paper(tmp_path)
    (tmp_path / "config.yaml").touch()
    assert not is_paper(tmp_path)


@pytest.mark.parametrize("folder", PAPERS, ids=lambda path: path.name)
def test_every_paper_of_the_repository_can_be_made_in_all_formats(folder, published):
    assert (folder / "README.md").is_file()
    assert is_paper(folder)
    for style in ("markdown", "csv", "latex"):
        assert format_papers([folder], published, style)


@pytest.mark.parametrize("folder", PAPERS, ids=lambda path: path.name)
def test_every_model_and_benchmark_that_a_paper_names_exists(folder):
    """Models have a config; sizes are those that published numbers are shown with in other tables."""
    content = Paper.read(folder)
    models = list_groups([ROOT / "conf"])["model"]
    assert {row.model for row in content.rows if f"model={row.model}" in row.command} <= set(models)
    namings = {
        (naming.data, naming.task, dataset): naming for naming in packaged_namings() for dataset in naming.datasets
    }
    for column in (column for table in content.tables for column in table.columns):
        naming = namings.get((column.data, column.task, column.published.get("dataset", "")))
        if naming is not None:
            line = {key: column.published[key] for key in ("dataset", "task", "metric")}
            assert naming.name(line) == column.metric
            assert column.queries in (None, naming.queries.get(column.part))
            assert column.gallery in (None, naming.documents(column.part))


def numbers(published, source, dataset, task, metric):
    return {
        line["model"]: float(line["value"])
        for line in published
        if (line["source"], line["dataset"], line["task"], line["metric"]) == (source, dataset, task, metric)
    }


def test_marqos_published_averages_are_the_means_of_the_tables_that_they_name(published):
    """Recomputed from the rows to ±.001 (rounding of the rows included): six models, twelve averages."""
    content = Paper.read(ROOT / "experiments" / "marqo_2024")
    tables = {table.name: table for table in content.tables}
    assert [len(t.columns[0].mean_of) for t in content.tables if t.columns[0].mean_of] == [6, 5, 4]
    checked = 0
    for table in (table for table in content.tables if table.columns[0].mean_of):
        for column in table.columns:
            average = numbers(published, **column.published)
            parts = []
            for name in column.mean_of:
                (own,) = (c for c in tables[name].columns if c.label == column.label)
                parts.append(numbers(published, **own.published))
            for row in content.rows:
                values = [next(part[name] for name in row.published if name in part) for part in parts]
                (value,) = (average[name] for name in row.published if name in average)
                assert np.mean(values) == pytest.approx(value, abs=0.001)
                checked += 1
    assert checked == 72


def test_marqos_table_holds_every_number_of_the_leaderboard(published):
    content = Paper.read(ROOT / "experiments" / "marqo_2024")
    source = content.tables[0].columns[0].published["source"]
    shown = list(csv.DictReader(io.StringIO(format_papers([content.path], published, "csv"))))
    values = sorted(line["value"] for line in published if line["source"] == source)
    assert sorted(line["published"] for line in shown if line["published"]) == values
    assert len(values) == 6 * 4 * 27


def test_lookbenchs_overall_is_the_mean_of_the_subsets_weighted_by_queries(published):
    source = "LookBench release_v2601 benchmark.json"
    subsets = {s: numbers(published, source, f"lookbench/{s}", "similar", "fine_R@1") for s in LOOKBENCH}
    overall = numbers(published, source, "lookbench/overall", "similar", "fine_R@1")
    (naming,) = (naming for naming in packaged_namings() if naming.data == "lookbench")
    assert {s: naming.queries[f"{s}/fine"] for s in LOOKBENCH} == LOOKBENCH
    assert len(overall) == 16
    for model, value in overall.items():
        weighted = sum(subsets[s][model] * n for s, n in LOOKBENCH.items()) / 2345
        assert weighted == pytest.approx(value, abs=0.0001)


def test_fashion_iqs_two_boards_take_results_of_their_own_gallery_alone(tmp_path):
    content = yaml.safe_load((ROOT / "experiments" / "fashioniq" / "table.yaml").read_text())
    content["results"] = ["runs/{model}"]
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    per_query = {"mean/mean": values(6016, 0.2, 0)}
    config = {"gallery": "val", "exclude_reference": False}
    place = {"data": "fashion_iq", "split": "val", "task": "composed", "name": "clip_b32"}
    store(tmp_path / "runs" / "clip_b32", per_query, config=config, **place)
    cells = measure(Paper.read(tmp_path))
    assert list(cells.found) == [("val", "CLIP ViT-B/32", "mean")]
    assert any("composed.gallery is 'val', not 'original'" in why for why in cells.refused["original", "CLIP ViT-B/32"])
