"""A sheet of pictures: some products of every split with their titles."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from modiste.data.catalogue import Catalogue
from modiste.utils.drawing import typeface, wrap

PER_SPLIT = 16
CELL, CAPTION, MARGIN, HEADING = 150, 44, 8, 30


def draw_sheet(catalogue: Catalogue, path: Path, seed: int = 0) -> None:
    """Write a PNG of `PER_SPLIT` products of every split, chosen by ``seed``, with their titles."""
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
