"""Values in the grammar of Hydra's overrides."""

from __future__ import annotations

import re


def quote(text: str) -> str:
    r"""A value for Hydra's override grammar that means exactly ``text``.

    >>> quote("runs/a (1), b")
    '"runs/a (1), b"'
    """
    text = re.sub(r'(\\*)"', r'\1\1\\"', text)  # a quote, and the backslashes before it, are escaped
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # and so is what would be an interpolation
    return '"' + re.sub(r"(\\+)$", r"\1\1", text) + '"'
