"""Facets are the text columns with few values, the fewest first; ids and long texts are none."""

from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from modiste.search.where import NUMBER, TEXT
from modiste.serve.facets import facet_columns


class Shop:
    snapshot = SimpleNamespace(products=np.arange(100))
    columns: ClassVar = {
        "sku": {f"SKU-{n}": 1 for n in range(100)},
        "about": {f"a long story about a garment, its maker and its wool, {n}": 25 for n in range(4)},
        "colour": {f"colour {n}": 5 for n in range(20)},
        "gender": {"women": 60, "men": 30, "": 10},
        "price": {9.5: 50, 10.5: 50},
        "empty": {"": 100},
    }
    types: ClassVar = dict.fromkeys(columns, TEXT) | {"price": NUMBER}

    def facets(self):
        return self.columns

    def __len__(self):
        return 100


def test_facets_are_columns_of_few_short_values():
    assert facet_columns(Shop()) == ["gender", "colour"]
