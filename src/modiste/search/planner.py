"""Search plans: exact where that is fast, else a scan of compressed vectors with measured recall."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from modiste.errors import ModisteError, did_you_mean
from modiste.search import where as conditions
from modiste.search.engines.compressed import Codes
from modiste.search.engines.memory import Snapshot, batch, top
from modiste.search.results import Exactness

EXACT, IVF = "exact", "ivf_rq"
CHOICES = (EXACT, "int8", "prefix-64", "binary", IVF)
PREFIX = re.compile(r"prefix-([1-9][0-9]{0,4})")
LIMIT = 50_000
"""Default number of rows passing a filter up to which they are scored exactly."""
K = 10
QUERIES = 500
SELECTIVITIES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
WIDTHS = tuple(50 * 2**power for power in range(9))  # to 12,800
PROBES = tuple(2**power for power in range(3, 12))
LIMIT_SIZES = (1_000, 5_000, 20_000, 50_000, 100_000, 200_000, 500_000)
BUDGET_MS = 5.0
"""Milliseconds that exact scoring under a filter may always take."""
Best = Callable[[int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Step:
    """Measured recall of an approximate search at a filter's selectivity.

    Attributes:
        selectivity: Fraction of the rows that pass.
        width: Number of candidates that are scored exactly (or of partitions that are probed).
        recall: recall@10, the fraction of the true 10 best that are found, averaged over queries.
    """

    selectivity: float
    width: int
    recall: float


@dataclass(frozen=True)
class Plan:
    """Search method of an index.

    Attributes:
        choice: One of `CHOICES`, or another ``prefix-d``.
        limit: Number of rows passing a filter up to which they are scored exactly.
        floor: Minimum recall; a step below it is not used.
        queries: Number of sampled queries that recall was measured on.
        steps: Measured steps, by falling selectivity.
    """

    choice: str = EXACT
    limit: int = LIMIT
    floor: float = 0.99
    queries: int = 0
    steps: Sequence[Step] = ()

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> Plan:
        """Read from an index's facts. Raises ValueError for an unknown choice, which would name a file."""
        if not record:
            return cls()
        if record["choice"] not in CHOICES and not PREFIX.fullmatch(record["choice"]):
            raise ValueError(f"there is no plan {record['choice']!r}")
        return cls(**{**record, "steps": tuple(Step(**step) for step in record["steps"])})

    def record(self) -> dict[str, Any]:
        """Plain values for an index's facts."""
        return asdict(self)

    def step(self, selectivity: float) -> Step | None:
        """The step of the nearest measured selectivity that is not larger; None without one.

        >>> plan = Plan("binary", steps=(Step(1.0, 100, 0.995), Step(0.1, 200, 0.992)))
        >>> plan.step(0.5).width, plan.step(0.01) is None
        (200, True)
        """
        below = [step for step in self.steps if step.selectivity <= selectivity + 1e-9]
        return max(below, key=lambda step: step.selectivity, default=None)


@dataclass(frozen=True)
class Measured:
    """A line of `modiste index plan`.

    Attributes:
        choice: One of `CHOICES`, or another ``prefix-d``.
        bytes: Bytes in memory.
        recall: recall@10 without a filter.
        milliseconds: Median latency of a query.
        steps: Measured steps, by falling selectivity.
    """

    choice: str
    bytes: int
    recall: float
    milliseconds: float
    steps: Sequence[Step] = ()


class Planned(Protocol):
    """Protocol of a searched index (`modiste.search.opened.Opened`)."""

    snapshot: Snapshot
    store: Any

    @property
    def plan_in_use(self) -> Plan: ...

    def codes(self, kind: str) -> Codes | None: ...


def ranking(
    index: Planned, vector: np.ndarray, positions: np.ndarray | None, condition: conditions.Node | None
) -> tuple[Best, Exactness]:
    """Ranking of the rows at ``positions`` (None: all) for a query vector, and its exactness."""
    plan, snapshot = index.plan_in_use, index.snapshot
    passing = len(snapshot) if positions is None else len(positions)
    exact = Exactness(f"exact scores of {passing:,} rows")
    if plan.choice == EXACT or (positions is not None and passing <= plan.limit):
        return _exactly(snapshot, vector, positions), exact
    codes = index.codes(plan.choice)
    if codes is not None and codes.certain:
        found = f"exact scores of all rows that may be among the best, by their {plan.choice} codes"
        return lambda count: codes.exact(vector, count, snapshot.vectors, positions), Exactness(found)
    step = plan.step(passing / max(1, len(snapshot)))
    if step is None or step.recall < plan.floor:  # rarer than measured: score exactly to keep the promised recall
        return _exactly(snapshot, vector, positions), exact
    said = Exactness(f"{plan.choice}, {step.width} wide", step.recall, plan.queries, positions is not None)
    return _approximately(index, plan.choice, codes, step.width, vector, positions, condition), said


def _exactly(snapshot: Snapshot, vector: np.ndarray, positions: np.ndarray | None) -> Best:
    scores = snapshot.scores(vector, positions)

    def best(count: int) -> tuple[np.ndarray, np.ndarray]:
        order = top(scores, count)
        return (order if positions is None else positions[order]), scores[order]

    return best


def _approximately(
    index: Planned, choice: str, codes: Codes | None, width: int, vector: np.ndarray, positions: Any, condition: Any
) -> Best:
    def best(count: int) -> tuple[np.ndarray, np.ndarray]:
        if codes is not None:
            found = np.sort(codes.candidates(vector, max(width, 4 * count), positions))
        else:
            found = np.sort(
                index.snapshot.positions(index.store.nearest(vector, max(100, 4 * count), width, condition))
            )
        scores = index.snapshot.vectors[found] @ vector
        order = top(scores, count)
        return found[order], scores[order]

    return best


# ------------------------------------------------------------------------------------------------------------ measuring


def measure(
    index: Planned, choices: Sequence[str], floor: float, queries: np.ndarray, seed: int = 0
) -> Iterator[Measured]:
    """Measure bytes, recall and latency of each choice.

    Args:
        index: Newest version of an index.
        choices: Members of `CHOICES`, or other ``prefix-d``.
        floor: Recall up to which a search is widened.
        queries: Unit-norm query vectors (Q, D).
        seed: Seed of the random filters.

    Raises:
        ModisteError: A choice is unknown, or keeps more dimensions than the vectors have.
    """
    snapshot = index.snapshot
    for choice in choices:
        if choice not in CHOICES and not choice.startswith("prefix-"):
            raise ModisteError(f"There is no plan '{choice}'. {did_you_mean(choice, CHOICES)}")
        prefix, most = PREFIX.fullmatch(choice), snapshot.vectors.shape[1]
        if choice not in CHOICES and not (prefix and int(prefix[1]) <= most):
            raise ModisteError(
                f"There is no plan '{choice}': write prefix-1 to prefix-{most}, the dimensions it keeps."
            )
    generator = np.random.default_rng(seed)
    filters = {
        s: None if s == 1 else np.flatnonzero(generator.random(len(snapshot)) < s)
        for s in SELECTIVITIES
        if s == 1 or s * len(snapshot) > LIMIT
    }
    truth = {s: _truth(snapshot, queries, positions) for s, positions in filters.items()}
    for choice in choices:
        yield _measured(index, choice, floor, queries, filters, truth)


def _truth(snapshot: Snapshot, queries: np.ndarray, positions: np.ndarray | None) -> np.ndarray:
    vectors = snapshot.vectors if positions is None else snapshot.vectors[positions]
    order, _ = batch(vectors, queries, min(K, len(vectors)))
    return order if positions is None else positions[order]


def _measured(
    index: Planned,
    choice: str,
    floor: float,
    queries: np.ndarray,
    filters: Mapping[float, Any],
    truth: Mapping[float, Any],
) -> Measured:
    snapshot, size = index.snapshot, index.snapshot.vectors.shape
    if choice == EXACT:
        timed = _median_ms(lambda q: _exactly(snapshot, q, None)(K), queries)
        return Measured(choice, size[0] * size[1] * 4, 1.0, timed)
    codes = None if choice == IVF else Codes.make(choice, snapshot.vectors)
    if codes is not None and codes.certain:
        recall = _recall(lambda q: codes.exact(q, K, snapshot.vectors)[0], queries, truth[1.0])
        timed = _median_ms(lambda q: codes.exact(q, K, snapshot.vectors), queries)
        return Measured(choice, codes.codes.nbytes, recall, timed)
    if choice == IVF:
        index.store.index_vectors()
    steps = []
    for selectivity, positions in filters.items():
        for width in PROBES if choice == IVF else WIDTHS:
            search = _searcher(index, choice, codes, width, positions)
            recall = _recall(search, queries, truth[selectivity])
            if recall >= floor:
                break
        steps.append(Step(selectivity, width, recall))
    search = _searcher(index, choice, codes, steps[0].width, None)
    stored = codes.codes.nbytes if codes is not None else size[0] * size[1] // 8
    return Measured(choice, stored, steps[0].recall, _median_ms(search, queries), steps)


def _searcher(
    index: Planned, choice: str, codes: Any, width: int, positions: Any
) -> Callable[[np.ndarray], np.ndarray]:
    condition = None
    if positions is not None and choice == IVF:  # LanceDB filters by a condition: list the random rows
        condition = conditions.In("row", tuple(index.snapshot.rows[positions].tolist()))
    return lambda query: _approximately(index, choice, codes, width, query, positions, condition)(K)[0]


def _recall(search: Callable[[np.ndarray], np.ndarray], queries: np.ndarray, truth: np.ndarray) -> float:
    found = [len(np.intersect1d(search(query), best)) / len(best) for query, best in zip(queries, truth, strict=True)]
    return float(np.mean(found)) if found else 1.0


def _median_ms(search: Callable[[np.ndarray], Any], queries: np.ndarray, count: int = 21) -> float:
    times = []
    for query in queries[:count]:
        start = time.perf_counter()
        search(query)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times or [0.0])


def measured_limit(snapshot: Snapshot, query: np.ndarray, milliseconds: float, seed: int = 0) -> int:
    """Number of rows that exact scoring handles within ``milliseconds`` or `BUDGET_MS`, if that is more."""
    generator, limit = np.random.default_rng(seed), LIMIT_SIZES[0]
    for size in (s for s in LIMIT_SIZES if s <= len(snapshot)):
        positions = np.sort(generator.choice(len(snapshot), size, replace=False))
        if _median_ms(lambda q: _exactly(snapshot, q, positions)(K), np.stack([query] * 5)) > max(  # noqa: B023
            milliseconds, BUDGET_MS
        ):
            break
        limit = size
    return limit


def smallest(measured: Sequence[Measured], floor: float) -> Measured:
    """The choice with the fewest bytes that reaches the floor at every selectivity.

    Raises:
        ModisteError: No choice reaches the floor.
    """
    holding = [m for m in measured if m.recall >= floor and all(step.recall >= floor for step in m.steps)]
    if not holding:
        raise ModisteError(f"No choice reaches recall_floor={floor}: add exact to choices.")
    return min(holding, key=lambda m: m.bytes)
