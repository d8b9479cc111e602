"""Pictures show what they are given: checked on pixels and on the arithmetic behind them."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from modiste.errors import ModisteError
from modiste.reporting import figures


class Plain:
    """A catalogue of one-colour pictures: the rows 100 to 109 of a larger one; row 109 cannot be read."""

    def read_image(self, i):
        if i == 9:
            raise OSError("truncated")
        return Image.new("RGB", (30, 30), (200, 0, 200))

    def column(self, name):
        return [100 + i if name == "row" else f"{name} {i}" for i in range(10)]


def example(relevant, kind="t2i", query="a red $5 dress", rank=1, row=100):
    results = [
        {"row": row, "text": f"<caption {i}>", "score": 0.5 - i / 10, "relevant": i in relevant} for i in range(5)
    ]
    return {"kind": kind, "query": query, "rank": rank, "results": results}


def frame(picture, i, j):
    """Colour of the frame of result ``j`` of example ``i``."""
    row = figures.THUMB[1] + 2 * figures.FRAME + figures.TEXT_HEIGHT + figures.GAP
    column = figures.THUMB[0] + 2 * figures.FRAME + figures.GAP
    return picture.getpixel((figures.QUERY_WIDTH + j * column + 2, figures.GAP + i * row + 60))


def rgb(colour):
    return ImageColor.getrgb(colour)


# --- curves


def test_sparse_columns_lose_their_gaps_and_a_resumed_run_overrides(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss,val/x\n0,0,3.0,\n0,1,,0.5\n0,1,2.0,\n")
    for version, text in {2: "step,train/loss\n1,1.5\n", 10: "step,train/loss\n1,1.25\n2,1.0\n"}.items():
        (tmp_path / "csv" / f"version_{version}").mkdir(parents=True)
        (tmp_path / "csv" / f"version_{version}" / "metrics.csv").write_text(text)
    metrics = figures.read_metrics(tmp_path)
    assert metrics.keys() == {"train/loss", "val/x"}
    assert metrics["train/loss"][0].tolist() == [0, 1, 2]
    assert metrics["train/loss"][1].tolist() == [3.0, 1.25, 1.0]
    assert metrics["val/x"][1].tolist() == [0.5]


def test_a_log_that_is_no_log_is_named(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,abc\n")
    with pytest.raises(ModisteError, match=r"metrics.csv.*abc"):
        figures.read_metrics(tmp_path)
    assert figures.read_metrics(tmp_path / "absent") == {}


def test_every_column_goes_to_its_panel():
    names = ["val/loss", "lr-AdamW/head", "train/loss", "train/scale", "val/retrieval/t2i/recall@1", "train/grad_norm"]
    names += ["val/retrieval/t2i/median_rank", "train/lr", "train/bias", "train/temperature", "train/pairs_per_second"]
    assert figures.panels(dict.fromkeys(names)) == {
        "loss": ["val/loss", "train/loss"],
        "learning rate": ["lr-AdamW/head", "train/lr"],
        "logit scale (1 / temperature)": ["train/scale"],
        "temperature": ["train/temperature"],
        "logit bias": ["train/bias"],
        "validation ranks": ["val/retrieval/t2i/median_rank"],
        "validation metrics": ["val/retrieval/t2i/recall@1"],
        "pairs per second": ["train/pairs_per_second"],
    }


def test_curves_are_drawn_or_there_is_nothing_to_draw(tmp_path):
    steps = np.arange(300.0)
    assert figures.training_curves({"train/loss": (steps, 1 / (1 + steps))}, tmp_path / "new" / "c.png")
    assert coloured(tmp_path / "new" / "c.png", figures.PALETTE[0]) > 100
    assert figures.training_curves({"train/pairs": (steps, steps)}, tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


def coloured(path, colour):
    """How many pixels are within 8 of ``colour``."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return int((np.abs(pixels - rgb(colour)).max(axis=-1) <= 8).sum())


def test_smoothing_is_a_mean_of_neighbours():
    noise = np.random.default_rng(0).normal(size=400)
    smooth = figures._smooth(noise)
    reference = [noise[max(0, i - 8) : i + 9].mean() for i in range(400)]
    np.testing.assert_allclose(smooth, reference, atol=1e-12)


def test_no_panel_has_more_lines_than_can_be_told_apart():
    series = {f"val/{part}/ndcg@{k}": (np.zeros(1), np.zeros(1)) for part in ("t2i", "i2t") for k in range(1, 12)}
    shown = figures._spread(series)
    assert len(shown) <= figures.LINES_PER_PANEL
    assert {name.split("/")[1] for name in shown} == {"t2i", "i2t"}
    main = figures._spread(series | {"val/t2i/mrr": (np.zeros(1), np.zeros(1))})
    assert list(main) == ["val/t2i/mrr"]


# --- intervals


def test_an_interval_is_as_long_as_it_says(tmp_path):
    """Twice the interval, twice the whisker: counted in pixels of its colour, with the dot's taken off."""

    def whisker(half):
        metrics = {"t2i/mrr": {"value": 0.5, "low": 0.5 - half, "high": 0.5 + half}}
        path = figures.interval_plot(metrics, tmp_path / "i.png")
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        blue = (pixels[..., 2] - pixels[..., 0]) > 60
        columns = np.flatnonzero(blue.any(axis=0))
        return columns[-1] - columns[0]

    assert whisker(0.4) / whisker(0.2) == pytest.approx(2, rel=0.05)


def test_ranks_have_another_unit_and_are_not_plotted(tmp_path):
    assert figures.interval_plot({"t2i/median_rank": {"value": 14.0}}, tmp_path / "i.png") is None
    assert figures.interval_plot({"t2i/mrr": {"value": None}}, tmp_path / "i.png") is None


# --- confusion


def test_most_confused_agrees_with_a_plain_search():
    matrix = np.random.default_rng(0).permutation(49).reshape(7, 7)
    labels = list("abcdefg")
    cells = [(matrix[i, j], i, j) for i in range(7) for j in range(7) if i != j]
    expected = [(labels[i], labels[j], c, pytest.approx(c / matrix[i].sum())) for c, i, j in sorted(cells)[::-1][:5]]
    assert figures.most_confused(labels, matrix.tolist(), 5) == expected


def test_right_predictions_are_never_confused():
    assert figures.most_confused(["a", "b"], [[5, 0], [0, 5]]) == []


def test_of_many_classes_those_with_errors_are_drawn(tmp_path):
    matrix = np.diag(np.full(40, 10))
    matrix[3, 30] = matrix[12, 39] = 4
    assert figures.confused_classes(matrix.tolist(), 4) == [3, 12, 30, 39]
    path = figures.confusion_matrix([f"class $ {i}" for i in range(40)], matrix.tolist(), tmp_path / "c.png", "kind")
    with Image.open(path) as image:
        assert image.width > 500


def test_a_matrix_has_to_fit_its_labels(tmp_path):
    with pytest.raises(ModisteError, match="does not fit 3 labels"):
        figures.confusion_matrix(["a", "b", "c"], [[1, 0], [0, 1]], tmp_path / "c.png")


# --- gallery


def test_frames_tell_relevant_from_missed(tmp_path):
    path = figures.retrieval_gallery(
        [example({0, 2}), example({1}), example(set(), rank=None)], Plain(), tmp_path / "g.png"
    )
    relevant, missed, other = (rgb(c) for c in (figures.RELEVANT, figures.MISSED, figures.IRRELEVANT))
    with Image.open(path) as picture:
        assert [frame(picture, 0, j) for j in range(5)] == [relevant, other, relevant, other, other]
        assert [frame(picture, 1, j) for j in range(5)] == [missed, relevant, other, other, other]
        assert [frame(picture, 2, j) for j in range(5)] == [missed, other, other, other, other]


def test_a_hit_is_a_relevant_result_among_those_shown():
    assert figures.is_hit(example({4}))
    assert not figures.is_hit(example(set()))
    deep = example(set())
    deep["results"].append({"row": 0, "text": "", "score": 0.0, "relevant": True})
    assert not figures.is_hit(deep)


def test_thumbnails_keep_their_proportions_and_survive_unreadable_images():
    pixels = np.asarray(figures._Reader(Plain()).thumbnail(100)).astype(int)
    purple = (pixels[..., 0] > 150) & (pixels[..., 1] < 100)
    assert np.flatnonzero(purple.any(axis=0)).size == np.flatnonzero(purple.any(axis=1)).size == figures.THUMB[0]
    for unreadable in (109, 3):
        blank = np.asarray(figures._Reader(Plain()).thumbnail(unreadable))
        assert np.unique(blank.reshape(-1, 3), axis=0).shape == (1, 3)
    assert figures._Reader(Plain()).text(104) == "text 4"


def test_captions_stand_in_the_boxes_of_image_queries(tmp_path):
    path = figures.retrieval_gallery([example({0}, kind="i2t", query=103, row=109)], Plain(), tmp_path / "g.png")
    with Image.open(path) as picture:
        assert picture.getpixel((figures.GAP + 60, figures.GAP + figures.FRAME + 84)) == (200, 0, 200)  # the query
        assert picture.getpixel((figures.QUERY_WIDTH + 60, figures.GAP + 150)) == (255, 255, 255)  # a box, no image


def test_text_never_leaves_its_column():
    font = figures.typeface(13)
    for text in ("word " * 40, "x" * 200, "", "Ärmel “weiß” – naïve"):
        lines = figures.wrap(text, font, 100, 3)
        assert len(lines) <= 3
        assert all(font.getlength(line) <= 100 for line in lines)
    assert figures.wrap("word " * 40, font, 100, 3)[-1].endswith("…")
    assert figures.wrap("two words", font, 100, 3) == ["two words"]


def test_no_examples_no_gallery(tmp_path):
    with pytest.raises(ModisteError, match="no retrieval examples"):
        figures.retrieval_gallery([], Plain(), tmp_path / "g.png")
