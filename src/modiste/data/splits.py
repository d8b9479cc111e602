"""Splits: train, val, test, held out and excluded rows.

Training shares no product and no image with another split.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modiste.data.catalogue import Catalogue, as_text
from modiste.errors import ModisteError, did_you_mean
from modiste.utils.ranges import Fraction, Seed

log = logging.getLogger(__name__)

EXCLUDED = "excluded"
HoldOut = Mapping[str, Mapping[str, Sequence[str]]]

HELD_OUT = {"train": EXCLUDED, "val": "val_held_out", "test": "test_held_out"}
"""Split of a row → its split when it is held out; rows of other splits stay."""


@dataclass(frozen=True)
class RandomSplit:
    """Random split of whole groups (`groups`) by hash.

    A new product moves no others unless it joins their group.

    Attributes:
        fractions: Split → fraction of the groups; the fractions sum to 1.
        seed: Seed of the hash.
        hold_out: New split → {column: values}: a group with a row that matches in every column moves there completely
            (as HOUT-C and HOUT-B of FashionCLIP, Chia et al. 2022). The first matching entry wins.

    Raises:
        ModisteError: A fraction is negative, the fractions do not sum to 1, or ``hold_out`` names an existing split,
            or an unknown column or value.
    """

    fractions: Mapping[str, Fraction]
    seed: Seed = 0
    hold_out: HoldOut = field(default_factory=dict)

    def __call__(self, catalogue: Catalogue) -> Catalogue:
        _check_fractions(self.fractions)
        group = groups(catalogue)
        split = assign(group, self.fractions, self.seed)
        split.update(_held_out(catalogue, group, self.hold_out))
        return catalogue.replace_column("split", [split[name] for name in group])


@dataclass(frozen=True)
class GivenSplit:
    """The data set's own splits without leaks between them.

    A train row whose group (`groups`) also has a row in another split becomes "excluded", as does a val row whose group
    has a row in a split other than train and val, and every row without a split. Other splits may share products: a
    gallery contains the products of its queries.

    Attributes:
        val_fraction: Fraction of the train groups that becomes val, for data sets without a val split.
        seed: Seed of the hash that chooses them.
        hold_out: As in `RandomSplit`.

    Raises:
        ModisteError: The data set has no splits, ``val_fraction`` is outside [0, 1), or see ``hold_out`` of
            `RandomSplit`.
    """

    val_fraction: Fraction = 0.0
    seed: Seed = 0
    hold_out: HoldOut = field(default_factory=dict)

    def __call__(self, catalogue: Catalogue) -> Catalogue:
        given = catalogue.column("split")
        if not any(given):
            raise ModisteError(
                f"Data set '{catalogue.card.name}' has no splits: use data/split=random, or name its split "
                "column in data.catalogue.columns."
            )
        group = groups(catalogue)
        held_out = _held_out(catalogue, group, self.hold_out)
        present: dict[str, set[str]] = {}
        for name, split in zip(group, given, strict=True):
            present.setdefault(name, set()).add(split)
        validation = _validation(group, self.val_fraction, self.seed)
        split = [
            held_out.get(name) or _without_leak(own, present[name], validation[name])
            for name, own in zip(group, given, strict=True)
        ]
        return catalogue.replace_column("split", split)


@dataclass(frozen=True)
class HeldOut:
    """Hold categories or brands out of training, as separate validation and test splits (`HELD_OUT`).

    Unlike a split's ``hold_out``, which moves all products of a category into one test split, this keeps two sets of
    unseen categories: ``val_held_out`` to select a checkpoint on and ``test_held_out`` to report results on. A group
    (`groups`) with a held-out row is held out completely.

    Attributes:
        entries: A product is held out when it matches one entry. An entry is {column: values}, all of which must match,
            as in ``hold_out``; or {column, count or share, seed}, which samples ``count`` values, or a fraction
            ``share`` of the values (not of the products), from those that occur in both train and val.

    Raises:
        ModisteError: A column, value or key is unknown, the number of values to sample is impossible, or no rows are
            left to train on or in ``val_held_out``.

    >>> from modiste.data.sources import ArrayImages
    >>> import numpy as np
    >>> from modiste.data.catalogue import Card
    >>> columns = {"product_id": list("abcd"), "image": list("0123"), "text": list("abcd"),
    ...            "split": ["train", "train", "val", "test"], "brand": ["A", "B", "B", "B"]}
    >>> catalogue = Catalogue.build(Card("tiny"), columns, ArrayImages(np.arange(64, dtype=np.uint8).reshape(4, 4, 4)))
    >>> HeldOut.parse({"brand": ["B"]})(catalogue).column("split")
    ['train', 'excluded', 'val_held_out', 'test_held_out']
    """

    entries: Sequence[Mapping[str, Any]]

    @classmethod
    def parse(cls, given: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> HeldOut:
        """Create it from ``data.held_out``: an entry, or a list of entries."""
        return cls([given] if isinstance(given, Mapping) else list(given))

    def __call__(self, catalogue: Catalogue) -> Catalogue:
        group = groups(catalogue)
        held: set[str] = set()
        for entry in self.entries:
            conditions = _drawn(catalogue, **_draw_keys(entry)) if "column" in entry else entry
            fits = _fits(catalogue, "data.held_out", conditions)
            held.update(name for name, fit in zip(group, fits, strict=True) if fit)
        own = catalogue.column("split")
        split = [HELD_OUT.get(s, s) if name in held else s for name, s in zip(group, own, strict=True)]
        for needed, where in (("train", "to train on"), ("val_held_out", "in its validation split to hold out")):
            if needed not in split:
                raise ModisteError(
                    f"data.held_out leaves no rows of '{catalogue.card.name}' {where}: name other values."
                )
        excluded = sum(before == "train" != after for before, after in zip(own, split, strict=True))
        log.info("data.held_out: %d of %d training rows excluded", excluded, own.count("train"))
        return catalogue.replace_column("split", split)


def _draw_keys(entry: Mapping[str, Any]) -> dict[str, Any]:
    names = ("column", "count", "share", "seed")
    for name in entry:
        if name not in names:
            raise ModisteError(f"data.held_out has no option '{name}'. {did_you_mean(str(name), names)}")
    return dict(entry)


def _drawn(
    catalogue: Catalogue, column: str, count: int | None = None, share: float | None = None, seed: int = 0
) -> dict[str, list[str]]:
    """Sample {column: values} by lowest hash, so that a new value displaces at most one other."""
    if (count is None) == (share is None):
        raise ModisteError(f"data.held_out for {column} needs either count or share: give one of them.")
    sides: dict[str, set[str]] = {"train": set(), "val": set()}
    for value, split in zip(catalogue.column(column), catalogue.column("split"), strict=True):
        if value and split in sides:
            sides[split].add(value)
    values = sorted(sides["train"] & sides["val"], key=lambda v: hashlib.sha256(f"{seed}:{v}".encode()).digest())
    number = max(1, round(share * len(values))) if share is not None else count
    if not 0 < number < len(values):  # type: ignore[operator]
        raise ModisteError(
            f"data.held_out cannot hold out {number} of the {len(values)} values of {column} in train and val: "
            "at least one must be held out and one must remain."
        )
    return {column: values[:number]}


def _without_leak(own: str, present: set[str], validation: str) -> str:
    if own not in ("", "train", "val"):
        return own
    allowed = {"train": {"", "train"}, "val": {"", "train", "val"}}.get(own, set())
    if not present <= allowed:
        return EXCLUDED
    return validation if own == "train" else own


def normalised(title: str) -> str:
    """Return a title without case, punctuation and repeated spaces.

    >>> normalised("  Puma  Men's T-Shirt!") == normalised("PUMA men s t shirt")
    True
    """
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", title).casefold().replace("_", " ")))


TITLES: dict[str, Callable[[str], str]] = {"exact": str, "normalised": normalised}


@dataclass(frozen=True)
class MarqoSplit:
    """KAGL split for the Marqo protocol: training shares no title or image with test.

    A model trained on it is an in-domain model. test: every product that is relevant to a published query. excluded:
    every other product that shares a title or an identical image with one of them. The rest is train and val, by group
    (`groups`). Of 2,774 test images, 106 still have a training title that differs only in case, punctuation or spaces,
    and 36 a near-identical training image.

    Attributes:
        queries: ``ground_truth_text-image.json`` of Marqo's benchmark: ``{query: {product_id: relevance}}``.
        val_fraction: Fraction of the remaining groups that becomes val.
        seed: Seed of the hash that chooses them.
        hold_out: As in `RandomSplit`, among rows that are neither test nor excluded.
        titles: ``exact``, the fixed protocol; ``normalised`` also excludes titles that differ from a test title only in
            case, punctuation or spaces.

    Raises:
        ModisteError: ``titles`` is unknown, ``val_fraction`` is outside [0, 1), the file is missing or malformed, none
            of its ids is in the data set, or see ``hold_out`` of `RandomSplit`.
    """

    queries: str
    val_fraction: Fraction = 0.05
    seed: Seed = 0
    hold_out: HoldOut = field(default_factory=dict)
    titles: str = "exact"

    def __call__(self, catalogue: Catalogue) -> Catalogue:
        if self.titles not in TITLES:
            raise ModisteError(f"data.split.titles={self.titles} is not known. {did_you_mean(self.titles, TITLES)}")
        products = catalogue.column("product_id")
        test = _relevant_products(self.queries) & set(products)
        if not test:
            raise ModisteError(
                f"No product of data set '{catalogue.card.name}' is in {self.queries}: use the relevance file that "
                "belongs to this data set, or another split (data/split=random)."
            )
        excluded = _sharing(catalogue, test, TITLES[self.titles])
        group = groups(catalogue)
        rest = _validation(group, self.val_fraction, self.seed)
        rest.update(_held_out(catalogue, group, self.hold_out))
        split = [
            "test" if product in test else EXCLUDED if product in excluded else rest[name]
            for product, name in zip(products, group, strict=True)
        ]
        return catalogue.replace_column("split", split)


def _relevant_products(path: str) -> set[str]:
    file = Path(path)
    if not file.is_file():
        raise ModisteError(
            f"{file} does not exist: download ground_truth_text-image.json of KAGL from Marqo's marqo-FashionCLIP "
            "repository, and set data.split.queries to it."
        )
    try:
        published = json.loads(file.read_text(encoding="utf-8"))
        return {str(product) for relevant in published.values() for product in relevant}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ModisteError(f"{file} is not a JSON object {{query: {{product_id: relevance}}}}: {error}") from None


def _sharing(catalogue: Catalogue, test: set[str], title: Callable[[str], str]) -> set[str]:
    """Products that share identical pixels or a title, as mapped by ``title``, with one of ``test``."""
    shared: set[str] = set()
    products = catalogue.column("product_id")
    for values in (list(map(title, catalogue.column("text"))), catalogue.column("pixels")):
        tested = {value for value, product in zip(values, products, strict=True) if product in test}
        shared.update(product for value, product in zip(values, products, strict=True) if value in tested)
    return shared - test


def groups(catalogue: Catalogue) -> list[str]:
    """Return the group of every row, named by its smallest product id.

    Groups are the connected components of rows that share a product or identical pixels.
    """
    products = catalogue.column("product_id")
    parent: dict[str, str] = {product: product for product in products}
    first: dict[str, str] = {}
    for product, pixels in zip(products, catalogue.column("pixels"), strict=True):
        a, b = _root(parent, product), _root(parent, first.setdefault(pixels, product))
        parent[max(a, b)] = min(a, b)
    return [_root(parent, product) for product in products]


def _root(parent: dict[str, str], name: str) -> str:
    while parent[name] != name:
        parent[name] = parent[parent[name]]
        name = parent[name]
    return name


def leaks(catalogue: Catalogue, between: Iterable[str] | None = None) -> dict[str, int]:
    """Count the products, images (by pixels) and titles that are in more than one split.

    Args:
        catalogue: With its split column.
        between: The splits to compare; None: all except "excluded", without undecided rows.

    >>> from modiste.data.sources import ArrayImages
    >>> import numpy as np
    >>> from modiste.data.catalogue import Card
    >>> columns = {"product_id": ["a", "b"], "image": ["0", "1"], "text": ["hat", "hat"], "split": ["train", "test"]}
    >>> images = ArrayImages(np.arange(32, dtype=np.uint8).reshape(2, 4, 4))
    >>> leaks(Catalogue.build(Card("tiny"), columns, images))
    {'products': 0, 'pixels': 0, 'titles': 1}
    """
    splits = catalogue.column("split")
    compared = set(splits) - {"", EXCLUDED} if between is None else set(between)
    counts = {}
    for name, column in {"products": "product_id", "pixels": "pixels", "titles": "text"}.items():
        sides: dict[str, set[str]] = {}
        for value, split in zip(catalogue.column(column), splits, strict=True):
            if split in compared:
                sides.setdefault(value, set()).add(split)
        counts[name] = sum(len(side) > 1 for side in sides.values())
    return counts


def _check_fractions(fractions: Mapping[str, float]) -> None:
    numbers = all(isinstance(name, str) and isinstance(part, (int, float)) for name, part in fractions.items())
    if not numbers or not all(part >= 0 for part in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        shown = ", ".join(f"{name} {part}" for name, part in fractions.items())
        raise ModisteError(
            f"The fractions of data.split must be numbers by split name, positive and sum to 1, not {shown or 'none'}."
        )


def assign(group: Iterable[str], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """Group → split, by a number in [0, 1): a hash of the seed and the group's name.

    >>> assign(["SKU-1", "SKU-2"], {"val": 0.5, "test": 0.5}, seed=0)["SKU-1"] in ("val", "test")
    True
    """
    names = [name for name, part in fractions.items() if part > 0]
    split = {}
    for key in set(group):
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        u = int.from_bytes(digest[:7], "big") / 2**56
        split[key] = names[-1]
        for name in names:
            u -= fractions[name]
            if u < 0:
                split[key] = name
                break
    return split


def _validation(group: Iterable[str], val_fraction: float, seed: int) -> dict[str, str]:
    if not 0 <= val_fraction < 1:
        raise ModisteError(f"data.split.val_fraction={val_fraction} must be at least 0 and less than 1.")
    return assign(group, {"val": val_fraction, "train": 1 - val_fraction}, seed)


def _held_out(catalogue: Catalogue, group: Sequence[str], hold_out: HoldOut) -> dict[str, str]:
    """Group → the hold-out split that it moves to."""
    held: dict[str, str] = {}
    for name, conditions in (hold_out or {}).items():
        if name in ("train", "val", "test", EXCLUDED) or not conditions:
            raise ModisteError(f"data.split.hold_out.{name} must have a unique name and list columns and values.")
        fits = _fits(catalogue, f"data.split.hold_out.{name}", conditions)
        if not any(fits):
            log.warning("data.split.hold_out.%s matches no product: split '%s' is empty; add products.", name, name)
        for key, fit in zip(group, fits, strict=True):
            if fit:
                held.setdefault(key, name)
    return held


def _fits(catalogue: Catalogue, key: str, conditions: Mapping[str, Sequence[str]]) -> list[bool]:
    """Whether each row matches in every column; ``key`` names the config's option in messages.

    No match at all is an error unless the data card lists the values: a subset of the data set lacks some.
    """
    fits, known = [True] * len(catalogue), True
    for column, values in conditions.items():
        wanted = _wanted(catalogue, key, column, values)
        fits = [fit and value in wanted for fit, value in zip(fits, catalogue.column(column), strict=True)]
        known = known and wanted <= set(catalogue.card.values.get(column, ()))
    if not any(fits) and not known:
        raise ModisteError(f"{key} matches no product: no row has all of its values.")
    return fits


def _wanted(catalogue: Catalogue, key: str, column: str, values: Sequence[str] | str) -> set[str]:
    present = {*catalogue.column(column), *catalogue.card.values.get(column, ())}
    listed = [values] if isinstance(values, (str, int, float)) else values
    wanted = {as_text(value) for value in listed}
    for value in wanted - present:
        raise ModisteError(f"{key}: column '{column}' has no value '{value}'. {did_you_mean(value, present)}")
    return wanted
