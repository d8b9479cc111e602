"""Facets: the columns that the page filters by, and the number of products of each value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modiste.search.where import TEXT

if TYPE_CHECKING:
    import pyarrow as pa

    from modiste.search.index import Index

MANY = 500
"""Maximum number of values of a facet."""
FEW = 8
"""Up to this number of values, a column may be a facet even if few products share a value."""
LONG = 40
"""Maximum average length of a facet's values in characters."""


def facet_columns(index: Index) -> list[str]:
    """Return the text columns that are useful as facets, those with the fewest values first.

    Excludes long texts, and columns whose values are unique to most products, such as article numbers.
    """
    products = index.count_products()
    found = {}
    for name, counts in index.facets().items():
        values = [value for value in counts if value != ""] if index.types[name] == TEXT else []
        few = len(values) <= products / 2 or (len(values) <= FEW and len(values) < products)
        if 0 < len(values) <= MANY and few and sum(map(len, values)) <= LONG * len(values):
            found[name] = len(values)
    return sorted(found, key=lambda name: found[name])


def count_values(column: pa.DictionaryArray, codes: np.ndarray) -> dict[str, int]:
    """Count the products of each value, the most frequent first; missing values are not counted.

    Args:
        column: Value of each row.
        codes: Product code of each row, (N,).

    >>> import pyarrow as pa
    >>> colours = pa.array(["red", "red", "blue", "blue", "red"]).dictionary_encode()
    >>> count_values(colours, np.array([0, 0, 0, 1, 2]))
    {'red': 2, 'blue': 2}
    """
    known = column.dictionary.to_pylist()
    values = column.indices.fill_null(len(known)).to_numpy().astype(np.int64)
    first = np.zeros(codes.max(initial=0) + 1, np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]  # of equal indices, the last one is kept
    own = first[codes]
    other = np.flatnonzero(values != values[own])  # few: views of a product seldom differ
    pairs = np.unique(values[other] * len(first) + codes[other])
    found = np.concatenate([values[own == np.arange(len(codes))], pairs // len(first)])
    counts = np.bincount(found, minlength=len(known) + 1)[:-1]
    return {known[place]: int(counts[place]) for place in np.argsort(-counts, kind="stable") if counts[place]}
