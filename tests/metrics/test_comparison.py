"""Tests between two models, against scipy, brute force and the theory they come from."""

from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel
from sklearn.metrics import f1_score

from modiste.errors import ModisteError
from modiste.metrics.comparison import compare, compare_predictions, holm, mcnemar
from modiste.metrics.intervals import bootstrap_clusters


def right(n, p, seed):
    return (np.random.default_rng(seed).random(n) < p).astype(float)


@pytest.mark.parametrize(("n", "p", "q"), [(5, 0.5, 0.5), (40, 0.4, 0.7), (300, 0.5, 0.55), (20_000, 0.30, 0.31)])
def test_mcnemar_is_scipys_binomial_test_of_the_discordant_pairs(n, p, q):
    a, b = right(n, p, 1), right(n, q, 2)
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    assert mcnemar(a, b) == pytest.approx(binomtest(only_a, only_a + only_b, 0.5).pvalue, rel=1e-9)
    assert mcnemar(a, b) == mcnemar(b, a)


def test_mcnemar_is_the_permutation_test_that_exchanges_the_models_query_by_query():
    a, b = np.array([1, 1, 1, 1, 0, 1, 0, 1, 0.0]), np.array([0, 1, 0, 0, 0, 0, 1, 1, 0.0])
    observed = abs((a - b).sum())
    signs = product([1, -1], repeat=len(a))
    extreme = [abs(((a - b) * sign).sum()) >= observed for sign in signs]
    assert mcnemar(a, b) == pytest.approx(np.mean(extreme))


def test_mcnemar_of_models_that_agree_is_1_and_needs_zeros_and_ones():
    assert mcnemar([1, 0, 1], [1, 0, 1]) == 1.0
    with pytest.raises(ModisteError, match="values of 0 and 1"):
        mcnemar([0.5, 1], [0, 1])


def test_holm_is_the_closure_of_bonferronis_test():
    """p_i adjusted = the largest Bonferroni p of any set of hypotheses that holds i (Marcus, Peritz, Gabriel 1976)."""
    generator = np.random.default_rng(0)
    for m in (1, 2, 5, 8):
        p = generator.random(m) ** 3
        sets = [s for size in range(1, m + 1) for s in combinations(range(m), size)]
        closure = [max(min(1, len(s) * p[list(s)].min()) for s in sets if i in s) for i in range(m)]
        assert holm(p.tolist()) == pytest.approx(closure)


def test_holm_agrees_with_an_example_by_hand():
    """Of p .01 .04 .03 .005 and .2: ×5 .005, ×4 .01, ×3 .03, ×2 .04 (held up to .09), ×1 .2."""
    assert holm([0.01, 0.04, 0.03, 0.005, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.2])
    assert holm([]) == []


def test_clusters_are_resampled_whole_and_binary_values_take_no_mcnemar_test():
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), generator.integers(1, 6, 40))
    better = (generator.random(40) < 0.3)[clusters]
    b = right(len(clusters), 0.4, 1)
    a = np.where(better, 1.0, b)
    found, plain = (compare({"pointing": a}, {"pointing": b}, clusters=c)["pointing"] for c in (clusters, None))
    wanted = bootstrap_clusters({"x": a - b}, clusters, resamples=10_000)["x"]
    assert (found.difference, found.low, found.high) == pytest.approx((wanted.value, wanted.low, wanted.high))
    assert (found.test, found.n) == ("bootstrap", len(clusters))
    assert found.high - found.low > plain.high - plain.low
    assert found.p > plain.p


def test_the_bootstrap_of_a_difference_of_means_is_that_of_the_paired_t_test_for_many_queries():
    generator = np.random.default_rng(3)
    a = generator.random(4000)
    b = np.clip(a - 0.006 + 0.2 * generator.standard_normal(4000), 0, 1)
    found = compare({"mrr": a}, {"mrr": b})["mrr"]
    difference = a - b
    half = 1.96 * difference.std() / np.sqrt(len(a))
    assert found.difference == pytest.approx(difference.mean())
    assert (found.low, found.high) == pytest.approx((difference.mean() - half, difference.mean() + half), abs=3e-4)
    assert found.p == pytest.approx(ttest_rel(a, b).pvalue, abs=0.01)
    assert 0.001 < found.p < 0.2
    assert (found.test, found.n) == ("bootstrap", 4000)


def test_pairing_matters():
    """A small difference on all queries is significant, though the models' own intervals overlap widely."""
    b = np.random.default_rng(0).random(200) * 0.9
    a = b + 0.01 + 0.001 * np.random.default_rng(1).random(200)
    assert compare({"mrr": a}, {"mrr": b})["mrr"].p < 0.001
    assert compare({"mrr": a}, {"mrr": np.random.default_rng(2).permutation(b)})["mrr"].p > 0.05


def test_under_the_null_hypothesis_one_test_in_twenty_is_significant():
    generator = np.random.default_rng(0)
    p = [
        compare({"m": generator.random(100)}, {"m": generator.random(100)}, resamples=1000, seed=i)["m"].p
        for i in range(400)
    ]
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09


def test_the_p_value_and_the_interval_agree_about_zero():
    generator = np.random.default_rng(0)
    for shift in np.linspace(0, 0.08, 17):
        a = generator.random(150)
        found = compare({"m": a + shift}, {"m": generator.permutation(a)}, resamples=2000)["m"]
        if abs(found.p - 0.05) > 0.005:
            assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_values_of_0_and_1_take_mcnemars_test_and_a_bootstrap_interval():
    a, b = right(500, 0.6, 1), right(500, 0.5, 2)
    found = compare({"hit_rate@1": a, "mrr": a / 2}, {"hit_rate@1": b, "mrr": b / 2})
    assert found["hit_rate@1"].test == "McNemar"
    assert found["hit_rate@1"].p == mcnemar(a, b)
    assert found["mrr"].test == "bootstrap"
    assert found["mrr"].low == pytest.approx(found["hit_rate@1"].low / 2)  # the same resamples


def test_medians_are_compared_as_medians():
    generator = np.random.default_rng(0)
    a, b = (np.round(generator.lognormal(3, 1, 301)) for _ in range(2))
    found = compare({"median_rank": a}, {"median_rank": b}, ["median_rank"], resamples=4000)["median_rank"]
    assert found.difference == np.median(a) - np.median(b)
    draws = generator.integers(0, 301, (4000, 301))
    reference = np.percentile(np.median(a[draws], axis=1) - np.median(b[draws], axis=1), [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx(reference, abs=1.5)


def test_predictions_are_compared_by_the_f1_of_resampled_queries():
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 5, 400)
    a, b = (np.where(generator.random(400) < p, targets, generator.integers(0, 5, 400)) for p in (0.60, 0.50))
    found = compare_predictions(targets, a, b, resamples=4000)

    def macro_f1(rows, x):
        hits = [np.sum((targets[rows] == c) & (x[rows] == c)) for c in range(5)]
        sizes = [np.sum(targets[rows] == c) + np.sum(x[rows] == c) for c in range(5)]
        return np.mean(2 * np.array(hits) / sizes)

    for name, average in {"weighted_f1": "weighted", "macro_f1": "macro"}.items():
        of_a, of_b = (f1_score(targets, x, average=average) for x in (a, b))
        assert found[name].difference == pytest.approx(of_a - of_b)
    draws = []
    for _ in range(1500):
        rows = generator.integers(0, 400, 400)
        draws.append(macro_f1(rows, a) - macro_f1(rows, b))
    assert (found["macro_f1"].low, found["macro_f1"].high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.01)
    right_a, right_b = ((x == targets).astype(float) for x in (a, b))
    accuracy = compare({"accuracy": right_a}, {"accuracy": right_b})["accuracy"]
    assert found["accuracy"].difference == pytest.approx(accuracy.difference)
    assert (found["accuracy"].low, found["accuracy"].high) == pytest.approx((accuracy.low, accuracy.high), abs=0.01)


def test_the_seed_decides_the_result():
    a, b = np.random.default_rng(0).random((2, 50))
    assert compare({"m": a}, {"m": b}, seed=1) == compare({"m": a}, {"m": b}, seed=1)
    assert compare({"m": a}, {"m": b}, seed=1) != compare({"m": a}, {"m": b}, seed=2)


def test_identical_models_do_not_differ():
    a = np.random.default_rng(0).random(100)
    found = compare({"m": a, "only_a": a}, {"m": a})
    assert list(found) == ["m"]
    assert (found["m"].difference, found["m"].low, found["m"].high, found["m"].p) == (0, 0, 0, 1)


def test_other_queries_are_refused():
    with pytest.raises(ModisteError, match="same queries"):
        compare({"m": np.ones(3)}, {"m": np.ones(4)})
    with pytest.raises(ModisteError, match="at least one"):
        compare({"m": []}, {"m": []})
    with pytest.raises(ModisteError, match="one resample"):
        compare({"m": [1.0]}, {"m": [0.5]}, resamples=0)


@pytest.mark.parametrize(("n", "p"), [(1, 1.0), (2, 0.5), (5, 1 / 16)])
def test_a_few_queries_prove_nothing_however_far_apart(n, p):
    """Of n pairs a sign test cannot give less than 2^(1 − n), and the bootstrap does not either."""
    found = compare({"mrr": np.linspace(0.6, 0.9, n)}, {"mrr": np.full(n, 0.1)})["mrr"]
    assert found.p == pytest.approx(p)
    photos = np.repeat(np.arange(n), 10)
    found = compare({"mrr": np.linspace(0.6, 0.9, 10 * n)}, {"mrr": np.full(10 * n, 0.1)}, clusters=photos)["mrr"]
    assert found.p == pytest.approx(p)
