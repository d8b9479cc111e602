"""The record's pictures, from what its result files hold; `record.py` draws them with the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from modiste.reporting.figures import PALETTE, new_figure

COLOURS = 32  # so that a picture takes a few KB


@contextmanager
def small(width: float, height: float, path: Path) -> Iterator[Figure]:
    """A figure (inches) written as a PNG of few colours."""
    with new_figure(width, height, path) as figure:
        yield figure
    with Image.open(path) as picture:
        reduced = picture.convert("RGB").resize((picture.width * 2 // 3, picture.height * 2 // 3), Image.Resampling.BOX)
    reduced.quantize(COLOURS).save(path, optimize=True)


def curves(found: Mapping[int, Mapping[str, Any]], path: Path) -> None:
    """A validation metric over the epochs, one line per seed: ``{seed: {"metric", "values"}}``."""
    with small(4.5, 3, path) as figure:
        axes = figure.subplots()
        for number, (seed, curve) in enumerate(found.items()):
            epochs = range(1, len(curve["values"]) + 1)
            axes.plot(epochs, curve["values"], "os^"[number % 3] + "-", color=PALETTE[number], label=f"seed {seed}")
            axes.set_title(curve["metric"])
        axes.set_xlabel("epoch")
        axes.legend()


def classes(f1: Mapping[int, Mapping[str, float]], path: Path) -> None:
    """F1 of each class, a mark a seed, the hardest class at the bottom."""
    names = sorted(next(iter(f1.values())), key=lambda name: sum(values[name] for values in f1.values()))
    with small(4.5, 3, path) as figure:
        axes = figure.subplots()
        for number, (seed, values) in enumerate(f1.items()):
            marks = [values[name] for name in names]
            axes.plot(marks, range(len(names)), "os^"[number % 3], color=PALETTE[number], label=f"seed {seed}")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(0, 1)
        axes.set_title("F1")
        axes.legend(loc="upper left")


def ablations(tables: Mapping[str, Sequence[tuple[str, Mapping[str, float]]]], path: Path) -> None:
    """Differences to the baselines, with intervals: ``{table: [(variant, {"difference", "low", "high"})]}``."""
    rows = [(f"{table}: {variant}", change) for table, variants in tables.items() for variant, change in variants]
    with small(6.5, 0.6 + 0.19 * len(rows), path) as figure:
        axes = figure.subplots()
        for place, (_, change) in enumerate(rows):
            axes.plot([change["low"], change["high"]], [place, place], color=PALETTE[0], linewidth=4, alpha=0.4)
            axes.plot([change["difference"]], [place], "o", color=PALETTE[0], markersize=4)
        axes.axvline(0, color="#6A6A6A", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [label for label, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title("t2i MRR, difference to the baseline")
