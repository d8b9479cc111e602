"""Against scikit-learn, with classes that are missing from targets, predictions or both."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from modiste.errors import ModisteError
from modiste.metrics.classification import (
    DEFINITIONS,
    ClassificationMetrics,
    classification_metrics,
    confusion_matrix,
    per_class_table,
)

N_CLASSES = 6


def samples(case):
    """Targets and predictions of 6 classes."""
    generator = np.random.default_rng(0)
    targets = generator.choice(N_CLASSES, 200, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    predictions = np.where(generator.random(200) < 0.6, targets, generator.integers(0, N_CLASSES, 200))
    if case == "class 2 never predicted":
        predictions[predictions == 2] = 3
    elif case == "class 2 without support":
        targets[targets == 2] = 0
    elif case == "class 2 nowhere":
        targets[targets == 2], predictions[predictions == 2] = 0, 1
    elif case == "one sample":
        targets, predictions = targets[:1], predictions[:1]
    elif case == "all wrong":
        predictions = (targets + 1) % N_CLASSES
    return targets, predictions


CASES = [
    "all classes",
    "class 2 never predicted",
    "class 2 without support",
    "class 2 nowhere",
    "one sample",
    "all wrong",
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
def test_metrics_equal_scikit_learn(case):
    """Macro means are over the classes that occur in targets or predictions, as scikit-learn's are."""
    targets, predictions = samples(case)
    confusion = confusion_matrix(targets, predictions, N_CLASSES)
    ours = classification_metrics(np.diag(confusion), confusion.sum(1), confusion.sum(0))
    f1 = {a: sklearn_metrics.f1_score(targets, predictions, average=a, zero_division=0) for a in ("weighted", "macro")}
    assert {name: float(value) for name, value in ours.items()} == pytest.approx(
        {
            "accuracy": sklearn_metrics.accuracy_score(targets, predictions),
            "weighted_f1": f1["weighted"],
            "macro_f1": f1["macro"],
            "mean_per_class_recall": sklearn_metrics.balanced_accuracy_score(targets, predictions),
        }
    )
    assert set(ours) == set(DEFINITIONS)


@pytest.mark.parametrize("case", CASES)
def test_confusion_and_table_equal_scikit_learn(case):
    targets, predictions = samples(case)
    labels = np.arange(N_CLASSES)
    confusion = confusion_matrix(targets, predictions, N_CLASSES)
    np.testing.assert_array_equal(confusion, sklearn_metrics.confusion_matrix(targets, predictions, labels=labels))
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        targets, predictions, labels=labels, zero_division=0
    )
    table = per_class_table(confusion, [f"class {i}" for i in labels])
    assert table["columns"] == ["class", "support", "precision", "recall", "f1"]
    assert [row[0] for row in table["rows"]] == [f"class {i}" for i in labels]
    np.testing.assert_allclose([row[1:] for row in table["rows"]], np.stack([support, precision, recall, f1], axis=1))


def test_counts_may_have_leading_dimensions():
    """A stack of confusion matrices gives what each gives alone."""
    stack = np.random.default_rng(0).integers(0, 5, (7, 3, 3))
    right = np.diagonal(stack, axis1=1, axis2=2)
    together = classification_metrics(right, stack.sum(2), stack.sum(1))
    for i, one in enumerate(stack):
        alone = classification_metrics(np.diag(one), one.sum(1), one.sum(0))
        assert {k: v[i] for k, v in together.items()} == pytest.approx({k: float(v) for k, v in alone.items()})


def test_the_metric_accumulates_batches():
    targets, predictions = (torch.from_numpy(x) for x in samples("all classes"))
    metric = ClassificationMetrics(N_CLASSES)
    for part in (slice(0, 3), slice(3, 3), slice(3, 200)):
        metric.update(predictions[part], targets[part])
    assert metric.compute()["macro_f1"].item() == pytest.approx(
        sklearn_metrics.f1_score(targets, predictions, average="macro"), abs=1e-6
    )
    assert metric.per_class(list("abcdef"))["rows"][0][1] == int((targets == 0).sum())


@pytest.mark.parametrize(
    ("predictions", "targets", "message"),
    [([0, 2], [0, 1], "Class index 2 is not in 0..1"), ([0, 1], [-1, 1], "Class index -1"), ([0], [0, 1], "differ")],
)
def test_bad_classes_are_an_error(predictions, targets, message):
    with pytest.raises(ModisteError, match=message):
        ClassificationMetrics(2).update(torch.tensor(predictions), torch.tensor(targets))
