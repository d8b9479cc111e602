"""Filters: SQL-like conditions, parsed, checked against the columns and evaluated by all engines."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from modiste.errors import ModisteError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

TEXT, NUMBER = "text", "number"
"""Types of columns."""
Value = str | float | int
DEPTH = 50
"""Maximum nesting of parentheses and ``not``."""
LONGEST = 100_000
"""Maximum characters of a condition."""
DIGITS = 400
"""Maximum characters of a number; the largest float64 has fewer."""
HINTS = 5
"""Maximum number of hints of `near_misses`."""

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])|'(?P<text>(?:[^']|'')*)'|`(?P<quoted>[^`]+)`|"(?P<double>[^"]+)"
    |(?P<word>[^\W\d]\w*)|(?P<sign><=|>=|!=|<>|==|[=<>(),]))""",
    re.VERBOSE,
)
_SIGNS = {"==": "=", "<>": "!="}
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(frozen=True)
class Compare:
    """``column op value``; a missing value matches no comparison."""

    column: str
    sign: str
    value: Value


@dataclass(frozen=True)
class In:
    """``column in (values)``."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Like:
    """``column like pattern``, with ``%`` for any characters and ``_`` for one; case-insensitive."""

    column: str
    pattern: str


@dataclass(frozen=True)
class Missing:
    """``column is null``."""

    column: str


@dataclass(frozen=True)
class Constant:
    """``true`` or ``false``."""

    value: bool


@dataclass(frozen=True)
class Not:
    """All rows that ``part`` does not match, including those with missing values."""

    part: Node


@dataclass(frozen=True)
class Join:
    """``and`` or ``or`` of several conditions."""

    word: str
    parts: tuple[Node, ...]


Node = Compare | In | Like | Missing | Constant | Not | Join


def parse(text: str | None, types: Mapping[str, str], values: Callable[[str], list[str]] | None = None) -> Node | None:
    """Parse a condition; None for no text.

    Comparisons (``= != < <= > >=``), ``in (…)``, ``not in``, ``between … and …``, ``like '…%'``, ``is null``,
    ``is not null``, ``and``, ``or``, ``not``, ``true``, ``false`` and parentheses. Text is in single quotes; a column
    with special characters in backticks.

    Args:
        text: The condition.
        types: Column → `TEXT` or `NUMBER`.
        values: Returns the distinct values of a text column, for examples in error messages.

    Raises:
        ModisteError: The condition cannot be parsed or is longer than `LONGEST`, a column is unknown, or a value is not
            of its column's type.

    >>> parse("price < 50", {"price": NUMBER, "gender": TEXT})
    Compare(column='price', sign='<', value=50)
    >>> parse("gendr = 'Men'", {"gender": TEXT})
    Traceback (most recent call last):
    ...
    modiste.errors.ModisteError: where: there is no column 'gendr'. Did you mean 'gender'?
    """
    if text is None or not text.strip():
        return None
    if len(text) > LONGEST:
        raise ModisteError(f"where: a filter of {len(text):,} characters is too long: write at most {LONGEST:,}.")
    return _Parser(text, types, values).parse()


class _Parser:
    def __init__(self, text: str, types: Mapping[str, str], values: Callable[[str], list[str]] | None = None) -> None:
        self.text, self.types, self.values = text, types, values
        self.tokens = list(self._tokens())
        self.place = self.depth = 0

    def _tokens(self) -> Any:
        start, end = 0, len(self.text.rstrip())
        while start < end:
            match = _TOKEN.match(self.text, start)
            if match is None:
                raise ModisteError(
                    f"where: cannot read '{_short(self.text[start:].strip())}': write for instance {self._example()}."
                )
            start = match.end()
            kind = str(match.lastgroup)
            value: Any = match[kind]
            if kind == "number":
                value = _number(value)
            elif kind == "text":
                value = value.replace("''", "'")
            elif kind == "sign":
                value = _SIGNS.get(value, value)
            yield ("column" if kind in ("quoted", "double") else kind), value

    def _example(self) -> str:
        text = next((name for name, kind in self.types.items() if kind == TEXT), "gender")
        number = next((name for name, kind in self.types.items() if kind == NUMBER), None)
        return f"{text} = 'value'" + (f" and {number} < 50" if number else "")

    def parse(self) -> Node:
        node = self._any()
        if self.place < len(self.tokens):
            raise self._unexpected()
        return node

    def _next(self) -> tuple[str, Any]:
        return self.tokens[self.place] if self.place < len(self.tokens) else ("end", "the end")

    def _take(self, kind: str, *values: Any) -> Any:
        """Consume the next token if it is of ``kind`` and one of ``values``; else return None."""
        found, value = self._next()
        word = value.lower() if kind == "word" and found == "word" and values else value
        if found != kind or (values and word not in values):
            return None
        self.place += 1
        return word

    def _expect(self, kind: str, *values: Any) -> Any:
        value = self._take(kind, *values)
        if value is None:
            raise self._unexpected(f"'{values[0]}'" if values else kind)
        return value

    def _unexpected(self, wanted: str = "") -> ModisteError:
        found, value = self._next()
        shown = f"'{_short(str(value))}'" if found != "end" else value
        expected = f" where {wanted} should stand" if wanted else ""
        return ModisteError(
            f'where: {shown} is unexpected{expected} in "{_short(self.text, 200)}": write {self._example()}.'
        )

    def _any(self) -> Node:
        return self._joined("or", lambda: self._joined("and", self._one))

    def _joined(self, word: str, part: Callable[[], Node]) -> Node:
        parts = [part()]
        while self._take("word", word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Join(word, tuple(parts))

    def _one(self) -> Node:
        negated = self._take("word", "not")
        if negated or self._take("sign", "("):
            self.depth += 1
            if self.depth > DEPTH:
                raise ModisteError(f"where: more than {DEPTH} nested parentheses or nots: write fewer.")
            node = Not(self._one()) if negated else self._any()
            if not negated:
                self._expect("sign", ")")
            self.depth -= 1
            return node
        constant = self._take("word", "true", "false")
        return Constant(constant == "true") if constant else self._condition(self._column())

    def _column(self) -> str:
        name = self._take("column") or self._take("word")
        if name is None:
            raise self._unexpected("a column")
        if name not in self.types:
            hint = did_you_mean(name, self.types)
            meant = next((column for column in self.types if hint == f"Did you mean '{column}'?"), "")
            written = f" Write {_named(meant)}, with the backticks." if meant and _named(meant) != meant else ""
            raise ModisteError(f"where: there is no column '{_short(name)}'. {hint}{written}")
        return name

    def _condition(self, column: str) -> Node:
        if self._take("word", "is"):
            negated = self._take("word", "not")
            self._expect("word", "null")
            return Not(Missing(column)) if negated else Missing(column)
        if self._take("word", "not"):
            return Not(self._listed(column))
        sign = self._take("sign", *_COMPARE)
        return Compare(column, sign, self._value(column, sign)) if sign else self._listed(column)

    def _listed(self, column: str) -> Node:
        word = self._expect("word", "in", "between", "like")
        if word == "like":
            if self.types[column] != TEXT:
                raise ModisteError(f"where: {column} is a number: like is for text.")
            return Like(column, self._expect("text"))
        if word == "between":
            low = self._value(column, ">=")
            self._expect("word", "and")
            return Join("and", (Compare(column, ">=", low), Compare(column, "<=", self._value(column, "<="))))
        self._expect("sign", "(")
        values = [self._value(column)]
        while self._take("sign", ","):
            values.append(self._value(column))
        self._expect("sign", ")")
        return In(column, tuple(values))

    def _value(self, column: str, sign: str = "=") -> Value:
        kind, value = self._next()
        if kind not in ("text", "number"):
            raise self._unexpected("a value")
        if kind != self.types[column]:
            raise ModisteError(f"where: {self._other_type(column, sign, value)}")
        self.place += 1
        return value

    def _other_type(self, column: str, sign: str, value: Value) -> str:
        """Message for a value of the wrong type, with the remedy."""
        name = _named(column)
        if isinstance(value, str):
            number = _short(value) if re.fullmatch(r"-?\d+(\.\d+)?", value) else "50"
            return f"{name} is a number: write {name} {sign} {number}."
        if sign in ("=", "!="):
            return f"{name} is text: write {name} {sign} '{value}'."
        known = [text for text in (self.values(column) if self.values else []) if text]
        odd = next((text for text in known if not re.fullmatch(r"-?\d+(\.\d+)?", text)), None)
        shown = f", for instance '{_short(odd)}'" if odd is not None else ""
        return (
            f"{name} is text{shown}, and {sign} compares numbers: use = or in, or repair the column "
            "in the table and index it again."
        )


def _number(text: str) -> int | float:
    """Parse a 64-bit number."""
    whole = re.fullmatch(r"-?\d+", text)
    if len(text) > DIGITS or not abs(float(text)) < (2.0**63 if whole else float("inf")):
        raise ModisteError(f"where: {_short(text)} is out of range: write a number of 64 bits.")
    return int(text) if whole else float(text)


def _short(text: str, length: int = 40) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _named(column: str) -> str:
    """A column as written in a condition: in backticks if it is not a word."""
    return column if re.fullmatch(r"[^\W\d]\w*", column) else f"`{column}`"


# ------------------------------------------------------------------------------------------------------- evaluation


def mask(node: Node, table: pa.Table) -> np.ndarray:
    """Which rows of an Arrow ``table`` match the condition, (N,) bool.

    >>> import pyarrow as pa
    >>> table = pa.table({"price": [10, None, 60], "gender": ["Men", "Men", "Women"]})
    >>> mask(parse("not price < 50", {"price": NUMBER}), table).tolist()
    [False, True, True]
    """
    if isinstance(node, Constant):
        return np.full(len(table), node.value)
    if isinstance(node, Not):
        return ~mask(node.part, table)
    if isinstance(node, Join):
        combine = np.logical_and if node.word == "and" else np.logical_or
        return reduce(combine, (mask(part, table) for part in node.parts))  # two masks at a time
    return _column_mask(node, table.column(node.column).combine_chunks())


def _column_mask(node: Compare | In | Like | Missing, column: Any) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(node, Missing):
        return column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_dictionary(column.type):  # evaluate each distinct value once, then look up
        decided = np.append(_plain_mask(node, column.dictionary), False)
        codes = column.indices.fill_null(len(column.dictionary)).to_numpy(zero_copy_only=False)
        return decided[codes]
    return pc.fill_null(_plain(node, column), False).to_numpy(zero_copy_only=False)


def _plain_mask(node: Compare | In | Like, values: Any) -> np.ndarray:
    return _plain(node, values).to_numpy(zero_copy_only=False)


def _plain(node: Compare | In | Like, values: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(node, Like):
        return pc.match_like(values, node.pattern, ignore_case=True)
    given = node.values if isinstance(node, In) else (node.value,)
    if isinstance(given[0], str):
        kind = pa.string()
    elif pa.types.is_integer(values.type) and all(isinstance(value, int) for value in given):
        kind = pa.int64()
    else:
        kind, given = pa.float64(), tuple(map(float, given))
    values = values.cast(kind, safe=False)  # integers of more than 53 bits are compared as the nearest float
    if isinstance(node, In):
        return pc.is_in(values, value_set=pa.array(given, kind))
    names = {"=": "equal", "!=": "not_equal", "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal"}
    return getattr(pc, names[node.sign])(values, pa.scalar(given[0], kind))


def sql(node: Node | None) -> str | None:
    """The condition as LanceDB SQL; None for no condition.

    >>> sql(parse("not (name = 'it''s' or size in (1, 2))", {"name": TEXT, "size": NUMBER}))
    "(NOT coalesce((`name` = 'it''s' OR `size` IN (1, 2)), false))"
    >>> sql(Compare("size", "<", 2.5))
    'CAST(`size` AS DOUBLE) < 2.5'
    """
    if node is None:
        return None
    if isinstance(node, Constant):
        return "true" if node.value else "false"
    if isinstance(node, Not):
        return f"(NOT coalesce({sql(node.part)}, false))"
    if isinstance(node, Join):
        return "(" + f" {node.word.upper()} ".join(str(sql(part)) for part in node.parts) + ")"
    column = f"`{node.column}`"
    if isinstance(node, Missing):
        return f"{column} IS NULL"
    if isinstance(node, Like):
        return f"lower({column}) LIKE {_literal(node.pattern.lower())}"
    given = node.values if isinstance(node, In) else (node.value,)
    if any(isinstance(value, float) for value in given):  # LanceDB refuses to compare integers with decimals
        column = f"CAST({column} AS DOUBLE)"
    if isinstance(node, In):
        return f"{column} IN ({', '.join(map(_literal, given))})"
    return f"{column} {node.sign} {_literal(node.value)}"


def _literal(value: Value) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def near_misses(node: Node | None, values: Callable[[str], list[str]]) -> list[str]:
    """Hints, at most `HINTS`, for text values that no row has, such as ``gender = 'men'`` for ``Men``.

    Args:
        node: The condition.
        values: Returns the distinct values of a text column.
    """
    return list(islice(_hints(node, cache(values)), HINTS))


def _hints(node: Node | None, values: Callable[[str], list[str]]) -> Iterator[str]:
    if isinstance(node, Join):
        for part in node.parts:
            yield from _hints(part, values)
    elif isinstance(node, Not):
        yield from _hints(node.part, values)
    elif isinstance(node, In) or (isinstance(node, Compare) and node.sign == "="):
        for value in node.values if isinstance(node, In) else (node.value,):
            if isinstance(value, str):
                yield from _hint(node.column, value, values(node.column))


def _hint(column: str, value: str, known: list[str]) -> list[str]:
    if value in known:
        return []
    same = [other for other in known if other.lower() == value.lower()]
    meant = f"Did you mean '{same[0]}'?" if same else did_you_mean(value, known)
    return [f"no row has {column} = '{value}'. {meant}"]
