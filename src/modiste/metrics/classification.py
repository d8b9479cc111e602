"""Accuracy, F1 and recall from a confusion matrix, as in scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from modiste.errors import ModisteError

Floats = npt.NDArray[np.float64]

DEFINITIONS = {
    "accuracy": "fraction of correct predictions",
    "weighted_f1": "F1 per class, mean weighted by support (scikit-learn average='weighted')",
    "macro_f1": "F1 per class, mean over the classes that occur in targets or predictions (scikit-learn "
    "average='macro', zero_division=0)",
    "mean_per_class_recall": "recall per class, mean over the classes that occur in targets (balanced accuracy)",
}
TABLE_COLUMNS = ["class", "support", "precision", "recall", "f1"]


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """0 where the denominator is 0 (scikit-learn zero_division=0)."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator, dtype=np.float64), where=denominator > 0)


def classification_metrics(right: Floats, support: Floats, predicted: Floats) -> dict[str, Floats]:
    """The metrics of `DEFINITIONS` from counts per class.

    Means exclude classes that occur neither in targets nor in predictions, as in scikit-learn. A class that is
    predicted but has no support has F1 = 0 in macro F1.

    Args:
        right: Correct predictions per class (..., C).
        support: Samples per class (..., C).
        predicted: Predictions per class (..., C).

    Returns:
        Metric name to values (...).

    >>> metrics = classification_metrics(np.array([1, 1, 0]), np.array([2, 1, 0]), np.array([1, 2, 0]))
    >>> {name: round(float(value), 3) for name, value in metrics.items()}
    {'accuracy': 0.667, 'weighted_f1': 0.667, 'macro_f1': 0.667, 'mean_per_class_recall': 0.75}
    """
    right, support, predicted = (np.asarray(x, dtype=np.float64) for x in (right, support, predicted))
    f1 = _ratio(2 * right, support + predicted)
    n = support.sum(axis=-1)
    return {
        "accuracy": _ratio(right.sum(axis=-1), n),
        "weighted_f1": _ratio((f1 * support).sum(axis=-1), n),
        "macro_f1": _ratio(f1.sum(axis=-1), (support + predicted > 0).sum(axis=-1)),
        "mean_per_class_recall": _ratio(_ratio(right, support).sum(axis=-1), (support > 0).sum(axis=-1)),
    }


def auc(scores: Floats, labels: npt.NDArray[np.bool_], counts: Floats | None = None) -> Floats:
    """Exact area under the ROC curve: probability that a positive outscores a negative; ties count half.

    Args:
        scores: Scores (n,).
        labels: True for positives (n,).
        counts: Multiplicity of each score in b samples (b, n); None: one sample with each score once.

    Returns:
        AUC of each sample (b,); 0.5 if it is all positive or all negative.

    >>> auc(np.array([0.9, 0.2, 0.2]), np.array([True, True, False]))
    array([0.75])
    """
    counts = np.ones((1, len(scores))) if counts is None else counts
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    positive = np.add.reduceat(counts[:, order] * labels[order], starts, axis=1)
    negative = np.add.reduceat(counts[:, order] * ~labels[order], starts, axis=1)
    outscored = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.divide((positive * outscored).sum(axis=1), pairs, out=np.full(len(counts), 0.5), where=pairs > 0)


def confusion_matrix(targets: npt.ArrayLike, predictions: npt.ArrayLike, n_classes: int) -> npt.NDArray[np.int64]:
    """Counts (C, C) of class indices (N,): rows are targets, columns predictions.

    >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2)
    array([[1, 1],
           [0, 1]])
    """
    cells = np.asarray(targets, dtype=np.int64) * n_classes + np.asarray(predictions, dtype=np.int64)
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def per_class_table(confusion: npt.NDArray[np.int64], labels: Sequence[str]) -> dict[str, list[Any]]:
    """``{"columns": TABLE_COLUMNS, "rows": one list per class}``, in the order of ``labels``.

    >>> per_class_table(np.array([[1, 1], [0, 2]]), ["Dress", "Shirt"])["rows"][1]
    ['Shirt', 2, 0.6666666666666666, 1.0, 0.8]
    """
    counts = confusion.astype(np.float64)
    right, support, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    values = _ratio(right, predicted), _ratio(right, support), _ratio(2 * right, support + predicted)
    rows = zip(labels, confusion.sum(axis=1).tolist(), *(v.tolist() for v in values), strict=True)
    return {"columns": list(TABLE_COLUMNS), "rows": [list(row) for row in rows]}


class ClassificationMetrics(Metric):
    """Metrics of `DEFINITIONS` from a confusion matrix, summed over processes.

    Args:
        n_classes: Number of classes C.
        kwargs: Arguments of `torchmetrics.Metric`.

    >>> metric = ClassificationMetrics(2)
    >>> metric.update(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
    >>> round(metric.compute()["accuracy"].item(), 3)
    0.667
    """

    full_state_update = False
    higher_is_better = True
    confusion: Tensor

    def __init__(self, n_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_classes = n_classes
        self.add_state("confusion", default=torch.zeros(n_classes, n_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add predicted and target class indices, both (B,).

        Raises:
            ModisteError: The shapes differ or an index is not a class.
        """
        if predictions.shape != targets.shape:
            raise ModisteError(f"Predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} differ.")
        both = torch.cat([predictions.flatten(), targets.flatten()])
        outside = both[(both < 0) | (both >= self.n_classes)]
        if len(outside):
            raise ModisteError(f"Class index {int(outside[0])} is not in 0..{self.n_classes - 1}.")
        cells = targets.flatten() * self.n_classes + predictions.flatten()
        self.confusion += torch.bincount(cells, minlength=self.n_classes**2).view_as(self.confusion)

    def compute(self) -> dict[str, Tensor]:
        """Metric name to a scalar float32."""
        confusion = self.confusion.cpu().numpy()
        values = classification_metrics(np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0))
        return {name: torch.tensor(float(value), device=self.device) for name, value in values.items()}

    def per_class(self, labels: Sequence[str]) -> dict[str, list[Any]]:
        """`per_class_table` of the confusion matrix of this process."""
        return per_class_table(self.confusion.cpu().numpy(), labels)
