"""Templates of texts with ``{}``, which may be a stranger's: a field's width would fill memory."""

from __future__ import annotations

from string import Formatter


def plain_fields(template: str) -> list[str] | None:
    """Names of the fields of a template for ``str.format``, in order; None where one is more than a name.

    >>> plain_fields("a {} of {1}"), plain_fields("{:>1000000000}"), plain_fields("{0.x}"), plain_fields("{")
    (['', '1'], None, None, None)
    """
    try:
        fields = [field for _, *field in Formatter().parse(template) if field[0] is not None]
    except ValueError:
        return None
    plain = all(not spec and conversion is None for _, spec, conversion in fields)
    names = [str(name) for name, _, _ in fields]
    return names if plain and all(not name or name.isalnum() for name in names) else None
