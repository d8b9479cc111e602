"""The regression against an optimiser of its own, on the objective as written."""

import numpy as np
import pytest
import torch

from modiste.errors import ModisteError
from modiste.metrics.logistic import fit_logistic


def data(n_classes, n=120, dim=6, seed=0):
    generator = np.random.default_rng(seed)
    targets = generator.integers(n_classes, size=n)
    features = generator.normal(size=(n_classes, dim))[targets] + generator.normal(size=(n, dim))
    return features / np.linalg.norm(features, axis=1, keepdims=True), targets


def newton(features, targets, n_classes, c):
    """Minimises the docstring's objective by Newton's method; two classes have one weight vector."""
    x, y = torch.from_numpy(features), torch.from_numpy(targets)
    free = 1 if n_classes == 2 else n_classes
    parameters = torch.zeros(free * (x.shape[1] + 1), dtype=torch.float64)

    def logits(p):
        p = p.view(free, -1)
        scores = x @ p[:, :-1].T + p[:, -1]
        return torch.cat([torch.zeros_like(scores), scores], dim=1) if n_classes == 2 else scores

    def objective(p):
        weights = p.view(free, -1)[:, :-1]
        return weights.square().sum() / 2 + c * torch.nn.functional.cross_entropy(logits(p), y, reduction="sum")

    for _ in range(30):
        gradient = torch.func.grad(objective)(parameters)
        hessian = torch.func.hessian(objective)(parameters)
        # The common level of the intercepts is free: the pseudo-inverse leaves it.
        parameters = parameters - torch.linalg.pinv(hessian, hermitian=True) @ gradient
    return parameters.view(free, -1)[:, :-1].numpy(), logits(parameters).softmax(dim=1).numpy()


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("c", [0.1, 1.0, 30.0])
def test_the_fit_is_the_optimum_of_the_objective(n_classes, c):
    features, targets = data(n_classes)
    fitted = fit_logistic(features, targets, c)
    weights, probabilities = newton(features, targets, n_classes, c)
    np.testing.assert_allclose(fitted.model.coef_, weights, atol=2e-3)
    np.testing.assert_allclose(fitted.model.predict_proba(features), probabilities, atol=2e-4)
    assert fitted.predict(features).tolist() == probabilities.argmax(axis=1).tolist()
    assert fitted.converged
    assert fitted.gradient < 1e-5


@pytest.mark.parametrize("n_classes", [2, 4])
def test_a_fit_that_ends_early_says_so(n_classes, recwarn):
    features, targets = data(n_classes)
    fitted = fit_logistic(features, targets, c=100.0, max_iter=2)
    assert (fitted.converged, fitted.iterations) == (False, 2)
    assert fitted.gradient > 1e-4
    assert not recwarn.list


def test_the_gradient_is_that_of_the_mean_loss():
    """Differences of the objective along each weight."""
    features, targets = data(3)
    model = (fitted := fit_logistic(features, targets, c=2.0, max_iter=3)).model

    def mean_loss(weights, intercept):
        scores = features @ weights.T + intercept
        losses = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(targets)), targets]
        return losses.mean() + (weights**2).sum() / (2 * 2.0 * len(targets))

    slopes = []
    for array in (model.coef_, model.intercept_):
        for index in np.ndindex(array.shape):
            step = np.zeros_like(array)
            step[index] = 1e-5
            sides = [
                mean_loss(model.coef_ + s * step, model.intercept_)
                if array is model.coef_
                else mean_loss(model.coef_, model.intercept_ + s * step)
                for s in (1, -1)
            ]
            slopes.append((sides[0] - sides[1]) / 2e-5)
    assert fitted.gradient == pytest.approx(np.abs(slopes).max(), rel=1e-4)


def test_classes_keep_their_numbers_and_absent_ones_are_never_predicted():
    features, targets = data(3)
    assert set(fit_logistic(features, targets * 2 + 1).predict(features)) <= {1, 3, 5}


def test_one_sample_a_class_gives_no_warning(recwarn):
    assert fit_logistic(np.eye(6), np.arange(6)).predict(np.eye(6)).tolist() == list(range(6))
    assert not recwarn.list


def test_what_cannot_be_fitted_is_an_error():
    with pytest.raises(ModisteError, match="at least two classes"):
        fit_logistic(np.eye(3), np.zeros(3, dtype=int))
    with pytest.raises(ModisteError, match="not finite"):
        fit_logistic(np.full((2, 2), np.nan), np.arange(2))
