"""YAML of somebody else's as plain values."""

from __future__ import annotations

from typing import Any

import yaml

MAX_DEPTH = 64
"""Of nesting: PyYAML's time grows with its square."""


def load(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """What a YAML document holds.

    Args:
        text: Of the document.
        loader: How plain words become values.

    Raises:
        ValueError: It has aliases or deep nesting, which take memory or time without a bound.
        yaml.YAMLError: It is not YAML, or has tags.

    >>> load("a: [1, x]")
    {'a': [1, 'x']}
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has YAML aliases, which Modiste never writes")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
    return yaml.load(text, Loader=loader)
