"""The bootstrap against explicit loops, scipy and the normal approximation."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from modiste.errors import ModisteError
from modiste.metrics import intervals
from modiste.metrics.classification import classification_metrics, confusion_matrix
from modiste.metrics.intervals import (
    bootstrap,
    bootstrap_clusters,
    bootstrap_confusion,
    bootstrap_groups,
    bootstrap_statistic,
)


@pytest.mark.parametrize("n", [1, 2, 7, 50])
@pytest.mark.parametrize("ties", [False, True])
def test_means_and_medians_equal_the_explicit_loop(n, ties):
    """Every resample is n draws with replacement, the same for all metrics; odd and even n, values in any order."""
    generator = np.random.default_rng(1)
    values = {"mrr": generator.random(n), "median_rank": generator.integers(1, 6, n) if ties else generator.random(n)}
    ours = bootstrap(values, medians=["median_rank"], resamples=300, seed=5)
    draws = np.random.default_rng(5).integers(0, n, size=(300, n))
    for name, statistic in (("mrr", np.mean), ("median_rank", np.median)):
        loop = [statistic(values[name][rows]) for rows in draws]
        low, high = np.percentile(loop, [2.5, 97.5])
        assert (ours[name].low, ours[name].high) == pytest.approx((low, high))
        assert ours[name].value == pytest.approx(statistic(values[name]))
        assert ours[name].n == n


def test_the_result_does_not_depend_on_the_chunks(monkeypatch):
    values = {"x": np.random.default_rng(0).random(20)}
    confusion = np.array([[8, 3], [2, 9]])
    whole = bootstrap(values, ["x"]), bootstrap(values), bootstrap_confusion(confusion, classification_metrics)
    monkeypatch.setattr(intervals, "CHUNK", 130)
    parts = bootstrap(values, ["x"]), bootstrap(values), bootstrap_confusion(confusion, classification_metrics)
    assert parts == whole


def test_the_interval_equals_scipys():
    """Percentile method; two Monte Carlo estimates of 5,000 resamples each."""
    values = np.random.default_rng(0).beta(0.5, 0.5, 300)
    ours = bootstrap({"x": values}, resamples=5000)["x"]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(9))
    width = ours.high - ours.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.05 * width)
    assert width == pytest.approx(2 * 1.96 * values.std() / np.sqrt(300), rel=0.05)


@pytest.mark.parametrize("macro", [False, True])
def test_cluster_intervals_equal_a_loop_that_resamples_whole_clusters(macro):
    """Photos with one to six pairs, whose values depend on the photo: the plain bootstrap is too narrow."""
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(60), generator.integers(1, 7, 60))
    classes = generator.choice(["a", "b", "c"], len(clusters), p=[0.7, 0.25, 0.05])
    values = (generator.random(60)[clusters] + 0.1 * generator.random(len(clusters))) * (1 + (classes == "a"))
    ours = bootstrap_clusters({"x": values}, clusters, classes if macro else None, resamples=4000)["x"]

    def mean(rows):
        if not macro:
            return values[rows].mean()
        return np.mean([values[rows][classes[rows] == name].mean() for name in np.unique(classes[rows])])

    members = [np.flatnonzero(clusters == cluster) for cluster in range(60)]
    draws = [mean(np.concatenate([members[cluster] for cluster in generator.integers(0, 60, 60)])) for _ in range(2000)]
    width = ours.high - ours.low
    assert (ours.low, ours.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.07 * width)
    assert ours.value == pytest.approx(mean(np.arange(len(clusters))))
    assert ours.n == len(clusters)
    if not macro:
        plain = bootstrap({"x": values}, resamples=4000)["x"]
        assert plain.high - plain.low < 0.8 * width


def test_clusters_of_one_query_are_the_plain_bootstrap():
    values = {"x": np.random.default_rng(0).random(50)}
    plain, clustered = bootstrap(values)["x"], bootstrap_clusters(values, np.arange(50))["x"]
    assert vars(clustered) == pytest.approx(vars(plain))


def test_f1_intervals_equal_resampling_the_pairs():
    """The multinomial over the cells of the confusion matrix is the bootstrap of (target, prediction) pairs."""
    generator = np.random.default_rng(0)
    targets = generator.choice(4, 150, p=[0.6, 0.3, 0.08, 0.02])
    predictions = np.where(generator.random(150) < 0.7, targets, generator.integers(0, 4, 150))
    ours = bootstrap_confusion(confusion_matrix(targets, predictions, 5), classification_metrics, resamples=4000)
    draws = generator.integers(0, 150, size=(800, 150))
    for average in ("weighted", "macro"):
        loop = [f1_score(targets[rows], predictions[rows], average=average, zero_division=0) for rows in draws]
        interval = ours[f"{average}_f1"]
        assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(loop, [2.5, 97.5])), abs=0.02)
        assert interval.value == pytest.approx(f1_score(targets, predictions, average=average))
        assert interval.n == 150


def test_accuracy_is_the_same_from_pairs_and_from_the_confusion_matrix():
    """Accuracy is a mean: both bootstraps estimate one interval."""
    right = np.repeat([1.0, 0.0], [70, 30])
    mean = bootstrap({"accuracy": right}, resamples=4000)["accuracy"]
    cells = bootstrap_confusion(np.array([[40, 10], [20, 30]]), classification_metrics, resamples=4000)["accuracy"]
    assert mean.value == pytest.approx(cells.value)
    assert (mean.low, mean.high) == pytest.approx((cells.low, cells.high), abs=0.011)


@pytest.mark.parametrize("n", [1, 9, 40])
@pytest.mark.parametrize("right", [0, 1])
def test_all_right_or_all_wrong_is_no_certainty(n, right):
    """The exact interval of a proportion, as scipy has it; not of ranks, of differences, or where queries differ."""
    exact = stats.binomtest(right * n, n).proportion_ci(method="exact")
    same = np.full(n, float(right))
    ends = {"accuracy": (exact.low, exact.high), "gain": (right, right)}
    confusion = np.array([[n, 0], [0, 0]]) if right else np.array([[0, n], [0, 0]])
    of_pairs = bootstrap_confusion(confusion, classification_metrics)
    found = [
        bootstrap({"accuracy": same, "gain": same}, medians=["gain"]),
        bootstrap_clusters({"accuracy": same, "gain": same}, np.arange(n), signed=["gain"]),
        bootstrap_groups([{"accuracy": same}, {"accuracy": np.full(n + 3, float(right))}]),
        {"accuracy": bootstrap_statistic(lambda counts: counts @ same / n, n)},
        {"accuracy": of_pairs["accuracy"]},
        {"accuracy": of_pairs["weighted_f1"]},
    ]
    for intervals_of in found:
        for name, one in intervals_of.items():
            assert (one.low, one.high) == pytest.approx(ends[name])
            assert one.value == pytest.approx(right)


def test_photos_not_their_phrases_count_at_the_edge():
    hits = {"pointing": np.ones(30)}
    photos = np.arange(30) // 3
    assert bootstrap_clusters(hits, photos)["pointing"].low == pytest.approx(0.025 ** (1 / 10))


def test_the_seed_decides():
    values = {"x": np.random.default_rng(0).random(30)}
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)


@pytest.mark.parametrize(("n", "resamples"), [(0, 10), (5, 0)])
def test_nothing_to_resample_is_an_error(n, resamples):
    with pytest.raises(ModisteError, match="at least one query and one resample"):
        bootstrap({"x": np.ones(n)}, resamples=resamples)
    with pytest.raises(ModisteError, match="at least one query and one resample"):
        bootstrap_confusion(np.eye(2, dtype=int) * n, classification_metrics, resamples=resamples)
