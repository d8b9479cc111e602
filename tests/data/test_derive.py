"""Derived columns: the first rule that holds, and mistakes in one sentence."""

import pytest
from PIL import Image

from modiste.data.catalogue import Card, Catalogue
from modiste.data.derive import derive
from modiste.errors import ModisteError


@pytest.fixture
def shop():
    rows = {
        "text": ["Brown Boots", "Boot polish", "white sneaker", "belt"],
        "type": ["Shoes", "Care", "Shoes", "Belts"],
    }
    names = [str(row) for row in range(4)]
    return Catalogue.build(Card("shop"), {"product_id": names, "image": names, "pixels": names, **rows}, None)


def test_the_first_rule_of_which_every_expression_is_found_counts(shop):
    rules = [{"value": "boot", "text": r"\bBOOTS?\b", "type": "^shoes$"}, {"value": "shoe", "type": "shoes|care"}]
    derived = derive(shop, {"kind": rules})
    assert derived.column("kind") == ["boot", "shoe", "shoe", ""]
    assert "kind" in derived.attributes
    assert derived.fingerprint() != shop.fingerprint()
    assert derive(shop, {"kind": rules[::-1]}).column("kind") == ["shoe", "shoe", "shoe", ""]


class Drawn:
    """Boxes of width 40 on white, their heights by name."""

    def read(self, ref):
        photo = Image.new("RGB", (60, 80), "white")
        photo.paste("navy", (10, 70 - int(ref), 50, 70))
        return photo


def test_the_shape_of_what_a_picture_shows_is_a_rule():
    names = ["20", "40", "60"]
    shop = Catalogue.build(Card("shop"), {"product_id": names, "image": names, "pixels": names, "text": names}, Drawn())
    rules = [{"value": "tall", "aspect": [0.9, 1.2]}, {"value": "flat", "aspect": [0, 0.8], "text": "20|60"}]
    assert derive(shop, {"shape": rules}).column("shape") == ["flat", "tall", ""]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"type": [{"value": "a", "text": "b"}]}, "has a column of this name"),
        ({"kind": [{"text": "b"}]}, "needs a value and a column"),
        ({"kind": [{"value": "b"}]}, "needs a value and a column"),
        ({"kind": [{"value": "a", "text": "("}]}, "is not a regular expression"),
        ({"kind": [{"value": "a", "aspect": 1}]}, "must be two numbers"),
        ({"kind": [{"value": "a", "tipe": "b"}]}, "tipe"),
    ],
)
def test_mistakes_are_said(shop, columns, message):
    with pytest.raises(ModisteError, match=message):
        derive(shop, columns)


def test_no_expression_takes_more_than_linear_time():
    """Python's engine would take years for this one, which a stranger's configuration may hold."""
    shop = Catalogue.build(
        Card("shop"), {"product_id": ["1"], "text": ["a" * 5000], "image": ["1"], "pixels": ["1"]}, None
    )
    rules = {"kind": [{"value": "x", "text": r"^([\w ]+)+\x00$"}]}
    assert derive(shop, rules).column("kind") == [""]
