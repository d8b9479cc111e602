"""Overlap of evaluated images, titles and products with training data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from modiste.config import load_run_config, validate
from modiste.config.inherit import from_run
from modiste.config.invocation import Invocation
from modiste.config.overrides import override_value
from modiste.data.build import load
from modiste.data.catalogue import EVERY_ROW, Catalogue
from modiste.data.splits import normalised
from modiste.embedding.build import build_embedder, embedder_options
from modiste.errors import ModisteError
from modiste.evaluation.copies import match_copies, thumbnails
from modiste.evaluation.overlap import Match, check_kept, match_vectors, measure, same_products
from modiste.evaluation.spec import EvaluationSpec
from modiste.evaluation.subject import Subject, subject_of
from modiste.evaluation.titles import match_titles
from modiste.reporting.tables.sheets import csv_text
from modiste.utils.atomic import write_text
from modiste.utils.progress import progress_bar
from modiste.utils.run_dir import RunDir, write_json

MEANING = {
    "identical": "equal pixels, whatever the file's encoding",
    "near": "hashes at most {hamming} of 64 bits apart, 8×8 cells at most {colour} of 255 levels; identical included",
    "copy": "the same image, mirrored, cropped, padded, rotated by a few degrees, brightened or made grey",
    "embedding": "cosine of the model's image embeddings at least {cosine}; identical included",
    "title": "equal titles, ignoring case, punctuation and spaces",
    "similar title": "titles that differ in accents, word order or one letter; equal included",
    "product": "equal product ids",
}
VISIBLE = ("near", "copy", "embedding")
"""Measures whose pairs are shown: in the others the two sides are equal."""
SMALL = 48
"""Images with a shorter side have few details, so different ones may be near."""


@dataclass(frozen=True)
class Audit:
    """Training and evaluation data and their overlap.

    Attributes:
        train: Training rows.
        test: Evaluated rows.
        matches: Nearest training row of every evaluated row, by measure.
        settings: Thresholds, and the model of the embeddings.
    """

    train: Catalogue
    test: Catalogue
    matches: dict[str, Match]
    settings: dict[str, Any]


def audit_config(cfg: DictConfig, line: Invocation) -> tuple[Audit, Path]:
    """Load both sides, compare them, and write ``audit.json`` and ``pairs.csv`` into the returned folder.

    Args:
        cfg: The composed ``audit`` configuration.
        line: Command line that composed it.

    Raises:
        ModisteError: Both sides have rows in common by their splits, a side has no rows, or data are missing.
    """
    run = RunDir.find(cfg.run) if cfg.run else None
    trained = load_run_config(run.config) if run else None
    if trained is not None:
        cfg = from_run(cfg, trained, line.overrides)
    validate(cfg)
    test = load(cfg.data)
    train = training_side(cfg, trained, test, line)
    if train is test and (cfg.split == cfg.train_split or EVERY_ROW in (cfg.split, cfg.train_split)):
        raise ModisteError(
            f"Training data ('{test.card.name}', split '{cfg.train_split}') and evaluation data (split '{cfg.split}') "
            "have rows in common: set other, or another split or train_split."
        )
    subject = subject_of(cfg, line.choice("model")) if run is not None or line.choice("model") else None
    audit = compare_sides(
        train.select(split=cfg.train_split), test.select(split=cfg.split),
        cfg.hamming, cfg.colour, subject, cfg.cosine, embedder_options(cfg), cfg.copies,
    )  # fmt: skip
    names = [re.sub(r"[^\w-]+", "_", side.card.name) for side in (audit.train, audit.test)]
    folder = Path(cfg.out or f"{cfg.log_dir}/audit/{'-'.join(names)}")
    write_json(folder / "audit.json", describe(audit, cfg.show) | {"command": line.command})
    write_pairs(audit, folder / "pairs.csv")
    return audit, folder


def compare_sides(
    train: Catalogue,
    test: Catalogue,
    hamming: int = 4,
    colour: int = 8,
    subject: Subject | None = None,
    cosine: float = 0.98,
    options: dict[str, Any] | None = None,
    copies: bool = False,
) -> Audit:
    """Find what the rows of ``test`` share with those of ``train``.

    Args:
        train: Training rows.
        test: Evaluated rows.
        hamming: Maximum number of differing bits, of 64, between the hashes of near images.
        colour: Maximum difference between the 8×8 cells of near images, of 255 levels.
        subject: Model whose image embeddings are compared, too; None: no embeddings.
        cosine: Minimum cosine of a match by embeddings.
        options: Options of `modiste.embedding.build.build_embedder`.
        copies: Whether to search for modified copies of images, too (`modiste.evaluation.copies`).
    """
    settings: dict[str, Any] = {"hamming": hamming, "colour": colour}
    matches = measure(train, test, hamming, colour)
    matches["similar title"] = match_titles(train.column("text"), test.column("text"))
    if copies:
        matches["copy"] = match_copies(thumbnails(train, progress_bar), thumbnails(test, progress_bar), progress_bar)
    if subject is not None and subject.model is not None:
        embedder = build_embedder(subject.model, **(options or {}))
        matches["embedding"] = match_vectors(embedder.images(train).numpy(), embedder.images(test).numpy(), cosine)
        facts = {"name": subject.name, "source": subject.source, "fingerprint": embedder.fingerprint}
        settings |= {"cosine": cosine, "model": facts}
    return Audit(train, test, {name: matches[name] for name in MEANING if name in matches}, settings)


def training_side(cfg: DictConfig, trained: DictConfig | None, evaluated: Catalogue, line: Invocation) -> Catalogue:
    """The whole catalogue of the training side: ``other``, a run's, or the evaluated one itself."""
    if trained is not None and not cfg.other:
        check_kept(trained.data)
        return evaluated if trained.data == cfg.data else load(trained.data)
    if not cfg.other:
        return evaluated
    shared = [f"data_dir={override_value(str(cfg.data_dir))}"]
    entry: Any = OmegaConf.to_container(cfg.other) if OmegaConf.is_config(cfg.other) else cfg.other
    return load(EvaluationSpec.compose("other", entry, shared, config_dirs=line.config_dirs).config.data)


# ----------------------------------------------------------------------------------------------------------- reporting


def notes(audit: Audit) -> list[str]:
    """Caveats for readers of the numbers."""
    found = []
    if not same_products(audit.train, audit.test):
        found.append("Product ids of different data sets are not comparable, so they are not compared.")
    side = min(audit.test.read_image(0).size)
    if side < SMALL:
        found.append(f"The evaluated images are small ({side} pixels): different ones may count as near.")
    titles = len(set(map(normalised, audit.test.column("text"))))
    if titles < len(audit.test) / 10:
        found.append(f"Distinct evaluated titles: {titles:,}. Like class names, they tell little when equal.")
    found.append(
        "Not detected: other photographs of the same product, crops of more than a third, rotations of more than about "
        "ten degrees, overlays (text, watermarks), copies that are recoloured as a whole, one in four of those so "
        "bright that they lost details, one in six of those rotated with black corners; reworded titles. A photograph "
        "in which a small part has another colour counts as a copy."
    )
    if "copy" not in audit.matches:
        found.append("Modified copies (mirrored, cropped, rotated …) were not searched for: set copies=true.")
    if "embedding" in audit.matches:
        found.append("Which cosine means the same image depends on the model: check it on the contact sheet.")
    return found


def describe(audit: Audit, most: int) -> dict[str, Any]:
    """The report of the command, as plain values."""
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
        "closest": {name: [pair(audit, name, row) for row in closest(audit, name)[:most]] for name in shown(audit)},
        "notes": notes(audit),
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


def shown(audit: Audit) -> list[str]:
    """The measures whose pairs are shown."""
    return [name for name in VISIBLE if name in audit.matches]


def closest(audit: Audit, name: str) -> list[int]:
    """Evaluated rows with a match by ``name``, closest pair first, without identical images."""
    match, identical = audit.matches[name], audit.matches["identical"].touched
    rows = np.flatnonzero(match.touched & ~identical)
    return rows[np.argsort(match.distance[rows], kind="stable")].tolist()


def pair(audit: Audit, name: str, row: int) -> dict[str, Any]:
    """Distance, ids and titles of an evaluated row and its nearest training row."""
    match = audit.matches[name]
    cells_of_both: dict[str, Any] = {"distance": round(float(match.distance[row]), 6)}
    for side, catalogue, position in (("test", audit.test, row), ("train", audit.train, int(match.train[row]))):
        cells = {key: catalogue.table.column(key)[position].as_py() for key in ("row", "product_id", "text")}
        cells_of_both |= {f"{side}_{key}": value for key, value in cells.items()}
    return cells_of_both


def write_pairs(audit: Audit, path: Path) -> None:
    """Write every matched evaluated row with its nearest training row, by measure, as CSV."""
    names = [
        "measure",
        "distance",
        *(f"{side}_{key}" for side in ("test", "train") for key in ("row", "product_id", "text")),
    ]
    pairs = [
        {"measure": name, **pair(audit, name, int(row))}
        for name, match in audit.matches.items()
        for row in np.flatnonzero(match.touched)
    ]
    write_text(path, csv_text([names, *([found[name] for name in names] for found in pairs)]))
