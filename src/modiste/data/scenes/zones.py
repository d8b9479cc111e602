"""Zones of the body where types of garments are worn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from modiste.errors import ModisteError, did_you_mean


@dataclass(frozen=True)
class Zone:
    """A zone of a dressed figure; lengths are fractions of the figure's height, from the top of the head.

    Attributes:
        words: Singular words in the names of types that are worn here.
        top: Top of the garment.
        height: Height of the garment.
        width: Maximum width of the garment.
        aside: Distance from the middle of the body; the side is random.
        chance: Probability that a figure wears something here.
        pair: Whether it is worn as a pair, side by side.
        band: Start and end of the garment in a photo of a model, as fractions of the model's visible height; a start
            of None is the shoulders, since photos of tops show the head above and trousers below.
        worn_top: Top of a photo of a model.
        worn_height: Height of a photo of a model.
    """

    words: tuple[str, ...]
    top: float
    height: float
    width: float
    aside: float = 0.0
    chance: float = 0.0
    pair: bool = False
    band: tuple[float | None, float] | None = None
    worn_top: float = 0.0
    worn_height: float = 0.0


# Later zones are drawn over earlier ones.
ZONES: dict[str, Zone] = {
    "shoes": Zone(
        ("shoe", "sneaker", "boot", "bootie", "heel", "sandal", "flat", "flip flop", "loafer", "pump", "trainer"),
        0.93, 0.075, 0.16, chance=0.85, pair=True,
    ),
    "socks": Zone(("sock", "stocking"), 0.82, 0.14, 0.12, chance=0.15, pair=True),
    "bottom": Zone(
        ("jeans", "trouser", "pant", "shorts", "skirt", "legging", "jegging", "capri", "tights", "salwar", "churidar",
         "patiala"),
        0.44, 0.5, 0.28, chance=1.0, band=(0.13, 0.93), worn_top=0.42, worn_height=0.58,
    ),
    "full": Zone(
        ("dress", "jumpsuit", "coat", "saree", "nightdress", "kurta", "gown", "robe", "tunic", "lehenga choli",
         "baby doll", "tracksuit"),
        0.15, 0.55, 0.36, chance=0.35, band=(None, 0.95), worn_top=0.0, worn_height=0.75,
    ),
    "top": Zone(
        ("t-shirt", "tshirt", "shirt", "top", "blouse", "sweater", "sweatshirt", "hoodie", "jacket", "blazer",
         "cardigan", "vest", "waistcoat", "kurti", "camisole", "shrug", "jumper", "polo"),
        0.15, 0.35, 0.36, chance=1.0, band=(None, 0.84), worn_top=0.0, worn_height=0.54,
    ),
    "waist": Zone(("belt",), 0.44, 0.05, 0.2, chance=0.15),
    "neck": Zone(
        ("scarf", "muffler", "stole", "dupatta", "tie", "necklace", "pendant"), 0.14, 0.24, 0.16, chance=0.25
    ),
    "wrist": Zone(("watch", "bracelet", "bangle", "wristband"), 0.46, 0.055, 0.06, aside=0.17, chance=0.2),
    "hand": Zone(
        ("bag", "handbag", "backpack", "clutch", "rucksack", "wallet", "purse", "tote"),
        0.4, 0.22, 0.24, aside=0.2, chance=0.5,
    ),
    "eyes": Zone(("sunglasses", "glasses", "eyeglasses"), 0.05, 0.035, 0.1, chance=0.25),
    "head": Zone(("cap", "hat", "beanie", "headband"), -0.03, 0.09, 0.13, chance=0.25),
}  # fmt: skip


@lru_cache(maxsize=1)
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """Patterns of all words, multi-word ones first: "flip flop" before "flop"."""
    named = [(word, name) for name, zone in ZONES.items() for word in zone.words]
    named.sort(key=lambda pair: (-pair[0].count(" "), -len(pair[0])))
    return [(re.compile(rf"\b{re.escape(word)}(?:s|es)?\b"), name) for word, name in named]


def zone_of(kind: str, given: Mapping[str, Sequence[str]] | None = None) -> str | None:
    """Return the zone of a product type by the last known word in its name; None: not worn, or unknown.

    Args:
        kind: The type, such as "Sports Shoes".
        given: Zone → types that belong to it, overriding their words; "none": types that are not worn.

    Raises:
        ModisteError: ``given`` names an unknown zone.

    >>> zone_of("Sports Shoes"), zone_of("Laptop Bag"), zone_of("pair of jeans"), zone_of("Perfume")
    ('shoes', 'hand', 'bottom', None)
    >>> zone_of("Anarkali", {"full": ["Anarkali"]})
    'full'
    """
    for name, kinds in (given or {}).items():
        if name not in ZONES and name != "none":
            raise ModisteError(f"Zone '{name}' of a figure is not known. {did_you_mean(name, [*ZONES, 'none'])}")
        if kind in kinds:
            return None if name == "none" else name
    found = [(match.end(), name) for pattern, name in _patterns() if (match := pattern.search(kind.casefold()))]
    return max(found, key=lambda pair: pair[0])[1] if found else None
