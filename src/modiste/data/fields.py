"""Text fields of a product and weights of pairs, for generalised contrastive learning (`modiste.losses.gcl`)."""

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
    """Text fields of a product, each a template, or several, over the catalogue's columns, with a loss weight.

    Attributes:
        fields: Name → ``{template: "{baseColour}", weight: 1.0, vocabulary: false}``; weight and vocabulary may be
            omitted. Of a list of templates training samples one per product and step. With ``vocabulary`` an image's
            negatives are all training texts of the field, not only those of the batch, so that rare ones are contrasted
            in every step (`modiste.losses.gcl`): for attributes of up to some hundred values, as each step embeds all
            of them.
        captions: Its ``words`` and ``synonyms`` word the values, as in captions.

    A product has a field when no column of its template is empty; otherwise the field is excluded from its loss.

    Raises:
        ModisteError: A field has no template, another key, a weight that is not above 0, or a vocabulary that is
            neither true nor false.

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
        """The fields of a catalogue's rows.

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
        """Names of the fields whose negatives are all their texts."""
        return [name for name, options in self.fields.items() if options.get("vocabulary")]

    def _vocabulary(self, name: str, texts: BoundCaptions, rows: int) -> list[str]:
        """All texts of a field, sorted; a product whose text is empty has none."""
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
    """`Fields` of one catalogue.

    Attributes:
        captions: The texts of each field.
        weight: The weight of each.
        vocabulary: All texts of each field that contrasts them in every step, none of the others.
    """

    captions: Sequence[BoundCaptions]
    weight: Sequence[float]
    vocabulary: Sequence[Sequence[str]] = ()

    def sample(self, row: int, generator: random.Random) -> list[str]:
        """One text per field, synonyms sampled with ``generator``; empty if the row has none."""
        return [texts.sample(row, generator) if texts.complete(row) else "" for texts in self.captions]

    def all(self, row: int) -> set[str]:
        """Every text that `sample` may draw for a row."""
        return {text for texts in self.captions if texts.complete(row) for text in texts.all(row)}

    def collate(self, texts: Sequence[Sequence[str]]) -> tuple[list[str], dict[str, Tensor]]:
        """The distinct texts of a batch, so that each is embedded once, and where each product's fields are among them.

        Args:
            texts: Of B products, one per field.

        Returns:
            The texts, U ≥ 1, and ``index`` (B, F), -1 where there is none, with ``weight`` (F,); where a field has a
            vocabulary also ``vocabulary`` (F, V), where among the texts those of each field are, ascending, -1 after.

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


# Rank (1 is best) and number of ranks to a weight.
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
    Shopping scores fall linearly from 100 with the position. Here the column holds the position, r = 1 for the best of
    R, and the functions are: ``constant`` 1, ``linear`` (R + 1 - r)/R, which is that score over 100, ``inverse`` 1/r,
    ``inverse_sqrt`` 1/√r, ``inverse_log`` 1/log₂(1 + r), nDCG's discount.

    Attributes:
        column: Of the catalogue; null: all pairs have the same weight.
        function: Of the rank; null: the column holds the weights themselves.
        ranks: R of ``linear``; lower places count 0.

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
        """The weight of each row, or None without a column.

        Raises:
            ModisteError: There is no such column, or a row has no number that will do: at least 0 for a weight, at
                least 1 for a rank.
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
        """Whether a cell of the column is a number that will do.

        >>> PairWeights("rank", "inverse").fits("0"), PairWeights("weight").fits("0")
        (False, True)
        """
        return (0.0 if self.function is None else 1.0) <= _number(value) < math.inf


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
