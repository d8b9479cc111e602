"""Conditions on a Qdrant server use its payload indexes."""

from types import SimpleNamespace

import pyarrow as pa
from qdrant_client import models

from modiste.search import where as conditions
from modiste.search.engines import qdrant
from modiste.search.engines.qdrant import QdrantStore, filter_of


def test_rows_are_indexed_for_lists_of_values_and_attributes_for_ranges(monkeypatch):
    """An index of integers serves MatchAny; one of floats serves only Range."""
    made = {}
    client = SimpleNamespace(
        collection_exists=lambda name: False,
        create_collection=lambda *_, **__: None,
        create_payload_index=lambda _, name, schema: made.update({name: schema}),
        count=lambda *_, **__: SimpleNamespace(count=0),
    )
    monkeypatch.setattr(qdrant, "_client", lambda url: client)
    monkeypatch.setattr(qdrant, "_given", {"http://nowhere"})
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([], pa.float32()), 2)
    types = {"row": conditions.NUMBER, "price": conditions.NUMBER, "colour": conditions.TEXT}
    QdrantStore("http://nowhere", "c", "i").create(pa.table({"_vector": vectors}), types)
    kinds = models.PayloadSchemaType
    assert [made[name] for name in types] == [kinds.INTEGER, kinds.FLOAT, kinds.KEYWORD]

    def asked(text):
        return filter_of(conditions.parse(text, types))

    assert asked("row in (3, 4)").must[0].match == models.MatchAny(any=[3, 4])
    assert asked("colour in ('a', 'b')").must[0].match == models.MatchAny(any=["a", "b"])
    assert [part.range.gte for part in asked("price in (3, 4)").should] == [3, 4]
