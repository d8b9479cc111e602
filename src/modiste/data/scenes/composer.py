"""Scenes of several products, with the product of every pixel as label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor
from torch.utils.data import Dataset

from modiste.data.augment import check_fractions
from modiste.data.catalogue import Catalogue
from modiste.data.scenes.backgrounds import background
from modiste.data.scenes.cutouts import CutOut, cut_out
from modiste.data.scenes.zones import ZONES, Zone, zone_of
from modiste.errors import ModisteError
from modiste.utils.ranges import Side
from modiste.utils.seeds import mix

Labels = npt.NDArray[np.int16]
Rows = npt.NDArray[np.int32]

BACKGROUND, UNKNOWN = 0, -1
BACKGROUND_ROW, UNKNOWN_ROW = -2, -1
GREY = (128, 128, 128)
TRIES = 12
SOFTEST = 0.25
"""Minimum scale to which a softened scene is reduced and enlarged again; the log scale is uniform."""
BICUBIC = Image.Resampling.BICUBIC
PROBE = 48
"""Number of products to check; a tenth of them must have a clean background."""


@dataclass(frozen=True)
class Scene:
    """A composed image with its labels.

    Attributes:
        image: RGB, square, of side S.
        labels: (S, S) int16, per pixel: k for ``products[k - 1]``, 0 for background, -1 for unknown, such as other
            garments that a model wears.
        products: Rows of the catalogue; some may be hidden by others.
    """

    image: Image.Image
    labels: Labels
    products: list[int]

    def mask(self, k: int) -> npt.NDArray[np.bool_]:
        """Mask (S, S) of the visible pixels of ``products[k]``."""
        return self.labels == k + 1

    def cells(self, grid: int, majority: float = 0.5) -> Labels:
        """Labels (grid, grid) of cells: the label that covers at least ``majority`` of a cell, else -1.

        >>> labels = np.repeat(np.array([[1, 0], [0, 0]], dtype=np.int16), 2, axis=0).repeat(2, axis=1)
        >>> Scene(Image.new("RGB", (4, 4)), labels, [7]).cells(2).tolist()
        [[1, 0], [0, 0]]
        """
        side = len(self.labels)
        cell = np.arange(side) * grid // side
        of_pixel = cell[:, None] * grid + cell
        kinds = len(self.products) + 2
        counts = np.bincount((of_pixel * kinds + self.labels + 1).ravel(), minlength=grid * grid * kinds)
        counts = counts.reshape(grid * grid, kinds)
        best = counts.argmax(axis=1)
        enough = counts.max(axis=1) >= majority * counts.sum(axis=1)
        return np.where(enough, best - 1, UNKNOWN).astype(np.int16).reshape(grid, grid)

    def rows(self, grid: int) -> Rows:
        """Rows (grid, grid) of the catalogue that `cells` show; -2 for background, -1 for unknown."""
        row = np.array([BACKGROUND_ROW, *self.products, UNKNOWN_ROW], dtype=np.int32)
        return row[self.cells(grid)]


def pixels_of(image: Image.Image) -> Tensor:
    """Pixels (3, H, W), uint8, of an RGB image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class Composer:
    """Settings of the scenes; `bind` applies them to a catalogue.

    Attributes:
        column: Column with the types of products.
        size: Side of the square scenes in pixels.
        figures: Fraction of scenes that are a dressed figure; the others are collages.
        products: Minimum and maximum number of products in a collage.
        worn: Probability that the model in a photo is kept, instead of the garment alone.
        occlusion: Probability that a patch covers part of the scene.
        padded: Probability that a figure's scene is a portrait image between grey margins, as in the grounding task.
        softened: Probability that a scene is reduced to at least `SOFTEST` and enlarged again. Products from small
            photos are less sharp than generated backgrounds, which would give them away.
        tolerance: See `modiste.data.scenes.cutouts.foreground`.
        power: A type with n products is sampled with a probability proportional to n^power.
        zones: Zone (`modiste.data.scenes.zones.ZONES`) → types whose name does not tell it; "none": not worn.
        exclude: Types to exclude from scenes.

    Raises:
        ModisteError: A fraction is outside [0, 1], ``size`` is too small, or ``products`` is not a range.
    """

    column: str = "articleType"
    size: Side = 384
    figures: float = 0.7
    products: Sequence[int] = (3, 8)
    worn: float = 0.7
    occlusion: float = 0.15
    padded: float = 0.5
    softened: float = 0.8
    tolerance: int = 20
    power: float = 0.5
    zones: Mapping[str, Sequence[str]] = field(default_factory=dict)
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        fractions = ("figures", "worn", "occlusion", "padded", "softened", "power")
        check_fractions("scenes", **{name: getattr(self, name) for name in fractions})
        if self.size < 32:
            raise ModisteError(f"scenes.size={self.size} must be at least 32 pixels.")
        if len(self.products) != 2 or not 1 <= self.products[0] <= self.products[1]:
            raise ModisteError(
                f"scenes.products={list(self.products)} must be a minimum and a maximum number, such as [3,8]."
            )

    def bind(self, catalogue: Catalogue, seed: int = 0, count: int = 1000) -> Scenes:
        """Return scenes of a catalogue; item (epoch, index) is a pure function of the seed and this key.

        Args:
            catalogue: The products.
            seed: Seed of the scenes.
            count: Number of scenes per epoch.

        Raises:
            ModisteError: The column or a zone is unknown, the column is empty, or too few photos have a clean
                background.
        """
        return Scenes(self, catalogue, seed, count)


class Scenes(Dataset[Scene]):
    """Scenes of one catalogue; see `Composer.bind`.

    Attributes:
        kinds: Type of each row of the catalogue.
        zones: Type → its zone, or None.
    """

    def __init__(self, composer: Composer, catalogue: Catalogue, seed: int, count: int) -> None:
        self.composer, self.catalogue, self.seed, self.count = composer, catalogue, seed, count
        self.kinds: list[str] = catalogue.column(composer.column)
        usable = [row for row, kind in enumerate(self.kinds) if kind and kind not in composer.exclude]
        self._by_kind: dict[str, list[int]] = {}
        for row in usable:
            self._by_kind.setdefault(self.kinds[row], []).append(row)
        self.zones: dict[str, str | None] = {kind: zone_of(kind, composer.zones) for kind in self._by_kind}
        by_zone: dict[str | None, list[str]] = {}
        for kind, zone in self.zones.items():
            by_zone.setdefault(zone, []).append(kind)
        self._choices = {zone: self._choice(kinds) for zone, kinds in by_zone.items()}
        self._any = self._choice(list(self._by_kind))
        self._check(usable)

    @property
    def size(self) -> int:
        """Side of the scenes in pixels."""
        return self.composer.size

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        return f"Scenes({self.composer}, seed={self.seed})"

    def __getitem__(self, key: tuple[int, int] | int) -> Scene:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        rng = np.random.default_rng(mix(self.seed, epoch, index, 3))
        canvas = self._canvas(rng, upright := rng.random() < self.composer.figures)
        (self._figure if upright else self._collage)(rng, canvas)
        if rng.random() < self.composer.occlusion:
            canvas.cover(rng)
        return canvas.finished(self.composer.size, rng, softened=rng.random() < self.composer.softened)

    def cut_out(self, row: int) -> CutOut | None:
        """Cut out the product of a row; None if its background is not clean."""
        return cut_out(self.catalogue.read_image(row), self._zone(row), self.composer.tolerance)

    def draw(self, rng: np.random.Generator, zone: str | None = None) -> tuple[int, CutOut] | None:
        """Sample a product, of ``zone`` if given, as (row, cut-out); None if no photo tried is clean."""
        kinds, chances = self._choices[zone] if zone else self._any
        for _ in range(TRIES):
            rows = self._by_kind[kinds[rng.choice(len(kinds), p=chances)]]
            row = rows[int(rng.integers(len(rows)))]
            found = self.cut_out(row)
            if found is not None:
                return row, found
        return None

    def _zone(self, row: int) -> Zone | None:
        name = self.zones.get(self.kinds[row])
        return None if name is None else ZONES[name]

    def _choice(self, kinds: Sequence[str]) -> tuple[list[str], npt.NDArray[np.float64]]:
        weights = np.array([len(self._by_kind[kind]) for kind in kinds], dtype=np.float64) ** self.composer.power
        return list(kinds), weights / weights.sum()

    def _check(self, usable: Sequence[int]) -> None:
        if not usable:
            raise ModisteError(f"Column '{self.composer.column}' names no product's type: set scenes.column to one.")
        probe = np.random.default_rng(self.seed).choice(usable, min(PROBE, len(usable)), replace=False)
        clean = sum(self.cut_out(int(row)) is not None for row in probe)
        if clean < len(probe) / 10:
            raise ModisteError(
                f"Scenes need photos with a clean background, which {clean} of {len(probe)} in "
                f"'{self.catalogue.card.name}' have: raise scenes.tolerance, or use another catalogue."
            )

    def _canvas(self, rng: np.random.Generator, upright: bool) -> Canvas:
        size = self.composer.size
        padded = upright and rng.random() < self.composer.padded
        width = round(size * rng.uniform(0.55, 0.85)) if padded else size
        return Canvas(background(rng, (width, size)))

    def _collage(self, rng: np.random.Generator, canvas: Canvas) -> None:
        """Paste products of all types at random positions, slightly rotated and overlapping."""
        low, high = self.composer.products
        for _ in range(int(rng.integers(low, high + 1))):
            drawn = self.draw(rng)
            if drawn is None:
                continue
            row, cut = drawn
            alone = cut if rng.random() < self.composer.worn else cut.undressed()
            if alone is None:
                continue
            canvas.place(rng, row, alone, rng.uniform(0.12, 0.55), turn=25)

    def _figure(self, rng: np.random.Generator, canvas: Canvas) -> None:
        """Dress a figure, from the shoes up; sometimes add other products around it."""
        height = canvas.height * rng.uniform(0.6, 1.25)
        room = canvas.height - height
        top = rng.uniform(min(room, 0) * 0.6, max(room, 0))
        middle = canvas.width * np.clip(rng.normal(0.5, 0.08), 0.25, 0.75)
        chosen = self._outfit(rng)
        if rng.random() < 0.8:
            _draw_body(rng, canvas, middle, top, height)
        for name in ZONES:
            if name in chosen:
                self._wear(rng, canvas, name, middle, top, height)
        for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.4 else 0):
            drawn = self.draw(rng)
            if drawn is not None:
                canvas.place(rng, *drawn, rng.uniform(0.06, 0.2))

    def _outfit(self, rng: np.random.Generator) -> set[str]:
        """Sample the zones to dress: a full-body garment, or top and bottom, and accessories."""
        chosen = {name for name, zone in ZONES.items() if rng.random() < zone.chance and name in self._choices}
        if "full" in chosen:
            chosen -= {"bottom"} if rng.random() < 0.8 else set()
            chosen -= {"top"} if rng.random() < 0.8 else set()
        return chosen

    def _wear(
        self, rng: np.random.Generator, canvas: Canvas, name: str, middle: float, top: float, height: float
    ) -> None:
        drawn = self.draw(rng, name)
        if drawn is None:
            return
        row, cut = drawn
        zone = ZONES[name]
        begin, tall, wide = zone.top, zone.height, zone.width
        if cut.worn and rng.random() < self.composer.worn:
            begin, tall, wide = zone.worn_top, zone.worn_height, 0.6
        else:
            alone = cut.undressed()
            if alone is None:
                return
            cut = alone
        scale = min(tall * height / cut.image.height, wide * height / cut.image.width) * rng.uniform(0.85, 1.15)
        size = cut.image.width * scale, cut.image.height * scale
        x = middle + rng.normal(0, 0.01) * height
        y = top + begin * height + size[1] / 2 + rng.normal(0, 0.012) * height
        if zone.aside:
            x += (1 if rng.random() < 0.5 else -1) * zone.aside * height * rng.uniform(0.7, 1.2)
        if not zone.pair:
            canvas.paste(row, cut, (x, y), size, turn=float(rng.normal(0, 3)), flip=rng.random() < 0.5)
            return
        apart = height * rng.uniform(0.02, 0.07)
        flips = (False, rng.random() < 0.5)
        for sign, flip in zip((-1, 1), flips, strict=True):
            shifted = x + sign * apart, y + rng.normal(0, 0.008) * height
            canvas.paste(row, cut, shifted, size, turn=float(rng.normal(0, 6)), flip=flip)


class Canvas:
    """An image and its labels while products are pasted into it.

    Args:
        image: The background.
    """

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.width, self.height = image.size
        self.labels: Labels = np.zeros((self.height, self.width), dtype=np.int16)
        self.products: list[int] = []

    def paste(
        self,
        row: int,
        cut: CutOut,
        centre: tuple[float, float],
        size: tuple[float, float],
        turn: float = 0.0,
        flip: bool = False,
    ) -> None:
        """Paste a cut-out centred at ``centre`` (x, y), resized to ``size`` (width, height).

        Args:
            row: Row of the product in the catalogue.
            cut: The cut-out.
            centre: In pixels of the canvas.
            size: In pixels, before the rotation.
            turn: Angle in degrees, counterclockwise.
            flip: Mirror it horizontally.
        """
        if row not in self.products:
            self.products.append(row)
        whole = max(1, round(size[0])), max(1, round(size[1]))
        layers = [cut.image, cut.mask, cut.garment, cut.body]
        kinds = [BICUBIC, *[Image.Resampling.BILINEAR] * 3]
        layers = [layer.resize(whole, kind) for layer, kind in zip(layers, kinds, strict=True)]
        if flip:
            layers = [layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for layer in layers]
        if turn:
            layers = [layer.rotate(turn, kind, expand=True) for layer, kind in zip(layers, kinds, strict=True)]
        image, mask, garment, body = layers
        corner = round(centre[0] - image.width / 2), round(centre[1] - image.height / 2)
        self.image.paste(image, corner, mask)
        for part, label in ((mask, UNKNOWN), (body, BACKGROUND), (garment, self.products.index(row) + 1)):
            self._label(np.asarray(part) >= 128, corner, label)

    def place(
        self,
        rng: np.random.Generator,
        row: int,
        cut: CutOut,
        part: float,
        turn: float = 0.0,
        around: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        """Paste a cut-out at a random position, randomly rotated and mirrored.

        Args:
            rng: The generator.
            row: Row of the product in the catalogue.
            cut: The cut-out.
            part: Length of its longer side, as a fraction of the canvas height.
            turn: Maximum rotation in degrees.
            around: Range of its centre, as fractions of width and height.
        """
        scale = self.height * part / max(cut.image.size)
        size = cut.image.width * scale, cut.image.height * scale
        centre = rng.uniform(*around) * self.width, rng.uniform(*around) * self.height
        self.paste(row, cut, centre, size, float(rng.uniform(-turn, turn)), bool(rng.random() < 0.5))

    def _label(self, inside: npt.NDArray[np.bool_], corner: tuple[int, int], label: int) -> None:
        left, top = corner
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + inside.shape[1], self.width), min(top + inside.shape[0], self.height)
        if x0 < x1 and y0 < y1:
            self.labels[y0:y1, x0:x1][inside[y0 - top : y1 - top, x0 - left : x1 - left]] = label

    def cover(self, rng: np.random.Generator) -> None:
        """Cover part of the scene with a patch of another background."""
        width, height = (max(2, round(side * rng.uniform(0.08, 0.3))) for side in (self.width, self.height))
        mask = Image.new("L", (width, height))
        draw = ImageDraw.Draw(mask)
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((0, 0, width - 1, height - 1), fill=255)
        corner = int(rng.integers(-width // 2, self.width)), int(rng.integers(-height // 2, self.height))
        self.image.paste(background(rng, (width, height)), corner, mask)
        self._label(np.asarray(mask) >= 128, corner, BACKGROUND)

    def finished(self, size: int, rng: np.random.Generator, softened: bool = False) -> Scene:
        """Return the scene, with varied light and sharpness, padded with grey, softened if asked.

        Args:
            size: Side of the scene in pixels, the height of the canvas.
            rng: The generator.
            softened: See `Composer`.
        """
        image = self.image
        if rng.random() < 0.5:
            image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.2))))
        light = rng.uniform(0.75, 1.2) * rng.uniform(0.93, 1.07, 3)
        image = Image.fromarray(np.clip(np.asarray(image) * light, 0, 255).astype(np.uint8))
        labels = self.labels
        if self.width < size:
            square, left = Image.new("RGB", (size, size), GREY), (size - self.width) // 2
            square.paste(image, (left, 0))
            labels = np.zeros((size, size), dtype=np.int16)
            labels[:, left : left + self.width] = self.labels
            image = square
        if rng.random() < 0.5:
            image, labels = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), labels[:, ::-1].copy()
        if softened:
            coarse = max(1, round(size * SOFTEST ** rng.random()))
            image = image.resize((coarse, coarse), BICUBIC).resize((size, size), BICUBIC)
        return Scene(image, labels, self.products)


def _draw_body(rng: np.random.Generator, canvas: Canvas, middle: float, top: float, height: float) -> None:
    """Draw a plain body under the garments, in one skin tone, labelled as background."""
    tone = np.array([236, 188, 150]) * rng.uniform(0.3, 1.05)
    skin, hair = tuple(tone.astype(int).tolist()), tuple((np.array([70, 50, 35]) * rng.uniform(0.2, 2.5)).astype(int))
    draw = ImageDraw.Draw(canvas.image)

    def at(x: float, y: float) -> tuple[float, float]:
        return middle + x * height, top + y * height

    def limb(points: Sequence[tuple[float, float]], width: float) -> None:
        draw.line([at(*point) for point in points], fill=skin, width=max(1, round(width * height)), joint="curve")

    swing, stance = rng.uniform(0.12, 0.2), rng.uniform(0.03, 0.08)
    for side in (-1, 1):
        limb([(side * 0.03, 0.5), (side * stance, 0.95)], 0.05)
        limb([(side * 0.09, 0.18), (side * swing, 0.34), (side * rng.uniform(0.1, 0.2), 0.5)], 0.035)
    limb([(0, 0.1), (0, 0.18)], 0.05)
    draw.ellipse((*at(-0.055, -0.012), *at(0.055, 0.08 + rng.uniform(0, 0.12))), fill=hair)
    draw.ellipse((*at(-0.042, 0.01), *at(0.042, 0.125)), fill=skin)
