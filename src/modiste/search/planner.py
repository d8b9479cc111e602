"""Search plans: exact where that is fast, else a scan of compressed vectors with measured recall."""

from __future__ import annotations

import itertools
import re
import shlex
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from modiste.errors import ModisteError, did_you_mean
from modiste.search import where as conditions
from modiste.search.engines.compressed import Codes
from modiste.search.engines.memory import Snapshot, batch, top
from modiste.search.results import Exactness

EXACT, IVF = "exact", "ivf_rq"
CHOICES = (EXACT, "bf16", "int8", "prefix-64", "binary", IVF)
PREFIX = re.compile(r"(?:prefix|matryoshka)-([1-9][0-9]{0,4})")
LIMIT = 50_000
"""Default number of rows passing a filter up to which they are scored exactly."""
KS = (10, 100)
"""Numbers of results that recall is measured for; queries for more results are scored exactly."""
DRIFT = 0.05
"""Fraction of the measured rows that may change until a plan's recall is no longer claimed."""
QUERIES = 500
SELECTIVITIES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
WIDEST = 16_000
"""Maximum number of candidates that a plan scores exactly."""
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
        recall: recall@k, the fraction of the true k best that are found, averaged over queries: of rows or of
            products, the lower one.
        k: Number of results that recall was measured for; 0: unknown.
    """

    selectivity: float
    width: int
    recall: float
    k: int = 0


@dataclass(frozen=True)
class Plan:
    """Search method of an index.

    Attributes:
        choice: One of `CHOICES`, another ``prefix-d``, or ``matryoshka-d``.
        limit: Number of rows passing a filter up to which they are scored exactly.
        floor: Minimum recall; a step below it is not used.
        queries: Number of sampled queries that recall was measured on.
        steps: Measured steps.
        rows: Number of rows that recall was measured on; 0: unknown.
        changed: Number of rows added, changed or deleted since.
    """

    choice: str = EXACT
    limit: int = LIMIT
    floor: float = 0.99
    queries: int = 0
    steps: Sequence[Step] = ()
    rows: int = 0
    changed: int = 0

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> Plan:
        """Read from an index's facts. Raises ValueError for an unknown choice, which would name a file."""
        if not record:
            return cls()
        if record["choice"] not in CHOICES and not PREFIX.fullmatch(record["choice"]):
            raise ValueError(f"there is no plan {record['choice']!r}")
        numbers = {name: int(record.get(name, 0)) for name in ("rows", "changed")}
        return cls(**{**record, **numbers, "steps": tuple(Step(**step) for step in record["steps"])})

    def record(self) -> dict[str, Any]:
        """Plain values for an index's facts."""
        return asdict(self)

    @property
    def outdated(self) -> str:
        """Why the measured recall no longer holds; empty if it does.

        >>> Plan("binary", rows=1000, changed=50).outdated, Plan("binary", rows=1000, changed=51).outdated
        ('', 'its recall was measured on 1,000 rows, and 51 have changed since')
        """
        if not (self.rows and all(step.k for step in self.steps)):
            return "it does not say on how many rows, or for how many results, its recall was measured"
        if self.changed <= DRIFT * self.rows:
            return ""
        return f"its recall was measured on {self.rows:,} rows, and {self.changed:,} have changed since"

    def step(self, selectivity: float, k: int) -> Step | None:
        """The step of the nearest larger or equal measured k and nearest smaller or equal selectivity.

        None without one.

        >>> plan = Plan("binary", steps=(Step(1.0, 56, 0.99, 10), Step(0.1, 112, 0.99, 10), Step(1.0, 832, 0.99, 100)))
        >>> plan.step(0.5, 10).width, plan.step(1.0, 11).width, plan.step(0.5, 11), plan.step(1.0, 101)
        (112, 832, None, None)
        """
        fit = [step for step in self.steps if step.k >= k and step.selectivity <= selectivity + 1e-9]
        return min(fit, key=lambda step: (step.k, -step.selectivity), default=None)


@dataclass(frozen=True)
class Measured:
    """A line of `modiste index plan`.

    Attributes:
        choice: One of `CHOICES`, another ``prefix-d``, or ``matryoshka-d``.
        bytes: Bytes in memory.
        recall: recall@k without a filter, for each k of `KS`.
        milliseconds: Median latency of a query for 10 results.
        steps: Measured steps; the last one is that of the narrowest filter and the most results.
    """

    choice: str
    bytes: int
    recall: Mapping[int, float]
    milliseconds: float
    steps: Sequence[Step] = ()


def usual(prefixes: Sequence[int]) -> list[str]:
    """The choices that are measured by default, for a model trained on these Matryoshka prefixes.

    >>> usual([32])
    ['exact', 'bf16', 'int8', 'prefix-64', 'binary', 'matryoshka-32']
    """
    return [choice for choice in CHOICES if choice != IVF] + [f"matryoshka-{size}" for size in prefixes]


class Planned(Protocol):
    """Protocol of a searched index (`modiste.search.opened.Opened`)."""

    path: Path
    snapshot: Snapshot
    store: Any

    @property
    def plan_in_use(self) -> Plan: ...

    def codes(self, kind: str) -> Codes | None: ...


def ranking(
    index: Planned, vector: np.ndarray, positions: np.ndarray | None, condition: conditions.Node | None, k: int
) -> tuple[Best, Exactness]:
    """Ranking of the k best rows at ``positions`` (None: all) for a query vector, and its exactness."""
    plan, snapshot = index.plan_in_use, index.snapshot
    passing = len(snapshot) if positions is None else len(positions)
    exact = Exactness(f"exact scores of {passing:,} rows")
    if plan.choice == EXACT or passing <= plan.limit:
        return _exactly(snapshot, vector, positions), exact
    codes = index.codes(plan.choice)
    if codes is not None and codes.certain:
        found = f"exact scores of all rows that may be among the best, by their {plan.choice} codes"
        return lambda count: codes.exact(vector, count, snapshot.vectors, positions), Exactness(found)
    if plan.outdated:
        again = f"modiste index plan index={shlex.quote(str(index.path))}"
        note = f"the plan {plan.choice} is not used, since {plan.outdated}: run {again}"
        return _exactly(snapshot, vector, positions), replace(exact, note=note)
    step = plan.step(passing / max(1, len(snapshot)), k)
    # Rarer or more than measured: score exactly to keep the promised recall.
    if step is None or step.recall < plan.floor:
        return _exactly(snapshot, vector, positions), exact
    said = Exactness(f"{plan.choice}, {step.width} wide", step.recall, step.k, plan.queries, positions is not None)
    return _approximately(index, plan.choice, codes, step, vector, positions, condition), said


def _exactly(snapshot: Snapshot, vector: np.ndarray, positions: np.ndarray | None) -> Best:
    scores = snapshot.scores(vector, positions)

    def best(count: int) -> tuple[np.ndarray, np.ndarray]:
        order = top(scores, count)
        return (order if positions is None else positions[order]), scores[order]

    return best


def _approximately(
    index: Planned, choice: str, codes: Codes | None, step: Step, vector: np.ndarray, positions: Any, condition: Any
) -> Best:
    """Rank the candidates that ``step.recall`` was measured with, also for fewer than ``step.k`` results."""

    def best(count: int) -> tuple[np.ndarray, np.ndarray]:
        if codes is not None:
            found = codes.candidates(vector, max(step.width, count), positions)
        else:
            rows = index.store.nearest(vector, 4 * max(_asked(step.k), count), step.width, condition)
            found = index.snapshot.positions(rows)
        found = np.sort(found)
        scores = index.snapshot.vectors[found] @ vector
        order = top(scores, count)
        return found[order], scores[order]

    return best


def _asked(k: int) -> int:
    """Number of rows that are ranked first to find k products."""
    return 4 * (k + 4)


def best_of(
    rank: Best, products: np.ndarray, k: int, available: int, excluded: Collection[int] = (), group: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and scores of the k best rows, or of the best row of each of the k best products.

    Args:
        rank: Ranking of rows.
        products: Product code of each row of the index, (N,).
        k: Number of results.
        available: Number of rows that ``rank`` ranks.
        excluded: Codes of products to exclude.
        group: Whether to return one row per product.
    """
    count = min(available, _asked(k) if group or excluded else k)
    while True:
        found, scores = rank(count)
        codes = products[found]
        keep = np.isin(codes, list(excluded), invert=True) if excluded else np.ones(len(found), bool)
        if group:
            first = np.zeros(len(found), bool)
            first[np.unique(codes, return_index=True)[1]] = True
            keep &= first
        if keep.sum() >= k or count >= available:
            chosen = np.flatnonzero(keep)[:k]
            return found[chosen], scores[chosen]
        count = min(available, 4 * count)


# ------------------------------------------------------------------------------------------------------------ measuring


def measure(
    index: Planned, choices: Sequence[str], floor: float, queries: np.ndarray, seed: int = 0
) -> Iterator[Measured]:
    """Measure bytes, recall and latency of each choice.

    Args:
        index: Newest version of an index.
        choices: Members of `CHOICES`, other ``prefix-d``, or ``matryoshka-d``.
        floor: Recall up to which a search is widened.
        queries: Unit-norm query vectors (Q, D).
        seed: Seed of the random filters.

    Raises:
        ModisteError: A choice is unknown, or keeps more dimensions than the vectors have.
    """
    snapshot = index.snapshot
    for choice in choices:
        word = choice.partition("-")[0]
        if choice not in CHOICES and word not in ("prefix", "matryoshka"):
            raise ModisteError(f"There is no plan '{choice}'. {did_you_mean(choice, CHOICES)}")
        prefix, most = PREFIX.fullmatch(choice), snapshot.vectors.shape[1]
        if choice not in CHOICES and not (prefix and int(prefix[1]) <= most):
            raise ModisteError(
                f"There is no plan '{choice}': write {word}-1 to {word}-{most}, the dimensions it keeps."
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


Truth = Mapping[bool, Sequence[np.ndarray]]
"""Whether results are grouped → per query the positions of the true best rows, or codes of the true best products."""


def _truth(snapshot: Snapshot, queries: np.ndarray, positions: np.ndarray | None) -> Truth:
    vectors = snapshot.vectors if positions is None else snapshot.vectors[positions]
    order, _ = batch(vectors, queries, KS[-1])
    truth: dict[bool, Any] = {False: order if positions is None else positions[order]}
    products = snapshot.products
    if len(np.unique(products)) < len(products):  # several views: k products are more than k rows
        ranks = (_exactly(snapshot, query, positions) for query in queries)
        truth[True] = [products[best_of(rank, products, KS[-1], len(vectors))[0]] for rank in ranks]
    return truth


def _measured(
    index: Planned,
    choice: str,
    floor: float,
    queries: np.ndarray,
    filters: Mapping[float, Any],
    truth: Mapping[float, Truth],
) -> Measured:
    snapshot, size = index.snapshot, index.snapshot.vectors.shape
    if choice == EXACT:
        timed = _median_ms(lambda q: _exactly(snapshot, q, None)(KS[0]), queries)
        return Measured(choice, size[0] * size[1] * 4, dict.fromkeys(KS, 1.0), timed)
    codes = None if choice == IVF else Codes.make(choice, snapshot.vectors)
    if codes is not None and codes.certain:
        return _certain(codes, snapshot, queries, truth[1.0])
    if choice == IVF:
        index.store.index_vectors()
    steps = []
    for (selectivity, positions), k in itertools.product(filters.items(), KS):
        for width in PROBES if choice == IVF else _widths(k):
            step = Step(selectivity, width, 0.0, k)
            search = _searcher(index, choice, codes, step, positions)
            recall = _recall(search, snapshot, positions, queries, truth[selectivity], k)
            if recall >= floor:
                break
        steps.append(replace(step, recall=recall))
    search = _searcher(index, choice, codes, steps[0], None)
    timed = _median_ms(lambda q: search(q)(KS[0]), queries)
    stored = codes.codes.nbytes if codes is not None else size[0] * size[1] // 8
    return Measured(choice, stored, {step.k: step.recall for step in steps if step.selectivity == 1}, timed, steps)


def _certain(codes: Codes, snapshot: Snapshot, queries: np.ndarray, truth: Truth) -> Measured:
    """Measure bf16 or int8 codes."""

    def search(query: np.ndarray) -> Best:
        return lambda count: codes.exact(query, count, snapshot.vectors)

    recall = {k: _recall(search, snapshot, None, queries, truth, k) for k in KS}
    return Measured(codes.kind, codes.codes.nbytes, recall, _median_ms(lambda q: search(q)(KS[0]), queries))


def _widths(k: int) -> Iterator[int]:
    """Numbers of candidates to try for k results, ascending."""
    width = _asked(k)
    while width <= WIDEST:
        yield width
        width *= 2


def _searcher(index: Planned, choice: str, codes: Any, step: Step, positions: Any) -> Callable[[np.ndarray], Best]:
    condition = None
    if positions is not None and choice == IVF:  # LanceDB filters by a condition: list the random rows
        condition = conditions.In("row", tuple(index.snapshot.rows[positions].tolist()))
    return lambda query: _approximately(index, choice, codes, step, query, positions, condition)


def _recall(
    search: Callable[[np.ndarray], Best], snapshot: Snapshot, positions: Any, queries: np.ndarray, truth: Truth, k: int
) -> float:
    """Mean recall@k of rows, or of products if that is lower."""
    available = len(snapshot) if positions is None else len(positions)
    means = []
    for group, best in truth.items():
        hits = []
        for query, expected in zip(queries, best, strict=True):
            found, _ = best_of(search(query), snapshot.products, k, available, group=group)
            true = expected[:k]
            hits.append(len(np.intersect1d(snapshot.products[found] if group else found, true)) / len(true))
        means.append(float(np.mean(hits)) if hits else 1.0)
    return min(means)


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
        if _median_ms(lambda q: _exactly(snapshot, q, positions)(KS[0]), np.stack([query] * 5)) > max(  # noqa: B023
            milliseconds, BUDGET_MS
        ):
            break
        limit = size
    return limit


def smallest(measured: Sequence[Measured], floor: float) -> Measured:
    """The choice with the fewest bytes, then the highest recall, that reaches the floor.

    It must do so for every measured k and selectivity.

    Raises:
        ModisteError: No choice reaches the floor.
    """
    holding = [m for m in measured if min(*m.recall.values(), *(step.recall for step in m.steps)) >= floor]
    if not holding:
        raise ModisteError(f"No choice reaches recall_floor={floor}: add exact to choices.")
    return min(holding, key=lambda m: (m.bytes, -sum(m.recall.values())))
