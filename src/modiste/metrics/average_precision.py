"""Average precision of a ranking under many item weightings at once, as in scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


class Ranking:
    """Items sorted once by score; ties form one step, as in `sklearn.metrics.average_precision_score`.

    Args:
        scores: Scores (n,); higher ranks first.
        positives: True for relevant items (n,), at least one.

    >>> ranking = Ranking(np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, False, True, False]))
    >>> ranking.average_precision(np.ones((4, 1)))
    array([0.83333333])
    """

    def __init__(self, scores: Floats, positives: npt.NDArray[np.bool_]) -> None:
        order = np.argsort(-scores, kind="stable")
        ordered, hit = scores[order], positives[order]
        ends = np.flatnonzero(np.append(np.diff(ordered) != 0, True))  # the last item of each step
        steps = np.searchsorted(ends, np.flatnonzero(hit))
        # Recall rises only in steps with a positive, so the steps between them are merged.
        rising, first = np.unique(steps, return_index=True)
        last = ends[rising]
        self.order = order[: last[-1] + 1]
        self.starts = np.concatenate([[0], last[:-1] + 1])
        self.hits = order[hit]
        self.hit_starts = first

    def average_precision(self, weights: Floats) -> npt.NDArray[np.float64]:
        """Sum over the steps of the gain in recall times precision.

        Args:
            weights: Weights (n, b), such as the counts of each item in b bootstrap resamples.

        Returns:
            Average precision (b,); nan where the positives have no weight.
        """
        seen = np.cumsum(np.add.reduceat(weights[self.order], self.starts, axis=0), axis=0, dtype=np.float64)
        rise = np.add.reduceat(weights[self.hits], self.hit_starts, axis=0).astype(np.float64)
        found = np.cumsum(rise, axis=0)
        precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
        total = found[-1]
        return np.divide((precision * rise).sum(axis=0), total, out=np.full_like(total, np.nan), where=total > 0)
