"""Values as text: in the grammar of Hydra's overrides, and in configurations that resolve it to what it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf


def quote(text: str) -> str:
    r"""A value for Hydra's override grammar that means exactly ``text``.

    >>> quote("runs/a (1), b")
    '"runs/a (1), b"'
    """
    text = re.sub(r'(?<!\\)(\\*)"', r'\1\1\\"', text)  # a quote, and the backslashes before it, are escaped
    text = escape_interpolations(text)
    return '"' + text + text[len(text.rstrip("\\")) :] + '"'


def escape_interpolations(text: str) -> str:
    r"""Text in which OmegaConf finds no interpolation, and that it resolves to ``text``.

    >>> escape_interpolations("${name}")
    '\\${name}'
    """
    return re.sub(r"(?<!\\)(\\*)\$\{", r"\1\1\\${", text)


def literal_config(values: Mapping[str, Any]) -> DictConfig:
    r"""Plain values as a configuration that resolves to them.

    For values that were resolved already: a text that looks like ``${…}`` would be resolved once more, and may come
    from a file.

    >>> literal_config({"a": ["${b}"], "b": 1}).a[0]
    '${b}'
    """
    return OmegaConf.create(_escaped(dict(values)))


def _escaped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(item) for item in value]
    return escape_interpolations(value) if isinstance(value, str) else value
