"""Contact sheet of products of every split with their titles."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from modiste.data.catalogue import Catalogue
from modiste.utils.atomic import write_image
from modiste.utils.drawing import write

PER_SPLIT = 16
CELL, CAPTION, MARGIN, HEADING = 150, 44, 8, 30


def draw_sheet(catalogue: Catalogue, path: Path, seed: int = 0) -> None:
    """Write a PNG of `PER_SPLIT` products of every split, chosen by ``seed``, with their titles."""
    from PIL import Image

    columns, below, blocks = PER_SPLIT // 2, 0, []
    for split in catalogue.splits:
        part = catalogue.select(split=split)
        rows = sorted(random.Random(f"{seed}:{split}").sample(range(len(part)), min(PER_SPLIT, len(part))))
        blocks.append((below, f"{split or 'undecided'}: {len(part):,} rows", part, rows))
        below += HEADING + -(-len(rows) // columns) * (CELL + CAPTION)
    sheet = Image.new("RGB", (MARGIN + columns * CELL, below + MARGIN), "white")
    for top, heading, part, rows in blocks:
        write(sheet, (MARGIN, top + 6), heading, 16, "black", sheet.width - 2 * MARGIN)
        texts = part.column("text")
        for place, row in enumerate(rows):
            corner = MARGIN + place % columns * CELL, top + HEADING + place // columns * (CELL + CAPTION)
            _draw_product(sheet, corner, part.read_image(row), texts[row])
    write_image(path, sheet)


def _draw_product(sheet: Any, corner: tuple[int, int], image: Any, text: str) -> None:
    side = CELL - MARGIN
    scale = side / max(image.size)
    image = image.resize([max(1, round(length * scale)) for length in image.size])
    x, y = corner
    sheet.paste(image, (x + (side - image.width) // 2, y + (side - image.height) // 2))
    write(sheet, (x, y + side + 3), text, 11, "#333333", side, lines=3)
