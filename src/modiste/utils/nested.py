"""Walks through nested mappings and sequences of plain values, without recursion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence


def entries(values: object) -> Iterator[tuple[str, object]]:
    """Yield each (key, value) of the mappings in nested containers.

    >>> sorted(entries([{"a": 1}, [{"b": "c"}]]))
    [('a', 1), ('b', 'c')]
    """
    found = [values]
    while found:
        part = found.pop()
        if isinstance(part, Mapping):
            yield from ((str(key), value) for key, value in part.items())
            found.extend(part.values())
        elif isinstance(part, Sequence) and not isinstance(part, str | bytes):
            found.extend(part)


def leaves(value: object) -> list[object]:
    """Return the values in nested containers that are not containers themselves.

    >>> leaves({"a": [1], "b": {"c": "d"}})
    ['d', 1]
    """
    found, ends = [value], []
    while found:
        part = found.pop()
        if isinstance(part, Mapping | Sequence) and not isinstance(part, str | bytes):
            found.extend(part.values() if isinstance(part, Mapping) else part)
        else:
            ends.append(part)
    return ends
