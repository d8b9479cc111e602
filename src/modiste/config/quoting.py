"""Quoting and escaping of literal text for Hydra's override grammar and for OmegaConf."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf


def quote(text: str) -> str:
    r"""Quote ``text`` so that Hydra's override grammar reads exactly this value.

    >>> quote("runs/a (1), b")
    '"runs/a (1), b"'
    """
    text = re.sub(r'(?<!\\)(\\*)"', r'\1\1\\"', text)  # a quote, and the backslashes before it, are escaped
    text = escape_interpolations(text)
    return '"' + text + text[len(text.rstrip("\\")) :] + '"'


def escape_interpolations(text: str) -> str:
    r"""Escape ``text`` so that OmegaConf resolves it to exactly ``text``, without interpolation.

    >>> escape_interpolations("${name}")
    '\\${name}'
    """
    return re.sub(r"(?<!\\)(\\*)\$\{", r"\1\1\\${", text)


def literal_config(values: Mapping[str, Any]) -> DictConfig:
    r"""Create a configuration from plain values, with ``${…}`` kept as literal text.

    Values that are already resolved may contain untrusted text, which must not be resolved again.

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
