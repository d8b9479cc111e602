"""Text in Markdown that stays text, whoever wrote it: in tables, model cards and reports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

SIGNS = str.maketrans({sign: f"\\{sign}" for sign in "\\`*|~"} | {"&": "&amp;", "<": "&lt;"})
_EDGE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # within a word an underscore is one
_BREAK = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_BLOCK = re.compile(r"[#>+=\-]|\d+(?=[.)])")


class Markdown(str):
    """Text that is Markdown already: `render` leaves it as it is."""

    __slots__ = ()


def escape(text: str) -> str:
    """Text within a line: no HTML, links, cells, code or emphasis of its own.

    >>> print(escape("<b> | *c* _d_ t2i_mrr [e](f)"))
    &lt;b> \\| \\*c\\* \\_d\\_ t2i_mrr [e]\\(f)
    """
    return _EDGE.sub(r"\\_", one_line(text).strip().translate(SIGNS)).replace("](", "]\\(").replace("]:", "]\\:")


def paragraph(text: str) -> str:
    """Text that begins a line: no heading, list, rule, quotation or definition, either.

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
    """Inline code, outside of tables.

    >>> print(code("a_b"), code("a `b`"))
    `a_b` `` a `b` ``
    """
    ticks = "`" * (_longest(text) + 1)
    space = " " if "`" in text or not text.strip() else ""
    return Markdown(f"{ticks}{space}{one_line(text)}{space}{ticks}")


def fence(text: str, language: str = "") -> Markdown:
    """A code block.

    >>> print(fence("print('a')", "python"))
    ```python
    print('a')
    ```
    """
    ticks = "`" * max(3, _longest(text) + 1)
    return Markdown(f"{ticks}{language}\n{text}\n{ticks}")


def one_line(text: str) -> str:
    """Text with a space for each line break."""
    return _BREAK.sub(" ", text)


def render(template: Path, **values: Any) -> str:
    """A template of Jinja in which every value is escaped but `Markdown`."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, finalize=lambda value: value if isinstance(value, Markdown) else escape(str(value))
    )
    return environment.from_string(template.read_text(encoding="utf-8")).render(**values)


def _longest(text: str) -> int:
    """The length of the longest run of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)
