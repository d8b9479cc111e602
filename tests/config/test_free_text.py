"""A condition or a query reaches its command as it was written, whatever quotes are in it."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from modiste.cli.overrides import _quoted


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("""where="Price EUR" < 80""", '"Price EUR" < 80'),
        ("where=`Price EUR` < 80 and x = 'it''s'", "`Price EUR` < 80 and x = 'it''s'"),
        ("""where='a' = b""", "'a' = b"),
        ("where=[a] = 3", "[a] = 3"),
        ("""where="price < 50\"""", "price < 50"),  # quoted for Hydra already
        ("""query.text="vintage" dress""", '"vintage" dress'),
        ("query.text=[new] dress", "[new] dress"),
        ("query.text=[a,b]", ["a", "b"]),
        ("where=null", None),
    ],
)
def test_free_text_is_not_parsed(override, value):
    outline = type("Outline", (), {"keys": {"where": None, "query": None}, "groups": {}})()
    parsed = OverridesParser.create().parse_override(_quoted(override, outline, False))
    found = parsed.value()
    assert (found if isinstance(found, list) else None if found is None else str(found)) == value
