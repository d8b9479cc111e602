"""Pairwise comparison of results: comparability, significance tests, and the marks of a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modiste.reporting.tables.names import best, parts_of, split_name
from modiste.reporting.tables.results import differences, per_query, sizes, without_paths

if TYPE_CHECKING:
    from modiste.metrics.comparison import Comparison

ALPHA = 0.05
BEST, WORSE, SAME = "best", "↓", "≈"
TARGET, PREDICTION = "target", "prediction"
"""Names, after the part, of the per-query class indices that F1 is computed from."""
CLUSTER = "cluster"
"""Name of the per-query clusters, such as photos, which are resampled whole."""
# Protocol keys that depend on the model, not on the benchmark.
OF_THE_MODEL = ("in_domain", "input_size", "skipped", "thresholds")
SHOWN = 60  # maximum characters of a setting in a message


def difference(a: Mapping[str, Any], b: Mapping[str, Any], allow: Iterable[str] = ()) -> str:
    """Why two results of one data set, split and task are not comparable; empty if they are.

    Args:
        a: A result.
        b: A result.
        allow: Settings that may differ, such as ``query_prefix``.

    >>> one = {"task": "marqo", "metrics": {}, "data_fingerprint": "f", "config": {"query_prefix": "", "seed": 0}}
    >>> difference(one, one | {"config": {"query_prefix": "a photo of a ", "seed": 0}})
    "task.marqo.query_prefix is '' in A and 'a photo of a ' in B"
    """
    prints = [str(result.get("data_fingerprint", ""))[:8] or "none" for result in (a, b)]
    if a.get("data_fingerprint") != b.get("data_fingerprint"):
        return f"the data differ: their fingerprint is {prints[0]} in A and {prints[1]} in B"
    allow = set(allow)
    for key, name in (("config", f"task.{a['task']}"), ("protocol", "protocol")):
        for where, one, other in differences(
            without_paths(a, key) or {}, without_paths(b, key) or {}, name, absent=None
        ):
            words = where.split(".")
            if not allow & set(words) and not (key == "protocol" and words[1] in OF_THE_MODEL):
                return f"{where} is {_shown(one)} in A and {_shown(other)} in B"
    for part in parts_of(name for name in a["metrics"] if name in b["metrics"]):
        one, other = sizes(a, part), sizes(b, part)
        for word in one:
            if one[word] != other.get(word):
                return f"{part or a['task']} has {one[word]:,} {word} in A and {other.get(word) or 0:,} in B"
    return ""


def _shown(value: Any) -> str:
    text = "not set" if value is None else repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def paired_tests(
    a: Mapping[str, Any], b: Mapping[str, Any], resamples: int | None = None, seed: int = 0
) -> dict[str, Comparison]:
    """Paired tests, A − B, of all metrics whose per-query values are stored next to both results.

    A metric is tested if it is the mean or the median of its per-query values, or is computed from stored predictions,
    such as F1. Stale per-query values, of an earlier evaluation, are not used.

    Args:
        a: A result.
        b: Another result on the same queries (`difference`).
        resamples: Number of bootstrap resamples; None: `modiste.metrics.comparison.RESAMPLES`.
        seed: Seed of the bootstrap.

    Returns:
        Metric to its test; metrics that cannot be tested are missing.
    """
    of_a, of_b = per_query(a), per_query(b)
    if not of_a or not of_b:
        return {}
    from modiste.metrics.comparison import RESAMPLES, compare

    resamples = RESAMPLES if resamples is None else resamples
    shared = [name for name in a["metrics"] if name in b["metrics"]]
    kinds = {name: _statistic(a, of_a, name) & _statistic(b, of_b, name) for name in shared}
    usable = [name for name in shared if kinds[name] and of_a[name].shape == of_b[name].shape]
    medians = [name for name in usable if "mean" not in kinds[name]]
    of_both = [{name: of[name] for name in usable} for of in (of_a, of_b)]
    found = compare(of_both[0], of_both[1], medians, resamples, seed, of_a.get(CLUSTER))
    for part in parts_of(name for name in shared if name not in found):
        rest = [name for name in shared if name not in found and split_name(name)[0] == part]
        found |= _prediction_tests(a, b, of_a, of_b, part, rest, resamples, seed)
    return {name: found[name] for name in shared if name in found}


def _statistic(result: Mapping[str, Any], values: Mapping[str, Any], name: str) -> set[str]:
    """Which of ``mean`` and ``median`` of its per-query values the metric equals."""
    import numpy as np

    value = result["metrics"][name]["value"]
    if name not in values or value is None or not len(values[name]):
        return set()
    statistics = {"mean": np.mean(values[name]), "median": np.median(values[name])}
    return {word for word, found in statistics.items() if math.isclose(found, value, rel_tol=1e-6, abs_tol=1e-9)}


def _prediction_tests(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    of_a: Mapping[str, Any],
    of_b: Mapping[str, Any],
    part: str,
    names: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, Comparison]:
    """Tests of a part's metrics such as F1, if both results have predictions for the same targets."""
    import numpy as np

    from modiste.metrics.comparison import compare_predictions

    targets, predictions = (f"{part}/{word}".lstrip("/") for word in (TARGET, PREDICTION))
    if not all(key in of for of in (of_a, of_b) for key in (targets, predictions)):
        return {}
    if not np.array_equal(of_a[targets], of_b[targets]):
        return {}
    tests = compare_predictions(of_a[targets], of_a[predictions], of_b[predictions], resamples=resamples, seed=seed)
    found = {}
    for name in names:
        test, values = tests.get(split_name(name)[1]), [result["metrics"][name]["value"] for result in (a, b)]
        if test and None not in values and math.isclose(test.difference, values[0] - values[1], abs_tol=1e-6):
            found[name] = test
    return found


# ---------------------------------------------------------------------------------------------------------------- marks


@dataclass(frozen=True)
class Entry:
    """A measured number in a column of a table.

    Attributes:
        row: Name of the row.
        value: The number.
        metric: Name of the metric in ``result``.
        result: Its result; None for a number over several results, which is not tested.
        lower: Whether the metric is better when lower.
    """

    row: str
    value: float
    metric: str
    result: Mapping[str, Any] | None
    lower: bool = False


@dataclass
class Marks:
    """The best number of each column of a table, and the tests of the others against it.

    Attributes:
        signs: (row, column) → `BEST`, `WORSE` (significantly) or `SAME` (not significantly different).
        p: (row, column) → Holm-adjusted p-value of the test against the best.
        tests: Names of the tests that were run.
        untested: Sentences on why rows were not tested.
    """

    signs: dict[tuple[str, str], str] = field(default_factory=dict)
    p: dict[tuple[str, str], float] = field(default_factory=dict)
    tests: list[str] = field(default_factory=list)
    untested: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Footnotes on the signs: the tests, their correction, and rows that were not tested."""
        if not self.p:
            return self.untested
        from modiste.metrics.comparison import RESAMPLES

        words = {"McNemar": "McNemar's exact test (values of 0 and 1)"}
        words["bootstrap"] = f"the paired bootstrap ({RESAMPLES:,} resamples)"
        tests = " and ".join(words[test] for test in words if test in self.tests)
        n = f"{len(self.p)} tests" if len(self.p) > 1 else "1 test"
        meaning = (
            f"Bold: best measured value of a column. {WORSE} significantly worse than it, {SAME} not significantly "
            f"different: two-sided paired tests over the queries at level {ALPHA}, {tests}, with Holm's correction for "
            f"the {n} of this table."
        )
        return [meaning, *self.untested]


Cache = dict[tuple[int, int], "tuple[str, dict[str, Comparison]]"]
"""Comparability and tests by the ids of the two results."""


def mark(columns: Mapping[str, Sequence[Entry]], cache: Cache) -> Marks:
    """Test every measured number against the best of its column, if both have per-query values.

    Args:
        columns: Column to its measured numbers.
        cache: Filled in place, so that several tables of the same results test each pair once.
    """
    marks = Marks()
    raw: dict[tuple[str, str], float] = {}
    for column, entries in columns.items():
        for entry, first, why, test in _against_best(entries, cache):
            if test is not None:
                marks.signs |= {(e.row, column): BEST for e in entries if e.value == first.value}
                raw[entry.row, column] = test.p
                marks.tests += [test.test] if test.test not in marks.tests else []
            elif why:
                note = f"Not tested: {first.row} (A) against {entry.row} (B), because {why}."
                marks.untested += [note] if note not in marks.untested else []
    if raw:
        from modiste.metrics.comparison import holm

        marks.p = dict(zip(raw, holm(list(raw.values())), strict=True))
        marks.signs |= {where: WORSE if p <= ALPHA else SAME for where, p in marks.p.items()}
    return marks


def _against_best(entries: Sequence[Entry], cache: Cache) -> Iterator[tuple[Entry, Entry, str, Comparison | None]]:
    """Yield (entry, best entry, why they are not comparable, test) of each entry that is not the best."""
    if len(entries) < 2:
        return
    top = best((entry.value for entry in entries), entries[0].lower)
    first = next(entry for entry in entries if entry.value == top)
    for entry in entries:
        if entry.value == top or first.result is None or entry.result is None:
            continue
        why, tests = _tests(first.result, entry.result, cache)
        yield entry, first, why, tests.get(first.metric) if first.metric == entry.metric else None


def _tests(a: Mapping[str, Any], b: Mapping[str, Any], cache: Cache) -> tuple[str, dict[str, Comparison]]:
    key = (id(a), id(b))
    if key not in cache:
        stored = bool(per_query(a)) and bool(per_query(b))
        why = difference(a, b) if stored else ""
        cache[key] = why, paired_tests(a, b) if stored and not why else {}
    return cache[key]


def verdict(test: Comparison, p: float, lower: bool = False) -> str:
    """``A better``, ``B better`` or ``≈``, by the adjusted p-value.

    >>> from modiste.metrics.comparison import Comparison
    >>> verdict(Comparison(-3.0, -5.0, -1.0, 0.001, "bootstrap", 90), 0.002, lower=True)
    'A better'
    """
    if p > ALPHA:
        return SAME
    return "A better" if (test.difference > 0) != lower else "B better"
