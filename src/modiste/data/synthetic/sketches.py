"""Shapes of the garments, one function per type. A torso is about one unit wide, and y points down.

A sketch is a list of strokes from back to front. A stroke has a *part* (its mask) and a *paint* (a key of
`drawing.paints`), so one drawing determines colours, patterns and masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from modiste.data.synthetic.wardrobe import Dice, Product

Point = tuple[float, float]
Path = list[Point]


@dataclass(frozen=True)
class Stroke:
    """A filled polygon (``width`` 0) or a line of width ``width``, in sketch units."""

    part: str
    paint: str
    path: Path
    width: float = 0.0
    outline: bool = True


@dataclass
class Sketch:
    """Strokes from back to front, and the folds that shade the cloth (path, width)."""

    strokes: list[Stroke] = field(default_factory=list)
    folds: list[tuple[Path, float]] = field(default_factory=list)

    def fill(self, part: str, paint: str, path: Path, outline: bool = True) -> None:
        self.strokes.append(Stroke(part, paint, path, outline=outline))

    def line(self, part: str, paint: str, path: Path, width: float = 0.018) -> None:
        self.strokes.append(Stroke(part, paint, path, width))

    def cord(self, part: str, paint: str, path: Path, width: float) -> None:
        """Draw a line with an outline."""
        self.line(part, "ink", path, width + 0.03)
        self.line(part, paint, path, width)

    def dots(self, part: str, paint: str, centres: Iterable[Point], radius: float) -> None:
        for x, y in centres:
            self.fill(part, paint, oval(x, y, radius, radius, 8))

    def fold(self, path: Path, width: float = 0.03) -> None:
        self.folds.append((path, width))


def bend(*points: Point, count: int = 6) -> Path:
    """Return a chain of quadratic Bézier curves through start, control, end, control, end, …

    >>> bend((0, 0), (1, 0), (1, 1), count=2)
    [(0, 0), (0.75, 0.25), (1.0, 1.0)]
    """
    path = [points[0]]
    for start, control, end in zip(points[:-2:2], points[1:-1:2], points[2::2], strict=True):
        for step in range(1, count + 1):
            t = step / count
            a, b, c = (1 - t) * (1 - t), 2 * t * (1 - t), t * t
            path.append((a * start[0] + b * control[0] + c * end[0], a * start[1] + b * control[1] + c * end[1]))
    return path


def oval(x: float, y: float, rx: float, ry: float, count: int = 16) -> Path:
    """Return an ellipse around (x, y) as a polygon of ``count`` points."""
    turns = [2 * math.pi * step / count for step in range(count)]
    return [(x + rx * math.cos(turn), y + ry * math.sin(turn)) for turn in turns]


def mirror(path: Path) -> Path:
    """Mirror a path at x = 0 and reverse its direction."""
    return [(-x, y) for x, y in reversed(path)]


def both(path: Path) -> tuple[Path, Path]:
    """Return a path and its mirror image."""
    return path, mirror(path)


def whole(half: Path) -> Path:
    """Complete a symmetric outline from its right half."""
    return half + mirror(half)


def band(top: float, y: float, bottom: float, below: float) -> Path:
    """Return a symmetric strip from half-width ``top`` at ``y`` to half-width ``bottom`` at ``below``."""
    return [(-top, y), (top, y), (bottom, below), (-bottom, below)]


def rectangle(left: float, top: float, right: float, bottom: float) -> Path:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def between(a: Point, b: Point, t: float) -> Point:
    """Interpolate between the points ``a`` (t = 0) and ``b`` (t = 1)."""
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t


def _star(points: int, inner: float) -> Path:
    turns = [math.pi * step / points - math.pi / 2 for step in range(2 * points)]
    return [
        ((inner if step % 2 else 1.0) * math.cos(turn), (inner if step % 2 else 1.0) * math.sin(turn))
        for step, turn in enumerate(turns)
    ]


_CROSS = [(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3),
          (-1, 0.3), (-1, -0.3), (-0.3, -0.3)]  # fmt: skip
# The badge of each brand, in units of its radius.
BADGES: dict[str, list[Path]] = {
    "Brioza": [oval(0, 0, 0.9, 0.9)],
    "Calvane": [rectangle(-0.85, -0.85, 0.85, 0.85)],
    "Dorrel": [[(0, -1), (1, 0.8), (-1, 0.8)]],
    "Estrova": [_star(5, 0.42)],
    "Fennick": [_CROSS],
    "Harlune": [rectangle(-0.9, -0.9, -0.2, 0.9), rectangle(0.2, -0.9, 0.9, 0.9)],
    "Jessamy": [[(-1, -0.9), (0, 0.1), (1, -0.9), (1, 0), (0, 1), (-1, 0)]],
    "Lunetta": [bend((0.5, -0.95), (-2.2, 0), (0.5, 0.95), (-0.7, 0), (0.5, -0.95))],
    "Morvane": [[(-0.35, -1), (0.6, -1), (0.1, -0.2), (0.8, -0.2), (-0.5, 1.1), (-0.1, 0.15), (-0.75, 0.15)]],
    "Norrel": [[(-1.1, 1), (-1.1, -1), (0, 0.3), (1.1, -1), (1.1, 1)]],
    "Ostrana": [rectangle(-1, -0.8, 1, -0.1), rectangle(-1, 0.25, 1, 0.95)],
    "Quillon": [oval(-0.55, 0.45, 0.5, 0.5, 10), oval(0.55, 0.45, 0.5, 0.5, 10), oval(0, -0.5, 0.5, 0.5, 10)],
}


@dataclass(frozen=True)
class Cut:
    """Attribute values and proportions of a product, and the pose of one view."""

    values: dict[str, str]
    dice: Dice
    pose: Dice

    @property
    def fit(self) -> str:
        return self.values["fit"]

    def by_fit(self, slim: float, regular: float, loose: float) -> float:
        return {"slim": slim, "regular": regular, "loose": loose}[self.fit]

    def jitter(self, name: str, amount: float = 0.05) -> float:
        """A random factor around 1, fixed per product and name."""
        return self.dice.uniform("jitter/" + name, 1 - amount, 1 + amount)

    @property
    def feminine(self) -> bool:
        return self.values["gender"] == "women"


def _badge(sketch: Sketch, cut: Cut, x: float, y: float, radius: float = 0.075) -> None:
    """Draw the brand's badge, on a patch so that it is visible on any pattern."""
    patch = radius * 1.45
    sketch.fill("badge", "patch", rectangle(x - patch, y - patch, x + patch, y + patch), outline=False)
    for path in BADGES[cut.values["brand"]]:
        sketch.fill("badge", "mark", [(x + radius * px, y + radius * py) for px, py in path], outline=False)


# ---------------------------------------------------------------------------------------------------------------------
# Tops
# fmt: off


@dataclass(frozen=True)
class Frame:
    """Seam points of a torso (right side; the left is its mirror image)."""

    neck: Point
    shoulder: Point
    armpit: Point
    waist: Point
    hem: Point


def _frame(cut: Cut, hem: float, neck_width: float = 0.18, flare: float = 0.0, ease: float = 1.0) -> Frame:
    """The frame of a torso; women's have a waist and narrower shoulders, men's are straight."""
    width = cut.by_fit(0.86, 1.0, 1.2) * ease * cut.jitter("width", 0.03)
    shoulder = (0.43 if cut.feminine else 0.5) * (0.6 + 0.4 * width)
    chest = (0.37 if cut.feminine else 0.41) * width
    waist = chest * (cut.by_fit(0.78, 0.8, 0.9) if cut.feminine else 1.0)
    bottom = chest * (1.06 if cut.feminine else 1.0) + flare
    return Frame((neck_width, 0), (shoulder, 0.1), (chest, 0.44), (waist, 0.44 + 0.5 * (hem - 0.44)), (bottom, hem))


def _side(frame: Frame) -> Path:
    """Path from the shoulder along armhole and waist to the hem."""
    (sx, sy), (ax, ay), (wx, wy), (hx, hy) = frame.shoulder, frame.armpit, frame.waist, frame.hem
    return bend((sx, sy), (min(sx, ax) - 0.03, sy + 0.22), (ax, ay), (wx, ay + 0.5 * (wy - ay)), (wx, wy),
                (wx + 0.2 * (hx - wx), wy + 0.55 * (hy - wy)), (hx, hy), count=4)


def _neckline(shape: str, width: float) -> Path:
    """Path of the front neckline, from left to right."""
    if shape == "v-neck":
        return [(-width, 0), (0, 0.43), (width, 0)]
    if shape == "scoop":
        return bend((-width, 0), (-width * 0.9, 0.26), (0, 0.26), (width * 0.9, 0.26), (width, 0))
    return bend((-width, 0), (0, {"crew": 0.2, "turtleneck": 0.08}[shape]), (width, 0), count=8)


_REACH = {"short": 0.42, "three-quarter": 0.8, "long": 1.1}


def _sleeves(sketch: Sketch, cut: Cut, frame: Frame, length: str, cuff: str = "", puff: float = 1.0) -> None:
    """Draw both sleeves, at an angle that differs per view; ``cuff`` is the paint of the band at the end."""
    reach = _REACH[length] * cut.jitter("sleeve", 0.04)
    angle = math.radians((34 if length == "short" else 13) + cut.pose.uniform("arm", -3, 9))
    along, across = (math.sin(angle), math.cos(angle)), (math.cos(angle), -math.sin(angle))
    sx, sy = frame.shoulder
    ease = cut.by_fit(0.85, 1.0, 1.2) * puff
    half = (0.145 if length == "short" else 0.105) * ease
    end = (sx - 0.02 + reach * along[0], sy + 0.1 + reach * along[1])
    outer = (end[0] + half * across[0], end[1] + half * across[1])
    inner = (end[0] - half * across[0], end[1] - half * across[1])
    cap = bend((sx - 0.06, sy - 0.015), (sx - 0.01 + 0.1 * ease, sy + 0.05),
               between((sx + 0.08, sy + 0.12), outer, 0.3), count=4)
    for side in both([*cap, outer, inner, (frame.armpit[0] - 0.02, frame.armpit[1] + 0.02), (sx - 0.16, sy + 0.1)]):
        sketch.fill("sleeves", "fabric", side)
    if cuff:
        depth, shoulder = 0.1 / reach, (sx + 0.05, sy)
        for side in both([outer, inner, between(inner, frame.armpit, depth), between(outer, shoulder, depth)]):
            sketch.fill("cuffs", cuff, side)
    else:
        for side in both([between(outer, (sx, sy), 0.07), between(inner, frame.armpit, 0.07)]):
            sketch.line("sleeves", "seam", side, 0.012)
    elbow = between(end, (sx, sy), 0.45)
    for side in both([(elbow[0] + 0.05, elbow[1] - 0.03), (elbow[0] - 0.06, elbow[1] + 0.06)]):
        sketch.fold(side)


def _body(sketch: Sketch, cut: Cut, frame: Frame, neckline: Path, hem: Path | None = None) -> None:
    """Draw the lining behind the neck, then the front; ``hem`` is the lower edge from right to left."""
    width = frame.neck[0]
    sketch.fill("lining", "inside", bend((-width, 0), (0, 0.07), (width, 0)) + neckline[::-1])
    side, (x, y) = _side(frame), frame.hem
    edge = hem or bend((x, y), (0, y + 0.05), (-x, y))
    sketch.fill("body", "fabric", neckline + side + edge[1:-1] + mirror(side))
    for sign in (-1, 1):
        x, sway = sign * frame.waist[0], cut.pose.uniform(f"fold/{sign}", 0.0, 0.12)
        armpit, waist = frame.armpit[1], frame.waist[1]
        sketch.fold([(sign * frame.armpit[0] * 0.9, armpit + 0.03), (x * 0.45, armpit + 0.22 + sway)])
        sketch.fold([(x * 0.9, waist), (x * 0.35, waist + 0.1 + sway)])
        sketch.fold([(x * (0.3 + sway), waist + 0.12), (x * 0.4, y - 0.06)], width=0.045)


def _rib(sketch: Sketch, frame: Frame, depth: float = 0.1) -> None:
    """Draw a ribbed band at the hem."""
    x, y = frame.hem
    sketch.fill("hem", "dark", band(x, y - depth, x * 0.95, y + 0.03))
    for step in range(-5, 6):
        sketch.line("hem", "seam", [(x * step / 5.6, y - depth), (x * step / 5.8, y + 0.02)], 0.008)


def _hem(cut: Cut, cropped: float, regular: float) -> float:
    return (cropped if cut.values["length"] == "cropped" else regular) * cut.jitter("hem", 0.04)


def _buttons(sketch: Sketch, top: float, bottom: float, count: int, x: float = 0.0, radius: float = 0.02) -> None:
    sketch.dots("buttons", "button", [(x, top + (bottom - top) * i / (count - 1)) for i in range(count)], radius)


def _point_collar(sketch: Sketch, width: float, paint: str, spread: float = 0.12) -> None:
    """Draw a turned-down collar: a stand at the back and two points in front."""
    back = bend((0, -0.12), (width * 0.6, -0.12), (width * 0.85, -0.1), count=3)
    sketch.fill("collar", "inside", whole([(0, 0.13), (width, 0.02), *back[::-1]]))
    for side in both([(0.015, 0.13), (width * 0.88, -0.11), (width + 0.05, 0.06), (spread + 0.05, 0.27)]):
        sketch.fill("collar", paint, side)


def _stand_collar(sketch: Sketch, width: float, paint: str, height: float, gap: float) -> None:
    """Draw a collar that stands up around the neck."""
    sketch.fill("collar", "inside", whole([(0, 0.16), (width, 0.02), (width * 0.93, -height), (0, -height + 0.04)]))
    for side in both([(0.012, 0.19), (gap, 0.08 - height), (width * 0.95, -height - 0.01), (width * 1.12, 0.03)]):
        sketch.fill("collar", paint, side)


def t_shirt(cut: Cut) -> Sketch:
    sketch, shape, sleeve = Sketch(), cut.values["neckline"], cut.values["sleeve"]
    frame = _frame(cut, _hem(cut, 0.82, 1.3), neck_width=0.24 if shape == "scoop" else 0.19)
    if sleeve == "sleeveless":
        frame = Frame(frame.neck, (frame.neck[0] + 0.12, 0.02), (frame.armpit[0] * 0.98, 0.47), frame.waist, frame.hem)
    else:
        _sleeves(sketch, cut, frame, sleeve)
    neckline = _neckline(shape, frame.neck[0])
    _body(sketch, cut, frame, neckline)
    sketch.cord("neckline", "plain", neckline, 0.04)
    x, y = frame.hem
    sketch.line("body", "seam", [(-x * 0.98, y - 0.045), (0, y - 0.02), (x * 0.98, y - 0.045)], 0.012)
    _badge(sketch, cut, 0.19, 0.44)
    return sketch


def sweater(cut: Cut) -> Sketch:
    sketch, shape = Sketch(), cut.values["neckline"]
    frame = _frame(cut, _hem(cut, 0.82, 1.26), ease=1.06)
    _sleeves(sketch, cut, frame, cut.values["sleeve"], cuff="dark", puff=1.15)
    neckline, width = _neckline(shape, frame.neck[0]), frame.neck[0]
    _body(sketch, cut, frame, neckline)
    _rib(sketch, frame, 0.12)
    for step in range(-4, 5):  # wales of the knit
        x = frame.waist[0] * step / 4.6
        sketch.line("body", "knit", [(x * 0.8, 0.34), (x, frame.waist[1]), (x, frame.hem[1] - 0.13)], 0.009)
    if shape == "turtleneck":
        sketch.fill("neckline", "plain", whole([(0, 0.12), (width * 1.1, 0.06), (width * 0.9, -0.22)]))
        sketch.fill("neckline", "dark", whole([(0, -0.02), (width * 1.02, -0.06), (width * 0.95, -0.23)]))
        for step in range(-3, 4):
            sketch.line("neckline", "seam", [(width * step / 3.6, -0.22), (width * step / 3.4, -0.04)], 0.008)
    else:
        sketch.cord("neckline", "dark", neckline, 0.07)
    _badge(sketch, cut, 0.2, 0.49)
    return sketch


def shirt(cut: Cut) -> Sketch:
    sketch, sleeve = Sketch(), cut.values["sleeve"]
    frame = _frame(cut, 1.2 * cut.jitter("hem", 0.04))
    width, (x, y) = frame.neck[0], frame.hem
    _sleeves(sketch, cut, frame, sleeve, cuff="plain" if sleeve == "long" else "")
    tails = bend((x, y), (x * 0.7, y + 0.2), (0, y + 0.16), (-x * 0.7, y + 0.2), (-x, y))
    _body(sketch, cut, frame, [(-width, 0), (0, 0.16), (width, 0)], tails)
    sketch.fill("placket", "plain", rectangle(-0.05, 0.14, 0.05, y + 0.15))
    _buttons(sketch, 0.27, y + 0.02, 6)
    if cut.values["neckline"] == "point collar":
        _point_collar(sketch, width * 0.95, "plain")
    else:
        _stand_collar(sketch, width, "plain", height=0.1, gap=0.05)
    if cut.dice.chance("pocket", 0.6):
        sketch.fill("pocket", "fabric", [(-0.3, 0.42), (-0.1, 0.42), (-0.1, 0.6), (-0.2, 0.65), (-0.3, 0.6)])
    _badge(sketch, cut, 0.2, 0.48)
    return sketch


def hoodie(cut: Cut) -> Sketch:
    sketch = Sketch()
    frame = _frame(cut, _hem(cut, 0.86, 1.28), ease=1.08)
    _sleeves(sketch, cut, frame, cut.values["sleeve"], cuff="dark", puff=1.15)
    _body(sketch, cut, frame, bend((-0.2, 0), (0, 0.3), (0.2, 0)))
    _rib(sketch, frame)
    x, y = frame.waist[0], frame.hem[1] - 0.12
    pocket = whole([(x * 0.42, y - 0.3), (x * 0.68, y - 0.08), (x * 0.62, y)])
    sketch.fill("pocket", "fabric", pocket)
    sketch.fill("hood", "fabric", whole(bend((0, -0.46), (0.42, -0.42), (0.36, 0.12), (0.16, 0.24), (0, 0.3))))
    opening = whole(bend((0, -0.34), (0.3, -0.3), (0.2, 0.02), (0.12, 0.16), (0, 0.22)))
    sketch.fill("lining", "inside", opening)
    for side in both([(0.07, 0.19), (0.085, 0.36), (0.075, 0.52)]):
        sketch.cord("drawstring", "lace", side, 0.02)
    _badge(sketch, cut, 0.24, 0.46)
    return sketch


def jacket(cut: Cut) -> Sketch:
    sketch = Sketch()
    frame = _frame(cut, _hem(cut, 0.84, 1.24), ease=1.12)
    _sleeves(sketch, cut, frame, "long", cuff="dark", puff=1.3)
    width, hem, x = frame.neck[0], frame.hem[1], frame.waist[0]
    _body(sketch, cut, frame, [(-width, 0), (0, 0.1), (width, 0)])
    _rib(sketch, frame)
    sketch.fill("zip", "dark", rectangle(-0.055, 0.1, 0.055, hem - 0.1))
    sketch.line("zip", "metal", [(0, 0.08), (0, hem + 0.02)], 0.035)
    sketch.fill("zip", "metal", rectangle(-0.025, 0.24, 0.025, 0.33))
    if cut.values["neckline"] == "point collar":
        _point_collar(sketch, width * 1.08, "dark", 0.16)
    else:
        _stand_collar(sketch, width, "dark", height=0.17, gap=0.03)
    for side in both([(x * 0.42, hem - 0.2), (x * 0.78, hem - 0.38)]):
        sketch.cord("pocket", "metal", side, 0.022)
    _badge(sketch, cut, 0.22, 0.42)
    return sketch


def coat(cut: Cut) -> Sketch:
    sketch = Sketch()
    hem = (1.8 if cut.values["length"] == "midi" else 2.35) * cut.jitter("hem", 0.03)
    frame = _frame(cut, hem, ease=1.1, flare=cut.by_fit(0.04, 0.1, 0.16))
    x = frame.waist[0]
    frame = Frame(frame.neck, frame.shoulder, frame.armpit, (x, 0.86), frame.hem)
    _sleeves(sketch, cut, frame, "long", puff=1.2)
    _body(sketch, cut, frame, [(-0.18, 0), (0.02, 0.62), (0.18, 0)])
    sketch.line("body", "ink", [(0.02, 0.6), (0.02, hem + 0.02)])
    for side in both([(0.02, 0.66), (0.3, 0.3), (0.22, 0.25), (0.3, 0.16), (0.19, -0.03), (0.13, 0.06)]):
        sketch.fill("collar", "plain", side)
    for column in (-0.13, 0.17):
        _buttons(sketch, 0.74, 1.26, 3, column, 0.032)
    if cut.dice.chance("belt", 0.5):
        sketch.fill("belt", "dark", rectangle(-x - 0.01, 0.86, x + 0.01, 0.97))
        sketch.fill("belt", "metal", rectangle(-0.07, 0.84, 0.09, 0.99))
        sketch.fill("belt", "dark", rectangle(-0.035, 0.875, 0.055, 0.955))
    for side in both(rectangle(x * 0.42, 1.1, x * 0.92, 1.2)):
        sketch.fill("pocket", "plain", side)
    for step in (-0.6, 0.55):
        sketch.fold([(x * step, 1.25), (frame.hem[0] * step * 1.1, hem - 0.05)], width=0.05)
    _badge(sketch, cut, 0.27, 0.5, 0.065)
    return sketch


def dress(cut: Cut) -> Sketch:
    sketch, shape, sleeve = Sketch(), cut.values["neckline"], cut.values["sleeve"]
    hem = {"mini": 1.5, "midi": 1.95, "maxi": 2.5}[cut.values["length"]] * cut.jitter("hem", 0.03)
    width, waist = 0.23 if shape == "scoop" else 0.19, 0.27 * cut.jitter("waist", 0.04)
    flare = cut.by_fit(0.36, 0.56, 0.8) * cut.jitter("flare", 0.05) * (0.72 + 0.12 * hem)
    shoulder = (width + 0.09, 0.02) if sleeve == "sleeveless" else (0.4, 0.1)
    frame = Frame((width, 0), shoulder, (0.35, 0.42), (waist, 0.74), (flare, hem))
    if sleeve != "sleeveless":
        _sleeves(sketch, Cut({**cut.values, "fit": "slim"}, cut.dice, cut.pose), frame, sleeve)
    neckline = _neckline(shape, width)
    _body(sketch, cut, frame, neckline)
    for step in range(-4, 5):
        x = step / 4.6
        pleat = bend((waist * x * 0.9, 0.84), (waist * x, 1.1), (flare * x * 0.96, hem - 0.02), count=3)
        sketch.line("body", "seam", pleat, 0.012)
        sketch.fold([(flare * x * 0.6, 0.5 * hem + 0.4), (flare * x, hem)], width=0.05)
    sketch.fill("belt", "dark", band(waist * 1.02, 0.71, waist * 1.05, 0.8))
    sketch.cord("neckline", "plain", neckline, 0.035)
    _badge(sketch, cut, 0.17, 0.5, 0.06)
    return sketch


# ---------------------------------------------------------------------------------------------------------------------
# Bottoms


def skirt(cut: Cut) -> Sketch:
    sketch = Sketch()
    hem = {"mini": 0.72, "midi": 1.2, "maxi": 1.75}[cut.values["length"]] * cut.jitter("hem", 0.04)
    waist = 0.34 * cut.jitter("waist", 0.04)
    flare = cut.by_fit(0.4, 0.6, 0.86) * (0.78 + 0.2 * hem)
    straight = cut.fit == "slim"
    hip = (waist + (0.1 if straight else 0.22 * (flare - waist)), 0.32)
    sketch.fill("body", "fabric", whole(bend((waist, 0.1), hip, (flare, hem), (flare * 0.5, hem + 0.08 * flare),
                                             (0, hem + 0.08 * flare))))
    pleats = 2 if straight else 5
    for step in range(-pleats, pleats + 1):
        x = step / (pleats + 0.7)
        drop = hem + 0.08 * flare * (1 - x * x)
        if not straight:
            pleat = [(waist * x, 0.12), (waist * x * 1.15, 0.35 * hem), (flare * x, drop - 0.01)]
            sketch.line("body", "seam", pleat, 0.014)
        sketch.fold([(waist * x * 1.2, 0.3 * hem), (flare * x * 1.05, drop)], width=0.05)
    if straight:
        sketch.line("body", "ink", [(0.12, hem - 0.2), (0.12, hem + 0.03)], 0.02)
        for dart in both([(0.17, 0.12), (0.15, 0.26)]):
            sketch.line("body", "seam", dart, 0.012)
    sketch.fill("waistband", "dark", band(waist, 0, waist * 1.02, 0.12))
    sketch.dots("buttons", "button", [(0, 0.06)], 0.03)
    _badge(sketch, cut, 0.2, 0.26, 0.065)
    return sketch


@dataclass(frozen=True)
class Leg:
    """Right leg of a pair of trousers."""

    path: Path
    waist: float
    middle: float
    outer: Point
    inner: Point


def _leg(cut: Cut, hem: float, knee: float, ankle: float, rise: float = 0.56) -> Leg:
    """The right leg; ``knee`` and ``ankle`` are half-widths; the distance of the legs differs per view."""
    waist = (0.33 if cut.feminine else 0.38) * cut.jitter("waist", 0.03)
    hip = (0.46 if cut.feminine else 0.44) * cut.by_fit(0.95, 1.02, 1.12)
    spread = 0.07 + cut.pose.uniform("legs", 0.0, 0.07)
    middle, half_way = 0.5 * (hip + 0.02) + spread * 0.5, 0.5 * (rise + hem)
    outer, inner = (middle + spread + ankle, hem), (middle + spread - ankle, hem + 0.02)
    path = [(0.0, 0.1), *bend((waist, 0.1), (hip, 0.24), (hip + 0.01, 0.48), count=4), (middle + knee, half_way),
            outer, inner, (middle - knee, half_way), (0.0, rise)]
    return Leg(path, waist, middle, outer, inner)


def _waistband(sketch: Sketch, waist: float, paint: str, loops: bool = True) -> None:
    sketch.fill("lining", "inside", [*bend((-waist * 0.96, 0), (0, -0.05), (waist * 0.96, 0)), (0, 0.06)])
    sketch.fill("waistband", paint, [*bend((-waist, 0), (0, 0.06), (waist, 0)),
                                     *bend((waist * 1.02, 0.12), (0, 0.17), (-waist * 1.02, 0.12))])
    for x in (-0.62, 0.62) if loops else ():
        sketch.fill("waistband", paint, rectangle(waist * x - 0.025, 0, waist * x + 0.025, 0.17))


def trousers(cut: Cut) -> Sketch:
    sketch = Sketch()
    hem = _hem(cut, 1.55, 2.2)
    leg = _leg(cut, hem, cut.by_fit(0.165, 0.21, 0.29), cut.by_fit(0.115, 0.18, 0.31))
    for side in both(leg.path):
        sketch.fill("legs", "fabric", side)
    sketch.line("legs", "ink", [(0, 0.12), (0, 0.56)])
    sketch.line("legs", "seam", bend((0.07, 0.12), (0.08, 0.4), (0.0, 0.46)), 0.014)
    crease = [(leg.middle - 0.03, 0.4), (leg.middle, 0.5 * (0.56 + hem)), between(leg.outer, leg.inner, 0.5)]
    for side in both(crease):
        sketch.line("legs", "seam", side, 0.02)
        sketch.fold(side, width=0.07)
    for side in both([(leg.waist * 0.62, 0.14), (leg.waist * 1.18, 0.42)]):
        sketch.line("pocket", "ink", side, 0.02)
    for side in both([(0.03, 0.6), (leg.middle, 0.7)]):
        sketch.fold(side)
    _waistband(sketch, leg.waist, "plain")
    sketch.dots("buttons", "button", [(0.03, 0.08)], 0.028)
    _badge(sketch, cut, leg.waist * 0.56, 0.36, 0.06)
    return sketch


def jeans(cut: Cut) -> Sketch:
    sketch = Sketch()
    hem = _hem(cut, 1.55, 2.2)
    leg = _leg(cut, hem, cut.by_fit(0.165, 0.21, 0.29), cut.by_fit(0.12, 0.19, 0.3))
    waist, middle = leg.waist, leg.middle
    for side in both(leg.path):
        sketch.fill("legs", "fabric", side)
    for side in both(oval(middle + 0.01, 0.86, 0.085, 0.3, 12)):
        sketch.fill("legs", "faded", side, outline=False)
    sketch.line("legs", "ink", [(0, 0.12), (0, 0.56)])
    for side in both([(x - 0.045, y) for x, y in leg.path[3:8]]):
        sketch.line("legs", "stitch", side, 0.016)
    sketch.line("legs", "stitch", bend((0.08, 0.13), (0.1, 0.42), (0.01, 0.47)), 0.018)
    for side in both(bend((waist * 0.4, 0.13), (waist * 0.5, 0.34), (waist * 1.2, 0.36))):
        sketch.line("pocket", "ink", side, 0.022)
        sketch.line("pocket", "stitch", [(x, y + 0.035) for x, y in side], 0.018)
    cuff = [leg.outer, leg.inner, between(leg.inner, (middle, 0.9), 0.07),
            between(leg.outer, (middle + 0.3, 0.9), 0.07)]
    for side in both(cuff):
        if cut.values["length"] == "cropped":
            sketch.fill("cuffs", "faded", side)
        else:
            sketch.line("cuffs", "stitch", side[2:] if side is cuff else side[:2], 0.016)
    _waistband(sketch, waist, "fabric")
    sketch.line("waistband", "stitch", bend((-waist, 0.105), (0, 0.155), (waist, 0.105)), 0.013)
    sketch.dots("buttons", "metal", [(0.0, 0.085)], 0.036)
    sketch.dots("buttons", "metal", [(-waist * 0.42, 0.17), (waist * 0.42, 0.17)], 0.016)
    _badge(sketch, cut, waist * 0.62, 0.46, 0.06)
    return sketch


def shorts(cut: Cut) -> Sketch:
    sketch = Sketch()
    hem = (0.78 if cut.values["length"] == "mini" else 1.18) * cut.jitter("hem", 0.03)
    half = cut.by_fit(0.2, 0.25, 0.33)
    leg = _leg(cut, hem, half - 0.01, half, rise=0.52)
    for side in both(leg.path):
        sketch.fill("legs", "fabric", side)
    sketch.line("legs", "ink", [(0, 0.12), (0, 0.52)])
    for side in both([(leg.outer[0] - 0.01, hem - 0.07), (leg.inner[0] - 0.005, hem - 0.05)]):
        sketch.line("legs", "seam", side, 0.014)
    for side in both([(leg.waist * 0.75, 0.14), (leg.waist * 1.18, 0.4)]):
        sketch.line("pocket", "ink", side, 0.02)
    for side in both([(0.04, 0.54), (leg.outer[0] * 0.6, 0.66)]):
        sketch.fold(side, width=0.04)
    _waistband(sketch, leg.waist, "dark", loops=False)
    for x in range(-4, 5):
        sketch.line("waistband", "seam", [(leg.waist * x / 4.6, 0.03), (leg.waist * x / 4.5, 0.14)], 0.009)
    for side in both([(0.02, 0.1), (0.08, 0.22), (0.05, 0.36)]):
        sketch.cord("drawstring", "lace", side, 0.02)
    _badge(sketch, cut, leg.outer[0] * 0.62, hem - 0.2, 0.07)
    return sketch


# ---------------------------------------------------------------------------------------------------------------------
# Bags, shoes, accessories


def handbag(cut: Cut) -> Sketch:
    sketch = Sketch()
    width, height = 0.62 * cut.jitter("width", 0.12), 0.8 * cut.jitter("height", 0.12)
    top, rise = width * 0.8, 0.52 * cut.jitter("handle", 0.15)
    hook = (top * 0.58, 0.06)
    handle = bend((-hook[0], hook[1]), (-top * 0.62, -rise), (0, -rise), (top * 0.62, -rise), hook)
    sketch.cord("handle", "dark", handle, 0.075)
    sketch.fill("body", "fabric", whole([(top, 0), *bend((width * 0.98, height - 0.1), (width, height),
                                                         (width - 0.1, height), count=3)]))
    depth = height * (0.57 if cut.dice.chance("flap", 0.6) else 0.23)
    flap = whole([(top + 0.02, -0.02), *bend((top + 0.02, depth * 0.6), (top * 0.5, depth), (0, depth))])
    sketch.fill("flap", "dark", flap)
    sketch.line("flap", "seam", [(x * 0.93, y - 0.04) for x, y in flap[1:-1]], 0.012)
    sketch.dots("handle", "metal", whole([hook]), 0.06)
    sketch.fill("clasp", "metal", rectangle(-0.065, depth - 0.07, 0.065, depth + 0.06))
    for side in both(rectangle(width * 0.7, height - 0.005, width * 0.84, height + 0.04)):
        sketch.fill("body", "dark", side)
    for x in (-0.5, 0.6):
        sketch.fold([(width * x, height * 0.65), (width * x * 0.8, height * 0.95)], width=0.06)
    _badge(sketch, cut, width * 0.58, height * 0.78, 0.07)
    return sketch


def backpack(cut: Cut) -> Sketch:
    sketch = Sketch()
    width, height = 0.5 * cut.jitter("width", 0.1), 1.3 * cut.jitter("height", 0.08)
    sketch.cord("handle", "dark", bend((-0.13, 0.03), (0, -0.34), (0.13, 0.03)), 0.05)
    for side in both(bend((width * 0.7, 0.1), (width * 1.75, 0.5), (width * 0.95, height - 0.06))):
        sketch.cord("straps", "dark", side, 0.095)
    for side in both([(width * 0.9, height * 0.55), (width * 1.16, height * 0.6), (width * 1.14, height * 0.95),
                      (width * 0.9, height * 0.97)]):
        sketch.fill("pocket", "dark", side)
    corner = bend((width, height - 0.13), (width, height), (width - 0.14, height))
    sketch.fill("body", "fabric", whole([*bend((0, 0), (width, 0), (width, 0.45)), *corner]))
    sketch.fill("body", "dark", whole(corner))
    arch = bend((-width * 0.8, 0.52), (-width * 0.8, 0.13), (0, 0.13), (width * 0.8, 0.13), (width * 0.8, 0.52))
    sketch.cord("zip", "metal", arch, 0.016)
    top, bottom = height * 0.5, height - 0.17
    sketch.fill("pocket", "fabric", whole([(width * 0.72, top), *bend((width * 0.74, bottom - 0.09),
                                           (width * 0.74, bottom), (width * 0.6, bottom), count=3)]))
    sketch.cord("pocket", "metal", [(-width * 0.66, top + 0.08), (width * 0.66, top + 0.08)], 0.016)
    sketch.line("zip", "metal", [(width * 0.4, top + 0.08), (width * 0.42, top + 0.2)], 0.03)
    sketch.fold([(-width * 0.6, 0.4), (-width * 0.75, height * 0.8)], width=0.07)
    _badge(sketch, cut, 0, height * 0.33, 0.085)
    return sketch


def sneaker(cut: Cut) -> Sketch:
    sketch = Sketch()
    high = 0.2 * cut.dice.uniform("ankle") if cut.dice.chance("low", 0.6) else 0.36
    toe = 0.04 * cut.jitter("toe", 0.5)
    upper = [(-0.86, 0.5), *bend((-0.9, 0.3), (-0.92, 0.1), (-0.84, -0.12 - high), (-0.6, -0.9 * high),
                                 (-0.38, -0.16 - high)),
             *bend((-0.26, -0.18 - high), (0.06, 0.1), (0.42, 0.16 - toe), (0.95, 0.18), (0.96, 0.5))]
    sketch.fill("lining", "inside", [(-0.84, -0.1 - high), (-0.74, -0.2 - high), (-0.36, -0.25 - high),
                                     (-0.34, -0.12 - high), (-0.6, 0.02 - high)])
    sketch.fill("tongue", "plain", [(-0.4, -0.16 - high), (-0.36, -0.34 - high), (-0.2, -0.33 - high), (0.1, 0.05),
                                    (-0.1, 0.12)])
    sketch.fill("body", "fabric", upper)
    sketch.fill("toe", "rubber", bend((0.6, 0.5), (0.56, 0.24), (0.68, 0.21), (0.94, 0.24), (0.96, 0.5)))
    sketch.fill("heel", "dark", [(-0.88, 0.46), (-0.9, 0.2), (-0.86, -0.1 - high), (-0.74, -0.05 - high),
                                 (-0.66, 0.46)])
    sketch.line("body", "seam", bend((-0.3, -0.1 - high), (-0.34, 0.3), (-0.1, 0.5)), 0.014)
    sketch.line("body", "seam", bend((0.42, 0.2), (0.36, 0.36), (0.42, 0.5)), 0.014)
    rows = 4 if high < 0.3 else 6
    for step in range(rows):
        x, y = between((-0.22, -0.12 - high), (0.3, 0.15), step / (rows - 1))
        sketch.cord("laces", "lace", [(x - 0.09, y + 0.14), (x + 0.07, y)], 0.04)
    sketch.fill("sole", "rubber", [*bend((-0.92, 0.46), (0.7, 0.5), (1.02, 0.42), (1.06, 0.66), (0.9, 0.68)),
                                   *bend((-0.8, 0.68), (-0.98, 0.68), (-0.96, 0.46))])
    sketch.line("sole", "trim", [(-0.93, 0.57), (0.98, 0.56)], 0.025)
    sketch.fold([(0.35, 0.2), (0.5, 0.34)])
    _badge(sketch, cut, 0.1, 0.34, 0.085)
    return sketch


def ankle_boot(cut: Cut) -> Sketch:
    """Draw an ankle boot, with a block heel for women and a flat one for men."""
    sketch = Sketch()
    heel = (0.34 if cut.feminine else 0.12) * cut.jitter("heel", 0.12)
    shaft = -0.62 * cut.jitter("shaft", 0.08)
    ground, tip = 0.62 + 0.6 * heel, 0.98 if cut.feminine else 0.94
    seat = 0.5 if cut.feminine else ground - 0.08
    upper = [*bend((-0.62, seat - 0.02), (-0.66, 0.2), (-0.54, shaft)),
             *bend((0.08, shaft - 0.04), (0.06, 0.08), (0.36, 0.2), (tip - 0.02, 0.36 + 0.4 * heel), (tip, ground)),
             (0.2, ground + 0.02), (-0.2, seat)]
    sketch.fill("lining", "inside", [*bend((-0.54, shaft), (-0.24, shaft - 0.14), (0.08, shaft - 0.04)),
                                     (-0.2, shaft + 0.05)])
    sketch.cord("body", "dark", bend((-0.55, shaft + 0.08), (-0.66, shaft - 0.16), (-0.44, shaft)), 0.025)
    sketch.fill("body", "fabric", upper)
    if cut.dice.chance("gusset", 0.6):
        sketch.fill("gusset", "dark", [(-0.34, shaft - 0.01), (-0.08, shaft - 0.03), (-0.12, 0.04), (-0.24, 0.1),
                                       (-0.32, 0.04)])
        for x in (-0.275, -0.21, -0.145):
            sketch.line("gusset", "seam", [(x, shaft), (x + 0.01, 0.04)], 0.012)
    else:
        sketch.cord("zip", "metal", [(-0.26, shaft), (-0.24, 0.36)], 0.024)
    sketch.line("body", "seam", bend((0.3, 0.22), (0.2, 0.4), (0.24, ground)), 0.016)
    sketch.line("body", "seam", bend((-0.56, 0.1), (-0.4, 0.28), (-0.34, seat)), 0.016)
    floor = ground + 0.08
    sketch.fill("heel", "leather sole", [(-0.65, seat), (-0.2, seat + 0.02), (-0.26, floor + 0.02),
                                         (-0.6, floor + 0.02)])
    sketch.fill("sole", "leather sole", [(-0.66, seat - 0.04), (-0.22, seat - 0.02), (0.2, ground),
                                         (tip + 0.03, ground - 0.02), (tip + 0.02, floor), (0.16, floor),
                                         (-0.22, seat + 0.06), (-0.64, seat + 0.06)])
    for y in (0.12, 0.2):
        sketch.fold([(1.2 * y - 0.14, y), (1.8 * y - 0.5, 1.7 * y)], width=0.04)
    _badge(sketch, cut, -0.02, 0.38, 0.075)
    return sketch


def high_heel(cut: Cut) -> Sketch:
    sketch = Sketch()
    top = 0.5 - 0.62 * cut.jitter("rise", 0.14)
    arch = bend((-0.34, top + 0.4), (-0.06, 0.52), (0.36, 0.54))
    edge = bend((-0.8, top - 0.2), (-0.5, top + 0.12), (-0.1, 0.28), (0.2, 0.44), (0.42, 0.28))
    upper = [*bend((-0.84, top + 0.16), (-0.92, top - 0.06), (-0.8, top - 0.2), count=4), *edge,
             *bend((0.42, 0.28), (0.78, 0.32), (0.98, 0.52)), (0.5, 0.54), *arch[::-1],
             *bend((-0.34, top + 0.4), (-0.56, top + 0.2), (-0.82, top + 0.18))]
    sketch.fill("lining", "inside", [*bend((-0.78, top - 0.18), (-0.46, top - 0.02), (-0.06, 0.2), (0.2, 0.3),
                                           (0.42, 0.28)), (0.1, 0.44), (-0.5, top + 0.14)])
    width = 0.035 if cut.dice.chance("stiletto", 0.6) else 0.12
    sketch.fill("heel", "dark", [(-0.83, top + 0.14),
                                 *bend((-0.48, top + 0.28), (-0.7 + width, top + 0.34), (-0.74 + width, 0.6)),
                                 *bend((-0.74 - width, 0.6), (-0.76 - width * 0.6, top + 0.36), (-0.84, top + 0.16))])
    sketch.fill("body", "fabric", upper)
    sketch.fill("sole", "leather sole", [*arch, *bend((0.36, 0.54), (0.5, 0.56), (0.98, 0.5)), (0.94, 0.59),
                                         *bend((0.3, 0.6), (-0.06, 0.58), (-0.36, top + 0.43))])
    sketch.fold([(0.45, 0.34), (0.7, 0.46)], width=0.05)
    _badge(sketch, cut, 0.52, 0.425, 0.06)
    return sketch


def cap(cut: Cut) -> Sketch:
    sketch = Sketch()
    peak = (-0.05, 0.34 - 0.74 * cut.jitter("height", 0.08))
    dome = [(-0.62, 0.34), *bend((-0.62, 0.2), (-0.66, peak[1] + 0.02), peak, (0.54, peak[1] + 0.02), (0.5, 0.24)),
            *bend((0.46, 0.34), (-0.1, 0.5), (-0.62, 0.34))]
    sketch.fill("crown", "fabric", dome)
    for end, control in (((-0.36, 0.42), (-0.5, 0.1)), ((0.18, 0.4), (0.36, 0.1))):
        panel = bend(peak, control, end)
        sketch.line("crown", "seam", panel, 0.016)
        sketch.fold(panel, width=0.06)
    sketch.dots("crown", "dark", [(peak[0], peak[1] - 0.01)], 0.05)
    sketch.dots("crown", "seam", [(-0.32, 0.0), (0.2, -0.06)], 0.022)
    sketch.line("crown", "seam", bend((-0.61, 0.28), (-0.3, 0.4), (-0.04, 0.4)), 0.014)
    sketch.fill("brim", "dark", bend((-0.04, 0.36), (0.3, 0.2), (0.5, 0.22), (1.0, 0.22), (1.12, 0.46), (0.6, 0.34),
                                     (-0.04, 0.47)))
    for shift in (0.035, 0.07):
        stitch = bend((0.16, 0.36 + shift * 0.6), (0.62, 0.22 + shift), (1.03, 0.36 + shift * 0.7))
        sketch.line("brim", "seam", stitch, 0.01)
    _badge(sketch, cut, 0.12, 0.1, 0.1)
    return sketch


def beanie(cut: Cut) -> Sketch:
    sketch = Sketch()
    top = 0.42 - 0.95 * cut.jitter("height", 0.12)
    if cut.dice.chance("pompom", 0.6):
        sketch.fill("pompom", "trim", [(0.2 * x, 0.2 * y + top - 0.06) for x, y in _star(11, 0.8)])
    sketch.fill("crown", "fabric", whole([*bend((0, top), (0.54, top), (0.56, 0.2), count=8), (0.54, 0.36)]))
    for step in range(-3, 4):
        x = step / 3.7
        sketch.line("crown", "knit", bend((x * 0.12, top + 0.04), (x * 0.6, top + 0.08), (x * 0.56, 0.3)), 0.012)
        sketch.fold([(x * 0.45, 0.0), (x * 0.56, 0.3)], width=0.04)
    fold = 0.3 * cut.jitter("fold", 0.2)
    sketch.fill("brim", "dark", [*bend((-0.6, 0.28), (0, 0.36), (0.6, 0.28)),
                                 *bend((0.59, 0.28 + fold), (0, 0.37 + fold), (-0.59, 0.28 + fold))])
    for step in range(-6, 7):
        x, drop = step / 6.6 * 0.59, 0.05 * (1 - (step / 6.6) ** 2)
        sketch.line("brim", "seam", [(x, 0.29 + drop), (x, 0.26 + fold + drop)], 0.014)
    _badge(sketch, cut, 0.26, 0.32 + 0.5 * fold, 0.085)
    return sketch


def _scarf_end(sketch: Sketch, left: float, right: float, bottom: float, shift: float) -> None:
    for step in range(8):
        x = left + shift + (right - left) * (step + 0.5) / 8
        sketch.cord("fringe", "plain", [(x, bottom - 0.02), (x + 0.01, bottom + 0.15)], 0.026)
    sketch.fill("ends", "fabric", [(left + 0.05, 0.1), (right - 0.02, 0.1),
                                   *bend((right, 0.5), (right + shift, 0.8), (right + shift, bottom), count=4),
                                   *bend((left + shift, bottom), (left + shift, 0.8), (left, 0.5), count=4)])
    for share in (0.3, 0.68):
        x = left + share * (right - left)
        sketch.fold([(x, 0.3), (x + shift, bottom - 0.05)], width=0.05)


def scarf(cut: Cut) -> Sketch:
    """Draw a scarf, once around the neck with two ends in front."""
    sketch = Sketch()
    long, sway = 1.34 * cut.jitter("long", 0.08), cut.pose.uniform("sway", -0.06, 0.06)
    sketch.fill("lining", "inside", oval(0, -0.04, 0.36, 0.17))
    _scarf_end(sketch, -0.34, 0.02, 1.0 * cut.jitter("short", 0.12), sway - 0.05)
    _scarf_end(sketch, -0.04, 0.36, long, sway + 0.05)
    sketch.fill("loop", "dark", whole(bend((0, -0.32), (0.3, -0.34), (0.44, -0.1), (0.28, -0.18), (0, -0.17))))
    sketch.fill("loop", "fabric", whole(bend((0, 0.4), (0.56, 0.34), (0.44, -0.1), (0.34, 0.14), (0, 0.16))))
    for drop in (0.22, 0.3):
        wrap = bend((-0.42, drop - 0.24), (0, drop + 0.16), (0.42, drop - 0.24))
        sketch.line("loop", "seam", wrap, 0.014)
        sketch.fold(wrap, width=0.05)
    _badge(sketch, cut, 0.17 + sway, long - 0.2, 0.085)
    return sketch


# fmt: on
SKETCHES: dict[str, Callable[[Cut], Sketch]] = {
    "t-shirt": t_shirt,
    "shirt": shirt,
    "sweater": sweater,
    "hoodie": hoodie,
    "jacket": jacket,
    "coat": coat,
    "dress": dress,
    "skirt": skirt,
    "trousers": trousers,
    "jeans": jeans,
    "shorts": shorts,
    "handbag": handbag,
    "backpack": backpack,
    "sneaker": sneaker,
    "ankle boot": ankle_boot,
    "high heel": high_heel,
    "cap": cap,
    "beanie": beanie,
    "scarf": scarf,
}


def sketch(item: Product, view: int) -> Sketch:
    """Sketch one view of a product."""
    return SKETCHES[item.attributes["category"]](Cut(item.attributes, item.dice("cut"), item.dice("view", view)))
