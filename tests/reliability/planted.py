"""Copies of training pictures and titles, planted among KAGL's evaluated ones: how many an audit finds, and how many of
those that nobody planted it reports, too. Needs MODISTE_DATA."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from modiste.data.datasets.kagl import Kagl
from modiste.evaluation.copies import Thumbnails, match_copies, thumbnail
from modiste.evaluation.overlap import Match, look, match_looks, match_values
from modiste.evaluation.titles import match_titles

TRAIN, CONTROLS, PLANTED = 6000, 600, 40


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


def measure(seed: int = 0) -> dict[str, tuple[int, int, int]]:
    """Kind → planted, found of them, and found before (`match_looks`; equal titles).

    ``controls: pictures`` and ``controls: titles`` have the number of evaluated rows that nobody planted and the number
    of them that are reported beyond those that were reported before.
    """
    file = Path(os.environ["MODISTE_DATA"]) / "fashion-product-images-small.zip"
    catalogue = Kagl(str(file))()
    draw = random.Random(seed)
    rows = draw.sample(range(len(catalogue)), TRAIN + CONTROLS)
    train, controls = rows[:TRAIN], rows[TRAIN:]
    found = _pictures(catalogue, train, controls, draw)
    return found | _titles([catalogue.column("text")[row] for row in rows], draw)


def _pictures(catalogue: object, train: list[int], controls: list[int], draw: random.Random) -> dict:
    read = catalogue.read_image  # type: ignore[attr-defined]
    images = [read(row) for row in controls]
    planted: list[tuple[str, int]] = []
    for kind, change in PICTURES.items():
        for place in draw.sample(range(len(train)), PLANTED):
            planted.append((kind, place))
            images.append(encoded(change(read(train[place]))))
    originals = [read(row) for row in train]
    now = match_copies(small(originals), small(images))
    before = match_looks(np.stack(list(map(look, originals))), np.stack(list(map(look, images))))
    return _counted(planted, now, before, len(controls), "pictures")


def _titles(titles: list[str], draw: random.Random) -> dict:
    train, controls = titles[:TRAIN], titles[TRAIN:]
    planted: list[tuple[str, int]] = []
    texts = list(controls)
    long = [place for place, title in enumerate(train) if len(title) > 20 and train.index(title) == place]
    for kind, change in TITLES.items():
        for place in draw.sample(long, PLANTED):
            planted.append((kind, place))
            texts.append(change(train[place], draw))
    return _counted(planted, match_titles(train, texts), match_values(train, texts), len(controls), "titles")


def _counted(planted: list[tuple[str, int]], now: Match, before: Match, controls: int, what: str) -> dict:
    counts: dict[str, tuple[int, int, int]] = {}
    for kind in dict.fromkeys(kind for kind, _ in planted):
        rows = [controls + row for row, (name, _) in enumerate(planted) if name == kind]
        places = [place for name, place in planted if name == kind]
        hits = [sum(int(m.train[row] == place) for row, place in zip(rows, places, strict=True)) for m in (now, before)]
        counts[kind] = (len(rows), *hits)  # type: ignore[assignment]
    more = now.touched[:controls] & ~before.touched[:controls]
    counts[f"controls: {what}"] = (controls, int(more.sum()), int(before.touched[:controls].sum()))
    return counts


def encoded(image: Image.Image) -> Image.Image:
    """Through a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return Image.open(buffer).convert("RGB")


def small(images: list[Image.Image]) -> Thumbnails:
    """Their thumbnails."""
    return Thumbnails.unpacked(np.stack([thumbnail(image) for image in images]))
