"""Paired tests of two models: McNemar's test, the paired bootstrap, and Holm's correction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modiste.errors import ModisteError
from modiste.metrics.classification import classification_metrics
from modiste.metrics.intervals import CHUNK, CONFIDENCE, _medians, _resamples, cluster_means

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES = 10_000
"""The smallest bootstrap p-value, 2 / (resamples + 1), stays below 0.05 after Holm's correction of up to 250 tests."""
ALPHA = round(1 - CONFIDENCE, 9)
MCNEMAR = "McNemar"
BOOTSTRAP = "bootstrap"


@dataclass(frozen=True)
class Comparison:
    """Model A against model B on the same queries.

    Attributes:
        difference: Difference of the metric, A − B.
        low: Lower end of the difference's 95 % percentile interval (queries resampled in pairs).
        high: Upper end of the interval.
        p: Two-sided p-value.
        test: ``McNemar`` or ``bootstrap``.
        n: Number of queries.
    """

    difference: float
    low: float
    high: float
    p: float
    test: str
    n: int


def mcnemar(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Two-sided p-value of McNemar's exact test over the queries that exactly one model gets right.

    Always the binomial test, never the χ² approximation.

    Args:
        a: Values 0 or 1 of model A (n,).
        b: Values 0 or 1 of model B (n,) on the same queries.

    Raises:
        ModisteError: The lengths differ, or a value is neither 0 nor 1.

    Source: McNemar, Psychometrika 12, 1947; Dietterich, Neural Computation 10, 1998.

    >>> round(mcnemar([1, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0]), 4)
    0.2188
    """
    from scipy.special import bdtr

    first, second = _pair(a, b)
    if not (is_binary(first) and is_binary(second)):
        raise ModisteError("McNemar's test needs values of 0 and 1: use the paired bootstrap for other values.")
    only_a, only_b = int((first > second).sum()), int((first < second).sum())
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def compare(
    a: Mapping[str, npt.ArrayLike],
    b: Mapping[str, npt.ArrayLike],
    medians: Collection[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    clusters: npt.NDArray[Any] | None = None,
) -> dict[str, Comparison]:
    """Compare the metrics that both models have, by their values per query.

    Binary values use McNemar's test, all others and clustered values the bootstrap. All intervals are bootstrap
    intervals; metrics with the same number of queries share the resamples.

    Args:
        a: Metric name to values (n,) of model A; n may differ between metrics.
        b: Metric name to values (n,) of model B on the same queries, in the same order.
        medians: Metrics whose statistic is the median, not the mean.
        resamples: Number of resamples of the queries with replacement.
        seed: Seed of the resamples.
        clusters: Cluster of each query (n,), such as its photo; clusters are resampled whole. All metrics then have
            the same n queries, and ``medians`` is ignored.

    Raises:
        ModisteError: A metric has no values or a different number of them in A and B, or ``resamples`` < 1.

    >>> compare({"hit_rate@1": [1, 1, 1, 0]}, {"hit_rate@1": [0, 1, 0, 0]})["hit_rate@1"]
    Comparison(difference=0.5, low=0.0, high=1.0, p=0.5, test='McNemar', n=4)
    """
    pairs = {name: _pair(a[name], b[name]) for name in a if name in b}
    if clusters is not None and pairs:
        _check(resamples)
        table = np.stack([first - second for first, second in pairs.values()], axis=1)
        value, draws = cluster_means(table, clusters, None, resamples, seed)
        units = len(np.unique(clusters))
        return {
            name: _comparison(float(v), d, len(table), units) for name, v, d in zip(pairs, value, draws.T, strict=True)
        }
    by_size: dict[int, list[str]] = {}
    for name, (first, _) in pairs.items():
        by_size.setdefault(len(first), []).append(name)
    found: dict[str, Comparison] = {}
    for n, names in by_size.items():
        drawn = _difference_draws({name: pairs[name] for name in names}, medians, resamples, seed)
        for name in names:
            first, second = pairs[name]
            statistic = np.median if name in medians else np.mean
            difference = float(statistic(first) - statistic(second))
            found[name] = _comparison(difference, drawn[name], n)
            if name not in medians and is_binary(first) and is_binary(second):
                exact = mcnemar(first, second)
                found[name] = Comparison(difference, found[name].low, found[name].high, exact, MCNEMAR, n)
    return {name: found[name] for name in pairs}


def compare_predictions(
    targets: npt.ArrayLike,
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    metrics: Callable[[Floats, Floats, Floats], Mapping[str, Floats]] = classification_metrics,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compare metrics that are not means over queries, such as F1, by a paired bootstrap over predictions.

    Resampling queries is equivalent to sampling the counts of the distinct (target, A's prediction, B's prediction)
    from a multinomial with n trials and their frequencies.

    Args:
        targets: Class indices (n,).
        a: Predictions of model A (n,).
        b: Predictions of model B (n,).
        metrics: A function like `modiste.metrics.classification.classification_metrics`.
        resamples: Number of resamples.
        seed: Seed of the resamples.

    Raises:
        ModisteError: The lengths differ, there are no queries, or ``resamples`` < 1.

    >>> round(compare_predictions([0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1])["weighted_f1"].difference, 4)
    0.2667
    """
    _check(resamples)
    for predictions in (a, b):
        _pair(targets, predictions)
    table = np.stack([np.asarray(x, np.int64) for x in (targets, a, b)])
    cells, counts = np.unique(table, axis=1, return_counts=True)
    n, classes = int(counts.sum()), int(table.max()) + 1

    def differences(weights: Floats) -> dict[str, Floats]:
        of_a, of_b = (metrics(*_class_counts(weights, cells[0], cells[i], classes)) for i in (1, 2))
        return {name: of_a[name] - of_b[name] for name in of_a}

    generator = np.random.default_rng(seed)
    step = max(1, CHUNK // max(len(counts), classes))
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    parts = [differences(generator.multinomial(n, counts / n, size=b).astype(np.float64)) for b in sizes]
    value = differences(counts[None].astype(np.float64))
    return {name: _comparison(float(v[0]), np.concatenate([p[name] for p in parts]), n) for name, v in value.items()}


def holm(p: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values, in order (Holm, Scandinavian Journal of Statistics 6, 1979).

    The i-th smallest of m is multiplied by m − i + 1, made non-decreasing and capped at 1. Rejecting those of at most
    5 % limits the probability of any false rejection to 5 %, whatever the dependence between the tests.

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()


def is_binary(values: Floats) -> bool:
    """Whether all values are 0 or 1."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def _pair(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Floats, Floats]:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ModisteError(
            f"A comparison needs values of the same queries, at least one, not of shapes {first.shape} and "
            f"{second.shape}: evaluate both on the same data."
        )
    return first, second


def _check(resamples: int) -> None:
    if resamples < 1:
        raise ModisteError(f"A bootstrap needs at least one resample, not {resamples}.")


def _difference_draws(
    pairs: Mapping[str, tuple[Floats, Floats]], medians: Collection[str], resamples: int, seed: int
) -> dict[str, Floats]:
    """Metric name to differences (resamples,) of the statistic; all metrics have as many queries."""
    _check(resamples)
    n = len(next(iter(pairs.values()))[0])
    means = [name for name in pairs if name not in medians]
    table = np.stack([pairs[name][0] - pairs[name][1] for name in means], axis=1) if means else np.empty((n, 0))
    mean_draws: list[Floats] = []
    median_draws: dict[str, list[Floats]] = {name: [] for name in pairs if name in medians}
    for counts in _resamples(n, resamples, np.random.default_rng(seed)):
        mean_draws.append(counts @ table / n)
        for name, draws in median_draws.items():
            of_a, of_b = (_resampled_medians(values, counts) for values in pairs[name])
            draws.append(of_a - of_b)
    found = dict(zip(means, np.concatenate(mean_draws).T, strict=True))
    return found | {name: np.concatenate(draws) for name, draws in median_draws.items()}


def _resampled_medians(values: Floats, counts: Floats) -> Floats:
    order = np.argsort(values, kind="stable")
    return _medians(values[order], counts[:, order])


def _class_counts(weights: Floats, targets: Ints, predictions: Ints, classes: int) -> Iterator[Floats]:
    """Correct predictions, support and predictions per class, each (b, C), of weighted cells (b, cells)."""
    by_target, by_prediction = np.eye(classes)[targets], np.eye(classes)[predictions]
    for cells in (by_target * (targets == predictions)[:, None], by_target, by_prediction):
        yield weights @ cells


def _comparison(difference: float, draws: Floats, n: int, units: int | None = None) -> Comparison:
    """Comparison whose p-value is the level at which the percentile interval starts to exclude zero.

    With ``units`` pairs (None: n), p is at least 2^(1 − units), the minimum of a permutation test: with few pairs the
    bootstrap would fall below it.
    """
    low, high = np.percentile(draws, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    # Rounding: the order of summation can turn a difference of 0 into ± 1e-17.
    beyond = min(int((draws <= 1e-12).sum()), int((draws >= -1e-12).sum()))
    p = min(1.0, max(2 * (beyond + 1) / (len(draws) + 1), 2.0 ** (1 - (n if units is None else units))))
    return Comparison(difference, float(low), float(high), p, BOOTSTRAP, n)
