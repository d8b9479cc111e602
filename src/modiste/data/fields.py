"""Text fields of products and weights of pairs, for generalised contrastive learning.

See `modiste.losses.gcl`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from modiste.data.captions import FIELD, BoundCaptions, Captions
from modiste.data.catalogue import Catalogue
from modiste.errors import ModisteError, did_you_mean

KEYS = ("template", "weight", "vocabulary")


@dataclass(frozen=True)
class Fields:
    """Text fields of a product: one or more templates over the catalogue's columns and a loss weight each.

    Attributes:
        fields: Name → ``{template: "{baseColour}", weight: 1.0, vocabulary: false}``; weight and vocabulary are
            optional. From a list of templates, training samples one per item and epoch. With ``vocabulary``, an image
            is contrasted against all training texts of the field, not only those of the batch
            (`modiste.losses.gcl`). Each step embeds all of them, so it suits attributes of at most some hundred values.
        captions: Its ``words`` and ``synonyms`` apply to the values, as in captions.

    A product has a field when a template has no empty column; otherwise the field is excluded from its loss.

    Raises:
        ModisteError: A field has no template or an unknown key, its weight is not finite and above 0, or its vocabulary
            is neither true nor false.

    >>> Fields({"colour": {"template": "{baseColour}", "wieght": 2}})
    Traceback (most recent call last):
    modiste.errors.ModisteError: data.fields.colour has no 'wieght'. Did you mean 'weight'?
    """

    fields: Mapping[str, Mapping[str, Any]]
    captions: Captions = field(default_factory=Captions)

    def __post_init__(self) -> None:
        for name, options in self.fields.items():
            for key in options:
                if key not in KEYS:
                    raise ModisteError(f"data.fields.{name} has no '{key}'. {did_you_mean(key, KEYS)}")
            templates = templates_of(options)
            if not templates or not all(FIELD.search(str(template)) for template in templates):
                raise ModisteError(
                    f"data.fields.{name}.template names no column: give one, for example '{{baseColour}}'."
                )
            if not 0 < options.get("weight", 1.0) < math.inf:
                raise ModisteError(
                    f"data.fields.{name}.weight={options['weight']} must be above 0: remove the field instead."
                )
            if not isinstance(options.get("vocabulary", False), bool):
                raise ModisteError(f"data.fields.{name}.vocabulary={options['vocabulary']} must be true or false.")

    @property
    def columns(self) -> set[str]:
        """Columns used by the templates."""
        templates = [template for options in self.fields.values() for template in templates_of(options)]
        return {name for template in templates for name in FIELD.findall(template)}

    @property
    def weights(self) -> list[float]:
        """The weight of each field."""
        return [float(options.get("weight", 1.0)) for options in self.fields.values()]

    def bind(self, catalogue: Catalogue) -> BoundFields:
        """Apply the templates to the rows of a catalogue.

        Raises:
            ModisteError: A column is unknown, or a product has several texts of a field with a vocabulary.
        """
        texts = [self._captions(templates_of(options)).bind(catalogue) for options in self.fields.values()]
        vocabulary = [
            self._vocabulary(name, bound, len(catalogue)) if options.get("vocabulary") else []
            for (name, options), bound in zip(self.fields.items(), texts, strict=True)
        ]
        return BoundFields(texts, self.weights, vocabulary)

    @property
    def with_vocabulary(self) -> list[str]:
        """Names of the fields with a vocabulary."""
        return [name for name, options in self.fields.items() if options.get("vocabulary")]

    def _vocabulary(self, name: str, texts: BoundCaptions, rows: int) -> list[str]:
        """All non-empty texts of a field, sorted."""
        found = [texts.all(row) for row in range(rows) if texts.complete(row)]
        if any(len(among) > 1 for among in found):
            raise ModisteError(
                f"data.fields.{name}.vocabulary would make synonyms of one product each other's negatives: give one "
                "template, and no column in data.captions.synonyms, or remove the vocabulary."
            )
        return sorted(set().union(*found) - {""})

    def _captions(self, templates: Sequence[str]) -> Captions:
        named = {name for template in templates for name in FIELD.findall(template)}
        synonyms = {column: words for column, words in self.captions.synonyms.items() if column in named}
        return replace(self.captions, templates=templates, weights=(), synonyms=synonyms)


def templates_of(options: Mapping[str, Any]) -> Sequence[str]:
    """The templates of a field.

    >>> templates_of({"template": "{colour}"}), templates_of({"template": ["{colour}", "a {colour} item"]})
    (['{colour}'], ['{colour}', 'a {colour} item'])
    """
    template: str | Sequence[str] = options.get("template") or ()
    return [template] if isinstance(template, str) else template


@dataclass(frozen=True)
class BoundFields:
    """`Fields` applied to one catalogue.

    Attributes:
        captions: The texts of each field.
        weight: The weight of each field.
        vocabulary: All texts of each field with a vocabulary; empty for the other fields.
    """

    captions: Sequence[BoundCaptions]
    weight: Sequence[float]
    vocabulary: Sequence[Sequence[str]] = ()

    def sample(self, row: int, generator: random.Random) -> list[str]:
        """Sample one text per field with ``generator``; "" if the row lacks the field."""
        return [texts.sample(row, generator) if texts.complete(row) else "" for texts in self.captions]

    def all(self, row: int) -> set[str]:
        """Every text that `sample` may return for a row, except ""."""
        return {text for texts in self.captions if texts.complete(row) for text in texts.all(row)}

    def collate(self, texts: Sequence[Sequence[str]]) -> tuple[list[str], dict[str, Tensor]]:
        """Collect the distinct texts of a batch, to embed each once, and index them by product and field.

        Args:
            texts: For each of B products, one text per field; "" for none.

        Returns:
            The U ≥ 1 distinct texts, and ``index`` (B, F) into them, -1 for no text, with ``weight`` (F,). If a field
            has a vocabulary, also ``vocabulary`` (F, V): ascending indices of each field's texts, padded with -1.

        >>> fields = BoundFields([], [1.0, 0.5])
        >>> distinct, where = fields.collate([["red dress", "red"], ["red bag", "red"], ["bag", ""]])
        >>> distinct, where["index"].tolist()
        (['red dress', 'red', 'red bag', 'bag'], [[0, 1], [2, 1], [3, -1]])
        """
        place: dict[str, int] = {}
        vocabulary = [sorted(place.setdefault(text, len(place)) for text in words) for words in self.vocabulary]
        index = [[place.setdefault(text, len(place)) if text else -1 for text in product] for product in texts]
        fields = {"index": torch.tensor(index), "weight": torch.tensor(self.weight)}
        if any(vocabulary):
            longest = max(map(len, vocabulary))
            fields["vocabulary"] = torch.tensor([rows + [-1] * (longest - len(rows)) for rows in vocabulary])
        return list(place) or [""], fields


# (rank, 1 is best; number of ranks) → weight
FUNCTIONS: dict[str, Callable[[float, float], float]] = {
    "constant": lambda rank, ranks: 1.0,
    "linear": lambda rank, ranks: max(ranks + 1 - rank, 0.0) / ranks,
    "inverse": lambda rank, ranks: 1 / rank,
    "inverse_sqrt": lambda rank, ranks: 1 / math.sqrt(rank),
    "inverse_log": lambda rank, ranks: 1 / math.log2(1 + rank),
}


@dataclass(frozen=True)
class PairWeights:
    """Weight of each pair in the loss.

    GCL (arXiv:2404.08535) calls the map from a ranking score to a weight the score-to-weight function; its Google
    Shopping scores fall linearly from 100 with the position. Here the column holds the rank r, from 1 for the best to
    R, and the functions are ``constant`` 1, ``linear`` (R + 1 - r)/R (GCL's score over 100), ``inverse`` 1/r,
    ``inverse_sqrt`` 1/√r, and ``inverse_log`` 1/log₂(1 + r), the discount of nDCG.

    Attributes:
        column: Column of the catalogue; null: all pairs have the same weight.
        function: Function of the rank; null: the column holds the weights themselves.
        ranks: R of ``linear``; ranks beyond it have weight 0.

    Raises:
        ModisteError: The function is unknown, or ``ranks`` < 1.
    """

    column: str | None = None
    function: str | None = None
    ranks: int = 100

    def __post_init__(self) -> None:
        if self.function is not None and self.function not in FUNCTIONS:
            raise ModisteError(
                f"data.weight.function={self.function} is not known. {did_you_mean(self.function, FUNCTIONS)}"
            )
        if self.ranks < 1:
            raise ModisteError(f"data.weight.ranks={self.ranks} must be at least 1.")

    def bind(self, catalogue: Catalogue) -> list[float] | None:
        """Return the weight of each row, or None without a column.

        Raises:
            ModisteError: The column is unknown, or a row has no valid number: at least 0 for a weight, at least 1 for
                a rank.
        """
        if self.column is None:
            return None
        values = catalogue.column(self.column)
        numbers = [_number(value) for value in values]
        bad = [row for row, value in enumerate(values) if not self.fits(value)]
        if bad:
            kind = "weight, at least 0" if self.function is None else "rank, at least 1"
            raise ModisteError(
                f"data.weight.column={self.column}: {len(bad):,} rows have no {kind}, the first is product "
                f"{catalogue.column('product_id')[bad[0]]} with '{values[bad[0]]}': fill in the column."
            )
        if self.function is None:
            return numbers
        return [FUNCTIONS[self.function](number, self.ranks) for number in numbers]

    def fits(self, value: object) -> bool:
        """Whether a cell of the column is a valid weight or rank.

        >>> PairWeights("rank", "inverse").fits("0"), PairWeights("weight").fits("0")
        (False, True)
        """
        return (0.0 if self.function is None else 1.0) <= _number(value) < math.inf


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
