"""Titles that are equal except for accents, word order or one letter."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from modiste.data.splits import normalised
from modiste.evaluation.overlap import Match

SHORTEST = 12
"""Minimum number of letters of a title that tolerates one letter more or less."""


def words(title: str) -> list[str]:
    """The words of a title in alphabetical order, without case, punctuation and accents.

    >>> words("Robe d'Été, rouge") == words("rouge robe d ete")
    True
    """
    decomposed = unicodedata.normalize("NFKD", normalised(title))
    return sorted("".join(letter for letter in decomposed if not unicodedata.combining(letter)).split())


def match_titles(train: Sequence[str], test: Sequence[str]) -> Match:
    """Match titles with equal `words`, or with one letter more or less in one word, to the first row.

    Digits matter: "Air Max 90" and "Air Max 9" do not match. ``distance`` is 0 for equal `words`, else 1.

    >>> match_titles(["Red cotton dress", "Blue shoe"], ["cotton dress, réd", "Red coton dress", "Blue"]).train.tolist()
    [0, 0, -1]
    """
    equal: dict[int, int] = {}
    fuller: dict[int, int] = {}
    shorter: dict[int, int] = {}
    for row, title in enumerate(train):
        own = words(title)
        equal.setdefault(hash(tuple(own)), row)
        fuller.setdefault(hash(tuple(own)), row)
        for key in shortened(own):
            shorter.setdefault(key, row)
    found = np.full(len(test), -1, dtype=np.int64)
    distance = np.full(len(test), np.nan)
    for row, title in enumerate(test):
        own = words(title)
        key = hash(tuple(own))
        if not own:
            continue
        candidates = [equal.get(key)]
        if candidates[0] is None:
            candidates = [shorter.get(key) if long_enough(own) else None]
            candidates += [fuller.get(other) for other in shortened(own)]
        nearest = [candidate for candidate in candidates if candidate is not None]
        if nearest:
            found[row], distance[row] = min(nearest), float(key not in equal)
    return Match(found, distance)


def long_enough(own: Sequence[str]) -> bool:
    """Whether a title is long enough to tolerate one letter more or less."""
    return sum(map(len, own)) >= SHORTEST


def shortened(own: list[str]) -> Iterator[int]:
    """Keys of the title with one letter less in one word."""
    if not long_enough(own):
        return
    for place, word in enumerate(own):
        if len(word) > 2:
            for letter in range(len(word)):
                if not word[letter].isdigit():
                    yield hash(tuple(sorted([*own[:place], word[:letter] + word[letter + 1 :], *own[place + 1 :]])))
