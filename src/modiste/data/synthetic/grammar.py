"""Captions: a grammar with synonyms, optional attributes and several word orders, and its inverse.

The category is always named. Every other attribute is named with a probability (`wardrobe.Wardrobe.mentioned`) that
depends only on the attribute, not on its value, and every expression has a single meaning. So all products that match a
caption are equally likely to be its target, as the upper bound of retrieval (`modiste.data.synthetic.ceiling`) needs.
"""

from __future__ import annotations

import re
from functools import lru_cache

from modiste.data.synthetic.wardrobe import BRANDS, WARDROBES, Dice, Product

Words = dict[str, tuple[str, ...]]

NOUNS: Words = {
    "t-shirt": ("t-shirt", "tee", "tee shirt"),
    "shirt": ("shirt", "button-up", "button-up shirt"),
    "sweater": ("sweater", "jumper", "pullover"),
    "hoodie": ("hoodie", "hooded sweatshirt"),
    "jacket": ("jacket", "zip-up jacket", "blouson"),
    "coat": ("coat", "overcoat", "double-breasted coat"),
    "dress": ("dress", "frock", "gown"),
    "skirt": ("skirt",),
    "trousers": ("trousers", "pants", "slacks"),
    "jeans": ("jeans", "denims", "denim jeans"),
    "shorts": ("shorts", "drawstring shorts"),
    "handbag": ("handbag", "purse", "top-handle bag"),
    "backpack": ("backpack", "rucksack", "daypack"),
    "sneaker": ("sneaker", "trainer", "lace-up sneaker"),
    "ankle boot": ("ankle boot", "bootie", "short boot"),
    "high heel": ("high heel", "pump", "court shoe"),
    "cap": ("cap", "baseball cap", "peaked cap"),
    "beanie": ("beanie", "knit hat", "woolly hat"),
    "scarf": ("scarf", "muffler", "fringed scarf"),
}
PAIRS = ("trousers", "jeans", "shorts")

ADJECTIVES: dict[str, Words] = {
    "brand": {brand: (brand,) for brand in BRANDS},
    "gender": {"women": ("women's", "ladies'"), "men": ("men's", "gents'"), "unisex": ("unisex",)},
    "fit": {
        "slim": ("slim-fit", "fitted", "close-fitting"),
        "regular": ("regular-fit", "classic-fit"),
        "loose": ("loose", "relaxed-fit", "oversized"),
    },
    "length": {
        "cropped": ("cropped", "crop-length"),
        "regular": ("regular-length", "hip-length"),
        "mini": ("mini", "thigh-length"),
        "knee": ("knee-length", "bermuda-length"),
        "midi": ("midi", "calf-length"),
        "maxi": ("maxi", "floor-length"),
        "full": ("full-length", "long-legged"),
    },
    "colour": {
        "black": ("black", "jet-black", "ebony"),
        "white": ("white", "ivory", "off-white"),
        "grey": ("grey", "gray", "ash-grey"),
        "red": ("red", "crimson", "scarlet", "ruby"),
        "orange": ("orange", "tangerine"),
        "yellow": ("yellow", "lemon", "sunflower-yellow"),
        "green": ("green", "emerald", "grass-green"),
        "teal": ("teal", "turquoise", "petrol"),
        "blue": ("blue", "cobalt", "royal blue"),
        "navy": ("navy", "navy blue", "midnight-blue"),
        "purple": ("purple", "violet", "plum"),
        "pink": ("pink", "rose", "candy-pink"),
        "brown": ("brown", "chocolate", "chestnut"),
        "beige": ("beige", "sand", "camel"),
    },
    "pattern": {
        "plain": ("plain", "solid"),
        "striped": ("striped", "stripy"),
        "checked": ("checked", "plaid", "gingham"),
        "dotted": ("dotted", "polka-dot", "spotted"),
        "floral": ("floral", "flowered", "flower-print"),
        "zigzag": ("zigzag", "chevron"),
    },
    "neckline": {
        "crew": ("crew-neck", "round-neck"),
        "v-neck": ("v-neck", "v-necked"),
        "scoop": ("scoop-neck",),
        "turtleneck": ("turtleneck", "roll-neck"),
        "point collar": ("collared",),
        "stand collar": ("stand-collar",),
    },
    "sleeve": {
        "sleeveless": ("sleeveless",),
        "short": ("short-sleeved", "short-sleeve"),
        "three-quarter": ("three-quarter-sleeve",),
        "long": ("long-sleeved", "long-sleeve"),
    },
}
"""Attribute → value → words before the noun, in the usual order of adjectives."""

PHRASES: dict[str, Words] = {
    "colour": {value: tuple(f"in {word}" for word in words) for value, words in ADJECTIVES["colour"].items()},
    "length": {value: tuple(f"in a {word} cut" for word in words) for value, words in ADJECTIVES["length"].items()},
    "pattern": {
        "plain": ("with no pattern",),
        "striped": ("with stripes",),
        "checked": ("with checks", "with a tartan pattern"),
        "dotted": ("with dots", "with polka dots"),
        "floral": ("with flowers", "with a floral print"),
        "zigzag": ("with zigzags", "with a chevron pattern"),
    },
    "neckline": {
        "crew": ("with a crew neck", "with a round neck"),
        "v-neck": ("with a v-neck", "with a pointed neckline"),
        "scoop": ("with a scoop neck", "with a deep round neckline"),
        "turtleneck": ("with a turtleneck", "with a roll neck"),
        "point collar": ("with a point collar", "with a turned-down collar"),
        "stand collar": ("with a stand collar", "with a mandarin collar"),
    },
    "sleeve": {
        "sleeveless": ("with no sleeves", "without sleeves"),
        "short": ("with short sleeves",),
        "three-quarter": ("with three-quarter sleeves",),
        "long": ("with long sleeves",),
    },
    "fit": {"slim": ("in a slim fit",), "regular": ("in a regular fit",), "loose": ("in a loose fit",)},
    "gender": {"women": ("for women", "for her"), "men": ("for men", "for him"), "unisex": ("for everyone",)},
    "brand": {brand: (f"by {brand}", f"from {brand}") for brand in BRANDS},
}
"""Attribute → value → phrases after the noun."""

ORDERS = (
    ("brand", "gender", "fit", "length", "colour", "pattern", "neckline", "sleeve"),
    ("colour", "pattern", "brand", "gender", "fit", "sleeve", "neckline", "length"),
    ("gender", "brand", "length", "pattern", "colour", "sleeve", "fit", "neckline"),
)


def caption(item: Product, view: int = 0) -> str:
    """Generate the caption of one view of a product.

    >>> from modiste.data.synthetic.wardrobe import product
    >>> caption(product(0, 7))
    'cropped tangerine long-sleeve jacket with a stand collar and no pattern for women by Fennick'
    """
    values, dice = item.attributes, item.dice("caption", view)
    often = WARDROBES[item.wardrobe].mentioned
    named = [name for name in dice.choice("order", ORDERS) if values[name] and dice.chance(name, often[name])]
    after = [name for name in named if dice.chance(f"after/{name}", 0.35)]
    before = [_word(dice, ADJECTIVES, name, values[name]) for name in named if name not in after]
    after.sort(key=lambda name: dice.uniform(f"sort/{name}"))
    phrases = [_word(dice, PHRASES, name, values[name]) for name in after]
    noun = dice.choice("noun", NOUNS[values["category"]])
    text = " ".join([*before, noun])
    if dice.chance("article", 0.4):
        text = _article(text, values["category"])
    return " ".join([text, _join(phrases)]).strip()


def _word(dice: Dice, lexicon: dict[str, Words], name: str, value: str) -> str:
    return dice.choice(f"word/{name}", lexicon[name][value])


def _article(text: str, category: str) -> str:
    if category in PAIRS:
        return f"a pair of {text}"
    return f"an {text}" if text[0].lower() in "aeio" else f"a {text}"


def _join(phrases: list[str]) -> str:
    """Join phrases; a "with" after another becomes "and".

    >>> _join(["with stripes", "with long sleeves", "in red"])
    'with stripes and long sleeves in red'
    """
    text = ""
    for previous, phrase in zip(["", *phrases], phrases, strict=False):
        both_with = previous.startswith("with ") and phrase.startswith("with ")
        text += f" and {phrase.removeprefix('with ')}" if both_with else f" {phrase}"
    return text.strip()


@lru_cache(maxsize=1)
def lexicon() -> dict[str, tuple[str, str]]:
    """Return lower-case expression → its (attribute, value); no expression has two meanings.

    >>> lexicon()["jumper"], lexicon()["crimson"]
    (('category', 'sweater'), ('colour', 'red'))
    """
    meanings: dict[str, tuple[str, str]] = {}
    for table in ({"category": NOUNS}, ADJECTIVES, PHRASES):
        for name, values in table.items():
            for value, expressions in values.items():
                for expression in expressions:
                    meanings[_bare(expression)] = (name, value)
    return meanings


def _bare(expression: str) -> str:
    return re.sub(r"^(in|with|for|by|from) ((a|an) )?", "", expression).lower()


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    expressions = sorted(lexicon(), key=len, reverse=True)
    return re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, expressions)) + r")(?![\w'-])")


def parse(text: str) -> dict[str, str]:
    """Parse a caption to attribute → value, the inverse of `caption`.

    >>> parse("a stripy crimson jumper with long sleeves by Dorrel")
    {'pattern': 'striped', 'colour': 'red', 'category': 'sweater', 'sleeve': 'long', 'brand': 'Dorrel'}
    """
    return dict(lexicon()[match] for match in _pattern().findall(text.lower()))


def unexplained(text: str) -> list[str]:
    """Return the words of a caption that do not belong to an attribute.

    >>> unexplained("a pair of jeans for women")
    ['a', 'pair', 'of', 'for']
    """
    return _pattern().sub(" ", text.lower()).split()
