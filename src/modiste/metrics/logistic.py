"""Logistic regression on embeddings, to its optimum, which is checked."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modiste.errors import ModisteError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TOLERANCE = 1e-6
"""Largest entry of the mean loss's gradient at which the solver stops."""
CONVERGED = 1e-4
"""Largest entry up to which a fit counts as converged: scikit-learn's own default tolerance."""


@dataclass(frozen=True)
class LogisticFit:
    """A fitted regression.

    Attributes:
        model: scikit-learn's estimator.
        iterations: Of L-BFGS.
        gradient: Largest absolute entry of the gradient of the mean loss at the end, computed apart from the solver.
    """

    model: Any
    iterations: int
    gradient: float

    @property
    def converged(self) -> bool:
        """Whether the optimum was reached."""
        return self.gradient <= CONVERGED

    def predict(self, features: Floats) -> Ints:
        """Classes (N,) of features (N, D): the one with the highest score, the lowest index of several."""
        return np.asarray(self.model.predict(features), dtype=np.int64)


def fit_logistic(features: Floats, targets: Ints, c: float = 1.0, max_iter: int = 2000) -> LogisticFit:
    """Minimise ‖W‖² / 2 + c · Σ cross-entropy, the intercept unpenalised, in float64 (scikit-learn, L-BFGS).

    Args:
        features: (N, D).
        targets: (N,) class indices; classes that do not occur are never predicted.
        c: Inverse strength of the penalty.
        max_iter: Limit of the iterations.

    Raises:
        ModisteError: There are fewer than two classes, or a feature is not finite.

    >>> fit = fit_logistic(np.array([[-1.0], [-0.5], [0.5], [1.0]]), np.array([3, 3, 7, 7]))
    >>> fit.predict(np.array([[-2.0], [2.0]]))
    array([3, 7])
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(targets)) < 2:
        raise ModisteError("Logistic regression needs samples of at least two classes.")
    if not np.isfinite(features).all():
        raise ModisteError("An embedding is not finite: the model has diverged or its input is invalid.")
    features = features.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the gradient says it
        warnings.filterwarnings("ignore", "The number of unique classes")  # one sample per class is intended
        model = LogisticRegression(C=c, max_iter=max_iter, tol=TOLERANCE).fit(features, targets)
    return LogisticFit(model, int(model.n_iter_.max()), _gradient(model, features, targets, c))


def _gradient(model: Any, features: Floats, targets: Ints, c: float) -> float:
    residual = model.predict_proba(features) - (targets[:, None] == model.classes_)
    if len(model.classes_) == 2:  # one weight vector, that of the second class
        residual = residual[:, 1:]
    slopes = (residual.T @ features + model.coef_ / c) / len(features)
    return float(max(np.abs(slopes).max(), np.abs(residual.mean(axis=0)).max()))
