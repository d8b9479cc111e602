"""Pictures of a run: training curves, metrics with intervals, confusion, retrieved products. All are PNG files.

Colours are Okabe and Ito's (2008), which the common kinds of colour blindness keep apart; no meaning hangs on colour
alone.
"""

from __future__ import annotations

import csv
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from modiste.errors import ModisteError
from modiste.reporting.tables import ordered, split_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
RELEVANT, IRRELEVANT, MISSED = "#009E73", "#B8B8B8", "#D55E00"
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "text.parse_math": False,  # a product's name may hold a $
}
MOST_CLASSES = 30
CONFUSED_CLASSES = 25
LINES_PER_PANEL = 7
MAIN = ("recall@1", "recall@10", "mrr", "accuracy", "weighted_f1")
"""The metrics that a panel of curves prefers."""

Series = tuple[np.ndarray, np.ndarray]


class Pictures(Protocol):
    """What a gallery needs of a catalogue."""

    @property
    def card(self) -> Any:
        """Has the data set's ``name``."""
        ...

    def read_image(self, i: int) -> Image.Image:
        """The image of row ``i``."""
        ...

    def column(self, name: str) -> list[Any]:
        """A column as a list."""
        ...


# --- training curves ---------------------------------------------------------------------------------------------


def read_metrics(run_dir: Path) -> dict[str, Series]:
    """Columns of the run's CSV log as (steps, values), without the gaps of Lightning's sparse rows.

    Reads ``metrics.csv`` and ``csv/version_*/metrics.csv``; of two rows for one step (a resumed run) the later counts.

    Raises:
        ModisteError: a cell of a numeric column is not a number.
    """
    versions = sorted(run_dir.glob("csv/version_*/metrics.csv"), key=lambda p: (len(p.parent.name), p.parent.name))
    columns: dict[str, dict[float, float]] = {}
    for path in [p for p in (run_dir / "metrics.csv", *versions) if p.is_file()]:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for name, cell in row.items():
                    if name not in (None, "step", "epoch") and cell:
                        columns.setdefault(name, {})[_float(row.get("step"), path)] = _float(cell, path)
    return {name: _series(points) for name, points in columns.items()}


def _float(cell: str | None, path: Path) -> float:
    try:
        return float(cell or "")
    except ValueError:
        raise ModisteError(f"'{path}' holds '{cell}' where a number belongs. Repair or delete the file.") from None


def _series(points: Mapping[float, float]) -> Series:
    steps = sorted(points)
    return np.array(steps), np.array([points[step] for step in steps])


def _is_rate(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.startswith(("lr-", "lr_", "learning_rate")) or last == "lr" or name.startswith("lr")


# Panel title and which columns it shows; a column goes to the first panel that takes it.
PANELS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("loss", lambda name: "loss" in name),
    ("learning rate", _is_rate),
    ("logit scale (1 / temperature)", lambda name: name.rpartition("/")[2] in {"scale", "logit_scale"}),
    ("temperature", lambda name: name.rpartition("/")[2] == "temperature"),
    ("logit bias", lambda name: name.rpartition("/")[2] in {"bias", "logit_bias"}),
    ("validation ranks", lambda name: name.startswith("val/") and "rank" in name),
    ("validation metrics", lambda name: name.startswith("val/")),
    ("pairs per second", lambda name: name.endswith("pairs_per_second")),
)


def panels(metrics: Mapping[str, Series]) -> dict[str, list[str]]:
    """Which columns each panel of the training curves shows; empty panels and columns without a panel are left out."""
    shown: dict[str, list[str]] = {}
    for name in metrics:
        title = next((title for title, takes in PANELS if takes(name)), None)
        if title:
            shown.setdefault(title, []).append(name)
    return {title: shown[title] for title, _ in PANELS if title in shown}


def training_curves(metrics: Mapping[str, Series], path: Path) -> Path | None:
    """Loss, learning rate, logit scale and validation metrics over steps; None when there is nothing to draw.

    Args:
        metrics: From `read_metrics`.
        path: The PNG to write.
    """
    shown = panels(metrics)
    if not shown:
        return None
    width = min(2, len(shown))
    with new_figure(5.2 * width, 2.8 * math.ceil(len(shown) / width), path) as figure:
        for i, (title, names) in enumerate(shown.items(), 1):
            axes = figure.add_subplot(math.ceil(len(shown) / width), width, i)
            _lines(axes, {name: metrics[name] for name in names})
            axes.set_title(title)
            axes.set_xlabel("step")
    return path


def _lines(axes: Axes, series: Mapping[str, Series]) -> None:
    for i, (name, (steps, values)) in enumerate(_spread(series).items()):
        color = PALETTE[i % len(PALETTE)]
        few = len(steps) <= 30
        if len(steps) > 100 and "loss" in name:  # a batch's loss is noisy; rates and scales are not
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            values = _smooth(values)
        axes.plot(steps, values, color=color, label=name, linewidth=1.6, marker="o" if few else "", markersize=3)
    axes.legend(loc="best")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}")


def _spread(series: Mapping[str, Series]) -> dict[str, Series]:
    """At most `LINES_PER_PANEL`: the metrics of the summaries if there are any, evenly over the reading order."""
    names = ordered(series)
    names = [name for name in names if split_name(name)[1] in MAIN] or names
    step = max(1, math.ceil(len(names) / LINES_PER_PANEL))
    return {name: series[name] for name in names[::step]}


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean of a centred window of 1/25 of the points, with shorter windows at the ends."""
    half = max(1, len(values) // 50)
    total = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


# --- weight interpolation ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A metric along the interpolation of two models: its values, and the ends of their intervals, one an alpha."""

    label: str
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def alpha_curves(
    alphas: Sequence[float], chosen: float, domain: Curve, transfer: Curve | None, path: Path, ends: Sequence[str]
) -> Path:
    """The metric against alpha and, with a ``transfer`` curve, out of domain against in domain (WiSE-FT, figure 1).

    Args:
        alphas: Ascending, in [0, 1]; 0 is the first model.
        chosen: The alpha that is marked.
        domain: In domain.
        transfer: Out of domain; null leaves the second picture out.
        path: The PNG to write.
        ends: Names of the two models.
    """
    curves = [domain] if transfer is None else [domain, transfer]
    best = list(alphas).index(chosen)
    with new_figure(5.6 * len(curves), 4.4, path) as figure:
        axes = figure.subplots(1, len(curves), squeeze=False)[0]
        for curve, color, marker in zip(curves, PALETTE, "os", strict=False):
            axes[0].fill_between(alphas, curve.low, curve.high, color=color, alpha=0.15, linewidth=0)
            axes[0].plot(alphas, curve.values, color=color, marker=marker, markersize=4, label=curve.label)
        axes[0].axvline(chosen, color="black", linewidth=1, linestyle=":", label=f"chosen: alpha = {chosen:g}")
        axes[0].set_xlabel(f"alpha (0: {ends[0]}, 1: {ends[1]})")
        axes[0].set_xlim(-0.03, 1.03)
        axes[0].set_title("Along the interpolation, with 95 % intervals")
        if transfer is not None:
            axes[1].plot(domain.values, transfer.values, color="#808080", linewidth=1.2, marker="o", markersize=4)
            marked = [(0, 0, ends[0], "s"), (len(alphas) - 1, 1, ends[1], "D"), (best, chosen, "chosen", "*")]
            for at, alpha, text, marker in (mark for mark in marked if alphas[mark[0]] == mark[1]):
                size, color, layer = (15, PALETTE[1], 2) if marker == "*" else (7, PALETTE[0], 3)
                axes[1].plot(
                    domain.values[at], transfer.values[at], marker, color=color, markersize=size, zorder=layer,
                    label=f"{text}: alpha = {alpha:g}",
                )  # fmt: skip
            axes[1].set_xlabel(domain.label)
            axes[1].set_ylabel(transfer.label)
            axes[1].set_title("Out of domain against in domain")
        for panel in axes:
            panel.legend(loc="best")
    return path


# --- metrics with intervals --------------------------------------------------------------------------------------


def interval_plot(metrics: Mapping[str, Mapping[str, Any]], path: Path, title: str = "") -> Path | None:
    """Dots with 95 % whiskers, one panel a part (``t2i``, ``articleType``, …); None when no metric lies in [0, 1].

    Args:
        metrics: ``{name: {"value", "low", "high"}}`` as in a result file. Ranks have another unit and are left out.
        path: The PNG to write.
        title: Above the panels.
    """
    shown = {n: m for n in ordered(metrics) if _is_fraction(m := metrics[n])}
    if not shown:
        return None
    parts: dict[str, list[str]] = {}
    for name in shown:
        parts.setdefault(split_name(name)[0], []).append(name)
    labels = ordered(split_name(name)[1] for name in shown)
    width = min(4, len(parts))
    height = math.ceil(len(parts) / width)
    with new_figure(1.4 + 2.5 * width, height * (0.7 + 0.24 * len(labels)) + 0.3, path) as figure:
        grid = figure.subplots(height, width, sharex=True, sharey=True, squeeze=False).flatten()
        for i, (axes, (part, names)) in enumerate(zip(grid, parts.items(), strict=False)):
            _whiskers(axes, {split_name(name)[1]: shown[name] for name in names}, labels, PALETTE[i % 6])
            axes.set_title(part)
        for axes in grid[len(parts) :]:
            axes.remove()
        grid[0].set_xlim(0, 1)
        grid[0].set_ylim(len(labels) - 0.5, -0.5)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return path


def _is_fraction(metric: Mapping[str, Any]) -> bool:
    value = metric.get("value")
    return value is not None and 0 <= value <= 1


def _whiskers(axes: Axes, metrics: Mapping[str, Mapping[str, Any]], labels: list[str], color: str) -> None:
    axes.set_yticks(range(len(labels)), labels)
    for label, metric in metrics.items():
        y, value = labels.index(label), metric["value"]
        low, high = metric.get("low"), metric.get("high")
        if low is not None and high is not None:
            axes.plot([low, high], [y, y], color=color, linewidth=5, alpha=0.4, solid_capstyle="butt")
        axes.plot([value], [y], "o", color=color, markersize=3.5, clip_on=False)
        # In the margin, where no whisker crosses it.
        axes.text(1.03, y, f"{value:.3f}", transform=axes.get_yaxis_transform(), va="center", fontsize=7.5)


# --- confusion ---------------------------------------------------------------------------------------------------


def most_confused(labels: Sequence[str], matrix: Sequence[Sequence[float]], n: int = 15) -> list[tuple]:
    """The ``n`` largest off-diagonal cells as (true, predicted, count, part of the true class).

    >>> most_confused(["shirt", "top"], [[8, 2], [1, 9]], n=1)
    [('shirt', 'top', 2, 0.2)]
    """
    counts = np.asarray(matrix)
    off = counts.astype(float)
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:n]
    pairs = [divmod(int(i), len(labels)) for i in order]
    totals = counts.sum(axis=1)
    return [
        (labels[i], labels[j], counts[i, j].item(), float(counts[i, j] / totals[i])) for i, j in pairs if off[i, j] > 0
    ]


def confused_classes(matrix: Sequence[Sequence[float]], n: int = CONFUSED_CLASSES) -> list[int]:
    """Indices, ascending, of the ``n`` classes with the most errors into and out of them."""
    off = np.asarray(matrix, dtype=float).copy()
    np.fill_diagonal(off, 0)
    errors = off.sum(axis=0) + off.sum(axis=1)
    return sorted(np.argsort(-errors, kind="stable")[:n].tolist())


def confusion_matrix(labels: Sequence[str], matrix: Sequence[Sequence[float]], path: Path, title: str = "") -> Path:
    """Rows are true classes, columns predictions, colour is the part of the true class.

    Beyond `MOST_CLASSES` classes the `CONFUSED_CLASSES` with the most errors are drawn; parts stay those of the whole
    matrix.

    Args:
        labels: K class names.
        matrix: Counts (K, K), row = true class.
        path: The PNG to write.
        title: Above the picture.

    Raises:
        ModisteError: the matrix is not square, or does not fit the labels.
    """
    counts = np.asarray(matrix, dtype=float)
    if counts.shape != (len(labels), len(labels)):
        raise ModisteError(f"A confusion matrix of shape {counts.shape} does not fit {len(labels)} labels.")
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    kept = list(range(len(labels)))
    if len(labels) > MOST_CLASSES:
        kept = confused_classes(matrix)
        title = f"{title} ({len(kept)} of {len(labels)} classes: those with the most errors)".strip()
    parts, counts = parts[np.ix_(kept, kept)], counts[np.ix_(kept, kept)]
    names = [textwrap.shorten(str(labels[i]), 24, placeholder="…") for i in kept]
    side = 2.2 + 0.3 * len(kept)
    with new_figure(side + 0.8, side, path) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(kept)), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(kept)), names)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.grid(visible=False)
        axes.set_title(title)
        for i, j in zip(*np.nonzero(counts), strict=True):
            shade = "white" if parts[i, j] > 0.55 else "#444444"
            count = axes.text(j, i, f"{counts[i, j]:.0f}", ha="center", va="center", fontsize=6, color=shade)
            count.set_in_layout(False)  # it lies inside the axes; hundreds of them make the layout slow
        figure.colorbar(image, ax=axes, shrink=0.6, label="part of the true class")
    return path


@contextmanager
def new_figure(width: float, height: float, path: Path) -> Iterator[Figure]:
    """A figure (inches) that is written to ``path`` when the block ends; no pyplot, so no global state."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, facecolor="white")


# --- retrieval gallery -------------------------------------------------------------------------------------------

THUMB = (126, 168)  # width, height
FRAME, GAP, QUERY_WIDTH, TEXT_HEIGHT, RESULTS = 5, 14, 236, 66, 5
INK, FAINT, PAPER = "#1A1A1A", "#6A6A6A", "#FFFFFF"


def retrieval_gallery(examples: Sequence[Mapping[str, Any]], catalogue: Pictures, path: Path) -> Path:
    """A row an example: the query, where its first relevant product stands, and the five best results with scores.

    Relevant results have a green frame and a tick; others a grey one, and an orange one with a cross in the first
    place, where it decides the miss. An unreadable image is an empty box.

    Args:
        examples: As in a result file: ``kind``, ``query`` (text, or the row of an image; with ``text`` where it is
            an image and a text), ``rank`` of the first relevant result, ``results`` (``row``, ``text``, ``score``,
            ``relevant``).
        catalogue: The catalogue that the rows refer to; a row that it does not hold is an empty box too.
        path: The PNG to write.

    Raises:
        ModisteError: no examples.
    """
    if not examples:
        raise ModisteError("There are no retrieval examples to draw.")
    read = _Reader(catalogue)
    row_height = THUMB[1] + 2 * FRAME + TEXT_HEIGHT + GAP
    width = QUERY_WIDTH + RESULTS * (THUMB[0] + 2 * FRAME + GAP) + GAP
    picture = Image.new("RGB", (width, row_height * len(examples) + GAP), PAPER)
    draw = ImageDraw.Draw(picture)
    for i, example in enumerate(examples):
        top = GAP + i * row_height
        if i:
            draw.line([(GAP, top - GAP // 2), (width - GAP, top - GAP // 2)], fill="#E4E4E4")
        _draw_query(picture, example, read, (GAP, top))
        for j, result in enumerate(example["results"][:RESULTS]):
            left = QUERY_WIDTH + j * (THUMB[0] + 2 * FRAME + GAP)
            _draw_result(picture, result, example["kind"], read, (left, top), first=j == 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)
    return path


def is_hit(example: Mapping[str, Any]) -> bool:
    """Whether one of the results that a gallery shows is relevant."""
    return any(result["relevant"] for result in example["results"][:RESULTS])


def _draw_query(picture: Image.Image, example: Mapping[str, Any], read: _Reader, corner: tuple[int, int]) -> None:
    draw = ImageDraw.Draw(picture)
    left, top = corner
    query, rank, hit = example["query"], example.get("rank"), is_hit(example)
    if isinstance(query, int):
        picture.paste(read.thumbnail(query), (left, top + FRAME))
        below = top + THUMB[1] + 2 * FRAME + 4
    else:
        below = _write(draw, (left, top + FRAME), f"“{query}”", 15, INK, QUERY_WIDTH - 2 * GAP, 6) + 8
    words = f"{'✓' if hit else '✗'} {f'true rank {rank:,}' if rank else 'no relevant product'}"
    below = _write(draw, (left, below), words, 13, RELEVANT if hit else MISSED, QUERY_WIDTH - GAP, 1)
    if isinstance(query, int):
        _write(draw, (left, below), example.get("text") or read.text(query), 11, FAINT, QUERY_WIDTH - 2 * GAP, 3)


def _draw_result(
    picture: Image.Image,
    result: Mapping[str, Any],
    kind: str,
    read: _Reader,
    corner: tuple[int, int],
    first: bool,
) -> None:
    draw = ImageDraw.Draw(picture)
    left, top = corner
    width, height = THUMB[0] + 2 * FRAME, THUMB[1] + 2 * FRAME
    colour = RELEVANT if result["relevant"] else MISSED if first else IRRELEVANT
    draw.rectangle([left, top, left + width - 1, top + height - 1], outline=colour, width=FRAME)
    score = f"{'✓ ' if result['relevant'] else ''}{result['score']:.3f}"
    if kind == "i2t":  # the results are captions: they stand in the box themselves
        _write(draw, (left + FRAME + 6, top + FRAME + 6), str(result["text"]), 13, INK, THUMB[0] - 12, 9)
        _write(draw, (left, top + height + 4), score, 13, colour if result["relevant"] else FAINT, width, 1)
        return
    picture.paste(read.thumbnail(result["row"]), (left + FRAME, top + FRAME))
    below = _write(draw, (left, top + height + 4), score, 13, colour if result["relevant"] else FAINT, width, 1)
    _write(draw, (left, below), str(result.get("text", "")), 11, FAINT, width, 3)


class _Reader:
    """Images and texts by the row in the full catalogue."""

    def __init__(self, catalogue: Pictures) -> None:
        self.catalogue = catalogue
        self.texts = catalogue.column("text")
        self.position = {row: i for i, row in enumerate(catalogue.column("row"))}

    def text(self, row: int) -> str:
        """The row's caption."""
        return str(self.texts[self.position[row]]) if row in self.position else ""

    def thumbnail(self, row: int) -> Image.Image:
        """The row's image, fitted onto white without distortion; light grey where it cannot be read."""
        try:
            image = self.catalogue.read_image(self.position[row]).convert("RGB")
        except (OSError, ValueError, KeyError):
            return Image.new("RGB", THUMB, "#EEEEEE")
        scale = min(THUMB[0] / image.width, THUMB[1] / image.height)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        canvas = Image.new("RGB", THUMB, PAPER)
        corner = (THUMB[0] - size[0]) // 2, (THUMB[1] - size[1]) // 2
        canvas.paste(image.resize(size, Image.Resampling.LANCZOS), corner)
        return canvas


def _write(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, size: int, colour: str, width: int, lines: int
) -> int:
    """Text wrapped to ``width`` pixels, cut with … after ``lines``; returns the y below it."""
    font = typeface(size)
    left, top = corner
    for line in wrap(text, font, width, lines):
        draw.text((left, top), line, font=font, fill=colour)
        top += round(size * 1.3)
    return top


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int) -> list[str]:
    """``text`` in at most ``lines`` lines of ``width`` pixels."""
    wrapped = [""]
    for word in text.split():
        longer = f"{wrapped[-1]} {word}".strip()
        if font.getlength(longer) <= width or not wrapped[-1]:
            wrapped[-1] = longer
        else:
            wrapped.append(word)
    cut = len(wrapped) > lines
    return [_fit(line + ("…" if cut and i == lines - 1 else ""), font, width) for i, line in enumerate(wrapped[:lines])]


def _fit(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The line, shortened with … until it is no wider than ``width``."""
    while font.getlength(line) > width and len(line) > 1:
        line = line[:-2] + "…"
    return line


def typeface(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib, so that pictures look the same on every machine."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


# --- heat-maps ---------------------------------------------------------------------------------------------------

HEAT_CELL = (150, 190)  # width, height that images are fitted into
HEAT_COLOURS = "inferno"
OUTLINE = ("#000000", "#56B4E9")  # a dark seam and the line, to be seen on any ground


def heat_sheet(rows: Sequence[Mapping[str, Any]]) -> Image.Image:
    """A row a phrase: the image with the outline of the mask, and the heat-map of each method laid over it.

    Args:
        rows: ``title``; ``image``; ``mask`` (h, w), True inside; ``maps``, method → (h, w) in [0, 1]; ``words``,
            method → what stands below its map. The same methods in each row; maps and masks of any resolution.

    Raises:
        ModisteError: no rows.
    """
    if not rows:
        raise ModisteError("There are no heat-maps to draw.")
    methods = list(rows[0]["maps"])
    head, title, words = 24, 24, 20
    width, height = HEAT_CELL[0] + GAP, title + HEAT_CELL[1] + words + GAP
    sheet = Image.new("RGB", (GAP + width * (1 + len(methods)), head + height * len(rows)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(["mask", *methods]):
        _write(draw, (GAP + column * width, 6), name, 13, FAINT, HEAT_CELL[0], 1)
    for i, row in enumerate(rows):
        top = head + i * height
        _write(draw, (GAP, top), f"“{row['title']}”", 14, INK, sheet.width - 2 * GAP, 1)
        image = row["image"].convert("RGB")
        scale = min(HEAT_CELL[0] / image.width, HEAT_CELL[1] / image.height)
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        sheet.paste(_outlined(image, row["mask"]), (GAP, top + title))
        for column, name in enumerate(methods, 1):
            sheet.paste(_outlined(_heated(image, row["maps"][name]), row["mask"]), (GAP + column * width, top + title))
            corner = GAP + column * width, top + title + image.height + 3
            _write(draw, corner, row["words"][name], 11, FAINT, HEAT_CELL[0], 1)
    return sheet


def _heated(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """A grey copy of the image with the heat laid over it."""
    from matplotlib import colormaps

    fitted = Image.fromarray(np.asarray(heat, np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    colours = colormaps[HEAT_COLOURS](np.asarray(fitted))[..., :3] * 255
    grey = np.asarray(image.convert("L"), np.float64)[..., None]
    return Image.fromarray((0.35 * grey + 0.65 * colours).astype(np.uint8))


def _outlined(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """A copy with the border of the mask."""
    fitted = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST))
    padded = np.pad(fitted, 2)
    shifts = [np.roll(padded, (dy, dx), (0, 1))[2:-2, 2:-2] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    inner, outer = np.min(shifts, axis=0).astype(bool), np.max(shifts, axis=0).astype(bool)
    inside = fitted.astype(bool)
    drawn = np.array(image)
    for ring, colour in zip((outer & ~inside, inside & ~inner), OUTLINE, strict=True):
        drawn[ring] = ImageColor.getrgb(colour)
    return Image.fromarray(drawn)
