"""Tables say what result files and the reference file say, and nothing else."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from modiste import tables
from modiste.commands import table as command
from modiste.errors import ModisteError

CONF = Path(__file__).parents[1] / "conf" / "table.yaml"
MARQO = {
    "text-to-image/recall@1": (0.141, 2000),
    "text-to-image/recall@10": (0.437, 2000),
    "text-to-image/avg_recall": (0.289, 2000),
    "category-to-product/precision@1": (0.571, 7),
    "category-to-product/avg_precision": (0.543, 7),
    "category-to-product/mrr@10": (0.612, 7),
}


def sizes(metrics=MARQO, gallery=44434):
    counts = {f"{m.split('/')[0]}/queries": n for m, (_, n) in metrics.items()}
    return counts | {f"{m.split('/')[0]}/gallery": gallery for m in metrics}


def result(metrics=MARQO, task="marqo", data="kagl", name="mine", fingerprint="f" * 16, counts=None, **extra):
    cells = {m: {"value": v, "low": v - 0.01, "high": v + 0.01, "n": n} for m, (v, n) in metrics.items()}
    model = {"name": name, "fingerprint": fingerprint}
    counts = sizes(metrics) if counts is None else counts
    fixed = {"schema": 1, "task": task, "data": data, "split": "test", "model": model, "metrics": cells}
    return fixed | {"primary": next(iter(metrics)), "protocol": {}, "counts": counts} | extra


def write(run_dir, content, name="kagl.test.marqo"):
    path = run_dir / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def block(blocks, part):
    return next(b for b in blocks if b.part == part)


@pytest.fixture(scope="module")
def published():
    return tables.read_published()


# --- the reference file


def test_every_published_number_of_a_named_benchmark_is_mapped(published):
    for naming in tables.NAMINGS:
        lines = [line for line in published if line["dataset"] == naming.dataset]
        assert lines
        assert {line["metric"] for line in lines} <= set(naming.metrics)
        assert {naming.part(line["task"]) for line in lines} == set(naming.queries)


def test_published_averages_agree_with_their_parts(published):
    """AvgRecall = mean(R@1, R@10) and AvgP likewise (Marqo 2024): a row that was copied wrongly would not agree."""
    values = {
        tuple(line[k] for k in ("source", "dataset", "task", "model", "metric")): float(line["value"])
        for line in published
    }
    checked = 0
    for (*where, metric), value in values.items():
        if metric in ("AvgRecall", "AvgP"):
            parts = ("Recall@1", "Recall@10") if metric == "AvgRecall" else ("P@1", "P@10")
            assert value == pytest.approx(sum(values[(*where, part)] for part in parts) / 2, abs=0.0011)
            checked += 1
    assert checked == 60


@pytest.mark.parametrize(
    ("text", "words"),
    [("source,model\n", "dataset"), ("source,dataset,task,model,metric,value\na,b,c,d,e,x\n", "line 2")],
)
def test_a_bad_reference_file_is_refused(tmp_path, text, words):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(ModisteError, match=words):
        tables.read_published(tmp_path / "p.csv")
    with pytest.raises(ModisteError, match="no file of published numbers"):
        tables.read_published(tmp_path / "absent.csv")


# --- blocks


def test_published_rows_stand_beside_measured_ones_under_our_names(published):
    rows = {row.model: row for row in block(tables.build_blocks([result()], published), "text-to-image").rows}
    assert rows["mine"].source == ""
    marqo = rows["FashionCLIP2.0"]
    assert "LEADERBOARD" in marqo.source
    assert marqo.cells["text-to-image/avg_recall"].text == "0.263"
    assert marqo.cells["text-to-image/recall@10"].text == "0.404"
    category = {row.model: row for row in block(tables.build_blocks([result()], published), "category-to-product").rows}
    assert category["FashionCLIP2.0"].cells["category-to-product/mrr@10"].text == "0.714"


def test_fashion_mnist_maps_to_the_category_attribute(published):
    ours = result({"category/weighted_f1": (0.6, 10000)}, task="zeroshot", data="fashion_mnist")
    (only,) = tables.build_blocks([ours], published)
    assert {row.model: tables.show("f1", row.cells["category/weighted_f1"], interval=False) for row in only.rows} == {
        "mine": "0.600",
        "OpenAI CLIP ViT-B/32": "0.66",
        "FashionCLIP 1.0": "0.74",
        "LAION CLIP ViT-B/32": "0.78",
        "FashionCLIP 2.0": "0.83",
    }


def test_the_marqo_summary_has_the_main_metric_of_every_task(published):
    summary = tables.build_blocks([result()], published)[0]
    assert summary.part == "summary"
    assert summary.columns == ["text-to-image/avg_recall", "category-to-product/avg_precision"]


@pytest.mark.parametrize("other", [{"task": "retrieval"}, {"data": "fashion_mnist"}])
def test_published_rows_stay_with_their_own_task_and_data(published, other):
    assert not any(row.source for b in tables.build_blocks([result(**other)], published) for row in b.rows)


@pytest.mark.parametrize(("gallery", "shown", "said"), [(44434, True, False), (44420, True, True), (500, False, True)])
def test_published_rows_need_the_published_gallery(published, gallery, shown, said):
    blocks = tables.build_blocks([result(counts=sizes(gallery=gallery))], published)
    assert any(row.source for b in blocks for row in b.rows) is shown
    assert all("44,434 documents" in " ".join(b.notes) for b in blocks) is said


def test_a_part_with_other_queries_gets_no_published_rows(published):
    metrics = MARQO | {"text-to-image/recall@1": (0.2, 100), "text-to-image/recall@10": (0.2, 100)}
    blocks = tables.build_blocks([result(metrics | {"text-to-image/avg_recall": (0.2, 100)})], published)
    assert not any(row.source for row in block(blocks, "text-to-image").rows)
    assert "2,000 queries, here there are 100" in " ".join(block(blocks, "text-to-image").notes)
    assert any(row.source for row in block(blocks, "category-to-product").rows)
    assert block(blocks, "category-to-product").sizes == {"queries": 7, "gallery": 44434}
    assert block(blocks, "summary").sizes == {"gallery": 44434}  # the parts have different queries


def test_results_with_other_counts_never_share_a_block():
    small = result(name="small", counts=sizes(gallery=100))
    for b in tables.build_blocks([result(), small]):
        assert len(b.rows) == 1


def test_a_result_of_some_parts_shares_the_blocks_of_those_parts():
    part = result({"category-to-product/avg_precision": (0.3, 7)}, name="part")
    blocks = tables.build_blocks([result(), part])
    assert [row.model for row in block(blocks, "category-to-product").rows] == ["mine", "part"]
    assert "| part | — | 0.300 [0.290, 0.310] | measured |" in tables.to_markdown(blocks[:1])


def test_counts_that_only_inform_do_not_part_results():
    other = result(name="other", counts=sizes() | {"text-to-image/relevant_in_train": 5})
    assert [row.model for row in tables.build_blocks([result(), other])[0].rows] == ["mine", "other"]


def test_relevant_products_in_the_training_part_are_told_for_in_domain_models():
    counts = sizes() | {"category-to-product/relevant_in_train": 1200, "category-to-product/relevant": 3000}
    trained = result(counts=counts, protocol={"in_domain": True})
    blocks = tables.build_blocks([trained])
    assert "category-to-product 1,200 of 3,000" in " ".join(block(blocks, "category-to-product").notes)
    assert block(blocks, "text-to-image").notes == []
    assert all(not b.notes for b in tables.build_blocks([result(counts=counts)]))


def test_the_same_name_with_other_weights_is_another_row():
    blocks = tables.build_blocks([result(fingerprint="a" * 16), result(fingerprint="b" * 16)])
    assert [row.model for row in blocks[0].rows] == ["mine (aaaaaaaa)", "mine (bbbbbbbb)"]


def test_the_same_weights_measured_twice_are_numbered():
    blocks = tables.build_blocks([result(), result({"text-to-image/recall@1": (0.5, 2000)})])
    assert [row.model for row in blocks[0].rows] == ["mine (ffffffff) #1", "mine (ffffffff) #2"]


@pytest.mark.parametrize("where", ["protocol", "model", "describe"])
def test_an_in_domain_model_carries_a_dagger_and_a_footnote(where):
    content = result()
    place = {"protocol": content["protocol"], "model": content["model"]}.get(where)
    if place is None:
        place = content["model"].setdefault("describe", {})
    place["in_domain"] = True
    text = tables.format_table([content])
    assert "| mine † |" in text
    assert tables.DAGGER_NOTE in text
    assert "†" not in tables.format_table([result()])
    assert r"$\dagger$" in tables.format_table([content], style="latex")


# --- text


def test_every_number_in_the_table_is_a_result_or_published(published):
    text = tables.format_table([result()], published)
    values = {line["value"] for line in published}
    values |= {f"{v + d:.3f}" for v, _ in MARQO.values() for d in (-0.01, 0, 0.01)}
    cells = [c for line in text.splitlines() if line.startswith("|") for c in line.split("|")[2:-2]]
    numbers = [number for cell in cells for number in re.findall(r"(?<![@\w])\d+\.?\d*", cell)]
    assert len(numbers) > 50
    assert set(numbers) <= values


def test_what_was_not_run_is_a_dash():
    second = result({"text-to-image/recall@1": (0.3, 2000)}, name="other")
    text = tables.format_table([result(), second])
    assert "| other | — | 0.300 [0.290, 0.310] | — | measured |" in text


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_metric_without_a_value_is_a_dash(value):
    content = result()
    content["metrics"]["text-to-image/recall@1"]["value"] = value
    assert "nan" not in tables.format_table([content]).lower()
    assert tables.build_blocks([content])[0].rows[0].cells.keys() == MARQO.keys() - {"text-to-image/recall@1"}


def test_markdown_rows_are_as_wide_as_their_heading():
    wide = result({f"t2i/recall@{k}": (0.1, 5) for k in range(1, 31)}, name="a|b", task="retrieval")
    lines = [line for line in tables.format_table([wide]).splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    assert max(widths) <= tables.COLUMNS_PER_TABLE + 3
    for i in range(0, len(lines), 3):  # heading, rule, the one row
        assert len(set(widths[i : i + 3])) == 1


def test_csv_keeps_full_precision_and_every_number(published):
    content = result({"text-to-image/recall@1": (1 / 3, 2000), "category-to-product/precision@1": (2 / 7, 7)})
    lines = list(csv.DictReader(io.StringIO(tables.format_table([content], published, "csv"))))
    measured = {line["metric"]: line for line in lines if line["origin"] == "measured"}
    assert {m: float(line["value"]) for m, line in measured.items()} == {
        "text-to-image/recall@1": 1 / 3,
        "category-to-product/precision@1": 2 / 7,
    }
    assert measured["category-to-product/precision@1"]["queries"] == "7"
    assert all(line["source"] for line in lines if line["origin"] == "published")


def test_latex_escapes_what_latex_would_take(published):
    text = tables.format_table([result(name=r"a_b & 50% {x} \y #1 $")], published, "latex")
    assert r"a\_b \& 50\% \{x\} \textbackslash{}y \#1 \$" in text
    body = text.split("\n", 1)[1]
    assert not re.search(r"(?<!\\)[_%#]", body)
    for row in re.findall(r"^(?!\\).*\\\\$", body, flags=re.M):
        assert len(re.findall(r"(?<!\\)&", row)) in (3, 4)  # summary: two metrics; parts: three


def test_the_terminal_table_names_the_best_published_model(published):
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(tables.rich_table([result()], published))
    text = console.export_text()
    assert re.search(r"text-to-image/avg_recall.*0\.289 \[0\.279, 0\.299\].*0\.334 \(Marqo-FashionSigLIP\)", text)
    assert "text-to-image/recall@1" not in text  # the summary only


def test_results_are_printed_from_their_files(tmp_path, capsys):
    tables.print_results([write(tmp_path, result())])
    assert "0.334" in capsys.readouterr().out


# --- reading


def test_a_run_an_experiment_folder_and_a_file_are_all_paths(tmp_path):
    file = write(tmp_path / "experiment" / "a", result())
    write(tmp_path / "experiment" / "b", result(name="other"))
    (tmp_path / "experiment" / "a" / "cost.json").write_text("{}")
    assert len(tables.load_results([tmp_path / "experiment"])) == 2
    assert len(tables.load_results(tmp_path / "experiment" / "a")) == 1
    assert len(tables.load_results([file])) == 1
    assert len(tables.load_results([tmp_path / "experiment" / "a" / "results"])) == 1
    assert len(tables.load_results([file, tmp_path / "experiment"])) == 2  # the file is met twice and counts once


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("{", "not a readable JSON"),
        ([], "not an object"),
        ({"schema": 2}, "schema is 2"),
        ({"data": None}, "'data' is missing"),
        ({"model": {}}, "no name"),
        ({"metrics": {}}, "no metrics"),
        ({"metrics": {"t2i/mrr": 0.5}}, "'t2i/mrr' has no value"),
        ({"metrics": {"t2i/mrr": {"value": "high"}}}, "not a number"),
    ],
)
def test_a_malformed_result_is_named(tmp_path, change, words):
    file = write(tmp_path, result() | change if isinstance(change, dict) else change)
    if isinstance(change, str):
        file.write_text(change)
    with pytest.raises(ModisteError, match=words) as error:
        tables.load_results([tmp_path])
    assert str(file) in str(error.value)


def test_nothing_to_read_is_an_error_with_its_remedy(tmp_path):
    with pytest.raises(ModisteError, match="modiste evaluate"):
        tables.load_results([tmp_path])
    with pytest.raises(ModisteError, match="no run directory"):
        tables.load_results([tmp_path / "absent"])
    with pytest.raises(ModisteError, match="needs run directories"):
        tables.load_results([])


def test_an_unknown_format_gets_a_suggestion():
    with pytest.raises(ModisteError, match="Did you mean 'markdown'"):
        tables.format_table([result()], style="markdwon")


# --- the command


def test_the_command_prints_or_writes(tmp_path, capsys):
    write(tmp_path / "run", result())
    cfg = OmegaConf.load(CONF)
    cfg.paths = [str(tmp_path / "run")]
    command.run(cfg)
    printed = capsys.readouterr().out
    assert "### kagl · marqo · test · summary" in printed
    assert "*FashionCLIP2.0*" in printed
    cfg.output = str(tmp_path / "new" / "table.md")
    command.run(cfg)
    assert (tmp_path / "new" / "table.md").read_text(encoding="utf-8") == printed
