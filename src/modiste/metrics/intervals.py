"""Percentile bootstrap intervals over queries or clusters of queries, vectorised in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modiste.errors import ModisteError

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
ROUNDING = 1e-12
CHUNK = 2**22
"""Maximum number of elements in a chunk of resamples."""


@dataclass(frozen=True)
class Interval:
    """A metric's value and its bootstrap interval.

    If all resamples have the value 0, or all 1, both percentiles equal it, as if it were certain. The other end is then
    the exact one of a proportion (Clopper & Pearson 1934), which bounds any mean of values in [0, 1].

    Attributes:
        value: Value on the original queries.
        low: Lower end of the 95 % percentile interval.
        high: Upper end of the interval.
        n: Number of queries.
    """

    value: float
    low: float
    high: float
    n: int


def describe_bootstrap(resamples: int, seed: int, unit: str = "query") -> dict[str, str | int | float]:
    """Settings of a bootstrap, for result files."""
    return {
        "method": "percentile; exact where all resamples are 0 or all are 1",
        "unit": unit,
        "confidence": CONFIDENCE,
        "resamples": resamples,
        "seed": seed,
    }


def bootstrap(
    values: Mapping[str, Floats], medians: Collection[str] = (), resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Intervals of means or medians of per-query values.

    Percentile bootstrap (Efron & Tibshirani 1993); all metrics share the resamples.

    Args:
        values: Metric name to values (n,), for the same queries.
        medians: Metrics whose statistic is the median.
        resamples: Number of resamples of n queries with replacement.
        seed: Seed of the resamples.

    Raises:
        ModisteError: There are no queries, or ``resamples`` < 1.

    >>> bootstrap({"mrr": np.array([1.0, 0.5, 0.25])}, seed=0)["mrr"]
    Interval(value=0.5833333333333334, low=0.25, high=1.0, n=3)
    """
    n = len(next(iter(values.values())))
    _check(n, resamples)
    means = [name for name in values if name not in medians]
    table = np.stack([values[name] for name in means], axis=1) if means else np.empty((n, 0))
    # Counts in the order of the values give a resample's median by their cumulative sum.
    orders = {name: np.argsort(values[name], kind="stable") for name in medians if name in values}
    mean_draws: list[Floats] = []
    median_draws: dict[str, list[Floats]] = {name: [] for name in orders}
    for counts in _resamples(n, resamples, np.random.default_rng(seed)):
        mean_draws.append(counts @ table / n)
        for name, order in orders.items():
            median_draws[name].append(_medians(values[name][order], counts[:, order]))
    draws = dict(zip(means, np.concatenate(mean_draws).T, strict=True))
    draws |= {name: np.concatenate(parts) for name, parts in median_draws.items()}
    statistic = {name: float(np.median(v) if name in medians else np.mean(v)) for name, v in values.items()}
    return {name: _interval(statistic[name], draws[name], n if name in means else None, n) for name in values}


def bootstrap_groups(
    groups: Sequence[Mapping[str, Floats]], resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Intervals of the unweighted mean of group means; queries are resampled within their group.

    Args:
        groups: Metric name to values (n,) per group, the same metrics in every group.
        resamples: Number of resamples.
        seed: Seed of the resamples.

    Raises:
        ModisteError: A group has no queries, or ``resamples`` < 1.

    >>> bootstrap_groups([{"hit_rate@1": np.ones(9)}, {"hit_rate@1": np.zeros(1)}])["hit_rate@1"]
    Interval(value=0.5, low=0.5, high=0.5, n=10)
    """
    generator = np.random.default_rng(seed)
    names = list(groups[0])
    total, values, n = np.zeros((resamples, len(names))), np.zeros(len(names)), 0
    for group in groups:
        table = np.stack([group[name] for name in names], axis=1)
        _check(len(table), resamples)
        sums = [counts @ table for counts in _resamples(len(table), resamples, generator)]
        total += np.concatenate(sums) / len(table)
        values += table.mean(axis=0)
        n += len(table)
    pairs = zip(names, values / len(groups), total.T / len(groups), strict=True)
    fewest = min(len(group[names[0]]) for group in groups)
    return {name: _interval(float(value), draws, fewest, n) for name, value, draws in pairs}


def bootstrap_clusters(
    values: Mapping[str, Floats],
    clusters: npt.NDArray[Any],
    classes: npt.NDArray[Any] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    signed: Collection[str] = (),
) -> dict[str, Interval]:
    """Intervals of means of per-query values that are dependent within clusters, as phrases of a photo.

    Clusters are resampled with all of their queries (Davison & Hinkley 1997, §3.8); a resample's mean is over its
    queries, whose number varies. All metrics share the resamples.

    Args:
        values: Metric name to values (n,), for the same queries.
        clusters: Cluster of each query (n,).
        classes: Class of each query (n,), for the macro average, the mean of class means; a resample excludes classes
            that have no query in it. None: the micro average, the mean over queries.
        resamples: Number of resamples of the clusters with replacement.
        seed: Seed of the resamples.
        signed: Metrics whose values may be negative, such as differences.

    Raises:
        ModisteError: There are no queries, or ``resamples`` < 1.

    >>> hits = {"pointing": np.array([1.0, 1.0, 1.0, 0.0])}
    >>> photo, phrase = np.array([0, 0, 0, 1]), np.array(["hat", "coat", "bag", "bag"])
    >>> bootstrap_clusters(hits, photo)["pointing"]
    Interval(value=0.75, low=0.0, high=1.0, n=4)
    >>> bootstrap_clusters(hits, photo, phrase)["pointing"].value
    0.8333333333333334
    """
    n = len(clusters)
    _check(n, resamples)
    value, draws = cluster_means(np.stack([*values.values()], axis=1), clusters, classes, resamples, seed)
    units = len(np.unique(clusters))
    found = zip(values, value, draws.T, strict=True)
    return {name: _interval(float(v), d, None if name in signed else units, n) for name, v, d in found}


def cluster_means(
    table: Floats, clusters: npt.NDArray[Any], classes: npt.NDArray[Any] | None, resamples: int, seed: int
) -> tuple[Floats, Floats]:
    """Means (m,) of values (n, m), and those of each resample (resamples, m); see `bootstrap_clusters`."""
    n = len(clusters)
    names, cluster = np.unique(clusters, return_inverse=True)
    kinds, kind = np.unique(np.zeros(n) if classes is None else classes, return_inverse=True)
    sums, sizes = np.zeros((len(kinds), len(names), table.shape[1])), np.zeros((len(kinds), len(names)))
    np.add.at(sums, (kind, cluster), table)
    np.add.at(sizes, (kind, cluster), 1)

    def means(counts: Floats) -> Floats:
        """Means (b, m) for counts (b, C) of the clusters."""
        total, present = np.zeros((len(counts), table.shape[1])), np.zeros((len(counts), 1))
        for of_kind, size in zip(sums, sizes, strict=True):
            queries = (counts @ size)[:, None]
            total += counts @ of_kind / np.maximum(queries, 1)
            present += queries > 0
        return total / present

    draws = [means(counts) for counts in _resamples(len(names), resamples, np.random.default_rng(seed))]
    return means(np.ones((1, len(names))))[0], np.concatenate(draws)


def bootstrap_statistic(
    statistic: Callable[[Floats], Floats], n: int, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Interval of any statistic of n queries.

    Args:
        statistic: Maps the counts of the queries in b resamples (b, n) to the statistic of each (b,).
        n: Number of queries.
        resamples: Number of resamples of n queries with replacement.
        seed: Seed of the resamples.

    Raises:
        ModisteError: There are no queries, or ``resamples`` < 1.

    >>> bootstrap_statistic(lambda counts: counts @ np.array([0.0, 1.0]) / 2, n=2).value
    0.5
    """
    return bootstrap_statistics(lambda counts: {"": statistic(counts)}, n, resamples, seed)[""]


def bootstrap_statistics(
    statistics: Callable[[Floats], Mapping[str, Floats]],
    n: int,
    resamples: int = 1000,
    seed: int = 0,
    unbiased: bool = False,
) -> dict[str, Interval]:
    """Intervals of several statistics of n queries, which share the resamples.

    Args:
        statistics: Maps the counts of the queries in b resamples (b, n) to named values (b,); the interval excludes
            resamples in which its statistic is undefined (nan).
        n: Number of queries.
        resamples: Number of resamples of n queries with replacement.
        seed: Seed of the resamples.
        unbiased: Correct the bootstrap bias: shift each interval by the value minus the resamples' mean (Efron &
            Tibshirani 1993, §10.2). Average precision, for example, rises with repeated queries.

    Raises:
        ModisteError: There are no queries, or ``resamples`` < 1.
    """
    _check(n, resamples)
    chunks = [statistics(counts) for counts in _resamples(n, resamples, np.random.default_rng(seed))]
    intervals = {}
    for name, (value,) in statistics(np.ones((1, n))).items():
        draws = np.concatenate([chunk[name] for chunk in chunks])
        draws = draws[~np.isnan(draws)]
        intervals[name] = _interval(float(value), draws + (value - draws.mean() if unbiased else 0), n, n)
    return intervals


def bootstrap_confusion(
    confusion: npt.NDArray[np.int64],
    metrics: Callable[[Floats, Floats, Floats], Mapping[str, Floats]],
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of metrics that are not means over queries, such as F1.

    Resampling n (target, prediction) pairs with replacement is equivalent to sampling the confusion matrix from a
    multinomial with n trials and its frequencies; only non-zero cells are sampled.

    Args:
        confusion: Counts (C, C); rows are targets.
        metrics: A function like `modiste.metrics.classification.classification_metrics`: counts per class (..., C) of
            correct predictions, support and predictions to named values (...).
        resamples: Number of resamples.
        seed: Seed of the resamples.

    Raises:
        ModisteError: The matrix is all zeros, or ``resamples`` < 1.

    >>> from modiste.metrics.classification import classification_metrics
    >>> bootstrap_confusion(np.array([[8, 2], [1, 9]]), classification_metrics)["accuracy"].value
    0.85
    """
    n, size = int(confusion.sum()), len(confusion)
    _check(n, resamples)
    targets, predictions = np.nonzero(confusion)
    cells = confusion[targets, predictions]
    by_target, by_prediction = np.eye(size)[targets], np.eye(size)[predictions]
    by_right = by_target * (targets == predictions)[:, None]

    def evaluate(counts: Floats) -> Mapping[str, Floats]:
        return metrics(counts @ by_right, counts @ by_target, counts @ by_prediction)

    generator = np.random.default_rng(seed)
    step = max(1, CHUNK // max(len(cells), size))
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    chunks = [evaluate(generator.multinomial(n, cells / n, size=b).astype(np.float64)) for b in sizes]
    value = evaluate(cells.astype(np.float64))
    return {name: _interval(float(v), np.concatenate([c[name] for c in chunks]), n, n) for name, v in value.items()}


def _check(n: int, resamples: int) -> None:
    if n < 1 or resamples < 1:
        raise ModisteError(f"A bootstrap needs at least one query and one resample, not {n} and {resamples}.")


def _resamples(n: int, resamples: int, generator: np.random.Generator) -> Iterator[Floats]:
    """Counts of the n queries in the resamples, in chunks (b, n)."""
    step = max(1, CHUNK // n)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        draws = generator.integers(0, n, size=(size, n)) + np.arange(size)[:, None] * n
        yield np.bincount(draws.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _medians(ordered: Floats, counts: Floats) -> Floats:
    """Medians (b,) of resamples, given as counts (b, n) of the ascending values (n,)."""
    n = len(ordered)
    cumulative = np.cumsum(counts, axis=1)
    lower = ordered[(cumulative > (n - 1) // 2).argmax(axis=1)]
    upper = ordered[(cumulative > n // 2).argmax(axis=1)]
    return (lower + upper) / 2


def _interval(value: float, draws: Floats, units: int | None, n: int) -> Interval:
    """Interval of n queries; ``units`` is the number of resampled units, None for values outside [0, 1]."""
    low, high = np.percentile(draws, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    edge = round(value)
    if units is not None and edge in (0, 1) and max(abs(end - edge) for end in (low, high, value)) < ROUNDING:
        reach = ((1 - CONFIDENCE) / 2) ** (1 / units)
        low, high = (reach, 1.0) if edge else (0.0, 1 - reach)
    return Interval(value, float(low), float(high), n)
