"""`modiste audit data=kagl data/split=marqo`: which evaluated images, titles and products are in the training data."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from modiste.commands._line import command_overrides, config_dirs
from modiste.commands.evaluate import build_model, device, take_over
from modiste.config import compose, quote, validate
from modiste.data.build import load
from modiste.data.catalogue import Catalogue
from modiste.data.splits import normalised
from modiste.errors import ModisteError
from modiste.evaluation.overlap import Match, check_kept, match_vectors, measure, same_products
from modiste.utils.drawing import typeface, wrap
from modiste.utils.run_dir import RunDir, write_json

if TYPE_CHECKING:
    from rich.console import Console

MEANING = {
    "identical": "equal pixels, whatever the file's encoding",
    "near": "hashes at most {hamming} of 64 bits apart, 8×8 cells at most {colour} of 255 levels; identical included",
    "embedding": "cosine of the model's image embeddings at least {cosine}; identical included",
    "title": "equal titles, case, punctuation and spaces aside",
    "product": "equal product ids",
}
VISIBLE = ("near", "embedding")
"""Measures whose pairs are shown: in the others the two sides are equal."""
SMALL = 48
"""Pictures of a shorter side have few details: different ones may be near."""
THUMB, MARGIN, CAPTION, HEADING, PER_ROW = (96, 128), 10, 62, 28, 6


@dataclass(frozen=True)
class Audit:
    """The two sides and what they share.

    Attributes:
        train: Training rows.
        test: Evaluated rows.
        matches: Measure to the nearest training row of every evaluated row.
        settings: The thresholds, and the model of the embeddings.
    """

    train: Catalogue
    test: Catalogue
    matches: dict[str, Match]
    settings: dict[str, Any]


def run(cfg: DictConfig) -> None:
    """Compare the two sides; print, and write ``audit.json``, ``pairs.csv`` and ``pairs.png``."""
    from rich.console import Console

    audit = build(cfg)
    names = [re.sub(r"[^\w-]+", "_", side.card.name) for side in (audit.train, audit.test)]
    folder = Path(cfg.output or f"runs/audit/{'-'.join(names)}")
    show(audit, Console(), cfg.show)
    write_json(folder / "audit.json", describe(audit, cfg.show))
    write_pairs(audit, folder / "pairs.csv")
    written = [folder / "audit.json", folder / "pairs.csv"]
    if draw_pairs(audit, folder / "pairs.png", cfg.sheet):
        written.append(folder / "pairs.png")
    print("Wrote " + ", ".join(map(str, written)))


def build(cfg: DictConfig) -> Audit:
    """Load both sides and compare them.

    Raises:
        ModisteError: Contradictory settings, a side without rows, or data that are not there.
    """
    given = command_overrides()
    run_dir = RunDir.find(cfg.run) if cfg.run else None
    trained: Any = OmegaConf.load(run_dir.config) if run_dir else None
    if trained is not None:
        if cfg.other:
            raise ModisteError("run= and other= exclude each other: there is one training side.")
        take_over(cfg, trained, given)
    validate(cfg)
    test = load(cfg.data)
    train = training_side(cfg, trained, test)
    if train is test and cfg.split == cfg.train_split:
        raise ModisteError(f"Both sides are the split '{cfg.split}' of '{test.card.name}': choose another train_split.")
    if cfg.split is not None:
        test = test.select(split=cfg.split)
    if cfg.train_split is not None:
        train = train.select(split=cfg.train_split)
    settings: dict[str, Any] = {"hamming": cfg.hamming, "colour": cfg.colour}
    matches = measure(train, test, cfg.hamming, cfg.colour)
    if run_dir is not None or any(override.startswith("model=") for override in given):
        matches["embedding"], model = by_embedding(cfg, run_dir, train, test)
        settings |= {"cosine": cfg.cosine, "model": model}
    return Audit(train, test, {name: matches[name] for name in MEANING if name in matches}, settings)


def training_side(cfg: DictConfig, trained: Any, evaluated: Catalogue) -> Catalogue:
    """The whole catalogue of the training side: a run's, another data set's, or the evaluated one itself."""
    if trained is not None:
        check_kept(trained.data)
        return evaluated if trained.data == cfg.data else load(trained.data)
    if not cfg.other:
        return evaluated
    words = [f"data={cfg.other}"] if isinstance(cfg.other, str) else list(cfg.other)
    return load(compose("evaluate", [f"data_dir={quote(str(cfg.data_dir))}", *words], config_dirs()).data)


def by_embedding(
    cfg: DictConfig, run_dir: RunDir | None, train: Catalogue, test: Catalogue
) -> tuple[Match, dict[str, Any]]:
    """Pairs by the cosine of their image embeddings, and the facts about the model."""
    from modiste.embedding.embedder import ModelEmbedder, default_cache
    from modiste.utils.progress import progress_bar

    model, facts = build_model(cfg, run_dir)
    cache = default_cache() if cfg.cache else None
    embedder = ModelEmbedder(model.to(device(cfg.device)), cfg.batch_size, cfg.precision, cache, progress_bar)
    match = match_vectors(embedder.images(train).numpy(), embedder.images(test).numpy(), cfg.cosine)
    return match, facts | {"fingerprint": embedder.fingerprint}


# ----------------------------------------------------------------------------------------------------------- reporting


def notes(audit: Audit) -> list[str]:
    """What a reader must know to take the numbers for what they are."""
    found = []
    if not same_products(audit.train, audit.test):
        found.append("Product ids of different data sets mean different things: they are not compared.")
    side = min(audit.test.read_image(0).size)
    if side < SMALL:
        found.append(f"The evaluated pictures are small ({side} pixels): different ones may count as near.")
    titles = len(set(map(normalised, audit.test.column("text"))))
    if titles < len(audit.test) / 10:
        found.append(f"The evaluated titles are {titles:,} different ones, as class names are: equal ones tell little.")
    if "embedding" in audit.matches:
        found.append("What cosine means the same picture depends on the model: judge it by the sheet.")
    return found


def describe(audit: Audit, most: int) -> dict[str, Any]:
    """Everything that the command reports, as plain values."""
    from modiste.commands._line import command

    return {
        "schema": 1,
        "train": _side(audit.train),
        "test": _side(audit.test),
        "settings": audit.settings,
        "measures": {
            name: {
                "images": int(match.touched.sum()),
                "share": float(match.touched.mean()),
                "meaning": MEANING[name].format(**audit.settings),
            }
            for name, match in audit.matches.items()
        },
        "closest": {name: [_pair(audit, name, row) for row in closest(audit, name)[:most]] for name in _shown(audit)},
        "notes": notes(audit),
        "command": command(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _side(catalogue: Catalogue) -> dict[str, Any]:
    return {
        "data": catalogue.card.name,
        "title": catalogue.card.title,
        "splits": sorted(catalogue.splits),
        "rows": len(catalogue),
        "fingerprint": catalogue.fingerprint(),
    }


def _shown(audit: Audit) -> list[str]:
    return [name for name in VISIBLE if name in audit.matches]


def closest(audit: Audit, name: str) -> list[int]:
    """The evaluated rows that ``name`` touches, the closest pair first; identical pictures are left out."""
    match, identical = audit.matches[name], audit.matches["identical"].touched
    rows = np.flatnonzero(match.touched & ~identical)
    return rows[np.argsort(match.distance[rows], kind="stable")].tolist()


def _pair(audit: Audit, name: str, row: int) -> dict[str, Any]:
    match = audit.matches[name]
    pair: dict[str, Any] = {"distance": round(float(match.distance[row]), 6)}
    for side, catalogue, position in (("test", audit.test, row), ("train", audit.train, int(match.train[row]))):
        cells = {key: catalogue.table.column(key)[position].as_py() for key in ("row", "product_id", "text")}
        pair |= {f"{side}_{key}": value for key, value in cells.items()}
    return pair


def write_pairs(audit: Audit, path: Path) -> None:
    """Every touched evaluated row with its nearest training row, measure by measure, as CSV."""
    names = [
        "measure",
        "distance",
        *(f"{side}_{key}" for side in ("test", "train") for key in ("row", "product_id", "text")),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for name, match in audit.matches.items():
            writer.writerows({"measure": name, **_pair(audit, name, int(row))} for row in np.flatnonzero(match.touched))


def show(audit: Audit, console: Console, most: int) -> None:
    """Print the counts, the closest pairs and the notes."""
    from rich.table import Table

    train, test = audit.train, audit.test
    console.print(
        f"Evaluated: {test.card.name}, {len(test):,} images ({', '.join(sorted(test.splits))}). "
        f"Training: {train.card.name}, {len(train):,} images ({', '.join(sorted(train.splits))}).",
        highlight=False,
    )
    style = {"title_justify": "left", "title_style": "bold", "box": None, "header_style": "dim"}
    counts = Table("", title="Evaluated images that share something with a training image", **style)  # type: ignore[arg-type]
    for column in ("images", "share"):
        counts.add_column(column, justify="right")
    counts.add_column("meaning")
    for name, match in audit.matches.items():
        number = int(match.touched.sum())
        shown = f"[red]{number:,}[/]" if number else "0"
        counts.add_row(name, shown, f"{number / len(test):.2%}", MEANING[name].format(**audit.settings))
    console.print(counts)
    for name in _shown(audit):
        rows = closest(audit, name)[:most]
        if rows:
            table = Table("distance", "evaluated", "training", title=f"Closest pairs, {name}", **style)  # type: ignore[arg-type]
            for pair in (_pair(audit, name, row) for row in rows):
                sides = (f"{pair[f'{side}_product_id']}: {pair[f'{side}_text']}" for side in ("test", "train"))
                table.add_row(f"{pair['distance']:.4g}", *sides)
            console.print(table, markup=False)
    for note in notes(audit):
        console.print(f"Note: {note}", highlight=False, markup=False)


def draw_pairs(audit: Audit, path: Path, most: int) -> bool:
    """A PNG of pairs side by side, evaluated left and training right: ``most`` of each kind, from closest to farthest.

    Evenly spaced, so that the sheet also shows where the threshold cuts. Returns whether there is any pair to draw.
    """
    from PIL import Image, ImageDraw

    sections = {name: _spread(closest(audit, name), most) for name in _shown(audit)}
    sections = {name: rows for name, rows in sections.items() if rows}
    if not sections:
        path.unlink(missing_ok=True)  # an earlier audit's
        return False
    width, height = 2 * THUMB[0] + 2 * MARGIN, THUMB[1] + CAPTION
    heights = [HEADING + -(-len(rows) // PER_ROW) * height for rows in sections.values()]
    sheet = Image.new("RGB", (MARGIN + PER_ROW * width, sum(heights) + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for top, (name, rows) in zip(np.cumsum([0, *heights]).tolist(), sections.items(), strict=False):
        total = len(closest(audit, name))
        draw.text((MARGIN, top + 6), f"{name}: {len(rows)} of {total} pairs, closest first", "black", typeface(15))
        for place, row in enumerate(rows):
            corner = (MARGIN + place % PER_ROW * width, top + HEADING + place // PER_ROW * height)
            _draw_pair(sheet, draw, corner, audit, name, row)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return True


def _spread(rows: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of them, evenly spaced, the first and the last included.

    >>> _spread([5, 6, 7, 8, 9], 3)
    [5, 7, 9]
    """
    places = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
    return [rows[place] for place in places.tolist()]


def _draw_pair(sheet: Any, draw: Any, corner: tuple[int, int], audit: Audit, name: str, row: int) -> None:
    x, y = corner
    pair, small = _pair(audit, name, row), typeface(10)
    for offset, catalogue, position in (
        (0, audit.test, row),
        (THUMB[0] + 2, audit.train, int(audit.matches[name].train[row])),
    ):
        image = catalogue.read_image(position)
        scale = min(THUMB[0] / image.width, THUMB[1] / image.height)
        image = image.resize([max(1, round(length * scale)) for length in image.size])
        sheet.paste(image, (x + offset + (THUMB[0] - image.width) // 2, y + (THUMB[1] - image.height) // 2))
    draw.text((x, y + THUMB[1] + 2), f"{pair['distance']:.4g}", "#D55E00", small)
    for line, side in enumerate(("test", "train")):
        lines = wrap(f"{pair[f'{side}_product_id']} {pair[f'{side}_text']}", small, 2 * THUMB[0], lines=1)
        draw.text((x, y + THUMB[1] + 15 + 13 * line), lines[0], "#333333", small)
