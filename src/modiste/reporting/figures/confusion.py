"""The most confused classes of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CONFUSED_CLASSES = 25


def most_confused(
    labels: Sequence[str], matrix: Sequence[Sequence[float]], n: int = 15
) -> list[tuple[str, str, int, float]]:
    """The ``n`` largest off-diagonal cells: (true, predicted, count, fraction of the true class).

    >>> most_confused(["shirt", "top"], [[8, 2], [1, 9]], n=1)
    [('shirt', 'top', 2, 0.2)]
    """
    counts = np.asarray(matrix)
    off = counts.astype(float)
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:n]
    pairs = [divmod(int(i), len(labels)) for i in order]
    totals = counts.sum(axis=1)
    return [
        (labels[i], labels[j], counts[i, j].item(), float(counts[i, j] / totals[i])) for i, j in pairs if off[i, j] > 0
    ]


def confused_classes(matrix: Sequence[Sequence[float]], n: int = CONFUSED_CLASSES) -> list[int]:
    """Indices, ascending, of the ``n`` classes with the most errors into and out of them."""
    off = np.asarray(matrix, dtype=float).copy()
    np.fill_diagonal(off, 0)
    errors = off.sum(axis=0) + off.sum(axis=1)
    return sorted(np.argsort(-errors, kind="stable")[:n].tolist())
