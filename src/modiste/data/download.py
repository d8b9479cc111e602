"""Helpers for adapters of downloaded data sets: require and read files, detect partial downloads."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modiste.data.catalogue import Card, Catalogue
from modiste.errors import ModisteError, did_you_mean

log = logging.getLogger(__name__)


def require(card: Card, root: Path, names: Sequence[str], remedy: str = "") -> None:
    """Check that the files and folders ``names`` exist below ``root``.

    Raises:
        ModisteError: Some are missing; the message lists them and says how to download them, followed by ``remedy``.
    """
    missing = [name for name in names if not (root / name).exists()]
    if len(missing) == len(names):
        what = f"holds no {' and no '.join(missing[:2])}" if root.is_dir() else "does not exist"
        raise ModisteError(f"{root} {what}. {card.download} Then set data.catalogue.path to it.")
    if missing:
        raise ModisteError(
            f"{root} is a partial download of {card.title}: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. {card.download}{remedy and f' {remedy}'}"
        )


def cut_short(card: Card, path: Path, problem: str) -> ModisteError:
    """Error for a file that exists but is incomplete or malformed."""
    return ModisteError(f"{path} is damaged ({problem}): download it again. {card.download}")


def read_json(card: Card, path: Path, kind: type) -> Any:
    """Read a JSON file whose outermost value is a ``kind``. Raises ModisteError for any other file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise cut_short(card, path, str(error)) from None
    if not isinstance(content, kind):
        raise cut_short(card, path, f"it holds a {type(content).__name__} where a {kind.__name__} is expected")
    return content


def read_lines(path: Path) -> list[str]:
    """Read the non-empty lines of a text file, without line breaks."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    return [line.rstrip("\r") for line in lines if line.strip()]


def read_counted(card: Card, path: Path) -> list[str]:
    """Read a DeepFashion list: the first line is the number of entries, the second names the columns.

    Raises:
        ModisteError: The first line is not the number of entries.
    """
    lines = read_lines(path)
    if not lines or not lines[0].strip().isdigit():
        raise cut_short(card, path, "its first line is not a number of lines")
    if int(lines[0]) != len(lines) - 2:
        raise cut_short(card, path, f"its first line says {int(lines[0]):,} lines, it holds {len(lines) - 2:,}")
    return lines[2:]


def chosen(word: str, given: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return ``given`` in the order of ``options``. Raises ModisteError if it is empty or not in them."""
    for name in given:
        if name not in options:
            raise ModisteError(f"data.catalogue.{word} has no '{name}'. {did_you_mean(name, options)}")
    if not given:
        raise ModisteError(f"data.catalogue.{word} is empty: choose from {', '.join(options)}.")
    return [name for name in options if name in given]


def note_partial(catalogue: Catalogue) -> Catalogue:
    """Return the catalogue; warn if it has fewer rows, images or products than its card expects.

    In the card's ``expected``, ``rows`` counts rows read, usable or not; ``images`` and ``products`` count usable ones;
    any other name is a split.
    """
    card = catalogue.card
    found = {
        **catalogue.splits,
        "rows": catalogue.report.rows,
        "images": len(set(catalogue.column("image"))),
        "products": len(set(catalogue.column("product_id"))),
    }
    fewer = [f"{found.get(name, 0):,} of {n:,} {name}" for name, n in card.expected.items() if found.get(name, 0) < n]
    if fewer:
        log.warning("%s: a partial download? It has %s. %s", card.name, ", ".join(fewer), card.download)
    return catalogue
