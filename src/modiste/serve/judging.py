"""Blind comparison of two rankings by interleaving: marked results are credited to their ranking."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modiste.errors import ModisteError
from modiste.metrics.comparison import compare, mcnemar

MAIN, OTHER, BOTH = "main", "compare", "both"
CUTOFF = 10
"""Number of ranks that are interleaved and measured."""


@dataclass(frozen=True)
class Query:
    """A line of a query file.

    Attributes:
        text: The query.
        product: Id of the product that it should find; empty if unknown.
    """

    text: str
    product: str = ""


def parse_queries(file: str, limit: int) -> list[Query]:
    """Parse a file with one query per line, optionally followed by a comma and a product id (CSV quoting).

    A first line that begins with the cell ``query`` is a header.

    Raises:
        ModisteError: The file is not CSV, has no query, or more than ``limit``.

    >>> parse_queries('query,product\\nred shoes\\n"dress, blue",17', 10)
    [Query(text='red shoes', product=''), Query(text='dress, blue', product='17')]
    """
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file.splitlines(), skipinitialspace=True)]
    except csv.Error as error:
        raise ModisteError(f"The file cannot be read as CSV ({error}): give one query per line.") from error
    if rows and rows[0] and rows[0][0].lower() == "query":
        rows = rows[1:]
    queries = [Query(row[0], row[1] if len(row) > 1 else "") for row in rows if row and row[0]]
    if not 0 < len(queries) <= limit:
        raise ModisteError(f"The file has {len(queries)} queries: give 1 to {limit}, one per line.")
    return queries


def team_draft(main: Sequence[str], other: Sequence[str], length: int, seed: str) -> list[tuple[str, str]]:
    """Interleave two rankings by team draft.

    In each round, both pick their best remaining item, in random order.

    An item that is the best remaining one of both is credited to both, since it does not tell which is better.

    Args:
        main: Product ids of the first ranking, best first.
        other: Product ids of the second ranking, best first.
        length: Maximum length of the result.
        seed: Seed of the order within each round.

    Returns:
        Pairs of product id and ``main``, ``compare`` or ``both``, best first.

    Source: Radlinski, Kurup, Joachims, *How does clickthrough data reflect retrieval quality?*, CIKM 2008.

    >>> team_draft(["a", "b"], ["a", "c"], 3, seed="0")[0]
    ('a', 'both')
    """
    generator = random.Random(seed)
    rankings, taken, drafted = {MAIN: main, OTHER: other}, set[str](), list[tuple[str, str]]()

    def best(team: str) -> str | None:
        return next((item for item in rankings[team] if item not in taken), None)

    def draft(item: str, team: str) -> None:
        taken.add(item)
        drafted.append((item, team))

    while len(drafted) < length:
        first, second = best(MAIN), best(OTHER)
        if first is None and second is None:
            break
        if first is not None and first == second:
            draft(first, BOTH)
            continue
        for team in generator.sample([MAIN, OTHER], 2):
            item = best(team)
            if item is not None:
                draft(item, team)
    return drafted[:length]


def judge(drafts: Sequence[Sequence[tuple[str, str]]], picked: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Count the queries that each ranking won, and test the difference.

    Args:
        drafts: Result of `team_draft` for each query.
        picked: Product ids marked as relevant, for each query.

    Returns:
        ``wins`` (of ``main`` and ``compare``, and ``ties``), ``p`` (exact two-sided sign test over the queries without
        ties) and ``credited`` (the ranking of each result).

    Raises:
        ModisteError: The numbers of queries differ.

    >>> judge([[("a", "main"), ("b", "compare")]], [["a"]])["wins"]
    {'main': 1, 'compare': 0, 'ties': 0}
    """
    if len(drafts) != len(picked):
        raise ModisteError(f"{len(picked)} queries were judged, but {len(drafts)} were asked: start again.")
    marks = [
        tuple(sum(team == side and item in chosen for item, team in draft) for side in (MAIN, OTHER))
        for draft, chosen in zip(drafts, map(set, picked), strict=True)
    ]
    won, lost = [main > other for main, other in marks], [main < other for main, other in marks]
    return {
        "wins": {MAIN: sum(won), OTHER: sum(lost), "ties": len(marks) - sum(won) - sum(lost)},
        "p": mcnemar(won, lost),
        "credited": [[team for _, team in draft] for draft in drafts],
    }


def measure(
    queries: Sequence[Query], main: Sequence[Sequence[str]], other: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Return hit rate and MRR at `CUTOFF`, and the test of their difference.

    They are averaged over the queries with a known product.
    """
    known = [row for row, query in enumerate(queries) if query.product]
    if not known:
        return []
    found = {}
    for side, rankings in ((MAIN, main), (OTHER, other)):
        ranks = [_rank(rankings[row][:CUTOFF], queries[row].product) for row in known]
        found[side] = {
            f"hit_rate@{CUTOFF}": [float(rank > 0) for rank in ranks],
            f"MRR@{CUTOFF}": [1 / rank if rank else 0.0 for rank in ranks],
        }
    tests = compare(found[MAIN], found[OTHER])
    return [
        {
            "metric": name,
            MAIN: sum(found[MAIN][name]) / len(known),
            OTHER: sum(found[OTHER][name]) / len(known),
            "difference": test.difference, "low": test.low, "high": test.high, "p": test.p, "n": test.n,
        }
        for name, test in tests.items()
    ]  # fmt: skip


def _rank(ranking: Sequence[str], product: str) -> int:
    """Return the rank of ``product``, from 1; 0 if it is absent."""
    return next((place for place, item in enumerate(ranking, 1) if item == product), 0)
