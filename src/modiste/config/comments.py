"""Comments next to the keys of a YAML file, shown by ``--help``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SENTENCE_END = re.compile(r"(?<=\.)(?<!\bal\.)(?<!\b\w\.)\s+")  # not after "et al." and initials
COMMENT = re.compile(r"^(\s*)#+ ?(.*)$")


def comments(text: str) -> dict[str, str]:
    """Map dotted key → comment: comments after the key, above it, and continued on the lines below.

    >>> comments("# Head\\nlr: 1   # of AdamW,\\n        # with warm-up\\n# of the loss\\nloss: {} # CLIP\\n")
    {'lr': 'of AdamW, with warm-up', 'loss': 'of the loss; CLIP'}
    """
    lines = text.splitlines()
    found = {}
    claimed: set[int] = set(range(len(_head(lines))))
    taken: set[int] = set()  # lines whose comment belongs to the outer key
    for key, line, value, column in _entries(yaml.compose(text, Loader=LOADER)):
        above = _above(lines, line, claimed)
        end = value.end_mark.line if isinstance(value, yaml.ScalarNode) or value.flow_style else line
        after = [] if end in taken else _after(lines, end, value if end == value.end_mark.line else None, column)
        taken.add(end)
        parts = [" ".join(part.strip() for part in group).strip() for group in (above, after)]
        separator = " " if parts[0].endswith(tuple(".:;,!?")) else "; "
        comment = separator.join(filter(None, parts))
        if comment and key not in found:
            found[key] = comment
    return found


def head(file: Path) -> list[str]:
    """Return the lines of the comment at the head of a file, without the ``@package`` line."""
    lines = _head(file.read_text(encoding="utf-8").splitlines())
    return [line.lstrip("# ").rstrip() for line in lines if "@package" not in line]


def summary(file: Path) -> str:
    """Return the sentences that end on the first line of a file's header, or else the first sentence."""
    prose = list(itertools.takewhile(lambda line: not line.startswith("modiste "), head(file)))
    text, *others = SENTENCE_END.split(" ".join(prose))
    while others and len(f"{text} {others[0]}") <= len(prose[0]):
        text += f" {others.pop(0)}"
    return " ".join(text.split())


def _head(lines: list[str]) -> list[str]:
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return lines[:end]


def _entries(node: yaml.Node | None, path: str = "") -> Iterator[tuple[str, int, yaml.Node, int]]:
    """Yield (dotted key, line, value node, column after the key) of every key, outer keys first."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = f"{path}.{key.value}" if path else str(key.value)
        yield name, key.start_mark.line, value, key.end_mark.column
        yield from _entries(value, name)


def _above(lines: list[str], line: int, claimed: set[int]) -> list[str]:
    """Return the comment lines directly above, with the same indentation, that belong to no other key."""
    indent = len(lines[line]) - len(lines[line].lstrip())
    found: list[str] = []
    i = line - 1
    while i >= 0 and i not in claimed and (match := COMMENT.match(lines[i])) and len(match[1]) == indent:
        if match[2].startswith("  "):  # the continuation of a comment after another key
            break
        found.insert(0, match[2])
        claimed.add(i)
        i -= 1
    return found


def _after(lines: list[str], end: int, value: yaml.Node | None, column: int) -> list[str]:
    """Return the comment at a line's end and its continuation: aligned below, or indented after the #."""
    start = value.end_mark.column if value is not None else column
    match = re.search(r"(?:^|\s)#\s?(.*)$", lines[end][start:])
    if not match:
        return []
    aligned = start + match.start() + lines[end][start + match.start() :].index("#")
    found = [match[1]]
    for line in lines[end + 1 :]:
        below = COMMENT.match(line)
        if not below or not (len(below[1]) == aligned or below[2].startswith("  ")):
            break
        found.append(below[2])
    return found
