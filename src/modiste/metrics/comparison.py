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
"""The smallest p-value of a bootstrap is 2 / (resamples + 1): small enough for Holm's correction of 250 tests."""
ALPHA = round(1 - CONFIDENCE, 9)
MCNEMAR = "McNemar"
BOOTSTRAP = "bootstrap"


@dataclass(frozen=True)
class Comparison:
    """Model A against model B on the same queries.

    Attributes:
        difference: Of the metric, A − B.
        low: Lower end of the difference's 95 % percentile interval (queries resampled in pairs).
        high: Upper end.
        p: Two-sided.
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

    Exact (binomial) for any number of queries, so that no approximation has to be chosen by it.

    Args:
        a: (n,) of 0 and 1.
        b: (n,), the same queries.

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

    Values of 0 and 1 take McNemar's test, others and values in clusters the bootstrap. All intervals are bootstrap
    intervals; metrics with as many queries share the resamples.

    Args:
        a: Metric name to (n,) values; n may differ between metrics.
        b: The same queries in the same order.
        medians: The metrics whose statistic is the median, not the mean.
        resamples: Number of resamples of the queries with replacement.
        seed: Of the resamples.
        clusters: (n,) each query's cluster, such as its photo, which is resampled whole; all metrics then have the
            same n queries, and none is a median.

    Raises:
        ModisteError: A metric has no values, or other numbers of them, or there is no resample.

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

    Resampling queries is drawing the counts of the different (target, A's prediction, B's prediction) from a
    multinomial with n trials and their own frequencies.

    Args:
        targets: (n,) class indices.
        a: (n,) predictions of model A.
        b: (n,) predictions of model B.
        metrics: As `modiste.metrics.classification.classification_metrics`.
        resamples: Number of resamples.
        seed: Of the resamples.

    Raises:
        ModisteError: The lengths differ, there is no query, or there is no resample.

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

    The i-th smallest of m is multiplied by m − i + 1, is never below a smaller one's, and never above 1. Rejecting
    those of at most 5 % keeps the chance of any false rejection at 5 %, however the tests depend on each other.

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
    """Metric name to (resamples,) differences of the statistic; the metrics have the same number of queries."""
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
    """Per class the right predictions, the support and the predictions, (b, C), of weighted cells (b, cells)."""
    by_target, by_prediction = np.eye(classes)[targets], np.eye(classes)[predictions]
    for cells in (by_target * (targets == predictions)[:, None], by_target, by_prediction):
        yield weights @ cells


def _comparison(difference: float, draws: Floats, n: int, units: int | None = None) -> Comparison:
    """With the p-value at which the percentile interval starts to exclude zero.

    Of ``units`` pairs (None: n) no test that exchanges the models' names can give less than 2^(1 − units); the
    bootstrap of a few would.
    """
    low, high = np.percentile(draws, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    # Sums of the same numbers in another order: a draw of exactly 0 may come out as ± 1e-17.
    beyond = min(int((draws <= 1e-12).sum()), int((draws >= -1e-12).sum()))
    p = min(1.0, max(2 * (beyond + 1) / (len(draws) + 1), 2.0 ** (1 - (n if units is None else units))))
    return Comparison(difference, float(low), float(high), p, BOOTSTRAP, n)
