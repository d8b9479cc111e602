"""Facets are the text columns with few values, the fewest first; their values are counted by product."""

from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from modiste.search.engines.memory import Snapshot
from modiste.search.where import NUMBER, TEXT
from modiste.serve.facets import MANY, count_values, facet_columns


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

    def count_products(self):
        return 100


def test_facets_are_columns_of_few_short_values():
    assert facet_columns(Shop()) == ["gender", "colour"]


def test_a_product_counts_once_for_each_value_of_its_views():
    rng = np.random.default_rng(0)
    for views in (1, 3):
        codes = rng.permutation(np.repeat(np.arange(50), views))
        values = [None if value == 9 else f"v{value}" for value in rng.integers(0, 10, len(codes))]
        pairs = set(zip(values, codes.tolist(), strict=True))
        counts = count_values(pa.array(values).dictionary_encode(), codes)
        assert counts == {value: sum(other == value for other, _ in pairs) for value in set(values) - {None}}
        assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert count_values(pa.array([], pa.string()).dictionary_encode(), np.empty(0, np.int32)) == {}


def test_all_values_of_a_facet_are_listed():
    pytest.importorskip("prometheus_client")
    from modiste.serve.server import facets

    values = [f"brand {place}" for place in range(MANY)]
    ids = pa.array([str(place) for place in range(MANY)])
    table = pa.table(
        {"row": range(MANY), "product_id": ids.dictionary_encode(), "brand": pa.array(values).dictionary_encode()}
    )
    index = SimpleNamespace(snapshot=Snapshot(table, np.zeros((MANY, 2))), _condition=lambda where: None, types={})
    listed = facets(SimpleNamespace(index=index, facets=["brand"]), None, {})
    assert [entry["value"] for entry in listed["brand"]] == values
