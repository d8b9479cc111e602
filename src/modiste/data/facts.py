"""Statistics of a catalogue: counts, columns, class balance, leaks between splits."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from modiste.data.catalogue import Catalogue
from modiste.data.datasets.table import shared_pictures
from modiste.data.splits import EXCLUDED, leaks

TOP = 8
"""Number of values listed per column."""


def describe(catalogue: Catalogue) -> dict[str, Any]:
    """Return everything that ``modiste data`` reports, as JSON-compatible values."""
    return {
        "schema": 1,
        "card": asdict(catalogue.card),
        "rows": {"read": catalogue.report.rows, "kept": catalogue.report.kept},
        "bad": dict(catalogue.report.bad),
        "distinct": {name: len(set(catalogue.column(name))) for name in ("product_id", "pixels", "text")},
        "splits": {split or "undecided": count for split, count in catalogue.splits.items()},
        "columns": {name: _column_facts(catalogue, name) for name in catalogue.attributes},
        "leaks": _leaks(catalogue),
        "classes": catalogue.class_attributes,
        "shared_pictures": [{"products": count, "image": image} for count, _, image in shared_pictures(catalogue)],
        "text": _text_facts(catalogue.column("text")),
        "fingerprint": catalogue.fingerprint(),
    }


def _column_facts(catalogue: Catalogue, name: str) -> dict[str, Any]:
    values = catalogue.column(name)
    counts = Counter(value for value in values if value)
    return {
        "type": str(catalogue.table.schema.field(name).type),
        "range": _range(catalogue, name),
        "values": len(counts),
        "missing": len(values) - counts.total(),
        "top": [list(pair) for pair in counts.most_common(TOP)],
        "rarest": min(counts.values(), default=0),
    }


def _range(catalogue: Catalogue, name: str) -> list[float] | None:
    """Minimum and maximum of a numeric column."""
    values = catalogue.table.column(name)
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        return None
    found = pc.min_max(values).as_py()
    return None if found["min"] is None else [found["min"], found["max"]]


def _leaks(catalogue: Catalogue) -> dict[str, dict[str, int]]:
    compared = [split for split in catalogue.splits if split not in ("", EXCLUDED)]
    return {f"{a} – {b}": leaks(catalogue, (a, b)) for a, b in itertools.combinations(compared, 2)}


def _text_facts(texts: list[str]) -> dict[str, float]:
    words = sorted(len(text.split()) for text in texts)
    return {
        "words_mean": round(sum(words) / len(words), 2),
        "words_median": words[len(words) // 2],
        "words_95": words[int(0.95 * (len(words) - 1))],
        "words_max": words[-1],
        "characters_max": max(map(len, texts)),
    }
