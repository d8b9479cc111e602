"""Values in the grammar of Hydra's overrides."""

from __future__ import annotations

import re


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
