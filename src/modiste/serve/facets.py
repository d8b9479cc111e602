"""Which columns of an index are facets of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modiste.search.where import TEXT

if TYPE_CHECKING:
    from modiste.search.index import Index

MANY = 500
"""A text column with more values than this is no facet."""
FEW = 8
"""Up to this number of values a column is a facet also where few products share one."""
LONG = 40
"""Characters: a text column whose values are longer on average is no facet."""


def facet_columns(index: Index) -> list[str]:
    """The text columns that are of use as facets, those with the fewest values first.

    Long texts and columns that have a value of its own for most products, such as article numbers, are none.
    """
    products = int(index.snapshot.products.max()) + 1 if len(index) else 0
    found = {}
    for name, counts in index.facets().items():
        values = [value for value in counts if value != ""] if index.types[name] == TEXT else []
        few = len(values) <= products / 2 or (len(values) <= FEW and len(values) < products)
        if 0 < len(values) <= MANY and few and sum(map(len, values)) <= LONG * len(values):
            found[name] = len(values)
    return sorted(found, key=lambda name: found[name])
