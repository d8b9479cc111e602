"""Logistic regression on embeddings, with a check of convergence."""

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
"""The solver stops when no entry of the mean loss's gradient is larger."""
CONVERGED = 1e-4
"""Largest entry of the gradient of a converged fit: scikit-learn's default tolerance."""


@dataclass(frozen=True)
class LogisticFit:
    """A fitted regression.

    Attributes:
        model: scikit-learn estimator.
        iterations: Number of L-BFGS iterations.
        gradient: Largest absolute entry of the mean loss's gradient at the end, computed independently of the solver.
    """

    model: Any
    iterations: int
    gradient: float

    @property
    def converged(self) -> bool:
        """Whether the gradient is at most `CONVERGED`."""
        return self.gradient <= CONVERGED

    def predict(self, features: Floats) -> Ints:
        """Class with the highest score (N,) for features (N, D); ties go to the lowest index."""
        return np.asarray(self.model.predict(features), dtype=np.int64)


def fit_logistic(features: Floats, targets: Ints, c: float = 1.0, max_iter: int = 2000) -> LogisticFit:
    """Minimise ‖W‖² / 2 + c · Σ cross-entropy, intercept unpenalised, in float64 (scikit-learn, L-BFGS).

    Args:
        features: Features (N, D).
        targets: Class indices (N,); classes that do not occur are never predicted.
        c: Inverse regularisation strength.
        max_iter: Maximum number of iterations.

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
        warnings.simplefilter("ignore", ConvergenceWarning)  # `LogisticFit.converged` reports it
        warnings.filterwarnings("ignore", "The number of unique classes")  # one sample per class is intended
        model = LogisticRegression(C=c, max_iter=max_iter, tol=TOLERANCE).fit(features, targets)
    return LogisticFit(model, int(model.n_iter_.max()), _gradient(model, features, targets, c))


def _gradient(model: Any, features: Floats, targets: Ints, c: float) -> float:
    residual = model.predict_proba(features) - (targets[:, None] == model.classes_)
    if len(model.classes_) == 2:  # one weight vector, that of the second class
        residual = residual[:, 1:]
    slopes = (residual.T @ features + model.coef_ / c) / len(features)
    return float(max(np.abs(slopes).max(), np.abs(residual.mean(axis=0)).max()))
