"""Zero-shot attribute prediction: mAP of images ranked by the prompts of each value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modiste.errors import ModisteError
from modiste.metrics.average_precision import Ranking
from modiste.metrics.direction import directions
from modiste.metrics.intervals import Interval, bootstrap_statistics, describe_bootstrap
from modiste.tasks.result import Embedder, Result
from modiste.tasks.zeroshot import DEFAULT, MAX_CLASSES, ZeroShot, named_attributes

if TYPE_CHECKING:
    from torch import Tensor

    from modiste.data.catalogue import Catalogue

DEFINITIONS = {
    "map": "mean over the values of their average precision (scikit-learn) over the images that the attribute applies "
    "to, by cosine of image and value",
    "not_applicable_ap": "average precision of telling the images that the attribute does not apply to, among all, by "
    "the negative of the highest cosine with any value",
    "mean/map": "mean of map over the attributes",
}
VALUE_COLUMNS = ["value", "positives", "chance", "average precision"]
COLUMNS = ["attribute", "images", "values", "map", "chance", "not applicable", "not_applicable_ap", "its chance"]


@dataclass(frozen=True)
class Rankings:
    """The rankings of one attribute.

    Attributes:
        applies: (m,) positions of the images that the attribute applies to.
        values: Value → the ranking of these images.
        positives: Value → number of images that have it.
        excluded: Number of values skipped for too few positives, or for no negative.
        not_applicable: The ranking of all images by the negative of their highest cosine with any value; None where
            the attribute applies to all.
    """

    applies: npt.NDArray[np.int64]
    values: Mapping[str, Ranking]
    positives: Mapping[str, int]
    excluded: int
    not_applicable: Ranking | None

    def statistics(self, weights: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float64]]:
        """Metrics (b,) under weights (n, b) of all images; nan where no positive has weight."""
        found = {"map": _mean_where_defined(self.precisions(weights))}
        if self.not_applicable is not None:
            found["not_applicable_ap"] = self.not_applicable.average_precision(weights)
        return found

    def precisions(self, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Average precision of each value, (values, b), under weights (n, b) of all images."""
        own = weights[self.applies]
        return np.stack([ranking.average_precision(own) for ranking in self.values.values()])


class Attributes:
    """Multi-label attribute prediction on the images of a split, by prompts.

    An image's score for a value is its cosine with the value's vector: the normalised mean of the normalised embeddings
    of the value's prompts, as in `ZeroShot`. An image may have several values. Images that an attribute does not apply
    to (the sleeve length of a bag) are excluded from its rankings; detecting them is a separate metric.

    Args:
        attributes: Attribute columns, as in `ZeroShot`; None: those that ``prompts`` names, or all class attributes.
            Only then are attributes that cannot be scored skipped and recorded.
        prompts: As in `ZeroShot`.
        classes: As in `ZeroShot`.
        separator: Separator of the values in a cell; None: a cell is one value.
        not_applicable: Values that mean that the attribute does not apply or is unknown.
        min_positives: Values with fewer positives are excluded from the mean and counted.
        resamples: Number of bootstrap resamples of the images; a value without a positive in a resample is excluded
            from that resample's mean.
        seed: Seed of the bootstrap.

    Raises:
        ModisteError: A template does not have exactly one ``{}``, or ``min_positives`` is less than 1.
    """

    name = "attributes"

    def __init__(
        self,
        attributes: Sequence[str] | None = None,
        prompts: Mapping[str, Sequence[str]] | None = None,
        classes: Mapping[str, Mapping[str, str]] | None = None,
        separator: str | None = ", ",
        not_applicable: Sequence[str] = ("", "NA"),
        min_positives: int = 2,
        resamples: int = 500,
        seed: int = 0,
    ) -> None:
        if min_positives < 1:
            raise ModisteError(f"task.attributes.min_positives={min_positives} must be at least 1.")
        self.words = ZeroShot(attributes, prompts, classes)
        self.separator, self.not_applicable, self.min_positives = separator, list(not_applicable), min_positives
        self.resamples, self.seed = resamples, seed

    def __call__(self, embedder: Embedder, catalogue: Catalogue, split: str) -> Result:
        """Evaluate on ``split`` of the full ``catalogue``.

        Raises:
            ModisteError: The split is empty, an attribute is unknown, a named one or all cannot be scored, or an
                embedding is not finite.
        """
        rows = catalogue.select(split=split)
        named = named_attributes(self.words.attributes, self.words.prompts, rows)
        labels = {attribute: self._labels(attribute, rows) for attribute in named}
        skipped = {name: reason for name, cells in labels.items() if (reason := self._unfit(cells))}
        self._check(skipped, named, rows.card.name)
        images = embedder.images(rows)
        ranked = {
            attribute: self._rank(attribute, cells, embedder, images)
            for attribute, cells in labels.items()
            if attribute not in skipped
        }
        metrics = self._intervals(ranked, len(rows))
        values = {attribute: _value_table(rankings, len(rows)) for attribute, rankings in ranked.items()}
        overview = [_overview(name, rankings, values[name], metrics, len(rows)) for name, rankings in ranked.items()]
        return Result(
            task=self.name,
            data=catalogue.card.name,
            split=split,
            metrics=metrics,
            higher_is_better=directions(metrics),
            protocol=self.describe(list(ranked)) | {"skipped": skipped},
            counts={"images": len(rows)}
            | {k: v for name, found in ranked.items() for k, v in _counts(name, found, len(rows)).items()},
            primary="mean/map",
            tables={"attributes": {"columns": COLUMNS, "rows": overview}, **values},
            summary=["map"],
        )

    def describe(self, attributes: Sequence[str]) -> dict[str, Any]:
        """The protocol as plain values."""
        return {
            "prompts": {attribute: self._templates(attribute) for attribute in attributes},
            "classes": {attribute: self.words.classes.get(attribute, {}) for attribute in attributes},
            "values": f"those that occur in the split with at least {self.min_positives} positives and one negative",
            "value_vector": "normalised mean of the normalised embeddings of the prompts; cosine",
            "separator": self.separator,
            "not_applicable": self.not_applicable,
            "metrics": dict(DEFINITIONS),
            "chance": "the fraction of positives: the average precision that a random order tends to",
            "ties": "equal scores are one step of the precision-recall curve (scikit-learn)",
            "bootstrap": describe_bootstrap(self.resamples, self.seed)
            | {
                "method": "percentile, shifted by the value less the resamples' mean: images drawn twice raise AP",
                "unit": "image",
                "undefined": "a value without a positive in a resample has no part in its mean",
            },
            "seed": self.seed,
        }

    def _intervals(self, ranked: Mapping[str, Rankings], n: int) -> dict[str, Interval]:
        """Metric → its value and interval, over the images that it is computed on."""
        found = bootstrap_statistics(
            lambda counts: _statistics(ranked, counts), n, self.resamples, self.seed, unbiased=True
        )
        images = {f"{attribute}/map": len(rankings.applies) for attribute, rankings in ranked.items()}
        return {
            name: Interval(interval.value, max(interval.low, 0.0), min(interval.high, 1.0), images.get(name, n))
            for name, interval in found.items()
        }

    def _templates(self, attribute: str) -> list[str]:
        return self.words.prompts.get(attribute, self.words.prompts[DEFAULT])

    def _labels(self, attribute: str, rows: Catalogue) -> list[frozenset[str]]:
        """Each image's values as prompt words; empty where the attribute does not apply."""
        words = self.words.classes.get(attribute, {})
        cells = (
            cell.split(self.separator) if self.separator is not None else [cell] for cell in rows.column(attribute)
        )
        return [frozenset(words.get(v, v) for v in cell if v not in self.not_applicable) for cell in cells]

    def _fit(self, labels: Sequence[frozenset[str]]) -> list[str]:
        """The values that have enough positives, and a negative, in alphabetical order."""
        applies = sum(bool(cell) for cell in labels)
        counts: dict[str, int] = {}
        for cell in labels:
            for value in cell:
                counts[value] = counts.get(value, 0) + 1
        return sorted(value for value, count in counts.items() if self.min_positives <= count < applies)

    def _unfit(self, labels: Sequence[frozenset[str]]) -> str:
        """Why the attribute cannot be scored; "" where it can."""
        if len(frozenset().union(*labels)) > MAX_CLASSES:
            return f"it has more than {MAX_CLASSES} values"
        if not self._fit(labels):
            return f"none of its values has {self.min_positives} positives and a negative"
        return ""

    def _check(self, skipped: Mapping[str, str], named: Sequence[str], data: str) -> None:
        wanted = next((name for name in self.words.attributes or [] if name in skipped), None)
        if wanted:
            raise ModisteError(
                f"Attribute '{wanted}' of {data} cannot be scored in this split: {skipped[wanted]}; remove it from "
                "task.attributes.attributes, or lower task.attributes.min_positives."
            )
        if len(skipped) == len(named):
            raise ModisteError(
                f"No attribute of {data} can be scored in this split: no value has {self.min_positives} positives and "
                "a negative; evaluate more images, or lower task.attributes.min_positives."
            )

    def _rank(self, attribute: str, labels: Sequence[frozenset[str]], embedder: Embedder, images: Tensor) -> Rankings:
        every, fit = sorted(frozenset().union(*labels)), self._fit(labels)
        vectors = ZeroShot.class_vectors(embedder, every, self._templates(attribute))
        cosines = (images @ vectors.T).numpy()
        if not np.isfinite(cosines).all():
            raise ModisteError("An embedding is not finite: the model has diverged or its input is invalid.")
        applies = np.flatnonzero([bool(cell) for cell in labels])
        has = {value: np.array([value in cell for cell in labels if cell]) for value in fit}
        absent = np.array([not cell for cell in labels])
        return Rankings(
            applies,
            {value: Ranking(cosines[applies, every.index(value)], has[value]) for value in fit},
            {value: int(has[value].sum()) for value in fit},
            len(every) - len(fit),
            Ranking(-cosines.max(axis=1), absent) if absent.any() else None,
        )


def _statistics(ranked: Mapping[str, Rankings], counts: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    """Metric → (b,) of resamples given by counts (b, n)."""
    # An image's weights are contiguous; counts are small integers, exact in float32.
    weights = np.ascontiguousarray(counts.T, dtype=np.float32)
    found = {
        f"{attribute}/{metric}": values
        for attribute, rankings in ranked.items()
        for metric, values in rankings.statistics(weights).items()
    }
    return {"mean/map": _mean_where_defined(np.stack([found[f"{attribute}/map"] for attribute in ranked])), **found}


def _mean_where_defined(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(b,) means over the rows of (k, b) that are not nan; nan where all are."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _value_table(rankings: Rankings, n: int) -> dict[str, list[Any]]:
    """One row per value, the most frequent first."""
    precisions = rankings.precisions(np.ones((n, 1), np.float32))[:, 0]
    rows = [
        [value, count, count / len(rankings.applies), float(precision)]
        for (value, count), precision in zip(rankings.positives.items(), precisions, strict=True)
    ]
    return {"columns": VALUE_COLUMNS, "rows": sorted(rows, key=lambda row: (-row[1], row[0]))}


def _overview(
    attribute: str, rankings: Rankings, table: Mapping[str, list[Any]], metrics: Mapping[str, Interval], n: int
) -> list[Any]:
    absent = n - len(rankings.applies)
    chance = float(np.mean([row[2] for row in table["rows"]]))
    apart = metrics[f"{attribute}/not_applicable_ap"].value if rankings.not_applicable else None
    return [
        attribute,
        len(rankings.applies),
        len(rankings.values),
        metrics[f"{attribute}/map"].value,
        chance,
        absent,
        apart,
        absent / n if absent else None,
    ]


def _counts(attribute: str, rankings: Rankings, n: int) -> dict[str, int]:
    return {
        f"{attribute}/images": len(rankings.applies),
        f"{attribute}/not_applicable": n - len(rankings.applies),
        f"{attribute}/values": len(rankings.values),
        f"{attribute}/values_excluded": rankings.excluded,
    }
