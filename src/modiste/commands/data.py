"""`modiste data data=kagl`: what a data set holds, on the screen, as data.json and as a sheet of pictures."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from modiste.data.build import load
from modiste.data.catalogue import Catalogue
from modiste.data.splits import EXCLUDED, leaks
from modiste.utils.drawing import typeface, wrap
from modiste.utils.run_dir import write_json

PER_SPLIT = 16
TOP = 8
CELL, CAPTION, MARGIN, HEADING = 150, 44, 8, 30


def run(cfg: DictConfig) -> None:
    """Describe ``cfg.data``; write ``data.json`` and ``sheet.png`` to ``cfg.run_dir``."""
    catalogue = load(cfg.data)
    folder = Path(cfg.run_dir)
    facts = describe(catalogue)
    show(facts, Console())
    sheet = folder / "sheet.png"
    draw_sheet(catalogue, sheet, cfg.seed)
    write_json(folder / "data.json", {**facts, "seed": cfg.seed, "sheet": sheet.name})
    print(f"Wrote {folder / 'data.json'} and {sheet}")


def describe(catalogue: Catalogue) -> dict[str, Any]:
    """Everything that the command reports, as plain values."""
    return {
        "schema": 1,
        "card": asdict(catalogue.card),
        "rows": {"read": catalogue.report.rows, "kept": catalogue.report.kept},
        "bad": dict(catalogue.report.bad),
        "distinct": {name: len(set(catalogue.column(name))) for name in ("product_id", "pixels", "text")},
        "splits": {split or "undecided": count for split, count in catalogue.splits.items()},
        "columns": {name: _column_facts(catalogue.column(name)) for name in catalogue.attributes},
        "leaks": _leaks(catalogue),
        "text": _text_facts(catalogue.column("text")),
        "fingerprint": catalogue.fingerprint(),
    }


def _column_facts(values: list[str]) -> dict[str, Any]:
    counts = Counter(value for value in values if value)
    return {
        "values": len(counts),
        "missing": len(values) - counts.total(),
        "top": [list(pair) for pair in counts.most_common(TOP)],
        "rarest": min(counts.values(), default=0),
    }


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


def show(facts: dict[str, Any], console: Console) -> None:
    """Print what `describe` found."""
    card, rows, distinct = facts["card"], facts["rows"], facts["distinct"]
    console.print(f"[bold]{card['title'] or card['name']}[/]  ({card['name']})")
    for name in ("licence", "citation", "homepage"):
        if card[name]:
            console.print(f"  {name}: {card[name]}", markup=False)
    expected = ", ".join(f"{count:,} {name}" for name, count in card["expected"].items())
    console.print(
        f"{rows['read']:,} rows read, {rows['kept']:,} kept{f' (published: {expected})' if expected else ''}: "
        f"{distinct['product_id']:,} products, {distinct['pixels']:,} different images, {distinct['text']:,} titles",
        highlight=False,
    )
    for reason, ids in facts["bad"].items():
        shown = ", ".join(ids[:10]) + (", …" if len(ids) > 10 else "")
        console.print(f"  left out: {len(ids):,} {reason}: {shown}", style="yellow", markup=False, highlight=False)
    words = facts["text"]
    console.print(
        f"words in a title: mean {words['words_mean']}, median {words['words_median']}, 95 % at most "
        f"{words['words_95']}, longest {words['words_max']} ({words['characters_max']} characters)",
        highlight=False,
    )
    console.print(_splits_table(facts), _columns_table(facts))
    if facts["leaks"]:
        console.print(_leaks_table(facts))


def _splits_table(facts: dict[str, Any]) -> Table:
    table = _table("Splits", "split", "rows", "part")
    for split, count in facts["splits"].items():
        table.add_row(split, f"{count:,}", f"{count / facts['rows']['kept']:.1%}")
    return table


def _columns_table(facts: dict[str, Any]) -> Table:
    table = _table("Attributes", "column", "values", "missing", "rarest has")
    table.add_column("most frequent", justify="left", ratio=1)
    for name, column in facts["columns"].items():
        top = ", ".join(f"{value} {count / facts['rows']['kept']:.1%}" for value, count in column["top"])
        table.add_row(name, f"{column['values']:,}", f"{column['missing']:,}", f"{column['rarest']:,}", top)
    return table


def _leaks_table(facts: dict[str, Any]) -> Table:
    table = _table("On both sides of", "two splits", "products", "pixels", "titles")
    for pair, counts in facts["leaks"].items():
        table.add_row(pair, *(f"[red]{n:,}[/]" if n else "0" for n in counts.values()))
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="dim")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def draw_sheet(catalogue: Catalogue, path: Path, seed: int = 0) -> None:
    """A PNG of `PER_SPLIT` products of every split, drawn with ``seed``, with their titles."""
    from PIL import Image, ImageDraw

    splits = list(catalogue.splits)
    columns = PER_SPLIT // 2
    height = HEADING + 2 * (CELL + CAPTION)
    sheet = Image.new("RGB", (MARGIN + columns * CELL, len(splits) * height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for block, split in enumerate(splits):
        part = catalogue.select(split=split)
        draw.text((MARGIN, block * height + 6), f"{split or 'undecided'}: {len(part):,} rows", "black", typeface(16))
        rows = sorted(random.Random(f"{seed}:{split}").sample(range(len(part)), min(PER_SPLIT, len(part))))
        texts = part.column("text")
        for place, row in enumerate(rows):
            corner = (
                MARGIN + place % columns * CELL,
                block * height + HEADING + place // columns * (CELL + CAPTION),
            )
            _draw_product(sheet, draw, corner, part.read_image(row), texts[row])
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _draw_product(sheet: Any, draw: Any, corner: tuple[int, int], image: Any, text: str) -> None:
    side = CELL - MARGIN
    scale = side / max(image.size)
    image = image.resize([max(1, round(length * scale)) for length in image.size])
    x, y = corner
    sheet.paste(image, (x + (side - image.width) // 2, y + (side - image.height) // 2))
    small = typeface(11)
    draw.multiline_text((x, y + side + 3), "\n".join(wrap(text, small, side, lines=3)), "#333333", small, spacing=2)
