"""Untrusted YAML read as plain values."""

from __future__ import annotations

from typing import Any

import yaml

MAX_DEPTH = 64
"""Limit on nesting: PyYAML's time grows with the square of the depth."""


def load(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Load a YAML document, in bounded time and memory.

    Args:
        text: The document.
        loader: A safe loader; it decides which plain scalars become numbers, booleans or null.

    Raises:
        ValueError: The document has aliases, or is nested deeper than `MAX_DEPTH`.
        yaml.YAMLError: The document is not YAML, or has tags.

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
