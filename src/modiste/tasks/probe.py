"""Linear probe: logistic regression on frozen image embeddings, full and few-shot (CLIP, 2103.00020).

The settings (C = 1, max_iter 2000, stratified 80/20, seed 42, classes with five or more) are those of MODA's probe of
FashionSigLIP; here a product's images are never divided between fit and test.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modiste.data.splits import groups
from modiste.errors import ModisteError
from modiste.metrics.classification import DEFINITIONS, classification_metrics, confusion_matrix, per_class_table
from modiste.metrics.direction import directions
from modiste.metrics.intervals import bootstrap, bootstrap_confusion, describe_bootstrap
from modiste.metrics.logistic import CONVERGED, TOLERANCE, Floats, Ints, LogisticFit, fit_logistic
from modiste.tasks.result import Embedder, Result
from modiste.tasks.zeroshot import MAX_CLASSES, named_attributes
from modiste.utils.ranges import Count, Positive

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue

log = logging.getLogger(__name__)

Texts = npt.NDArray[np.str_]

FEWEST = 5
"""Minimum number of products per class: a fifth of fewer may be none."""


class Pool:
    """Rows, their embeddings and their products; rows that share an id or an image are one product."""

    def __init__(self, embedder: Embedder, rows: Catalogue) -> None:
        self.embedder, self.rows = embedder, rows
        self.products = np.array(groups(rows))

    @cached_property
    def images(self) -> Floats:
        """Image embeddings (N, D), float64, computed on first access."""
        return self.embedder.images(self.rows).double().numpy()

    def labels(self, attribute: str) -> Texts:
        """The values of an attribute, (N,)."""
        return np.array(self.rows.column(attribute))


@dataclass(frozen=True)
class Problem:
    """Fitted and tested rows of one attribute.

    Attributes:
        classes: Names of the C classes.
        features: (N, D) embeddings of the fitted rows.
        targets: (N,) class indices of the fitted rows.
        products: (N,) products of the fitted rows.
        test_features: (M, D) embeddings of the tested rows.
        test_targets: (M,) class indices of the tested rows.
        counts: Numbers of classes, of fitted, tested and excluded rows, and of fitted products.
    """

    classes: list[str]
    features: Floats
    targets: Ints
    products: Texts
    test_features: Floats
    test_targets: Ints
    counts: dict[str, int]

    def fit(self, c: float, max_iter: int, rows: npt.NDArray[np.bool_] | None = None) -> LogisticFit:
        """Fit on all fitted rows, or on those where ``rows`` (N,) is True."""
        chosen = slice(None) if rows is None else rows
        return fit_logistic(self.features[chosen], self.targets[chosen], c, max_iter)

    def predict(self, fitted: LogisticFit) -> Ints:
        """Predicted classes of the tested rows, (M,)."""
        return fitted.predict(self.test_features)

    def confusion(self, predictions: Ints) -> Ints:
        """The confusion matrix (C, C) of the tested rows."""
        return confusion_matrix(self.test_targets, predictions, len(self.classes))

    def right(self, predictions: Ints) -> Floats:
        """(M,): 1 where a tested row's class is predicted, else 0."""
        return (predictions == self.test_targets).astype(np.float64)


class Probe:
    """Linear probe: logistic regression on frozen image embeddings, per attribute.

    By default the evaluated split is divided 80/20 by product, stratified by class: the model may have been trained on
    the other splits. With ``fit_split`` the regression is fitted on all of that split and tested on all of the
    evaluated one. A product is all rows that share an id or an image; its class is that of its first row.

    Args:
        attributes: Attribute columns; None: those that ``prompts`` names, or all class attributes. Only then are
            attributes with fewer than two classes or more than a thousand skipped and recorded.
        prompts: Only its keys are used.
        ignore_values: Values that are not a class: rows with them are skipped and counted.
        fit_split: Split to fit on; None: 80 % of the evaluated one.
        c: Inverse regularisation strength.
        max_iter: Maximum number of solver iterations; fits that do not converge are counted, with a warning.
        min_products: Classes with fewer products (of ``fit_split``, if given) are skipped and counted; at least five.
        shots: Numbers of products per class, one image each, of the few-shot fits; a smaller class gives all.
        shot_draws: Number of draws of the products; in each draw, fewer shots are the first of more.
        split_seed: Seed of the 80/20 split and the draws.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Raises:
        ModisteError: A number is out of range.
    """

    name = "probe"

    def __init__(
        self,
        attributes: Sequence[str] | None = None,
        prompts: Mapping[str, Any] | None = None,
        ignore_values: Sequence[str] = ("",),
        fit_split: str | None = None,
        c: Positive = 1.0,
        max_iter: Count = 2000,
        min_products: int = FEWEST,
        shots: Sequence[Count] = (1, 2, 4, 8, 16),
        shot_draws: Count = 5,
        split_seed: int = 42,
        resamples: int = 1000,
        seed: int = 0,
    ) -> None:
        if c <= 0 or max_iter < 1:
            raise ModisteError(f"The probe's c and max_iter must be positive, not {c} and {max_iter}.")
        if min_products < FEWEST:
            raise ModisteError(
                f"The probe's min_products must be at least {FEWEST}: a fifth of each class is the test set."
            )
        if shot_draws < 1 or any(k < 1 for k in shots):
            raise ModisteError(
                f"The probe's shots and shot_draws must be at least 1, not {list(shots)} and {shot_draws}."
            )
        self.attributes = None if attributes is None else list(attributes)
        self.prompts = list(prompts or {})
        self.ignore_values, self.fit_split = list(ignore_values), fit_split
        self.c, self.max_iter, self.min_products = c, max_iter, min_products
        self.shots, self.shot_draws, self.split_seed = list(shots), shot_draws, split_seed
        self.resamples, self.seed = resamples, seed

    @staticmethod
    def validate_config(node: Mapping[str, Any], cfg: Mapping[str, Any]) -> None:
        """Raise ModisteError for a ``fit_split`` that is the evaluated split, or any in a training run."""
        if node.get("fit_split") and "trainer" in cfg:
            raise ModisteError(
                "Validation in training sees the validation split only: leave task.probe.fit_split=null, and evaluate "
                "the run with it after training."
            )
        if node.get("fit_split") and node.get("fit_split") == cfg.get("split"):
            raise ModisteError(
                f"task.probe.fit_split={node['fit_split']} is the evaluated split: name another, or null to split it."
            )

    def __call__(self, embedder: Embedder, catalogue: Catalogue, split: str) -> Result:
        """Evaluate on ``split`` of the full ``catalogue``.

        Raises:
            ModisteError: A split is empty, an attribute is unknown, or a named one or all have too few or too many
                classes.
        """
        rows = catalogue.select(split=split)
        named = named_attributes(self.attributes, self.prompts, rows)
        test = Pool(embedder, rows)
        fit = Pool(embedder, catalogue.select(split=self.fit_split)) if self.fit_split else test
        classes = {attribute: self.classes(fit.labels(attribute), fit.products) for attribute in named}
        fits = [attribute for attribute in named if 2 <= len(classes[attribute]) <= MAX_CLASSES]
        skipped = [attribute for attribute in named if attribute not in fits]
        if not fits or (self.attributes and skipped):
            which = f"Attribute '{skipped[0]}' does not have" if self.attributes else "No attribute has"
            raise ModisteError(
                f"{which} two to {MAX_CLASSES} classes of {self.min_products} products or more in split "
                f"'{self.fit_split or split}' of {catalogue.card.name}: choose others with task.probe.attributes=[…], "
                "or fit on a larger split with task.probe.fit_split=train."
            )
        found = Found()
        for attribute in fits:
            self._probe(attribute, self.problem(attribute, classes[attribute], fit, test), found)
        if found.unconverged:
            log.warning("%d of the probe's fits did not converge: raise task.probe.max_iter.", found.unconverged)
        return Result(
            task=self.name,
            data=catalogue.card.name,
            split=split,
            higher_is_better=directions(found.metrics),
            protocol=self.describe() | {"attributes": fits, "skipped": skipped},
            primary=f"{fits[0]}/accuracy",
            summary=["accuracy", "macro_f1"],
            **found.fields(),
        )

    def describe(self) -> dict[str, Any]:
        """The protocol as plain values."""
        division = "80/20 by product, stratified by class (scikit-learn train_test_split) of the evaluated split"
        return {
            "features": "unit-norm image embeddings, float64",
            "classifier": "logistic regression: |W|²/2 + C · sum of cross-entropies, unpenalised intercept, "
            "multinomial (one weight vector for two classes), scikit-learn L-BFGS",
            "C": self.c,
            "max_iter": self.max_iter,
            "tolerance": f"stops at a gradient of the mean loss of {TOLERANCE:g}; above {CONVERGED:g} at the end it "
            "counts as not converged",
            "fit_split": self.fit_split,
            "division": f"all of {self.fit_split} is fitted on" if self.fit_split else division,
            "product": "all rows that share a product id or have identical pixels; of the class of its first row",
            "class_names": f"values with at least {self.min_products} products"
            + (f" in {self.fit_split}" if self.fit_split else ""),
            "min_products": self.min_products,
            "ignore_values": self.ignore_values,
            "shots": self.shots,
            "shot_draws": self.shot_draws,
            "few_shot": "one image each of k products a class of the fitted part, of all it has if fewer; the same "
            "test part; accuracy is each test image's mean over the draws",
            "split_seed": self.split_seed,
            "metrics": dict(DEFINITIONS),
            "ties": "the first class in alphabetical order",
            "bootstrap": describe_bootstrap(self.resamples, self.seed),
            "seed": self.seed,
        }

    def classes(self, labels: Texts, products: Texts) -> list[str]:
        """The classes among (N,) labels of (N,) products, in alphabetical order."""
        kept = ~np.isin(labels, self.ignore_values)
        first = first_rows(products[kept])
        counts = Counter(labels[kept][first].tolist())
        return sorted(name for name, n in counts.items() if n >= self.min_products)

    def problem(self, attribute: str, classes: list[str], fit: Pool, test: Pool) -> Problem:
        """Select the fitted and tested rows of an attribute.

        Raises:
            ModisteError: No row to test has one of the classes.
        """
        labels = test.labels(attribute)
        usable = np.isin(labels, classes)
        fitted, tested = fit.labels(attribute), np.flatnonzero(usable)
        rows = np.flatnonzero(np.isin(fitted, classes))
        if fit is test:
            is_test = split_products(labels[tested], test.products[tested], self.split_seed)
            rows, tested = tested[~is_test], tested[is_test]
        if not len(tested):
            raise ModisteError(f"No row of the evaluated split has one of the fitted classes of '{attribute}'.")
        counts = {
            "queries": len(tested),
            "fitted": len(rows),
            "fitted_products": len(first_rows(fit.products[rows])),
            "classes": len(classes),
            "ignored": int(np.isin(labels, self.ignore_values).sum()),
            "rare": int((~usable & ~np.isin(labels, self.ignore_values)).sum()),
        }
        return Problem(
            classes,
            fit.images[rows],
            np.searchsorted(classes, fitted[rows]),
            fit.products[rows],
            test.images[tested],
            np.searchsorted(classes, labels[tested]),
            {f"{attribute}/{name}": count for name, count in counts.items()},
        )

    def _probe(self, attribute: str, problem: Problem, found: Found) -> None:
        fitted = problem.fit(self.c, self.max_iter)
        found.add(fitted)
        predictions = problem.predict(fitted)
        confusion = problem.confusion(predictions)
        intervals = bootstrap_confusion(confusion, classification_metrics, self.resamples, self.seed)
        found.metrics |= {f"{attribute}/{name}": interval for name, interval in intervals.items()}
        found.per_query |= {
            f"{attribute}/accuracy": problem.right(predictions),
            f"{attribute}/target": problem.test_targets,  # model comparisons resample F1 from these two
            f"{attribute}/prediction": predictions,
        }
        found.tables[attribute] = per_class_table(confusion, problem.classes)
        found.confusion[attribute] = {"labels": problem.classes, "matrix": confusion.tolist()}
        if self.shots:
            values, found.tables[f"{attribute}/few_shot"] = self._few_shot(problem, found)
            values = {f"{attribute}/{name}": accuracy for name, accuracy in values.items()}
            found.metrics |= bootstrap(values, resamples=self.resamples, seed=self.seed)
            found.per_query |= values
        found.counts |= problem.counts
        found.counts |= {f"{attribute}/iterations": fitted.iterations, "unconverged": found.unconverged}

    def _few_shot(self, problem: Problem, found: Found) -> tuple[dict[str, Floats], dict[str, list[Any]]]:
        """Accuracy of every tested row by shots, and a table of means and standard deviations over draws."""
        draws = [
            shot_places(problem.targets, problem.products, self.split_seed, draw) for draw in range(self.shot_draws)
        ]
        available = np.bincount(problem.targets[first_rows(problem.products)], minlength=len(problem.classes))
        values: dict[str, Floats] = {}
        table = []
        for k in self.shots:
            fits = [problem.fit(self.c, self.max_iter, places < k) for places in draws]
            found.add(*fits)
            tested = [problem.predict(fitted) for fitted in fits]
            values[f"{k}_shot_accuracy"] = np.mean([problem.right(p) for p in tested], axis=0)
            images = float(np.mean([(places < k).sum() for places in draws]))
            table.append(
                [k, images, int((available < k).sum()), *_mean_and_deviation(problem.confusion(p) for p in tested)]
            )
        columns = ["shots", "images", "classes_with_fewer", "accuracy", "accuracy_sd", "macro_f1", "macro_f1_sd"]
        return values, {"columns": columns, "rows": table}


@dataclass
class Found:
    """Collect the fields of a `Result`, and the number of fits that did not converge."""

    metrics: dict[str, Any] = field(default_factory=dict)
    per_query: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    tables: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    confusion: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    unconverged: int = 0

    def fields(self) -> dict[str, Any]:
        """The arguments of a `Result`."""
        return {name: value for name, value in vars(self).items() if name != "unconverged"}

    def add(self, *fits: LogisticFit) -> None:
        """Count the fits that did not converge."""
        self.unconverged += sum(not fitted.converged for fitted in fits)


def first_rows(products: Texts) -> Ints:
    """First row of every product, ascending.

    >>> first_rows(np.array(["b", "a", "b", "c"]))
    array([0, 1, 3])
    """
    return np.sort(np.unique(products, return_index=True)[1])


def split_products(labels: Texts, products: Texts, seed: int) -> npt.NDArray[np.bool_]:
    """(N,) True for the tested rows: a fifth of the products, stratified by the class of their first row.

    >>> labels, products = np.array(["red"] * 10 + ["blue"] * 10), np.array([str(i // 2) for i in range(20)])
    >>> tested = split_products(labels, products, seed=42)
    >>> tested[:10].sum(), tested[10:].sum()
    (np.int64(2), np.int64(2))
    """
    from sklearn.model_selection import train_test_split

    first = first_rows(products)
    _, tested = train_test_split(first, test_size=0.2, random_state=seed, stratify=labels[first])
    return np.isin(products, products[tested])


def shot_places(targets: Ints, products: Texts, seed: int, draw: int) -> Ints:
    """Random place of each product within its class, at its first row, (N,): places < k are k shots.

    Other rows get the largest integer: a product with more images would dominate a few-shot fit.
    """
    places = np.full(len(targets), np.iinfo(np.int64).max)
    seen: Counter[int] = Counter()
    for row in np.random.default_rng([seed, draw]).permutation(first_rows(products)):
        places[row] = seen[targets[row]]
        seen[targets[row]] += 1
    return places


def _mean_and_deviation(confusions: Iterable[Ints]) -> list[float | None]:
    """Mean and sample standard deviation (None for one draw) of accuracy, then of macro F1."""
    counts = np.stack(list(confusions))
    right, support, predicted = counts.diagonal(axis1=1, axis2=2), counts.sum(axis=2), counts.sum(axis=1)
    metrics = classification_metrics(*(count.astype(np.float64) for count in (right, support, predicted)))
    cells: list[float | None] = []
    for name in ("accuracy", "macro_f1"):
        values = metrics[name]
        cells += [float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None]
    return cells
