"""Draws search.png, the picture of README: the first results of four queries in the demo's index.

make demo && .venv/bin/python docs/images/make.py runs/demo/index
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

from modiste import search
from modiste.utils.drawing import typeface

QUERIES = ("a red dress", "black ankle boots", "a yellow handbag", "a striped t-shirt")
SIDE, GAP, HEAD, RESULTS = 60, 4, 20, 6


def main(index: str) -> None:
    """One row of results per query, as the index returns them."""
    opened = search.open(index)
    width, height = RESULTS * (SIDE + GAP) - GAP, len(QUERIES) * (HEAD + SIDE + GAP)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for line, query in enumerate(QUERIES):
        top = line * (HEAD + SIDE + GAP)
        draw.text((0, top + 3), query, "#1d2329", typeface(14))
        rows = opened.search(text=query, k=RESULTS).table.column("row").to_pylist()
        for place, row in enumerate(rows):
            sheet.paste(opened.image(row).convert("RGB").resize((SIDE, SIDE)), (place * (SIDE + GAP), top + HEAD))
    sheet.quantize(32).save(Path(__file__).parent / "search.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
