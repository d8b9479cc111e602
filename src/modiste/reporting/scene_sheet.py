"""Contact sheet of composed scenes with their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from modiste.data.scenes.composer import Scene, Scenes
from modiste.utils.atomic import write_image
from modiste.utils.drawing import write

COUNT, COLUMNS, CELL, GAP, LEGEND = 12, 4, 240, 10, 62
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7F3C8D", "#A5AA99", "#3969AC")
UNLABELLED = 96


def draw_scenes(scenes: Scenes, path: Path) -> None:
    """Write a PNG of the first `COUNT` scenes, each above its label map and legend; grey is unlabelled."""
    rows = -(-COUNT // COLUMNS)
    width, height = CELL + GAP, 2 * CELL + LEGEND + 2 * GAP
    sheet = Image.new("RGB", (GAP + COLUMNS * width, GAP + rows * height), "white")
    for index in range(COUNT):
        corner = GAP + index % COLUMNS * width, GAP + index // COLUMNS * height
        scene = scenes[index]
        kinds = [scenes.kinds[row] for row in scene.products]
        _draw_scene(sheet, corner, scene, kinds)
    write_image(path, sheet)


def _draw_scene(sheet: Image.Image, corner: tuple[int, int], scene: Scene, kinds: list[str]) -> None:
    left, top = corner
    sheet.paste(scene.image.resize((CELL, CELL)), corner)
    labelled = np.asarray(scene.image.convert("L").convert("RGB")) // 2
    labelled[scene.labels < 0] = UNLABELLED
    for k in range(len(kinds)):
        colour = np.array(Image.new("RGB", (1, 1), COLOURS[k % len(COLOURS)]).getpixel((0, 0)))
        labelled[scene.mask(k)] = (0.35 * labelled[scene.mask(k)] + 0.65 * colour).astype(np.uint8)
    sheet.paste(Image.fromarray(labelled).resize((CELL, CELL)), (left, top + CELL + GAP // 2))
    draw = ImageDraw.Draw(sheet)
    below = top + 2 * CELL + GAP
    for place, kind in enumerate(kinds[:8]):
        x, y = left + place % 2 * (CELL // 2), below + place // 2 * 15
        draw.rectangle((x, y + 3, x + 9, y + 12), fill=COLOURS[place % len(COLOURS)])
        write(sheet, (x + 13, y), kind, 11, "#333333", CELL // 2 - 16)
