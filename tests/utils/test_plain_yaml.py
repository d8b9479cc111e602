"""YAML of somebody else's takes neither time nor memory without a bound."""

import pytest

from modiste.utils import plain_yaml


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 20_000, "- " * 50_000, "a: [" * 3000 + "]" * 3000])
def test_deep_nesting_is_refused_at_once(text):
    with pytest.raises(ValueError, match="nested too deeply"):
        plain_yaml.load(text)


def test_aliases_and_tags_are_refused():
    with pytest.raises(ValueError, match="aliases"):
        plain_yaml.load("a: &x [1]\nb: *x")
    with pytest.raises(plain_yaml.yaml.YAMLError):
        plain_yaml.load("a: !!python/object/apply:os.system [id]")
