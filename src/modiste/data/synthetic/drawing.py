"""Rendering of sketches: paints, patterns, pose, light, background, occlusion, and masks of parts.

A view is drawn at two or three times its size as one image of *codes*, one per (part, paint) pair, from which colours
and masks are looked up. Positions are integers, and arrays use only integer or exactly rounded operations (no array
``sin``, ``exp`` or matmul), so every machine draws the same image. Pillow fills polygons, resizes and blurs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from modiste.data.synthetic.sketches import Path, Sketch, sketch
from modiste.data.synthetic.wardrobe import COLOURS, RGB, Dice, Product

VERSION = 1
"""Incremented with every change of the drawings, so that caches become invalid."""

TILE = 64
OCCLUDER = "occluder"
BACKGROUNDS = ("white", "studio", "wall", "plaster", "planks")
FIRST_BACKGROUNDS = ("white", "white", "studio", "studio", "wall", "plaster")


# ---------------------------------------------------------------------------------------------------------------------
# Colours


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """Blend two colours, with a fraction ``share`` of ``b``.

    >>> mix((0, 0, 0), (100, 200, 50), 0.5)
    (50, 100, 25)
    """
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def luminance(colour: RGB) -> float:
    """Rec. 601 luma, 0 to 255."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def tone(name: str, dice: Dice) -> RGB:
    """Sample a shade of the named colour, slightly different for each product."""
    lift = dice.uniform("tone/lift", -9, 9)
    red, green, blue = (
        min(255, max(0, round(value + lift + dice.uniform(f"tone/{channel}", -4, 4))))
        for channel, value in zip("rgb", COLOURS[name], strict=True)
    )
    return red, green, blue


def accents(name: str, dice: Dice) -> tuple[RGB, RGB]:
    """Sample two accent colours for the named colour: of the pattern, and of the centres of flowers."""
    base = COLOURS[name]

    def far(colour: str) -> bool:
        other = COLOURS[colour]
        return abs(luminance(other) - luminance(base)) > 60

    options = [colour for colour in COLOURS if far(colour)]
    first = dice.choice("accent", ["white" if far("white") else "black", *options])
    rest = [colour for colour in ("yellow", "red", "green", "navy") if colour not in (first, name)]
    return COLOURS[first], COLOURS[dice.choice("heart", rest)]


def paints(item: Product) -> dict[str, tuple[RGB, RGB, RGB, RGB]]:
    """Return paint → its colours at the four levels of a pattern, all equal for paints without a pattern."""
    dice, name = item.dice("paint"), item.attributes["colour"]
    base = tone(name, dice)
    accent, heart = accents(name, dice)
    black, white = (16, 16, 20), (255, 255, 255)
    dark_cloth = luminance(base) < 75
    seam = mix(base, white, 0.3) if dark_cloth else mix(base, black, 0.38)
    metal = dice.choice("metal", [(196, 198, 204), (206, 172, 96)])
    patch = dice.choice("patch", [(250, 250, 248), (24, 24, 28)])
    plain = {
        "plain": base,
        "dark": mix(base, white, 0.13) if dark_cloth else mix(base, black, 0.16),
        "inside": mix(base, white, 0.2) if dark_cloth else mix(base, black, 0.55),
        "ink": mix(base, black, 0.8),
        "seam": seam,
        "knit": mix(base, seam, 0.55),
        "faded": mix(base, white, 0.22),
        "trim": accent,
        "button": (238, 236, 228) if luminance(base) < 170 else mix(base, black, 0.6),
        "metal": metal,
        "lace": (246, 246, 244) if luminance(base) < 215 else (120, 122, 128),
        "rubber": dice.choice("rubber", [(240, 238, 230), (232, 222, 200)]),
        "leather sole": dice.choice("sole", [(40, 34, 32), (104, 72, 48)]),
        "stitch": (226, 156, 66),
        "patch": patch,
        "mark": (20, 20, 24) if patch[0] > 128 else (250, 250, 248),
    }
    table = {paint: (colour,) * 4 for paint, colour in plain.items()}
    table["fabric"] = (base, mix(base, accent, 0.5), accent, heart)
    if item.attributes["category"] == "jeans":
        table["fabric"] = (base, mix(base, white, 0.16), mix(base, black, 0.1), base)
    return table


# ---------------------------------------------------------------------------------------------------------------------
# Patterns


@lru_cache(maxsize=1)
def tiles() -> dict[str, np.ndarray]:
    """Return pattern → one repeat of it, (TILE, TILE) uint8, with levels 0 (cloth) to 3.

    >>> sorted(tiles())
    ['checked', 'denim', 'dotted', 'floral', 'plain', 'striped', 'zigzag']
    """
    y, x = np.mgrid[0:TILE, 0:TILE]
    plain = np.zeros((TILE, TILE), np.uint8)
    striped = np.where(y < 25, 2, 0)
    checked = (x < 20).astype(int) + (y < 20)
    dotted = plain.copy()
    for cx, cy in ((16, 16), (48, 48)):
        dotted[(x - cx) ** 2 + (y - cy) ** 2 < 92] = 2
    floral = plain.copy()
    for cx, cy, radius, turn in ((20, 18, 8.5, 0.0), (51, 48, 7.0, 0.6)):
        for petal in range(5):
            angle = turn + 2 * math.pi * petal / 5
            px, py = round(cx + radius * math.sin(angle)), round(cy - radius * math.cos(angle))
            floral[_near(x, px) ** 2 + _near(y, py) ** 2 < 0.52 * radius * radius] = 2
        floral[_near(x, cx) ** 2 + _near(y, cy) ** 2 < 0.24 * radius * radius] = 3
    for cx, cy, slope in ((50, 14, 1), (16, 50, -1)):  # leaves
        along, across = _near(x, cx) + slope * _near(y, cy), _near(x, cx) - slope * _near(y, cy)
        floral[along**2 + 6 * across**2 < 150] = 1
    zigzag = np.where((y + abs(x - 32)) % 32 < 11, 2, 0)
    denim = np.where((x + 2 * y) % 8 < 2, 1, np.where((x + 2 * y) % 16 > 13, 2, 0))
    levels = {"plain": plain, "striped": striped, "checked": checked, "dotted": dotted, "floral": floral,
              "zigzag": zigzag, "denim": denim}  # fmt: skip
    return {name: tile.astype(np.uint8) for name, tile in levels.items()}


def _near(values: np.ndarray, centre: int) -> np.ndarray:
    """Signed distance to ``centre``, modulo the tile."""
    return (values - centre + TILE // 2) % TILE - TILE // 2


REPEATS = {"striped": 0.2, "checked": 0.24, "dotted": 0.24, "floral": 0.4, "zigzag": 0.36, "denim": 0.12}
"""Pattern → length of its repeat in sketch units."""


def _pattern(item: Product, name: str, pose: Pose, side: int) -> np.ndarray:
    """Levels (side, side), uint8, of the cloth's pattern, which rotates and moves with the garment."""
    dice = item.dice("pattern")
    repeat = REPEATS[name] * dice.uniform("repeat", 0.85, 1.2)
    angle = math.radians(dice.choice("angle", (0, 0, 90)) if name == "striped" else dice.uniform("turn", -4, 4))
    scale = TILE / (repeat * pose.scale) * 1024
    turn = angle - pose.angle
    a, b = round(scale * math.cos(turn)), round(scale * math.sin(turn))
    x = np.arange(side, dtype=np.int32) - round(pose.x)
    y = x[:, None] + round(pose.x) - round(pose.y)
    u = ((a * x - b * y + round(dice.uniform("u") * TILE * 1024)) >> 10) & (TILE - 1)
    v = ((b * x + a * y + round(dice.uniform("v") * TILE * 1024)) >> 10) & (TILE - 1)
    return tiles()[name].ravel()[v * TILE + u]


# ---------------------------------------------------------------------------------------------------------------------
# Pose and codes


@dataclass(frozen=True)
class Pose:
    """Placement of a sketch in the image: pixel = rotate(flip(point)) · scale + (x, y)."""

    scale: float
    angle: float
    flip: bool
    stretch: float
    x: float
    y: float


def _pose(drawing: Sketch, dice: Dice, view: int, side: int) -> Pose:
    """Fit the sketch into the image; the first view is nearly upright, the others are rotated more."""
    points = [point for stroke in drawing.strokes for point in stroke.path]
    tilt = 3.0 if view == 0 else 13.0
    angle = math.radians(dice.uniform("angle", -tilt, tilt))
    flip = view > 0 and dice.chance("flip", 0.5)
    stretch = dice.uniform("stretch", 0.94, 1.06)
    trial = Pose(1.0, angle, flip, stretch, 0.0, 0.0)
    across, down = _place(points, trial)
    margin = max(stroke.width for stroke in drawing.strokes) / 2
    left, right = min(across) - margin, max(across) + margin
    top, bottom = min(down) - margin, max(down) + margin
    room = side * dice.uniform("size", 0.8, 0.92)
    scale = min(room / (bottom - top), room / (right - left))
    slack_x, slack_y = side * 0.97 - scale * (right - left), side * 0.97 - scale * (bottom - top)
    x = side * 0.5 - scale * (left + right) / 2 + slack_x * dice.uniform("x", -0.3, 0.3)
    y = side * 0.5 - scale * (top + bottom) / 2 + slack_y * dice.uniform("y", -0.3, 0.3)
    return Pose(scale, angle, flip, stretch, x, y)


def _place(path: Path, pose: Pose) -> tuple[list[float], list[float]]:
    """The x and the y coordinates of a path in the image."""
    sine, cosine = pose.scale * math.sin(pose.angle), pose.scale * math.cos(pose.angle)
    width = -pose.stretch if pose.flip else pose.stretch
    along, down = width * cosine, width * sine
    return [x * along - y * sine + pose.x for x, y in path], [x * down + y * cosine + pose.y for x, y in path]


def _pixels(path: Path, pose: Pose) -> list[int]:
    """Integer pixel coordinates of a path, flat as Pillow expects them."""
    flat = [0] * (2 * len(path))
    across, down = _place(path, pose)
    flat[::2], flat[1::2] = map(round, across), map(round, down)
    return flat


@dataclass(frozen=True)
class Plate:
    """A view as codes: the part and paint of every pixel, before colours are applied.

    Attributes:
        item: The product.
        view: Number of the view.
        size: Side of the final image in pixels.
        over: Samples per pixel of the final image, along each side.
        drawing: The sketch.
        pose: Placement of the sketch, in samples.
        codes: (size·over, size·over), mode L; 0 is the background, ``code`` stands for ``keys[code - 1]``.
        keys: The (part, paint) pair of each code.
    """

    item: Product
    view: int
    size: int
    over: int
    drawing: Sketch
    pose: Pose
    codes: Image.Image
    keys: list[tuple[str, str]]

    @property
    def dice(self) -> Dice:
        return self.item.dice("view", self.view)

    def parts(self) -> list[str]:
        """Visible parts of the garment, sorted."""
        seen = set(np.unique(np.asarray(self.codes)).tolist())
        return sorted({part for code, (part, _) in enumerate(self.keys, 1) if code in seen} - {OCCLUDER})

    def coverage(self, parts: set[str]) -> Image.Image:
        """Fraction of each final pixel that the parts cover, 0 to 255, mode L."""
        table = [0] + [255 if part in parts else 0 for part, _ in self.keys]
        return self.codes.point(table + [0] * (256 - len(table))).reduce(self.over)


def plate(item: Product, view: int, size: int, occlusion: float = 0.0) -> Plate:
    """Draw the codes of a view; ``occlusion`` is the probability of an occluder in front of the garment."""
    over = 2 if size >= 80 else 3
    side = size * over
    drawing, dice = sketch(item, view), item.dice("view", view)
    pose = _pose(drawing, dice, view, side)
    codes: dict[tuple[str, str], int] = {}
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    outline = max(over, round(side * 0.011))

    def code(part: str, paint: str) -> int:
        return codes.setdefault((part, paint), len(codes) + 1)

    for stroke in drawing.strokes:
        path = _pixels(stroke.path, pose)
        if stroke.width:
            joint = "curve" if stroke.width > 0.06 else None
            draw.line(path, code(stroke.part, stroke.paint), max(1, round(stroke.width * pose.scale)), joint)
        else:
            draw.polygon(path, code(stroke.part, stroke.paint))
            if stroke.outline:
                draw.line(path + path[:4], code(stroke.part, "ink"), outline)
    if dice.chance("occluded", occlusion):
        _occlude(draw, dice, side, code(OCCLUDER, OCCLUDER))
    return Plate(item, view, size, over, drawing, pose, image, list(codes))


def _occlude(draw: ImageDraw.ImageDraw, dice: Dice, side: int, code: int) -> None:
    """Draw a disc or bar over at most a quarter of the image."""
    x, y = (round(side * dice.uniform(f"occluder/{axis}", 0.15, 0.85)) for axis in "xy")
    size = round(side * dice.uniform("occluder/size", 0.13, 0.22))
    if dice.chance("occluder/disc", 0.5):
        draw.ellipse((x - size, y - size, x + size, y + size), fill=code)
    else:
        lean, half = round(side * dice.uniform("occluder/lean", -0.3, 0.3)), size // 2
        draw.polygon([x - half, 0, x + half, 0, x + half + lean, side, x - half + lean, side], code)


# ---------------------------------------------------------------------------------------------------------------------
# Light and background


def _noise(dice: Dice, name: str, across: int, down: int, size: int) -> np.ndarray:
    """Smooth noise (size, size, 1), int32, −128 to 127: random samples on a coarse grid, interpolated."""
    grid = Image.frombytes("L", (across, down), dice.bytes(name, across * down))
    return np.asarray(grid.resize((size, size), Image.Resampling.BILINEAR), np.int32)[..., None] - 128


def _blur(image: Image.Image, coarse: int) -> Image.Image:
    """Blur an image of mode L by reducing it to ``coarse`` pixels a side and enlarging it again."""
    small = image.resize((coarse, coarse), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.BICUBIC)


def _background(dice: Dice, view: int, size: int) -> np.ndarray:
    """Background (size, size, 3), int32: white, studio, wall, plaster or planks; plainer for first views."""
    kind = dice.choice("background", FIRST_BACKGROUNDS if view == 0 else BACKGROUNDS)
    rows = np.arange(size, dtype=np.int32)[:, None, None]
    if kind == "white":
        return np.full((size, size, 3), 255, np.int32)
    if kind == "studio":
        grey, floor = round(dice.uniform("grey", 205, 232)), round(size * dice.uniform("floor", 0.7, 0.85))
        return np.broadcast_to(grey + 22 - np.abs(rows - floor) * 44 // size, (size, size, 3))
    if kind == "planks":
        plank = max(6, round(size * dice.uniform("plank", 0.1, 0.2)))
        wood = np.array(dice.choice("wood", [(206, 172, 130), (176, 140, 104), (222, 208, 188), (150, 128, 110)]))
        gaps = rows // plank * 7 % 3 * 6 + np.where(rows % plank == 0, 40, 0)
        return wood - gaps + _noise(dice, "grain", max(2, size // 24), size // 2, size) // 10
    hue = dice.choice("hue", list(COLOURS.values()))
    colour = np.array(mix(hue, (236, 232, 226), dice.uniform("pastel", 0.62, 0.82)))
    if kind == "plaster":
        return colour + _noise(dice, "grain", size // 5, size // 5, size) // 10
    return np.broadcast_to(colour + 8 - rows * 16 // size, (size, size, 3))


def _light(view_plate: Plate, alpha: Image.Image) -> np.ndarray:
    """Brightness of the cloth (size, size, 1), int32, 256 = unchanged: folds, soft waves and darker rims."""
    size, pose = view_plate.size, view_plate.pose
    share = 0.5 / view_plate.over
    small = replace(pose, scale=pose.scale * share, x=pose.x * share, y=pose.y * share)
    folds = Image.new("L", (size // 2, size // 2), 200)
    draw = ImageDraw.Draw(folds)
    for path, width in view_plate.drawing.folds:
        flat, thick = _pixels(path, small), max(1, round(width * small.scale))
        draw.line([value + (1 - i % 2) * thick for i, value in enumerate(flat)], 245, thick)  # the lit side
        draw.line(flat, 120, thick)
    folded = np.asarray(_blur(folds, max(8, size // 4)).resize((size, size), Image.Resampling.BILINEAR), np.int32)
    rim = np.asarray(_blur(alpha, max(6, size // 8)), np.int32)
    waves = _noise(view_plate.dice, "waves", 7, 4, size)
    return 211 + (folded[..., None] - 200) * 3 // 8 + waves // 8 + rim[..., None] // 5


def _shade(alpha: Image.Image, dice: Dice, size: int) -> np.ndarray:
    """Brightness of the background (size, size, 1), int32, under the soft shadow; 256 = no shadow."""
    shift = max(1, round(size * dice.uniform("shadow", 0.012, 0.035)))
    moved = Image.new("L", (size, size))
    moved.paste(_blur(alpha, max(6, size // 5)), (shift if dice.chance("lamp", 0.5) else -shift, shift))
    return 256 - (np.asarray(moved, np.int32)[..., None] * 80 >> 8)


def _paint(view_plate: Plate) -> Image.Image:
    """Convert codes and pattern levels to red, green, blue and opacity, still at the size of the codes.

    The mode is RGBX because Pillow would weight the colours of RGBA by opacity when reducing, which is slower.
    """
    item, dice, side = view_plate.item, view_plate.dice, view_plate.codes.width
    colours = paints(item)
    occluder = mix(COLOURS[dice.choice("occluder/colour", list(COLOURS))], (128, 128, 128), 0.35)
    colours[OCCLUDER] = (occluder,) * 4
    table = np.zeros((4, 256, 4), np.uint8)
    table[:, 0, :3] = colours["ink"][0]  # edge pixels blend with this colour
    for code, (_, paint) in enumerate(view_plate.keys, 1):
        table[:, code, :3] = colours[paint]
        table[:, code, 3] = 255
    index = np.asarray(view_plate.codes).astype(np.uint16)
    weave = "denim" if item.attributes["category"] == "jeans" else item.attributes["pattern"]
    if weave != "plain":
        index += _pattern(item, weave, view_plate.pose, side).astype(np.uint16) << 8
    packed = table.reshape(1024, 4).view(np.uint32).ravel()[index]
    return Image.frombuffer("RGBX", (side, side), packed.tobytes(), "raw", "RGBX", 0, 1)


def picture(view_plate: Plate) -> Image.Image:
    """Render a view, RGB.

    >>> from modiste.data.synthetic.wardrobe import product
    >>> picture(plate(product(0, 1), 0, 64)).size
    (64, 64)
    """
    size, dice = view_plate.size, view_plate.dice
    pixels = np.asarray(_paint(view_plate).reduce(view_plate.over))
    alpha = Image.fromarray(np.ascontiguousarray(pixels[..., 3]))
    pixels = pixels.astype(np.int32)
    cloth = np.minimum(pixels[..., :3] * _light(view_plate, alpha) >> 8, 255)
    ground = np.clip(_background(dice, view_plate.view, size) * _shade(alpha, dice, size) >> 8, 0, 255)
    blend = ground * 255 + (cloth - ground) * pixels[..., 3:]
    return Image.fromarray(((blend + 128) * 257 >> 16).astype(np.uint8))  # rounded division by 255
