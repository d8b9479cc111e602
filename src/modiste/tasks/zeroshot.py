"""Zero-shot classification of attributes by prompts and cosine (CLIP, arXiv 2103.00020, §3.1.4)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modiste.errors import ModisteError, NothingToMeasureError, did_you_mean
from modiste.metrics.classification import (
    DEFINITIONS,
    classification_metrics,
    confusion_matrix,
    per_class_table,
)
from modiste.metrics.direction import directions
from modiste.metrics.intervals import bootstrap_confusion, describe_bootstrap
from modiste.tasks.result import Embedder, Result, TextEmbedder

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue

DEFAULT = "default"
PROMPTS = {DEFAULT: ["a photo of a {}", "a photo of a {}, a fashion product"]}
MAX_CLASSES = 1000


def named_attributes(attributes: Sequence[str] | None, prompts: Iterable[str], rows: Catalogue) -> list[str]:
    """``attributes``, or those in ``prompts``, or all class attributes. Raises ModisteError if unknown."""
    named = list(attributes or [name for name in prompts if name != DEFAULT] or rows.class_attributes)
    for name in named:
        if name not in rows.attributes:
            raise ModisteError(f"{rows.card.name} has no attribute '{name}'. {did_you_mean(name, rows.attributes)}")
    return named


class ZeroShot:
    """Zero-shot classification of the images of a split by their attributes.

    The vector of a class is the normalised mean of the normalised embeddings of its prompts; the class with the highest
    cosine is predicted (ties: the first in alphabetical order). The classes are the values that occur in the split.

    Args:
        attributes: Attribute columns; None: those that ``prompts`` names, or all class attributes
            (`Catalogue.class_attributes`: short text that repeats). Only then are attributes without a value in the
            split, or with more than `MAX_CLASSES`, skipped and recorded.
        prompts: Attribute to templates with one ``{}`` each; ``default`` for the other attributes.
        classes: Attribute to {value: prompt word}, for values that are not good words. Values with the same word are
            one class.
        synonyms: Attribute to {value: further words of its class}; the vector of a class is then the mean over all its
            words and templates. Published results use none.
        ignore_values: Values that are not a class: rows with them are skipped and counted.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Raises:
        ModisteError: A template does not have exactly one ``{}``, or the synonyms of a value are not a list.
    """

    name = "zeroshot"

    def __init__(
        self,
        attributes: Sequence[str] | None = None,
        prompts: Mapping[str, Sequence[str]] | None = None,
        classes: Mapping[str, Mapping[str, str]] | None = None,
        synonyms: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        ignore_values: Sequence[str] = ("",),
        resamples: int = 1000,
        seed: int = 0,
    ) -> None:
        given = {str(name): [str(t) for t in templates] for name, templates in (prompts or {}).items()}
        self.attributes = None if attributes is None else list(attributes)
        self.prompts = PROMPTS | given
        self.classes = {
            str(name): {str(k): str(v) for k, v in (m or {}).items()} for name, m in (classes or {}).items()
        }
        self.synonyms = {str(name): dict(m or {}) for name, m in (synonyms or {}).items()}
        self.ignore_values = list(ignore_values)
        self.resamples, self.seed = resamples, seed
        for name, values in self.synonyms.items():
            for value, words in values.items():
                if isinstance(words, str):
                    raise ModisteError(f"The synonyms of {name} '{value}' are a single word: give a list, [{words}].")
        for name, templates in self.prompts.items():
            if not templates or any(template.count("{}") != 1 for template in templates):
                raise ModisteError(f"Every prompt of '{name}' needs one {{}} for the class name, not {templates}.")

    def __call__(self, embedder: Embedder, catalogue: Catalogue, split: str) -> Result:
        """Evaluate on ``split`` of the full ``catalogue``.

        Raises:
            ModisteError: The split is empty, an attribute is unknown, has no value in the split or too many, or an
                embedding is not finite.
        """
        rows = catalogue.select(split=split)
        attributes, skipped = self._attributes(rows)
        images = embedder.images(rows)
        result: dict[str, Any] = {name: {} for name in ("metrics", "counts", "per_query", "tables", "confusion")}
        for attribute in attributes:
            for name, entries in self._classify(attribute, embedder, rows, images).items():
                result[name] |= entries
        return Result(
            task=self.name,
            data=catalogue.card.name,
            split=split,
            higher_is_better=directions(result["metrics"]),
            protocol=self.describe(attributes) | {"skipped": skipped},
            primary=f"{attributes[0]}/weighted_f1",
            summary=["accuracy", "weighted_f1"],
            **result,
        )

    def describe(self, attributes: Sequence[str]) -> dict[str, Any]:
        """The protocol as plain values."""
        return {
            "prompts": {attribute: self._templates(attribute) for attribute in attributes},
            "classes": {attribute: self.classes.get(attribute, {}) for attribute in attributes},
            **({"synonyms": synonyms} if (synonyms := self._synonyms(attributes)) else {}),
            "class_names": "the values that occur in the split",
            "class_vector": "normalised mean of the normalised embeddings of the prompts; cosine",
            "ignore_values": self.ignore_values,
            "metrics": dict(DEFINITIONS),
            "ties": "the first class in alphabetical order",
            "bootstrap": describe_bootstrap(self.resamples, self.seed),
            "seed": self.seed,
        }

    def _templates(self, attribute: str) -> list[str]:
        return self.prompts.get(attribute, self.prompts[DEFAULT])

    def _synonyms(self, attributes: Sequence[str]) -> dict[str, dict[str, list[str]]]:
        return {
            name: {k: list(v) for k, v in self.synonyms[name].items()} for name in attributes if name in self.synonyms
        }

    def _words(self, attribute: str, label: str) -> list[str]:
        """The word of a class, and the synonyms of its values."""
        word = self.classes.get(attribute, {})
        further = (
            words for value, words in self.synonyms.get(attribute, {}).items() if word.get(value, value) == label
        )
        return [label, *(synonym for words in further for synonym in words)]

    def _attributes(self, rows: Catalogue) -> tuple[list[str], list[str]]:
        """The attributes to classify, and those that are skipped."""
        named = named_attributes(self.attributes, self.prompts, rows)
        unfit = [name for name in named if not 0 < len(set(self._labels(name, rows)) - {None}) <= MAX_CLASSES]
        if self.attributes and unfit:
            raise ModisteError(
                f"Attribute '{unfit[0]}' has no value, or more than {MAX_CLASSES}, in this split: choose others with "
                f"attributes=[…]."
            )
        fit = [name for name in named if name not in unfit]
        if not fit:
            raise NothingToMeasureError(
                f"{rows.card.name} has no attribute with 1 to {MAX_CLASSES} values to classify."
            )
        return fit, unfit

    def _labels(self, attribute: str, rows: Catalogue) -> list[str | None]:
        """The class of each row; None for the values that are ignored."""
        words = self.classes.get(attribute, {})
        return [None if v in self.ignore_values else words.get(v, v) for v in rows.column(attribute)]

    def _classify(
        self, attribute: str, embedder: Embedder, rows: Catalogue, images: Tensor
    ) -> dict[str, dict[str, Any]]:
        labels = self._labels(attribute, rows)
        kept = [row for row, label in enumerate(labels) if label is not None]
        classes = sorted({label for label in labels if label is not None})
        index = {label: i for i, label in enumerate(classes)}
        targets = np.array([index[label] for label in labels if label is not None])
        words = [self._words(attribute, label) for label in classes]
        vectors = self.class_vectors(embedder, words, self._templates(attribute))
        cosines = images[kept] @ vectors.T
        if not bool(cosines.isfinite().all()):
            raise ModisteError("An embedding is not finite: the model has diverged or its input is invalid.")
        predictions = cosines.argmax(dim=1).numpy()
        confusion = confusion_matrix(targets, predictions, len(classes))
        intervals = bootstrap_confusion(confusion, classification_metrics, self.resamples, self.seed)
        return {
            "metrics": {f"{attribute}/{name}": interval for name, interval in intervals.items()},
            "counts": {
                f"{attribute}/queries": len(kept),
                f"{attribute}/ignored": len(labels) - len(kept),
                f"{attribute}/classes": len(classes),
            },
            "per_query": {
                f"{attribute}/accuracy": (predictions == targets).astype(np.float64),
                f"{attribute}/target": targets,  # model comparisons resample F1 from these two
                f"{attribute}/prediction": predictions,
            },
            "tables": {attribute: per_class_table(confusion, classes)},
            "confusion": {attribute: {"labels": classes, "matrix": confusion.tolist()}},
        }

    @staticmethod
    def class_vectors(embedder: TextEmbedder, words: Sequence[str | Sequence[str]], templates: Sequence[str]) -> Tensor:
        """Unit-norm class vectors (C, D): the normalised mean over the prompts of a class's word or words."""
        named = [[word] if isinstance(word, str) else list(word) for word in words]
        prompts = [[template.replace("{}", word) for word in among for template in templates] for among in named]
        embeddings = F.normalize(embedder.texts(list(itertools.chain(*prompts))), dim=-1)
        return torch.stack([
            F.normalize(part.mean(dim=0), dim=-1) for part in embeddings.split([len(texts) for texts in prompts])
        ])  # fmt: skip
