"""What is printed, made harmless: data may hold escape sequences that a terminal would obey, or what it cannot show."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

CONTROLS = {*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {0x09, 0x0A}
"""C0 without tab and newline, DEL, C1, and what turns the direction of text: embeddings, overrides, isolates."""
VISIBLE = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in CONTROLS}
_BAR = re.compile(r"\r|(\x1b\[A)+\Z")  # how tqdm begins a write, or goes back to the bar above


def clean(text: str) -> str:
    r"""Make control characters visible, as Python writes them.

    >>> clean("a\tred\x1b[2J dress\r\n")
    'a\tred\\x1b[2J dress\n'
    """
    return text.replace("\r\n", "\n").translate(VISIBLE)


def as_utf8(argument: str) -> str:
    """An argument of the process, decoded as UTF-8 where the locale is of another encoding and could not read it.

    >>> as_utf8(b"\\xc3\\xa9t\\xc3\\xa9".decode("ascii", "surrogateescape"))
    'été'
    """
    return argument.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


class Clean:
    """A text stream that cleans what is written to it.

    Args:
        stream: Where it is written to. Rich, which has its own escape sequences, writes there directly.
    """

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        bar = _BAR.match(text)
        kept = bar.end() if bar else 0
        return self.rich_proxied_file.write(text[:kept] + clean(text[kept:]))

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["rich_proxied_file"], name)


@contextmanager
def safe_output() -> Iterator[None]:
    """Clean stdout and stderr; replace what their encoding lacks; stand in for a closed stream.

    After an exception they stay so: its traceback is still to be printed.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    for name in ("stdin", "stdout", "stderr"):
        # The lowest free descriptor: none of the three can become that of a file that is opened later.
        stream = getattr(sys, name) or open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115
        if name != "stdin":
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
            stream = Clean(stream)
        setattr(sys, name, stream)
    yield
    sys.stdin, sys.stdout, sys.stderr = before


def clean_rich() -> None:
    """Let Rich, which drops a few control characters from texts, show all of them."""
    from rich import control

    control._CONTROL_STRIP_TRANSLATE.update(VISIBLE | {0x0D: None})  # type: ignore[arg-type]
