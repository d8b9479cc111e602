"""The report is one safe file that says what the run directory says."""

import base64
import hashlib
import html
import io
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from modiste.errors import ModisteError
from modiste.reporting.html.gallery import encode
from modiste.reporting.report import write_report

EVIL = "<script>alert('x')</script>"


class Card:
    name = "kagl"


class Plain:
    card = Card()

    def read_image(self, i):
        return Image.new("RGB", (6, 8), (0, 0, 200))

    def column(self, name):
        return list(range(5)) if name == "row" else [name] * 5


class Links(HTMLParser):
    """Every element that could fetch or run something."""

    def __init__(self, text):
        super().__init__()
        self.links, self.tags, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action", "srcset")]

    def handle_data(self, data):
        self.words.append(data)


def interval(value, n=50):
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": n}


def example(relevant, query="blue dress"):
    results = [{"row": i, "text": EVIL, "score": 0.4, "relevant": relevant and i == 0} for i in range(5)]
    wanted = {} if relevant else {"wanted": {"row": 4, "text": EVIL, "score": 0.2}}
    return {"kind": "t2i", "query": query, "rank": 1 if relevant else 40, "results": results} | wanted


def result(task, data="kagl", **extra):
    fixed = {"schema": 1, "task": task, "data": data, "split": "test", "primary": "t2i/mrr", "protocol": {"tie": EVIL}}
    fixed |= {"model": {"name": f"mine {EVIL}", "fingerprint": "abc"}, "counts": {"queries": 50}, "seconds": 75}
    return fixed | {"metrics": {"t2i/mrr": interval(0.4567), "t2i/median_rank": interval(9)}} | extra


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a run directory with everything in it."""
    return write_report(make_run(tmp_path_factory.mktemp("report") / "run"), Plain())


def make_run(folder):
    (folder / "results").mkdir(parents=True)
    classes = [f"class {i} {EVIL}" for i in range(20)]
    rows = [[name, 10, 1 - i / 20] for i, name in enumerate(classes)]
    matrix = [[10 if i == j else 1 for j in range(4)] for i in range(4)]
    zeroshot = result(
        "zeroshot",
        metrics={"gender/accuracy": interval(0.75)},
        primary="gender/accuracy",
        counts={"gender/classes": 4},
        tables={"gender": {"columns": ["class", "support", "f1"], "rows": rows}},
        confusion={f"gender/{EVIL}": {"labels": classes[:4], "matrix": matrix}},
    )
    put(folder, "kagl.test.zeroshot", zeroshot)
    put(folder, "kagl.test.retrieval", result("retrieval", examples=[example(True), example(False, EVIL)]))
    (folder / "metrics.csv").write_text("epoch,step,train/loss,train/scale\n0,0,3,14\n0,1,2,15\n")
    (folder / "config.yaml").write_text(f'name: "{EVIL}"\ndata: {{name: kagl}}\n')
    (folder / "cost.json").write_text('{"seconds": 3725, "pairs": 7450, "peak_memory_mb": 812.5}')
    (folder / "environment.json").write_text('{"command": "modiste train", "cpu": "two cores", "packages": {"a": "1"}}')
    (folder / "data.json").write_text(json.dumps({"rows": 9, "bad": {f"missing {EVIL}": ["7", "8"]}, "top": {}}))
    return folder


def put(folder, name, content):
    (folder / "results" / f"{name}.json").write_text(json.dumps(content))


def read(page):
    return page.read_text(encoding="utf-8")


def words(page):
    return " ".join(" ".join(Links(read(page)).words).split())


def test_the_page_fetches_nothing_and_runs_its_own_script_alone(page):
    assert page.name == "report.html"
    found = Links(read(page))
    assert found.tags.count("script") == 1
    assert found.links
    assert all(link.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,", "#")) for link in found.links)
    assert "url(" not in read(page)
    assert "@import" not in read(page)
    script = read(page).partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html.unescape(read(page))


def test_what_a_user_wrote_is_text(page):
    text = read(page)
    assert EVIL not in text
    assert text.count("&lt;script&gt;") > 20


def test_the_header_says_what_ran_and_what_it_cost(page):
    text = words(page)
    assert "1 h 2 min, 7,450 pairs, 2.0 pairs/s" in text
    assert "peak memory 812 MB" in text
    assert "modiste train" in text
    assert "two cores" in text


def test_metrics_stand_with_their_intervals(page):
    text = words(page)
    assert "0.457 [0.407, 0.507]" in text
    assert "0.750 [0.700, 0.800]" in text
    assert "9.0" in text


def test_figures_are_files_and_are_in_the_page(page):
    names = [path.name for path in (page.parent / "figures").glob("*.svg")]
    assert len(names) == 4  # two curves, two metrics
    assert read(page).count("data:image/svg+xml") == len(names)


def test_tiles_say_task_and_metric_in_words_with_the_chance_level(page):
    text = words(page)
    assert "text→image MRR 0.46 [0.407, 0.507]" in text
    assert "gender, zero-shot accuracy 0.75 [0.700, 0.800] · chance 0.25" in text
    assert "Zero-shot classification on kagl (test)" in text


def test_tiles_of_variants_of_the_same_data_can_be_told_apart(run):
    put(run, "kagl.test.retrieval.scenes", result("retrieval", variant="scenes"))
    assert "kagl · test · scenes" in words(write_report(run))


def test_galleries_stand_before_tables_and_a_miss_shows_what_was_wanted(page):
    text = words(page)
    assert text.index("What a search finds") < text.index("All metrics")
    gallery = text[text.index("“blue dress”") : text.index("All metrics")]
    assert "✓ first relevant at rank 1" in gallery
    miss = gallery[gallery.index("✗ first relevant at rank 40") :]
    assert "wanted 0.200" in miss
    assert "product_id" in miss  # the column that stands for ids here


def test_metrics_are_explained(run):
    protocol = {"metrics": {"mrr": "1 / rank of the first relevant item"}}
    put(run, "kagl.test.retrieval", result("retrieval", protocol=protocol))
    text = read(write_report(run))
    anchor = re.search(r'href="(#[^"]+)">MRR<', text).group(1)
    assert f'id="{anchor[1:]}"' in text
    assert "1 / rank of the first relevant item" in text


def test_few_queries_and_a_single_class_are_warned_of(run):
    metrics = {"fit/accuracy": {"value": 1.0, "low": 1.0, "high": 1.0, "n": 9}}
    put(
        run,
        "kagl.test.zeroshot",
        result("zeroshot", metrics=metrics, primary="fit/accuracy", counts={"fit/classes": 1}),
    )
    text = words(write_report(run))
    assert "Fewer than 50 queries: fit (9)." in text
    assert "Only one class, so nothing to tell apart: fit." in text
    assert "1.000 [0.664, 1.000]" in text  # 0.025 ** (1 / 9)


def test_findings_and_pointing_by_phrase_are_shown(run):
    columns = [
        "phrase",
        "pairs",
        *(f"{name}/pointing" for name in ("cam", "cam/own_mean", "cam/wrong_phrase", "prior")),
    ]
    table = {
        "columns": [*columns, "cam/pointing_low", "cam/pointing_high"],
        "rows": [["shoes", 12, 0.5, 0.2, 0.1, 0.3, 0.1, 0.5]],
    }
    finding = "cam grounds: its pointing, 0.500, beats its own mean map."
    content = {"metrics": {"cam/pointing": interval(0.5)}, "primary": "cam/pointing", "findings": [finding]}
    put(run, "kagl.test.grounding", result("grounding", **content, tables={"phrases": table}))
    text = read(write_report(run))
    assert finding in text
    assert "cam: pointing by phrase" in text
    assert (run / "figures" / "kagl.test.grounding.phrases.cam.svg").is_file()


def test_a_method_of_a_stranger_is_no_path(run):
    method = "x/../../../outside/PWNED"
    columns = ["phrase", "pairs", *(f"{method}/pointing{end}" for end in ("", "_low", "_high"))]
    columns += [f"{method}/{other}/pointing" for other in ("own_mean", "wrong_phrase")] + ["prior/pointing"]
    table = {"columns": columns, "rows": [["shoes", 12, 0.5, 0.1, 0.6, 0.2, 0.1, 0.3]]}
    content = {"metrics": {"cam/pointing": interval(0.5)}, "primary": "cam/pointing"}
    put(run, "kagl.test.grounding", result("grounding", **content, tables={"phrases": table}))
    before = {file for file in run.parent.rglob("*") if run not in file.parents}
    write_report(run)
    assert {file for file in run.parent.rglob("*") if run not in file.parents} == before
    assert list((run / "figures").glob("*PWNED.svg"))


def test_pictures_outside_the_run_directory_are_not_shown(run):
    Image.new("RGB", (4, 4)).save(run.parent / "secret.png")
    Image.new("RGB", (4, 4)).save(run / "figures.png")
    pictures = {"out": "../secret.png", "absolute": str(run.parent / "secret.png"), "in": "figures.png"}
    put(run, "kagl.test.retrieval", result("retrieval", pictures=pictures))
    assert read(write_report(run)).count("data:image/png") == 1


@pytest.mark.parametrize("name", ["figures", "report.html"])
def test_nothing_is_deleted_or_written_through_a_strangers_link(run, tmp_path, name):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "curves.mine.svg").write_text("precious")
    (run / name).symlink_to(victim if name == "figures" else victim / "curves.mine.svg")
    with pytest.raises(ModisteError, match=f"{name} leads out of .*run: put"):
        write_report(run, Plain())
    assert [path.read_text() for path in victim.iterdir()] == ["precious"]


def test_a_report_of_checkpoints_on_another_disk_is_written(run, tmp_path):
    (tmp_path / "disk").mkdir()
    (run / "checkpoints").symlink_to(tmp_path / "disk")
    assert write_report(run, Plain()).is_file()


def test_thumbnails_keep_their_aspect_and_are_twice_what_is_shown():
    for size, expected in {(60, 80): (60, 80), (1000, 500): (320, 160), (64, 64): (64, 64)}.items():
        address, *measures = encode(Image.new("RGB", size, (200, 0, 200)))
        assert tuple(measures) == expected
        kind, _, data = address.partition(",")
        assert kind.startswith("data:image/png" if max(expected) <= 128 else "data:image/jpeg")
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == expected


def test_an_unreadable_image_is_said_to_be_none(run):
    class Broken(Plain):
        def read_image(self, i):
            raise OSError("truncated")

    assert "no image" in words(write_report(run, Broken()))


def test_thumbnails_of_somebody_elses_run_directory_are_pictures_or_nothing(run):
    write_report(run, Plain())
    (kept,) = (run / "figures").glob("thumbs.*.json")
    content = json.loads(kept.read_text())
    kept.write_text(json.dumps({row: thumb | {"image": "javascript:alert(1)"} for row, thumb in content.items()}))
    assert "javascript:" not in read(write_report(run))
    for broken in (lambda thumb: thumb | {"more": 1}, lambda thumb: {"image": ""}, lambda thumb: thumb | {"width": "1"},
                   lambda thumb: thumb | {"image": 1}, lambda thumb: [1]):  # fmt: skip
        kept.write_text(json.dumps({row: broken(thumb) for row, thumb in content.items()}))
        assert "no image" in words(write_report(run))
    kept.write_text("[1]")
    assert "Images are not shown" in words(write_report(run))


def test_worst_classes_come_first(page):
    text = words(page)
    table = text[text.index("worst 10 of 20 by f1") :]
    assert re.findall(r"class (\d+)", table)[:10] == [str(i) for i in range(19, 9, -1)]
    assert "All 20 rows" in text


def test_a_class_without_a_value_is_not_the_worst(run):
    table = {"columns": ["class", "f1"], "rows": [["empty", None], ["good", 0.9], ["bad", 0.1]]}
    put(run, "kagl.test.zeroshot", result("zeroshot", tables={"gender": table}))
    text = words(write_report(run))
    assert text.index("bad 0.100") < text.index("good 0.900") < text.index("empty —")


def test_galleries_without_images_are_said_to_be_missing_then_reused(run):
    assert "Images are not shown: those of kagl are not available." in words(write_report(run))
    drawn = read(write_report(run, Plain()))
    assert "not available" not in drawn
    assert read(write_report(run)) == drawn


def test_thumbnails_of_other_data_are_never_shown(run):
    write_report(run, Plain())
    put(run, "kagl.test.retrieval", result("retrieval", examples=[example(True)], data_fingerprint="other"))
    assert "not available" in words(write_report(run))


def test_searches_have_their_own_galleries_and_the_later_ones_are_folded(run):
    examples = [example(True) | {"search": search} for search in ("t2i", "i2t", "colour-to-product")]
    put(run, "kagl.test.retrieval", result("retrieval", examples=examples))
    text = read(write_report(run, Plain()))
    assert text.index("<summary>text→image</summary>") < text.index("<summary>image→text</summary>")
    folded = text[: text.index("<summary>colour→product</summary>")]
    assert folded.endswith('<details class="fold">')


@pytest.mark.parametrize(
    "damage",
    [
        {"results": None},
        {"results": [{"row": 0, "image": "../../secret.png"}]},
        {"results": [{"row": "0; x", "score": 1.0, "relevant": True}]},
        {"results": [7]},
        {"wanted": {"row": 0}, "results": []},
        {"query": ...},
    ],
)
def test_examples_of_another_form_are_not_shown(run, damage):
    broken = {name: value for name, value in (example(True) | damage).items() if value is not ...}
    put(run, "kagl.test.retrieval", result("retrieval", examples=[broken, "x", example(True, "green hat")]))
    text = words(write_report(run, Plain()))
    assert "green hat" in text
    assert "blue dress" not in text


def test_a_catalogue_draws_only_its_own_data(run):
    put(run, "other.test.retrieval", result("retrieval", data="other", examples=[example(True)]))
    assert "Images are not shown: those of other" in words(write_report(run, Plain()))
    assert "not available" not in words(write_report(run, {file.stem: Plain() for file in run.glob("results/*.json")}))


def test_published_rows_are_marked_with_their_source(run):
    put(
        run,
        "fashion_mnist.test.zeroshot",
        result("zeroshot", data="fashion_mnist", metrics={"category/weighted_f1": interval(0.6, 10000)}),
    )
    text = words(write_report(run))
    assert "FashionCLIP 2.0 0.83 published [1]" in text
    assert "[1] fashion-clip README" in text


def test_a_run_that_was_only_trained_has_a_report(run):
    for path in (run / "results").iterdir():
        path.unlink()
    text = words(write_report(run))
    assert "Training" in text
    assert "All metrics" not in text


def test_bad_rows_are_counted_and_named(page):
    assert "2: 7, 8" in words(page)


@pytest.mark.parametrize("name", ["results/kagl.test.zeroshot.json", "cost.json", "config.yaml"])
def test_a_malformed_file_is_named(run, name):
    (run / name).write_text('{"a: [')
    with pytest.raises(ModisteError, match=re.escape(name.split("/")[-1])):
        write_report(run)


def test_a_file_is_no_run_directory(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(ModisteError, match="There is no run directory"):
        write_report(tmp_path / "run")


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(ModisteError, match=r"neither metrics\.csv nor results"):
        write_report(tmp_path)
    with pytest.raises(ModisteError, match="no run directory"):
        write_report(tmp_path / "absent")
