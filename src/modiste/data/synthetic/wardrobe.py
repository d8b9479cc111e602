"""Products of the synthetic catalogue: garment types, their attributes, and the sampling of products.

There are two wardrobes: ``full`` has every type, cut and colour, ``basics`` those that are easy to distinguish.

Every random number is a hash of a name and a key (seed, product, view), so a product is the same on every machine and
with every version of NumPy, and neither more products nor a new attribute changes existing ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")
RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "black": (34, 34, 38),
    "white": (246, 245, 242),
    "grey": (146, 149, 153),
    "red": (205, 34, 42),
    "orange": (240, 128, 28),
    "yellow": (246, 212, 48),
    "green": (44, 140, 66),
    "teal": (22, 150, 156),
    "blue": (52, 112, 212),
    "navy": (30, 44, 98),
    "purple": (124, 60, 164),
    "pink": (242, 146, 182),
    "brown": (116, 72, 42),
    "beige": (214, 184, 142),
}
PATTERNS = ("plain", "striped", "checked", "dotted", "floral", "zigzag")
BRANDS = (
    "Brioza", "Calvane", "Dorrel", "Estrova", "Fennick", "Harlune",
    "Jessamy", "Lunetta", "Morvane", "Norrel", "Ostrana", "Quillon",
)  # fmt: skip
"""Fictitious names; the shape of the badge shows the brand (`sketches.BADGES`)."""

ATTRIBUTES = (
    "category", "super_category", "colour", "pattern", "sleeve", "neckline", "length", "fit", "gender", "brand",
)  # fmt: skip


class Dice:
    """Reproducible random numbers by name: the same key and name give the same value everywhere.

    >>> Dice(0, 7).uniform("width", 1, 2) == Dice(0, 7).uniform("width", 1, 2)
    True
    >>> Dice(0, 7).choice("colour", ["red", "green"])
    'red'
    """

    def __init__(self, *key: int | str) -> None:
        self._hash = hashlib.blake2b("/".join(map(str, key)).encode() + b"/", digest_size=8)

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number in [low, high)."""
        state = self._hash.copy()
        state.update(name.encode())
        return low + (high - low) * ((int.from_bytes(state.digest(), "big") >> 11) / 2**53)

    def chance(self, name: str, probability: float) -> bool:
        """Return True with the given probability."""
        return self.uniform(name) < probability

    def choice(self, name: str, options: Sequence[T]) -> T:
        """Return one of the options, all equally likely."""
        return options[int(self.uniform(name) * len(options))]

    def bytes(self, name: str, count: int) -> bytes:
        """Return ``count`` random bytes."""
        state = self._hash.copy()
        state.update(name.encode())
        return hashlib.shake_128(state.digest()).digest(count)


@dataclass(frozen=True)
class GarmentType:
    """A type of garment and the values of its attributes; attributes not in ``options`` do not apply."""

    super_category: str
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)
    gender: tuple[str, ...] = ("women", "men")
    colour: tuple[str, ...] = tuple(COLOURS)
    pattern: tuple[str, ...] = PATTERNS


_FITS = ("slim", "regular", "loose")
_LEATHER = ("black", "white", "grey", "red", "green", "blue", "navy", "pink", "brown", "beige")

TYPES: dict[str, GarmentType] = {
    "t-shirt": GarmentType(
        "tops",
        {
            "sleeve": ("sleeveless", "short", "long"),
            "neckline": ("crew", "v-neck", "scoop"),
            "length": ("cropped", "regular"),
            "fit": _FITS,
        },
    ),
    "shirt": GarmentType(
        "tops", {"sleeve": ("short", "long"), "neckline": ("point collar", "stand collar"), "fit": _FITS}
    ),
    "sweater": GarmentType(
        "tops",
        {
            "sleeve": ("three-quarter", "long"),
            "neckline": ("crew", "v-neck", "turtleneck"),
            "length": ("cropped", "regular"),
            "fit": _FITS,
        },
    ),
    "hoodie": GarmentType("tops", {"sleeve": ("short", "long"), "length": ("cropped", "regular"), "fit": _FITS}),
    "jacket": GarmentType(
        "outerwear",
        {
            "sleeve": ("long",),
            "neckline": ("point collar", "stand collar"),
            "length": ("cropped", "regular"),
            "fit": _FITS,
        },
    ),
    "coat": GarmentType("outerwear", {"sleeve": ("long",), "length": ("midi", "maxi"), "fit": _FITS}),
    "dress": GarmentType(
        "dresses",
        {
            "sleeve": ("sleeveless", "short", "long"),
            "neckline": ("crew", "v-neck", "scoop"),
            "length": ("mini", "midi", "maxi"),
            "fit": _FITS,
        },
        gender=("women",),
    ),
    "skirt": GarmentType("bottoms", {"length": ("mini", "midi", "maxi"), "fit": _FITS}, gender=("women",)),
    "trousers": GarmentType("bottoms", {"length": ("cropped", "full"), "fit": _FITS}),
    "jeans": GarmentType(
        "bottoms",
        {"length": ("cropped", "full"), "fit": _FITS},
        colour=("blue", "navy", "black", "grey", "white"),
        pattern=("plain",),
    ),
    "shorts": GarmentType("bottoms", {"length": ("mini", "knee"), "fit": _FITS}),
    "handbag": GarmentType("bags", gender=("women",)),
    "backpack": GarmentType("bags", gender=("unisex",)),
    "sneaker": GarmentType("footwear", gender=("unisex",)),
    "ankle boot": GarmentType("footwear", colour=_LEATHER, pattern=("plain",)),
    "high heel": GarmentType("footwear", gender=("women",)),
    "cap": GarmentType("accessories", gender=("unisex",)),
    "beanie": GarmentType("accessories", gender=("unisex",)),
    "scarf": GarmentType("accessories", gender=("unisex",)),
}


MENTIONED = {
    "colour": 0.9, "pattern": 0.75, "gender": 0.6, "brand": 0.55, "sleeve": 0.5, "neckline": 0.5, "length": 0.5,
    "fit": 0.4,
}  # fmt: skip


@dataclass(frozen=True)
class Wardrobe:
    """A selection of garment types, and how often captions name their attributes.

    Attributes:
        types: Name → garment type.
        mentioned: Attribute → probability that a caption names it, if it applies.
    """

    types: dict[str, GarmentType]
    mentioned: dict[str, float]


_BASICS = (
    "t-shirt", "shirt", "sweater", "hoodie", "dress", "skirt", "trousers", "shorts", "handbag", "backpack", "sneaker",
    "ankle boot", "high heel", "cap", "scarf",
)  # fmt: skip
_DISTINCT = {
    "colour": ("black", "white", "red", "orange", "yellow", "green", "teal", "blue", "purple", "pink"),
    "pattern": ("plain", "striped", "checked", "dotted", "floral"),
    "sleeve": ("sleeveless", "short", "long"),
    "neckline": ("crew", "v-neck", "turtleneck", "point collar"),
    "length": ("cropped", "regular", "mini", "knee", "maxi", "full"),
    "fit": ("slim", "loose"),
}
"""Values that are easy to distinguish; other attributes keep all their values."""


def _basic(garment: GarmentType) -> GarmentType:
    """Restrict a type to values that are easy to distinguish."""

    def kept(name: str, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(value for value in values if value in _DISTINCT.get(name, values))

    return replace(
        garment,
        options={name: kept(name, values) for name, values in garment.options.items()},
        colour=kept("colour", garment.colour),
        pattern=kept("pattern", garment.pattern),
    )


WARDROBES = {
    "full": Wardrobe(TYPES, MENTIONED),
    "basics": Wardrobe(
        {name: _basic(TYPES[name]) for name in _BASICS},
        {"colour": 1.0, "pattern": 0.9, "gender": 0.5, "brand": 0.3, "sleeve": 0.7, "neckline": 0.5, "length": 0.7,
         "fit": 0.5},
    ),
}  # fmt: skip


def on_sale(wardrobe: str) -> dict[str, list[str]]:
    """Return attribute → its values in a wardrobe, sorted.

    >>> on_sale("basics")["pattern"]
    ['checked', 'dotted', 'floral', 'plain', 'striped']
    """
    values: dict[str, set[str]] = {name: set() for name in ATTRIBUTES}
    for category, garment in WARDROBES[wardrobe].types.items():
        fixed = {"category": (category,), "super_category": (garment.super_category,), "brand": BRANDS}
        own = {"colour": garment.colour, "pattern": garment.pattern, "gender": garment.gender}
        for name, options in (fixed | own | garment.options).items():
            values[name].update(options)
    return {name: sorted(options) for name, options in values.items()}


@dataclass(frozen=True)
class Product:
    """A product: its key (seed, number) and the true values of its attributes ("" if not applicable)."""

    seed: int
    number: int
    values: tuple[tuple[str, str], ...]
    wardrobe: str = "full"

    @property
    def attributes(self) -> dict[str, str]:
        """Attribute → value, in the order of `ATTRIBUTES`."""
        return dict(self.values)

    def dice(self, *key: int | str) -> Dice:
        """Return a random source of the product; ``key`` names its use (a view, the caption)."""
        return Dice("product", self.seed, self.number, *key)


@lru_cache(maxsize=4096)
def product(seed: int, number: int, wardrobe: str = "full") -> Product:
    """Return product ``number`` of the catalogue with seed ``seed``, from one of `WARDROBES`.

    Half of the products whose type has several patterns are plain; everything else is uniform over the type's values.

    >>> product(0, 3).attributes["category"] in TYPES
    True
    """
    dice = Dice("product", seed, number)
    types = WARDROBES[wardrobe].types
    category = dice.choice("category", list(types))
    garment = types[category]
    patterned = len(garment.pattern) > 1 and dice.chance("patterned", 0.5)
    values = {
        "category": category,
        "super_category": garment.super_category,
        "colour": dice.choice("colour", garment.colour),
        "pattern": dice.choice("pattern", garment.pattern[1:]) if patterned else garment.pattern[0],
        "gender": dice.choice("gender", garment.gender),
        "brand": dice.choice("brand", BRANDS),
    } | {name: dice.choice(name, options) for name, options in garment.options.items()}
    return Product(seed, number, tuple((name, values.get(name, "")) for name in ATTRIBUTES), wardrobe)
