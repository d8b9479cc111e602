"""Escaping of untrusted text in Markdown tables, model cards and reports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

SIGNS = str.maketrans({sign: f"\\{sign}" for sign in "\\`*|~"} | {"&": "&amp;", "<": "&lt;"})
_EDGE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word is no emphasis
_BREAK = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_BLOCK = re.compile(r"[#>+=\-]|\d+(?=[.)])")


class Markdown(str):
    """Text that is already Markdown: `escape` returns it unchanged."""

    __slots__ = ()


def escape(text: str) -> str:
    """Escape text within a line, except `Markdown`: no HTML, links, table cells, code or emphasis.

    >>> print(escape("<b> | *c* _d_ t2i_mrr [e](f)"))
    &lt;b> \\| \\*c\\* \\_d\\_ t2i_mrr [e]\\(f)
    """
    if isinstance(text, Markdown):
        return text
    return _EDGE.sub(r"\\_", one_line(text).strip().translate(SIGNS)).replace("](", "]\\(").replace("]:", "]\\:")


def paragraph(text: str) -> str:
    """Escape text that begins a line: also no heading, list, rule, quotation or definition.

    >>> print(paragraph("# a"), paragraph(" 1. b"), paragraph("--- c"))
    \\# a 1\\. b \\--- c
    """
    text = escape(text)
    found = _BLOCK.match(text)
    if found is None:
        return text
    place = found.end() if found[0].isdigit() else 0
    return f"{text[:place]}\\{text[place:]}"


def code(text: str) -> Markdown:
    """Format inline code, outside tables.

    >>> print(code("a_b"), code("a `b`"))
    `a_b` `` a `b` ``
    """
    ticks = "`" * (_longest(text) + 1)
    space = " " if "`" in text or not text.strip() else ""
    return Markdown(f"{ticks}{space}{one_line(text)}{space}{ticks}")


def fence(text: str, language: str = "") -> Markdown:
    """Format a code block.

    >>> print(fence("print('a')", "python"))
    ```python
    print('a')
    ```
    """
    ticks = "`" * max(3, _longest(text) + 1)
    return Markdown(f"{ticks}{language}\n{text}\n{ticks}")


def one_line(text: str) -> str:
    """Replace each line break with a space."""
    return _BREAK.sub(" ", text)


def render(template: Path, **values: Any) -> str:
    """Render a Jinja template; every value except `Markdown` is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, finalize=lambda value: escape(value if isinstance(value, str) else str(value))
    )
    return environment.from_string(template.read_text(encoding="utf-8")).render(**values)


def _longest(text: str) -> int:
    """The length of the longest run of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)
