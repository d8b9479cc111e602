"""Galleries of retrieved products; their thumbnails are stored for reports without the images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from PIL import Image

from modiste.reporting.words import part_words
from modiste.utils.run_dir import read_json, write_json

RESULTS = 5
SIDE = 320  # pixels of a thumbnail's longer side: twice its displayed size
SMALL = 128  # pixels up to which a thumbnail is stored losslessly
SAFE = ("data:image/png;base64,", "data:image/jpeg;base64,")


class Named(Protocol):
    """A data card with the data set's name."""

    @property
    def name(self) -> str:
        """The data set's name."""
        ...


class Images(Protocol):
    """The part of a catalogue's interface that a gallery uses."""

    @property
    def card(self) -> Named:
        """The data card."""
        ...

    def read_image(self, i: int) -> Image.Image:
        """The image of row ``i``."""
        ...

    def column(self, name: str) -> list[Any]:
        """A column as a list."""
        ...


@dataclass(frozen=True)
class Thumb:
    """A product: its image as a data URI (empty: unreadable), size, caption and product id."""

    image: str
    width: int
    height: int
    text: str
    id: str


@dataclass
class Shown:
    """A query or a result in a gallery; ``state`` selects its colour, ``word`` names it."""

    thumb: Thumb | None
    text: str
    word: str = ""
    score: str = ""
    state: str = ""


@dataclass
class Example:
    """A query, the rank of its first relevant item, its first results and, of a miss, the wanted item."""

    query: Shown
    rank: str
    hit: bool
    results: Sequence[Shown]


@dataclass
class Gallery:
    """Examples of a search."""

    kind: ClassVar[str] = "gallery"
    title: str
    examples: Sequence[Example]


@dataclass
class Thumbs:
    """Thumbnails of a data set by row of the full catalogue: ``figures/thumbs.<data>.<fingerprint>.json``.

    Args:
        path: Path of the file.
        catalogue: Source of images that are not stored yet; None: no source.
        kept: Stored thumbnails, row → fields of `Thumb`.
    """

    path: Path
    catalogue: Images | None
    kept: dict[str, Any] = field(default_factory=dict)
    _columns: dict[int, tuple[int, str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, result: Mapping[str, Any], catalogue: Images | None) -> Thumbs:
        """Load the thumbnails of the data that ``result`` was computed on."""
        name = f"{result['data']}.{str(result.get('data_fingerprint') or '')[:8] or 'data'}"
        path = folder / f"thumbs.{''.join(c if c.isalnum() or c in '-_.' else '_' for c in name)}.json"
        kept = read_json(path)
        return cls(path, catalogue, kept if isinstance(kept, dict) else {})

    def get(self, row: int) -> Thumb | None:
        """The thumbnail of a row; None where its image is not available."""
        if str(row) not in self.kept and self.catalogue is not None:
            self.kept[str(row)] = vars(self._read(self.catalogue, row))
        found: Any = self.kept.get(str(row))
        return Thumb(**found) if _is_thumb(found) else None

    def keep(self) -> None:
        """Write the file."""
        if self.kept and self.catalogue is not None:
            write_json(self.path, self.kept)

    def _read(self, catalogue: Images, row: int) -> Thumb:
        if not self._columns:
            texts, ids = catalogue.column("text"), catalogue.column("product_id")
            rows = enumerate(catalogue.column("row"))
            self._columns = {number: (i, str(texts[i]), str(ids[i])) for i, number in rows}
        if row not in self._columns:
            return Thumb("", 0, 0, "", "")
        at, text, name = self._columns[row]
        try:
            return Thumb(*encode(catalogue.read_image(at)), text, name)
        except (OSError, ValueError):
            return Thumb("", 0, 0, text, name)


def _is_thumb(found: object) -> bool:
    """Whether these are the fields of a `Thumb`; the file is not trusted."""
    types = {"image": str, "width": int, "height": int, "text": str, "id": str}
    if not isinstance(found, dict) or found.keys() != types.keys():
        return False
    image = found["image"]
    return all(isinstance(found[name], kind) for name, kind in types.items()) and (not image or image.startswith(SAFE))


def encode(image: Image.Image) -> tuple[str, int, int]:
    """Encode an image as a data URI, with width and height; it is shrunk to `SIDE`, never enlarged."""
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file, small = io.BytesIO(), max(image.size) <= SMALL
    image.save(file, "PNG" if small else "JPEG", optimize=True, **({} if small else {"quality": 88}))
    return f"{SAFE[not small]}{base64.b64encode(file.getvalue()).decode('ascii')}", *image.size


def is_example(example: object) -> bool:
    """Whether this has the form of an example of `Result`; a result file is not trusted."""
    if not isinstance(example, Mapping) or not isinstance(example.get("results"), list):
        return False
    wanted = example.get("wanted")
    shown = [*example["results"], *([{**wanted, "relevant": False}] if isinstance(wanted, Mapping) else [])]
    types: dict[str, type | tuple[type, ...]] = {"row": int, "score": (int, float), "relevant": bool}
    return {"query", "kind"} <= example.keys() and all(
        isinstance(result, Mapping) and all(isinstance(result.get(name), kind) for name, kind in types.items())
        for result in shown
    )


def is_hit(example: Mapping[str, Any]) -> bool:
    """Whether one of the results that a gallery shows is relevant."""
    return any(result["relevant"] for result in example["results"][:RESULTS])


def gallery(search: str, examples: Sequence[Mapping[str, Any]], thumbs: Thumbs) -> Gallery:
    """The gallery of a search: hits first, then misses with the wanted item."""
    ordered = sorted(examples, key=lambda example: not is_hit(example))
    return Gallery(part_words(search), [_example(example, thumbs) for example in ordered])


def _example(example: Mapping[str, Any], thumbs: Thumbs) -> Example:
    query, rank, captions = example["query"], example.get("rank"), example["kind"] == "i2t"
    if isinstance(query, int):
        thumb = thumbs.get(query)
        asked = Shown(thumb, str(example.get("text") or (thumb.text if thumb else "")))
    else:
        asked = Shown(None, f"“{query}”")
    results = [
        _result(result, captions, thumbs, "relevant" if result["relevant"] else "wrong" if place == 0 else "other")
        for place, result in enumerate(example["results"][:RESULTS])
    ]
    if not is_hit(example) and isinstance(example.get("wanted"), Mapping):
        results.append(_result(example["wanted"], captions, thumbs, "wanted"))
    where = f"first relevant at rank {rank:,}" if rank else "nothing relevant in the gallery"
    return Example(asked, where, is_hit(example), results)


WORDS = {"relevant": "✓ relevant", "wrong": "✗", "other": "", "wanted": "wanted"}


def _result(result: Mapping[str, Any], captions: bool, thumbs: Thumbs, state: str) -> Shown:
    thumb = None if captions else thumbs.get(int(result["row"])) or Thumb("", 0, 0, "", "")
    return Shown(thumb, str(result.get("text") or ""), WORDS[state], f"{float(result['score']):.3f}", state)
