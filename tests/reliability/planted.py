"""Copies of training pictures and titles, planted among KAGL's evaluated ones: how many an audit finds, and how many of
those that nobody planted it reports, too. Needs MODISTE_DATA."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from modiste.data.catalogue import Catalogue
from modiste.data.datasets.kagl import Kagl
from modiste.data.splits import normalised
from modiste.evaluation.copies import Thumbnails, match_copies, thumbnail
from modiste.evaluation.overlap import Match, look, match_looks, match_values
from modiste.evaluation.titles import match_titles, words

TRAIN, CONTROLS, PLANTED = 6000, 600, 40
Pair = tuple[str, str]
"""Of a control and the training row that it is reported as a copy of: pictures as product ids, titles as they are."""
# Controls that KAGL holds twice. Each pair was looked at, side by side and as their difference after alignment.
SAME_PICTURE = {
    ("11041", "11042"),  # equal pixels
    ("55029", "55030"),  # one photograph; the lipstick of another colour
    ("56615", "56616"),  # one photograph; the powder of another colour
    ("57558", "57552"),  # one photograph; the lipstick of another colour
    ("57600", "57584"),  # one photograph, moved by a pixel; the lipstick of another colour
}
# One title but for the order of its words or the s of a plural. Titles that are equal need no list.
SAME_TITLE = {
    ("ADIDAS Unisex Cambridge Analogue Black Watch", "ADIDAS Unisex Analogue Cambridge Black Watch"),
    ("Arrow Men Striped Blue Shirt", "Arrow Men Blue Striped Shirt"),
    ("Locomotive Men Grey Printed T-Shirt", "Locomotive Men Printed Grey T-shirt"),
    ("Maxima Attivo Men White Dial Watch", "Maxima Men White Dial Attivo Watch"),
    ("Red Tape Men Brown Casual Shoes", "Red Tape Men Casual Brown Shoes"),
    ("Rocia Women Black & Brown Sandals", "Rocia Women Brown & Black Sandals"),
    ("Scullers Men Purple Check Shirt", "Scullers Men Check Purple Shirts"),
    ("Scullers Men Scul Red White Shirts", "Scullers Men Scul Red White Shirt"),
    ("Sepia Women Printed Blue Top", "Sepia Women Blue Printed Top"),
    ("United Colors of Benetton Men Solid Black Shirt", "United Colors of Benetton Men Solid Black Shirts"),
    ("United Colors of Benetton Men Solid Brown Belts", "United Colors of Benetton Men Solid Brown Belt"),
    ("Vishudh Women Grey Printed Kurta", "Vishudh Women Printed Grey Kurta"),
    ("W Women Printed Blue Kurta", "W Women Blue Printed Kurta"),
    ("Franco Leone Men Black Formal Shoe", "Franco Leone Men Black Formal Shoes"),
}


def cropped(image: Image.Image, part: float) -> Image.Image:
    """Without a part of each side."""
    x, y = round(part * image.width), round(part * image.height)
    return image.crop((x, y, image.width - x, image.height - y))


PICTURES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "cropped by 5 %": lambda image: cropped(image, 0.05),
    "cropped by 2 %": lambda image: cropped(image, 0.02),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "padded": lambda image: ImageOps.expand(image, round(image.width / 10), "white"),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "rotated by 2°": lambda image: image.rotate(2, Image.Resampling.BICUBIC),
}


def accented(title: str, draw: random.Random) -> str:
    """With an accent on a vowel."""
    places = [place for place, letter in enumerate(title) if letter in "aeou"]
    place = draw.choice(places)
    return title[:place] + dict(zip("aeou", "áéöü", strict=True))[title[place]] + title[place + 1 :]


def reordered(title: str, draw: random.Random) -> str:
    """Its words in another order."""
    words = title.split()
    return " ".join(draw.sample(words, len(words)))


def shortened(title: str, draw: random.Random) -> str:
    """Without one letter."""
    place = draw.choice([place for place, letter in enumerate(title) if letter.isalpha()])
    return title[:place] + title[place + 1 :]


TITLES = {"accent": accented, "other word order": reordered, "one letter short": shortened}


@dataclass(frozen=True)
class Found:
    """What an audit says of planted copies, and of controls, which nobody planted.

    Attributes:
        kinds: Kind → planted, found of them, and found before (`match_looks`; equal titles).
        controls: ``pictures`` and ``titles`` → number of controls.
        reported: ``pictures`` and ``titles`` → the controls that are reported.
    """

    kinds: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    controls: dict[str, int] = field(default_factory=dict)
    reported: dict[str, list[Pair]] = field(default_factory=dict)

    @property
    def false(self) -> dict[str, list[Pair]]:
        """The reported controls that are no copies."""
        copies = {"pictures": SAME_PICTURE, "titles": SAME_TITLE}
        return {
            what: [pair for pair in pairs if pair not in copies[what] and len(set(map(normalised, pair))) > 1]
            for what, pairs in self.reported.items()
        }


def measure(seed: int = 0) -> Found:
    """Plant copies of every kind, and look for them."""
    file = Path(os.environ["MODISTE_DATA"]) / "fashion-product-images-small.zip"
    catalogue = Kagl(str(file))()
    draw = random.Random(seed)
    rows = draw.sample(range(len(catalogue)), TRAIN + CONTROLS)
    train, controls = rows[:TRAIN], rows[TRAIN:]
    found = Found()
    _pictures(found, catalogue, train, controls, draw)
    _titles(found, [catalogue.column("text")[row] for row in rows], draw)
    return found


def _pictures(found: Found, catalogue: Catalogue, train: list[int], controls: list[int], draw: random.Random) -> None:
    read = catalogue.read_image
    images = [read(row) for row in controls]
    planted: list[tuple[str, int]] = []
    for kind, change in PICTURES.items():
        for place in draw.sample(range(len(train)), PLANTED):
            planted.append((kind, place))
            images.append(encoded(change(read(train[place]))))
    originals = [read(row) for row in train]
    now = match_copies(small(originals), small(images))
    before = match_looks(np.stack(list(map(look, originals))), np.stack(list(map(look, images))))
    products = catalogue.column("product_id")
    names = ([products[row] for row in train], [products[row] for row in controls])
    _count(found, planted, now, before, names, "pictures")


def _titles(found: Found, titles: list[str], draw: random.Random) -> None:
    train, controls = titles[:TRAIN], titles[TRAIN:]
    planted: list[tuple[str, int]] = []
    texts = list(controls)
    long = [place for place, title in enumerate(train) if len(title) > 20 and train.index(title) == place]
    for kind, change in TITLES.items():
        for place in draw.sample(long, PLANTED):
            planted.append((kind, place))
            texts.append(change(train[place], draw))
    now, before = match_titles(train, texts), match_values(train, texts)
    _count(found, planted, now, before, (train, controls), "titles")


def _count(
    found: Found,
    planted: list[tuple[str, int]],
    now: Match,
    before: Match,
    names: tuple[list[str], list[str]],
    what: str,
) -> None:
    """Add what an audit says (``now``) and said before; ``names`` are those of training rows and of controls.

    A title that training holds in two orders of its words is found with either.
    """
    train, controls = names
    keys = list(map(words, train)) if what == "titles" else train
    for kind in dict.fromkeys(kind for kind, _ in planted):
        rows = [len(controls) + row for row, (name, _) in enumerate(planted) if name == kind]
        places = [place for name, place in planted if name == kind]
        pairs = list(zip(rows, places, strict=True))
        hits = [sum(m.train[row] >= 0 and keys[m.train[row]] == keys[at] for row, at in pairs) for m in (now, before)]
        found.kinds[kind] = (len(rows), int(hits[0]), int(hits[1]))
    found.controls[what] = len(controls)
    touched = np.flatnonzero(now.touched[: len(controls)])
    found.reported[what] = [(controls[row], train[now.train[row]]) for row in touched.tolist()]


def encoded(image: Image.Image) -> Image.Image:
    """Through a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return Image.open(buffer).convert("RGB")


def small(images: list[Image.Image]) -> Thumbnails:
    """Their thumbnails."""
    return Thumbnails.unpacked(np.stack([thumbnail(image) for image in images]))
