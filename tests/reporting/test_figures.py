"""Figures show what they are given: checked on their arithmetic, on pixels, and on the SVG's coordinates."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageColor

from modiste.errors import ModisteError
from modiste.reporting import figures
from modiste.reporting.figures import curves, style
from modiste.reporting.logs import read_metrics

SVG = "{http://www.w3.org/2000/svg}"


def shapes(path, colour, what="stroke"):
    """The ``d`` of paths of a colour."""
    tree = ElementTree.parse(path)
    return [p.get("d") for p in tree.iter(f"{SVG}path") if f"{what}: {colour}" in (p.get("style") or "")]


def words(path):
    return [text.text for text in ElementTree.parse(path).iter(f"{SVG}text")]


# --- curves


def test_sparse_columns_lose_their_gaps_and_a_resumed_run_overrides(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss,val/x\n0,0,3.0,\n0,1,,0.5\n0,1,2.0,\n")
    for version, text in {2: "step,train/loss\n1,1.5\n", 10: "step,train/loss\n1,1.25\n2,1.0\n"}.items():
        (tmp_path / "csv" / f"version_{version}").mkdir(parents=True)
        (tmp_path / "csv" / f"version_{version}" / "metrics.csv").write_text(text)
    metrics = read_metrics(tmp_path)
    assert metrics.keys() == {"train/loss", "val/x"}
    assert metrics["train/loss"][0].tolist() == [0, 1, 2]
    assert metrics["train/loss"][1].tolist() == [3.0, 1.25, 1.0]
    assert metrics["val/x"][1].tolist() == [0.5]


def test_a_log_that_is_no_log_is_named(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,abc\n")
    with pytest.raises(ModisteError, match=r"metrics.csv.*abc"):
        read_metrics(tmp_path)
    assert read_metrics(tmp_path / "absent") == {}


def test_every_column_goes_to_its_panel():
    names = ["val/loss", "lr-AdamW/head", "train/loss", "train/scale", "val/retrieval/t2i/recall@1", "train/grad_norm"]
    names += ["train/lr", "train/lr/loss/no_decay", "train/bias", "train/temperature", "train/pairs_per_second"]
    metrics = {name: (np.arange(2), np.array([0.1, 0.5])) for name in names}
    # Ranks and distances have another unit than fractions, whatever they are called.
    metrics["val/hue/distance"] = metrics["val/retrieval/t2i/median_rank"] = (np.arange(2), np.array([0.5, 14.0]))
    assert curves.panels(metrics) == {
        "loss": ["val/loss", "train/loss"],
        "learning rate": ["lr-AdamW/head", "train/lr", "train/lr/loss/no_decay"],
        "logit scale (1 / temperature)": ["train/scale"],
        "temperature": ["train/temperature"],
        "logit bias": ["train/bias"],
        "validation metrics": ["val/retrieval/t2i/recall@1"],
        "validation, other units": ["val/hue/distance", "val/retrieval/t2i/median_rank"],
        "pairs per second": ["train/pairs_per_second"],
    }


def test_curves_are_drawn_or_there_is_nothing_to_draw(tmp_path):
    steps = np.arange(300.0)
    (path,) = figures.training_curves({"train/loss": (steps, 1 / (1 + steps))}, tmp_path / "new")
    assert path == tmp_path / "new" / "curves.loss.svg"
    (faint, smooth) = [d for d in shapes(path, figures.PALETTE[0]) if d.count("L") > 3]
    assert faint != smooth
    assert {"loss", "step"} <= set(words(path))
    assert figures.training_curves({"train/pairs": (steps, steps)}, tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_figures_follow_dark_mode_and_are_the_same_each_time(tmp_path):
    made = []
    for name in ("a", "b"):
        (path,) = figures.training_curves({"train/loss": (np.arange(9.0), np.arange(9.0))}, tmp_path / name)
        made.append(path.read_text())
    assert made[0] == made[1]
    assert "prefers-color-scheme: dark" in made[0]
    assert style.FONTS in made[0]
    used = set(re.findall(r"(?:fill|stroke): (#[0-9A-Fa-f]{6})", made[0].partition("</style>")[2]))
    assert used <= set(style.DARK) | set(figures.PALETTE)  # every other colour is for both grounds


def test_a_png_has_the_papers_white(tmp_path):
    with figures.new_figure(2, 1, tmp_path / "a.png") as figure:
        figure.subplots().plot([0, 1], color=figures.PALETTE[1])
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert (pixels[0, 0] == 255).all()
    assert (np.abs(pixels - ImageColor.getrgb(figures.PALETTE[1])).max(axis=-1) <= 8).sum() > 50


def test_a_matplotlibrc_starts_no_latex(tmp_path):
    """One in the working directory may be a stranger's."""
    from matplotlib import rc_context

    with rc_context({"text.usetex": True, "text.latex.preamble": r"\input{/etc/passwd}", "axes.titlesize": 99}):
        with figures.new_figure(2, 1, tmp_path / "a.png") as figure:
            assert not figure.text(0, 0, "a").get_usetex()
        from matplotlib import rcParams

        assert rcParams["text.usetex"]  # the user's own figures keep it
    assert (tmp_path / "a.png").stat().st_size > 0


def test_smoothing_is_a_mean_of_neighbours():
    noise = np.random.default_rng(0).normal(size=400)
    smooth = curves._smooth(noise)
    reference = [noise[max(0, i - 8) : i + 9].mean() for i in range(400)]
    np.testing.assert_allclose(smooth, reference, atol=1e-12)


def test_no_panel_has_more_lines_than_can_be_told_apart():
    series = {f"val/{part}/ndcg@{k}": (np.zeros(1), np.zeros(1)) for part in ("t2i", "i2t") for k in range(1, 12)}
    shown = curves._spread(series)
    assert len(shown) <= curves.LINES_PER_PANEL
    assert {name.split("/")[1] for name in shown} == {"t2i", "i2t"}
    main = curves._spread(series | {"val/t2i/mrr": (np.zeros(1), np.zeros(1))})
    assert list(main) == ["val/t2i/mrr"]


# --- intervals


def whisker(path):
    (line,) = [d for d in shapes(path, figures.PALETTE[0]) if d.count("L") == 1 and d.count("M") == 1]
    start, end = (float(word.split()[0]) for word in re.findall(r"[ML] ([-\d. ]+)", line))
    return end - start


def test_an_interval_is_as_long_as_it_says(tmp_path):
    """Twice the interval, twice the whisker, in the coordinates of the file."""

    def of(half):
        metrics = {"t2i/mrr": {"value": 0.5, "low": 0.5 - half, "high": 0.5 + half}}
        return whisker(*figures.interval_plots(metrics, tmp_path / f"{half}.metrics"))

    assert of(0.4) / of(0.2) == pytest.approx(2, rel=1e-3)


def test_ranks_have_another_unit_and_are_not_plotted(tmp_path):
    assert figures.interval_plots({"t2i/median_rank": {"value": 14.0}}, tmp_path / "i") == []
    assert figures.interval_plots({"t2i/mrr": {"value": None}}, tmp_path / "i") == []


def test_many_parts_share_an_axis_for_each_metric(tmp_path):
    """Methods of grounding and their baselines are compared on one axis, as are attributes."""
    metrics = {
        f"{method}/{metric}": {"value": 0.5, "low": 0.4, "high": 0.6}
        for method in ("patches", "gradcam", "centre", "foreground")
        for metric in ("pointing", "iou")
    }
    paths = figures.interval_plots(metrics, tmp_path / "ccp.metrics")
    assert [path.name for path in paths] == ["ccp.metrics.pointing.svg", "ccp.metrics.iou.svg"]
    assert {"patches", "gradcam", "centre", "foreground", "pointing"} <= set(words(paths[0]))


def test_the_chance_level_is_a_tick(tmp_path):
    metrics = {"colour/accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}
    (bare,) = figures.interval_plots(metrics, tmp_path / "a")
    (ticked,) = figures.interval_plots(metrics, tmp_path / "b", chances={"colour/accuracy": 0.1})
    assert len(shapes(ticked, style.FAINT)) == len(shapes(bare, style.FAINT)) + 1


# --- few-shot


def test_few_shot_is_a_curve_over_the_shots(tmp_path):
    rows = [[k, 0.2 * i + 0.1, 0.01] for i, k in enumerate((1, 2, 4))]
    table = {"columns": ["shots", "accuracy", "accuracy_sd"], "rows": rows}
    path = figures.few_shot_curves(
        {"colour/few_shot": table, "colour": {"columns": ["f1"], "rows": []}}, tmp_path / "f.svg"
    )
    assert {"1", "2", "4", "colour"} <= set(words(path))
    (line,) = [d for d in shapes(path, figures.PALETTE[0]) if d.count("L") == 2]
    x = [float(point.split()[0]) for point in re.findall(r"[ML] ([-\d. ]+)", line)]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1])  # each doubling is a step
    assert figures.few_shot_curves({}, tmp_path / "none.svg") is None


# --- phrases


def phrase_table():
    columns = [
        "phrase",
        "pairs",
        "cam/pointing",
        "cam/own_mean/pointing",
        "cam/wrong_phrase/pointing",
        "prior/pointing",
    ]
    rows = [["a dress", 30, 0.5, 0.4, 0.1, 0.6, 0.3, 0.7], ["shoes", 12, 0.25, 0.2, 0.1, 0.3, 0.1, 0.5]]
    return {"columns": [*columns, "cam/pointing_low", "cam/pointing_high"], "rows": rows}


def test_pointing_by_phrase_has_a_bar_and_its_interval_for_each_phrase(tmp_path):
    path = figures.phrase_bars(phrase_table(), "cam", tmp_path / "phrases.svg")
    assert {"a dress  (30)", "shoes  (12)", "own mean map", "wrong phrase", "position prior"} <= set(words(path))
    spans = [re.findall(r"[ML] ([-\d.]+)", d) for d in shapes(path, figures.PALETTE[0])]
    lengths = sorted(float(b) - float(a) for a, b in (span for span in spans if len(span) == 2))[-2:]
    assert lengths[0] == pytest.approx(lengths[1])  # both intervals are 0.4 wide


# --- selection


def test_choices_are_marked_by_their_letters_on_every_curve(tmp_path):
    validations = [{"step": i, "values": {"val/loss": abs(i - 2), "val/mrr": i / 10}} for i in range(5)]
    choices = [
        {"criterion": name, "step": step, "values": validations[step]["values"]}
        for name, step in (("val/loss", 2), ("val/mrr", 4))
    ]
    paths = figures.selection_figures({"choices": choices, "validations": validations}, tmp_path)
    assert [path.name for path in paths] == ["selection.val_loss.svg", "selection.val_mrr.svg"]
    for path in paths:
        assert {"a", "b"} <= set(words(path))


# --- confusion


def test_most_confused_agrees_with_a_plain_search():
    matrix = np.random.default_rng(0).permutation(49).reshape(7, 7)
    labels = list("abcdefg")
    cells = [(matrix[i, j], i, j) for i in range(7) for j in range(7) if i != j]
    expected = [(labels[i], labels[j], c, pytest.approx(c / matrix[i].sum())) for c, i, j in sorted(cells)[::-1][:5]]
    assert figures.most_confused(labels, matrix.tolist(), 5) == expected


def test_right_predictions_are_never_confused():
    assert figures.most_confused(["a", "b"], [[5, 0], [0, 5]]) == []


def test_of_many_classes_those_with_errors_are_chosen():
    matrix = np.diag(np.full(40, 10))
    matrix[3, 30] = matrix[12, 39] = 4
    assert figures.confused_classes(matrix.tolist(), 4) == [3, 12, 30, 39]


def test_names_that_matplotlib_has_no_font_for_stay_text_without_a_warning(tmp_path, recwarn):
    with figures.new_figure(2, 1, tmp_path / "a.svg") as figure:
        figure.add_subplot().set_xlabel("赤いワンピース")
    assert "赤いワンピース" in (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
