"""Polyvore Outfits: 251,008 items of 68,306 outfits, with titles (task ``compatibility``)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modiste.data.catalogue import Card, Catalogue, as_text
from modiste.data.download import chosen, cut_short, note_partial, read_json, require
from modiste.data.sources import FolderImages
from modiste.utils.ranges import BadRows

CARD = Card(
    name="polyvore",
    title="Polyvore Outfits",
    licence="none stated; research use, the pictures are Polyvore's and their shops'",
    citation="M. I. Vasileva, B. A. Plummer, K. Dusad, S. Rajpal, R. Kumar, D. Forsyth, Learning Type-Aware Embeddings "
    "for Fashion Compatibility, ECCV 2018",
    homepage="https://github.com/mvasil/fashion-compatibility",
    expected={"rows": 251008, "images": 251008},
    download="Download polyvore_outfits.zip from the link of github.com/mvasil/fashion-compatibility and unpack it: "
    "images/, disjoint/, nondisjoint/, polyvore_item_metadata.json, categories.csv.",
)
KINDS = ("nondisjoint", "disjoint")
# An item in several splits belongs to the first.
OUTFITS = {"test": "test.json", "val": "valid.json", "train": "train.json"}


@dataclass(frozen=True)
class Polyvore:
    """Read the items: one row per item, text = the first non-empty title, url_name or description.

    Items without any of them have their category as text. ``category`` is the name of ``category_id`` in
    categories.csv; ``semantic_category`` is one of eleven groups. An item is in test if a test outfit contains it,
    otherwise in val, otherwise in train. Items without an outfit in this kind of split have no split, but stay in the
    catalogue, where outfits are looked up.

    Attributes:
        path: Unpacked folder of polyvore_outfits.zip.
        split_kind: ``nondisjoint`` (used for the published numbers) or ``disjoint``.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: A file is missing or truncated, or ``split_kind`` is unknown.
    """

    path: str
    split_kind: str = "nondisjoint"
    max_bad: BadRows | None = None

    def __call__(self) -> Catalogue:
        root = Path(self.path)
        (kind,) = chosen("split_kind", [self.split_kind], KINDS)
        outfits = {split: f"{kind}/{file}" for split, file in OUTFITS.items()}
        require(CARD, root, ["images", "polyvore_item_metadata.json", "categories.csv", *outfits.values()])
        items = read_json(CARD, root / "polyvore_item_metadata.json", dict)
        names = _categories(root / "categories.csv")
        split: dict[str, str] = {}
        for name, file in outfits.items():
            for item in _members(root / file):
                split.setdefault(item, name)
        # Items without metadata are excluded for their empty captions, and counted.
        ids = list(dict.fromkeys([*items, *split]))
        records = [items.get(item, {}) for item in ids]
        categories = [names.get(as_text(record.get("category_id")), "") for record in records]
        groups = [as_text(record.get("semantic_category")) for record in records]
        columns = {
            "product_id": ids,
            "image": [f"{item}.jpg" for item in ids],
            "text": [_text(r) or c or g for r, c, g in zip(records, categories, groups, strict=True)],
            "split": [split.get(item, "") for item in ids],
            "category": categories,
            "category_id": [as_text(record.get("category_id")) for record in records],
            "semantic_category": groups,
        }
        return note_partial(Catalogue.build(CARD, columns, FolderImages(root / "images"), self.max_bad))


def _text(record: dict[str, Any]) -> str:
    found = (as_text(record.get(name)) for name in ("title", "url_name", "description"))
    return next((" ".join(text.split()) for text in found if text), "")


def _categories(path: Path) -> dict[str, str]:
    """Category id → name, from lines ``id,name,group`` without a header."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return {row[0].strip(): row[1].strip() for row in csv.reader(file) if len(row) >= 2}


def _members(path: Path) -> list[str]:
    try:
        return [as_text(item["item_id"]) for outfit in read_json(CARD, path, list) for item in outfit["items"]]
    except (KeyError, TypeError) as error:
        raise cut_short(CARD, path, f"it is not a list of outfits with items, {error!r}") from None
