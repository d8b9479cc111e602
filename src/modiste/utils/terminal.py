"""Safe terminal output: data may contain escape sequences, or characters that the encoding lacks."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

CONTROLS = {*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {0x09, 0x0A}
"""C0 without tab and newline, DEL, C1, and the bidirectional embeddings, overrides and isolates of Unicode."""
VISIBLE = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in CONTROLS}
_BAR = re.compile(r"\r|(\x1b\[A)+\Z")  # tqdm's return to the start of the line, or to the bar above


def clean(text: str) -> str:
    r"""Replace control characters by their Python escapes.

    >>> clean("a\tred\x1b[2J dress\r\n")
    'a\tred\\x1b[2J dress\n'
    """
    return text.replace("\r\n", "\n").translate(VISIBLE)


def as_utf8(argument: str) -> str:
    """Decode a command-line argument as UTF-8 where the locale's encoding could not.

    >>> as_utf8(b"\\xc3\\xa9t\\xc3\\xa9".decode("ascii", "surrogateescape"))
    'été'
    """
    return argument.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


class Clean:
    """A text stream that applies `clean` to everything written to it.

    Args:
        stream: The underlying stream. Rich writes to it directly, since it emits escape sequences itself.
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
    """Clean stdout and stderr, escape what their encoding lacks, replace closed streams by os.devnull.

    After an exception the streams stay replaced, so that its traceback is cleaned, too.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    for name in ("stdin", "stdout", "stderr"):
        # Takes the lowest free descriptor, so that no file opened later becomes descriptor 0, 1 or 2.
        stream = getattr(sys, name) or open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115
        if name != "stdin":
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
            stream = Clean(stream)
        setattr(sys, name, stream)
    yield
    sys.stdin, sys.stdout, sys.stderr = before


def clean_rich() -> None:
    """Make Rich show all control characters; by default it drops a few of them."""
    from rich import control

    control._CONTROL_STRIP_TRANSLATE.update(VISIBLE | {0x0D: None})  # type: ignore[arg-type]
