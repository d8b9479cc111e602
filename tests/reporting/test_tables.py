"""Tables say what result files and the reference file say, and nothing else."""

import csv
import io
import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from helpers.stored_results import store, values
from modiste.commands import table as command
from modiste.errors import ModisteError
from modiste.metrics.comparison import holm, mcnemar
from modiste.reporting import tables
from modiste.reporting.markdown import code
from modiste.reporting.tables.sheets import Grid, Item, Sheet, csv_text, latex, markdown
from modiste.tasks.composed import PROTOCOL
from modiste.utils import archives

MARQO = {naming.data: naming for naming in tables.packaged_namings() if naming.task == "marqo"}
CONF = Path(__file__).parents[2] / "conf" / "table.yaml"
KAGL = {
    "text-to-image/recall@1": (0.141, 2000),
    "text-to-image/recall@10": (0.437, 2000),
    "text-to-image/avg_recall": (0.289, 2000),
    "category-to-product/precision@1": (0.571, 7),
    "category-to-product/avg_precision": (0.543, 7),
    "category-to-product/mrr@10": (0.612, 7),
}

SUMMARY = ["avg_recall", "avg_precision"]


def sizes(metrics=KAGL, gallery=44434):
    counts = {f"{m.split('/')[0]}/queries": n for m, (_, n) in metrics.items()}
    return counts | {f"{m.split('/')[0]}/gallery": gallery for m in metrics}


def result(metrics=KAGL, task="marqo", data="kagl", name="mine", fingerprint="f" * 16, counts=None, **extra):
    cells = {m: {"value": v, "low": v - 0.01, "high": v + 0.01, "n": n} for m, (v, n) in metrics.items()}
    model = {"name": name, "fingerprint": fingerprint}
    counts = sizes(metrics) if counts is None else counts
    fixed = {"schema": 1, "task": task, "data": data, "split": "test", "model": model, "metrics": cells}
    return fixed | {"primary": next(iter(metrics)), "summary": SUMMARY, "protocol": {}, "counts": counts} | extra


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


def test_the_reference_file_is_whole(published):
    raw = tables.published.PACKAGED.read_bytes()
    assert len(published) == 2090
    assert b"\r" not in raw


def test_every_published_number_of_a_named_benchmark_is_mapped(published):
    for naming in tables.packaged_namings():
        lines = [line for line in published if line["dataset"] in naming.datasets]
        assert {line["dataset"] for line in lines} == set(naming.datasets)
        names = {naming.name(line) for line in lines}
        assert None not in names
        if naming.queries:
            assert {name.rpartition("/")[0] for name in names} <= set(naming.queries)


def test_only_averages_and_unpublished_subsets_have_no_naming(published):
    named = {dataset for naming in tables.packaged_namings() for dataset in naming.datasets}
    rest = {line["dataset"] for line in published} - named
    assert rest == {"Average Results", "kagl (paper subset)", "deep (paper subset)"}


@pytest.mark.parametrize("data", MARQO)
def test_marqos_published_rows_stand_next_to_a_result_of_every_set(published, data):
    gallery, queries = MARQO[data].gallery, MARQO[data].queries
    metrics = {f"{part}/precision@1": (0.5, n) for part, n in queries.items()}
    blocks = tables.build_blocks([result(metrics, data=data, counts=sizes(metrics, gallery))], published)
    for part, n in queries.items():
        if part != "text-to-image":
            rows = [row for row in block(blocks, part).rows if "LEADERBOARD" in row.source]
            assert len(rows) == 6, part
            for row in rows:  # P@1 of n queries is a number of n-ths
                value = row.cells[f"{part}/precision@1"].value
                assert abs(value * n - round(value * n)) <= 0.0006 * n


def test_lookbench_and_fashion_iq_sizes_agree_with_the_tasks_own(published):
    boards = {naming.protocol["gallery"]: naming for naming in tables.packaged_namings() if naming.data == "fashion_iq"}
    for name, size in PROTOCOL.items():
        for gallery, naming in boards.items():
            assert (naming.queries[name], naming.gallery[name]) == (size["queries"], size[gallery])
    metrics = {"overall/fine/hit_rate@1": (0.6, 2345), "overall/fine/ndcg@5": (0.4, 2345)}
    content = result(metrics, task="similar", data="lookbench", counts={"overall/fine/queries": 2345})
    rows = {row.model: row for row in tables.build_blocks([content], published)[0].rows}
    assert rows["GR-Pro"].cells["overall/fine/ndcg@5"].text == "0.4981"
    (lookbench,) = (naming for naming in tables.packaged_namings() if naming.data == "lookbench")
    assert sum(n for part, n in lookbench.queries.items() if part.endswith("/fine")) == 2 * 2345


@pytest.mark.parametrize(("gallery", "model"), [("original", "SPN (SPRC) [BLIP-2]"), ("val", "TG-CIR [CLIP-B]")])
def test_fashion_iqs_boards_are_never_mixed(published, gallery, model):
    content = result({"mean/mean": (0.3, 6016)}, task="composed", data="fashion_iq", counts={"mean/queries": 6016})
    content["protocol"] = {"gallery": gallery}
    (only,) = tables.build_blocks([content], published)
    models = [row.model for row in only.rows]
    assert model in models
    assert ("FAME-ViL [CLIP-B]" in models) is (gallery == "original")
    assert ("CompoDiff (with SynthTriplets18M) [CLIP-L] #2" in models) is (gallery == "original")


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
    assert checked == 6 * 27  # six models, three averages and 24 tasks


@pytest.mark.parametrize(
    ("text", "words"),
    [("source,model\n", "dataset"), ("source,dataset,task,model,metric,value\na,b,c,d,e,x\n", "line 2")],
)
def test_a_bad_reference_file_is_refused(tmp_path, text, words):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(ModisteError, match=words):
        tables.read_published(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("source,dataset,task,model,metric,value\n")
    for bad, why in (("- &a {data: x}\n- *a\n", "has YAML aliases"), ("- 1\n", "does not name benchmarks")):
        (tmp_path / "p.yaml").write_text(bad)
        with pytest.raises(ModisteError, match=why):
            tables.read_published(tmp_path / "p.csv")
    with pytest.raises(ModisteError, match="no file of published numbers"):
        tables.read_published(tmp_path / "absent.csv")


# --- blocks


def test_published_rows_stand_next_to_measured_ones_under_our_names(published):
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
    metrics = KAGL | {"text-to-image/recall@1": (0.2, 100), "text-to-image/recall@10": (0.2, 100)}
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
    assert "| part | — | 0.300 [0.290, 0.310] | measured |" in tables.format_table([result(), part])


def test_counts_that_only_inform_do_not_part_results():
    other = result(name="other", counts=sizes() | {"text-to-image/relevant_in_train": 5})
    assert [row.model for row in tables.build_blocks([result(), other])[0].rows] == ["mine", "other"]


def test_relevant_products_in_the_training_part_are_told_for_in_domain_models():
    counts = sizes() | {"category-to-product/relevant_in_train": 1200, "category-to-product/relevant": 3000}
    trained = result(counts=counts, protocol={"in_domain": True})
    blocks = tables.build_blocks([trained])
    assert "category-to-product 1,200 of 3,000" in " ".join(block(blocks, "category-to-product").notes)
    assert block(blocks, "text-to-image").notes == []
    assert all("training part" not in " ".join(b.notes) for b in tables.build_blocks([result(counts=counts)]))


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


def test_a_variant_of_the_settings_is_a_table_of_its_own():
    blocks = tables.build_blocks([result(), result(variant="photo", name="other")])
    assert [b.title for b in tables.summaries(blocks)] == [
        "kagl · marqo · test · summary",
        "kagl · marqo · test · photo · summary",
    ]


def test_corrupted_images_are_a_table_of_their_own_without_published_numbers(published):
    small = {"protocol": {"corruptions": "Thumbnail(p=1.0)"}, "variant": "photo"}
    clean, corrupted = (result(variant="photo"), result(name="other", **small))
    first, second = tables.summaries(tables.build_blocks([clean, corrupted], published))
    notes = ["Every image was corrupted by Thumbnail(p=1.0)." in block.notes for block in (first, second)]
    assert (notes, [len(block.sources) > 0 for block in (first, second)]) == ([False, True], [True, False])
    assert [row.model for row in second.rows] == ["other"]


def test_what_a_row_shares_with_its_training_images_is_a_footnote():
    shared = {"train": "kagl", "identical": 3, "near": 5, "title": 8, "product": None, "images": 2774}
    blocks = tables.build_blocks([result(overlap=shared), result(name="clean", overlap=None)])
    note = "[a] Of the 2,774 evaluated images, the training images (kagl) hold 3 identical, 5 near-identical, 8 with"
    text = tables.format_table([result(overlap=shared), result(name="clean")])
    assert [blocks[0].label(row) for row in blocks[0].rows] == ["mine [a]", "clean"]
    assert f"\n{note}" in text
    assert "| mine [a] |" in text
    assert "is not known: gone" in tables.format_table([result(overlap={"unknown": "gone"})])


# --- marks


def three(tmp_path, n=400):
    """Three models of rising quality; the second is hardly worse than the third."""
    per_query = {name: values(n, p, i) for i, (name, p) in enumerate({"low": 0.2, "near": 0.55, "top": 0.6}.items())}
    for i, (name, right) in enumerate(per_query.items()):
        store(tmp_path / name, {"t2i/hit_rate@1": right}, name=name, task="retrieval", fingerprint=str(i) * 16)
    return per_query, [tmp_path / name for name in per_query]


def test_the_best_value_is_marked_and_what_differs_from_it_by_holm(tmp_path):
    per_query, paths = three(tmp_path)
    (only,) = tables.build_blocks(tables.load_results(paths))
    p = [mcnemar(per_query["top"], per_query[name]) for name in ("low", "near")]
    assert {row: value for (row, _), value in only.marks.p.items()} == pytest.approx(
        dict(zip(("low", "near"), holm(p), strict=True))
    )
    assert {row: sign for (row, _), sign in only.marks.signs.items()} == {"low": "↓", "near": "≈", "top": "best"}
    text = tables.format_table(tables.load_results(paths))
    assert re.search(r"\| top \| \*\*0\.\d+ \[.*\]\*\* \| measured", text)
    assert re.search(r"\| low \| 0\.\d+ \[.*\] ↓ \| measured", text)
    assert "McNemar's exact test (values of 0 and 1), with Holm's correction for the 2 tests of this table" in text
    latex = tables.format_table(tables.load_results(paths), style="latex")
    assert r"$\downarrow$" in latex
    assert r"\textbf{0." in latex
    lines = list(csv.DictReader(io.StringIO(tables.format_table(tables.load_results(paths), style="csv"))))
    assert [line["best"] for line in lines] == ["False", "False", "True"]
    assert [float(line["p_holm"]) for line in lines[:2]] == pytest.approx(holm(p))


def test_holm_counts_all_tests_of_a_table(tmp_path):
    """The same comparison in a table of more columns has a larger adjusted p."""
    n, metrics = 300, ("hit_rate@1", "hit_rate@5", "hit_rate@10")
    for i, name in enumerate(("a", "b")):
        per_query = {f"t2i/{metric}": values(n, 0.5 + 0.12 * i, (i, k)) for k, metric in enumerate(metrics)}
        store(tmp_path / name, per_query, name=name, task="retrieval", fingerprint=str(i) * 16)
    (only,) = tables.build_blocks(tables.load_results([tmp_path / "a", tmp_path / "b"]))
    raw = [mcnemar(values(n, 0.5, (0, k)), values(n, 0.62, (1, k))) for k in range(3)]
    assert list(only.marks.p.values()) == pytest.approx(holm(raw))


def test_nothing_is_marked_without_values_per_query_or_of_one_model(tmp_path):
    _, paths = three(tmp_path)
    assert not tables.build_blocks(tables.load_results(paths[:1]))[0].marks.signs
    for path in paths[:2]:
        next(path.rglob("*.npz")).unlink()
    (only,) = tables.build_blocks(tables.load_results(paths))
    assert not only.marks.signs
    assert "**" not in tables.format_table(tables.load_results(paths))


def test_results_of_other_data_or_settings_are_not_tested_and_the_footnote_says_why(tmp_path):
    right = {"t2i/hit_rate@1": values(50, 0.5, 0)}
    store(tmp_path / "a", right, name="a", config={"prefix": ""})
    store(tmp_path / "b", {"t2i/hit_rate@1": values(50, 0.9, 1)}, name="b", config={"prefix": "a photo of "})
    text = tables.format_table(tables.load_results([tmp_path / "a", tmp_path / "b"]))
    assert "Not tested: b (A) against a (B), because task.marqo.prefix is 'a photo of ' in A and '' in B." in text
    assert "↓" not in text


def test_values_per_query_of_another_evaluation_are_not_used(tmp_path):
    _, paths = three(tmp_path)
    stale = next(paths[0].rglob("*.npz"))
    np.savez_compressed(stale, **{"t2i/hit_rate@1": values(400, 0.9, 9)})
    (only,) = tables.build_blocks(tables.load_results(paths))
    assert {row for row, _ in only.marks.signs} == {"near", "top"}


def test_a_rank_is_better_when_it_is_lower(tmp_path):
    for i, name in enumerate(("slow", "fast")):
        ranks = np.arange(1, 102) + 30.0 * (1 - i)
        path = store(tmp_path / name, {"t2i/median_rank": ranks}, name=name, fingerprint=str(i) * 16)
        assert json.loads(path.read_text())["metrics"]["t2i/median_rank"]["value"] == np.median(ranks)
    (only,) = tables.build_blocks(tables.load_results([tmp_path / "slow", tmp_path / "fast"]))
    assert only.marks.signs == {("slow", "t2i/median_rank"): "↓", ("fast", "t2i/median_rank"): "best"}


def test_of_copies_the_one_with_its_values_per_query_is_taken(tmp_path):
    right = {"t2i/hit_rate@1": values(20, 0.5, 0)}
    bare, whole = store(tmp_path / "bare", right, beside=False), store(tmp_path / "whole", right)
    for order in ([bare, whole], [whole, bare]):
        (only,) = tables.load_results(order)
        assert only.path == whole
        assert tables.per_query(only)["t2i/hit_rate@1"].tolist() == right["t2i/hit_rate@1"].tolist()


def test_damaged_values_per_query_are_named(tmp_path):
    _, paths = three(tmp_path)
    next(paths[0].rglob("*.npz")).write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ModisteError, match="cannot be read"):
        tables.build_blocks(tables.load_results(paths))


@pytest.mark.parametrize("kind", ["bomb", "promise", "pipe"])
def test_values_per_query_that_outgrow_memory_are_not_read(tmp_path, monkeypatch, kind):
    _, paths = three(tmp_path)
    file = next(paths[0].rglob("*.npz"))
    if kind == "bomb":
        monkeypatch.setattr(archives, "LIMIT", 10**6)
        np.savez_compressed(file, **{"t2i/mrr": np.zeros(10**6)})
    elif kind == "promise":
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (10**11,)})
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("t2i/mrr.npy", buffer.getvalue() + bytes(80))
    else:
        file.unlink()
        os.mkfifo(file)
    with pytest.raises(ModisteError, match=r"The values per query in '.*' cannot be read .*evaluate again"):
        tables.read_values(file)
    with pytest.raises(ModisteError, match="cannot be read"):
        [tables.per_query(one) for one in tables.load_results(paths)]


@pytest.mark.parametrize("name", ["a.json", "b.json"])
def test_a_pipe_among_results_is_one_sentence(tmp_path, name):
    file = write(tmp_path, result())
    os.mkfifo(file.with_name(name))
    with pytest.raises(ModisteError, match=f"'{file.with_name(name)}' is a pipe or a device: delete it"):
        tables.load_results([tmp_path])


# --- text


def test_every_number_in_the_table_is_a_result_or_published(published):
    text = tables.format_table([result()], published)
    values = {line["value"] for line in published}
    values |= {f"{v + d:.3f}" for v, _ in KAGL.values() for d in (-0.01, 0, 0.01)}
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
    assert tables.build_blocks([content])[0].rows[0].cells.keys() == KAGL.keys() - {"text-to-image/recall@1"}


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


def test_the_terminal_table_names_the_best_published_model(published, capsys):
    tables.print_sheets(tables.terminal_sheets([result()], published))
    text = capsys.readouterr().out
    assert re.search(r"text-to-image/avg_recall.*0\.289 \[0\.279, 0\.299\].*0\.334 \(Marqo-FashionSigLIP\)", text)
    assert "text-to-image/recall@1" not in text  # the summary only
    tables.print_sheets(tables.terminal_sheets([result()], published, every=True))
    assert re.search(r"recall@1 .*0\.141", capsys.readouterr().out)


def test_many_models_are_the_rows_of_the_terminal_table(published, capsys):
    tables.print_sheets(
        tables.terminal_sheets([result(name=f"model {i}", fingerprint=str(i)) for i in range(5)], published)
    )
    text = capsys.readouterr().out
    assert re.search(r"model 4\W+0\.289\W+0\.543", text)
    assert "best published" in text


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
        ({"tables": [1]}, "table"),
        ({"tables": {"few_shot": {}}}, "the table 'few_shot' is not rows of as many cells as it has columns"),
        ({"tables": {"few_shot": []}}, "the table 'few_shot'"),
        ({"tables": {"x": {"columns": ["shots", 1], "rows": []}}}, "the table 'x'"),
        ({"tables": {"x": {"columns": ["shots"], "rows": [[1, 2]]}}}, "the table 'x'"),
        ({"tables": {"x": {"columns": ["shots"], "rows": [[{}]]}}}, "the table 'x'"),
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
    cfg.sources = [str(tmp_path / "run")]
    command.run(cfg)
    assert "kagl · marqo · test · summary" in capsys.readouterr().out
    cfg.format = "markdown"
    command.run(cfg)
    printed = capsys.readouterr().out
    assert "### kagl · marqo · test · summary" in printed
    assert "*FashionCLIP2.0*" in printed
    cfg.format = None
    for name, style in {"table.md": "### kagl", "table.csv": "data,split", "table.tex": "booktabs"}.items():
        cfg.out = str(tmp_path / "new" / name)
        command.run(cfg)
        assert style in (tmp_path / "new" / name).read_text(encoding="utf-8")
    assert (tmp_path / "new" / "table.md").read_text(encoding="utf-8") == printed


# --- direction


@pytest.mark.parametrize("name", ["colour/error", "t2i/distance"])
def test_an_error_and_a_distance_are_better_when_lower(tmp_path, name):
    """As the result says it: bold face, the sign of the others, and the best published number."""
    for i, model in enumerate(("far", "near")):
        values = np.random.default_rng(i).random(200) + 5.0 * (1 - i)
        store(tmp_path / model, {name: values}, name=model, fingerprint=str(i) * 16, higher_is_better={name: False})
    (only,) = tables.build_blocks(tables.load_results([tmp_path / "far", tmp_path / "near"]))
    assert only.marks.signs == {("far", name): "↓", ("near", name): "best"}
    assert only.lower == {name}


def test_a_users_published_numbers_bring_their_names_and_the_best_error_is_the_lowest(tmp_path, capsys):
    (tmp_path / "mine.csv").write_text(
        "source,dataset,task,model,metric,value\nus 2026,Hues,hue,coarse,Err,0.9\nus 2026,Hues,hue,fine,Err,0.2\n"
    )
    (tmp_path / "mine.yaml").write_text("- {data: hues, task: hue, datasets: [Hues], metrics: {Err: colour/error}}\n")
    content = result({"colour/error": (0.5, 9)}, task="hue", data="hues", higher_is_better={"colour/error": False})
    sheets = tables.terminal_sheets([content], tables.read_published(tmp_path / "mine.csv"))
    tables.print_sheets(sheets)
    assert "0.2 (fine)" in capsys.readouterr().out
    (tmp_path / "mine.yaml").write_text("- {data: hues, tsak: hue}\n")
    with pytest.raises(ModisteError, match="tsak"):
        tables.read_published(tmp_path / "mine.csv")


# --- what a user wrote


def test_words_of_a_user_are_no_markup_and_no_formula(tmp_path):
    content = result(name="=cmd|' /C calc'!A0 <script>alert(1)</script>")
    text = tables.format_table([content], style="markdown")
    assert "<script>" not in text
    assert "&lt;script>" in text
    rows = [line for line in text.splitlines() if line.startswith("| =cmd")]
    heads = [line for line in text.splitlines() if line.startswith("| model")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [len(re.findall(r"\|", head)) for head in heads]
    found = list(csv.DictReader(io.StringIO(tables.format_table([content], style="csv"))))
    assert {row["model"][:5] for row in found} == {"'=cmd"}
    assert {row["value"] for row in found} == {str(value) for value, _ in KAGL.values()}


FORMULAS = ["x;=cmd()", "a\t@SUM(A1)", "| +1+cmd", "=1", "-cmd"]
HIDDEN = ["nice\r=1+1", 'b;"=1+1;c', 'b;"" =1;c', "x\n\n=1", "x;\x0b=1", "\ufeff=1"]


@pytest.mark.parametrize("text", FORMULAS + HIDDEN)
def test_a_cell_is_no_formula_whatever_separates_cells(text):
    read = csv_text([[text]])
    for separator in ",;\t|":
        assert not [
            cell
            for row in csv.reader(io.StringIO(read, newline=""), delimiter=separator)
            for cell in row
            if cell.strip("\ufeff \t").startswith(("=", "+", "-", "@"))
        ]
    assert csv_text([["a-b; c = d", "-0.5", -0.5]]) == "a-b; c = d,-0.5,-0.5\n"


def test_a_cell_of_line_breaks_takes_linear_time():
    assert csv_text([["a" + "\n" * 200_000 + "b", "c;" + " " * 200_000]]) == f"a b,c;{' ' * 200_000}\n"


# --- runs of one name


def run_of(folder, seed, lr, **extra):
    """A run directory with its overrides and configuration, and a result."""
    folder.mkdir(parents=True)
    (folder / "overrides.yaml").write_text(f"- data=kagl\n- seed={seed}\n- optim.lr={lr}\n")
    (folder / "config.yaml").write_text(f"name: kagl\nseed: {seed}\noptim: {{lr: {lr}}}\n")
    return write(folder, result(fingerprint=f"{seed}{lr}", **extra))


def test_runs_of_one_name_are_labelled_by_the_settings_in_which_they_differ(tmp_path):
    paths = [run_of(tmp_path / str(lr), 0, lr) for lr in (0.001, 0.01)]
    names = [row.model for row in tables.build_blocks(tables.load_results(paths))[0].rows]
    assert names == ["mine (optim.lr=0.001)", "mine (optim.lr=0.01)"]


def test_seeds_are_one_row_with_mean_and_deviation(tmp_path):
    values = {seed: 0.2 + 0.01 * seed for seed in range(3)}
    paths = []
    for seed, value in values.items():
        metrics = {"text-to-image/avg_recall": (value, 2000)}
        paths += [run_of(tmp_path / f"{seed}_{lr}", seed, lr, metrics=metrics) for lr in (0.001, 0.01)]
    (only,) = tables.build_blocks(tables.load_results(paths))
    assert [row.label for row in only.rows] == [f"mine (optim.lr={lr}), n = 3 seeds" for lr in (0.001, 0.01)]
    cell = only.rows[0].cells["text-to-image/avg_recall"]
    assert (cell.value, cell.deviation) == pytest.approx(
        (np.mean([*values.values()]), np.std([*values.values()], ddof=1))
    )
    assert tables.show("text-to-image/avg_recall", cell) == "0.210 ± 0.010"
    assert any("standard deviation" in note for note in only.footnotes())
    found = list(csv.DictReader(io.StringIO(tables.format_table(tables.load_results(paths), style="csv"))))
    assert len(found) == 6  # the file has every run
    assert {row["model"] for row in found} >= {"mine (seed=2, optim.lr=0.01)"}


def test_commands_of_a_table_are_one_line_of_code_or_of_a_comment():
    """A line break would end them, and what follows would be Markdown or LaTeX; the table may be a stranger's."""
    evil = "modiste evaluate run=x\n\\input{/etc/passwd}\r\n<img src=x> `b`"
    sheet = Sheet("t", [], commands=[("good\n# H <b>", evil)])
    line = next(line for line in markdown([sheet]).splitlines() if "modiste" in line)
    assert line == f"- good # H &lt;b>: {code(evil)}"
    assert "\n" not in code(evil)
    lines = latex([sheet]).splitlines()
    assert [line[:2] for line in lines] == ["% ", "% "]
    grid = Sheet("t", [Grid(["a\n\n\\b"], "l", [[Item("x\ny")]])])
    assert r"a  \textbackslash{}b" in latex([grid])
    assert "x y" in latex([grid])
