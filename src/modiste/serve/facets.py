"""Selection of the columns that the page shows as facets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modiste.search.where import TEXT

if TYPE_CHECKING:
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
    products = int(index.snapshot.products.max()) + 1 if len(index) else 0
    found = {}
    for name, counts in index.facets().items():
        values = [value for value in counts if value != ""] if index.types[name] == TEXT else []
        few = len(values) <= products / 2 or (len(values) <= FEW and len(values) < products)
        if 0 < len(values) <= MANY and few and sum(map(len, values)) <= LONG * len(values):
            found[name] = len(values)
    return sorted(found, key=lambda name: found[name])
