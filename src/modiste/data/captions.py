"""Captions: templates over a catalogue's columns."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from modiste.data.catalogue import Catalogue
from modiste.errors import ModisteError, did_you_mean

FIELD = re.compile(r"{([^{}]+)}")


@dataclass(frozen=True)
class Captions:
    """Caption templates such as ``"{text}"`` or ``"a {baseColour} {articleType} for {gender}"``.

    Attributes:
        templates: Training samples one per item and epoch; evaluation always uses the first.
        weights: Sampling weights of the templates; equal when empty.
        words: Column → value → word used in captions, like a data set's ``classes``.
        synonyms: Column → value → alternative words. Training samples the word or one of them; evaluation uses the
            word.

    Training skips a template with an empty column for that row; if all templates have one, it uses the first.

    Raises:
        ModisteError: There is no template, or not one weight per template.
    """

    templates: Sequence[str] = field(default_factory=lambda: ["{text}"])
    weights: Sequence[float] = ()
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    synonyms: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.templates:
            raise ModisteError("data.captions.templates is empty: give at least one template, for example '{text}'.")
        if self.weights and len(self.weights) != len(self.templates):
            raise ModisteError(
                f"data.captions has {len(self.templates)} templates but {len(self.weights)} weights: give one each."
            )

    @property
    def columns(self) -> set[str]:
        """Columns used by the templates."""
        return {name for template in self.templates for name in FIELD.findall(template)}

    def bind(self, catalogue: Catalogue) -> BoundCaptions:
        """Apply the templates to the rows of a catalogue.

        Raises:
            ModisteError: A template names an unknown column, synonyms name a column that no template uses, or the
                synonyms of a value are not a list.
        """
        names = self.columns
        for name, values in self.synonyms.items():
            if name not in names:
                raise ModisteError(
                    f"data.captions.synonyms names '{name}', which no template uses. {did_you_mean(name, names)}"
                )
            for value, words in values.items():
                if isinstance(words, str):
                    raise ModisteError(
                        f"data.captions.synonyms.{name}.{value} is a single word: give a list, [{words}]."
                    )
        try:
            columns = {name: catalogue.column(name) for name in sorted(names)}
        except ModisteError as error:
            raise ModisteError(f"data.captions.templates: {error}") from None
        return BoundCaptions(self, columns, len(catalogue))


@dataclass(frozen=True)
class BoundCaptions:
    """`Captions` applied to one catalogue."""

    captions: Captions
    columns: dict[str, list[str]]
    count: int

    def texts(self) -> list[str]:
        """Return the caption of each row that is used in evaluation."""
        return [self.first(row) for row in range(self.count)]

    def first(self, row: int) -> str:
        """Return the caption used in evaluation."""
        return self._render(self.captions.templates[0], row, lambda words: words[0])

    def sample(self, row: int, generator: random.Random) -> str:
        """Sample a caption with ``generator``."""
        weights = self.captions.weights or [1.0] * len(self.captions.templates)
        usable = self._usable(row)
        if not usable:
            return self.first(row)
        chosen = generator.choices(usable, [weights[index] for index in usable])[0]
        return self._render(self.captions.templates[chosen], row, generator.choice)

    def all(self, row: int) -> set[str]:
        """Return all captions that `sample` can return for a row."""
        captions = set()
        for template in [self.captions.templates[index] for index in self._usable(row) or [0]]:
            choices = [self._words(name, self.columns[name][row]) for name in FIELD.findall(template)]
            for words in itertools.product(*choices):
                following = (word for word, among in zip(words, choices, strict=True) if len(among) > 1)
                captions.add(self._render(template, row, lambda _: next(following)))  # noqa: B023
        return captions

    def complete(self, row: int) -> bool:
        """Whether a template has no empty column in this row."""
        return bool(self._usable(row))

    def _usable(self, row: int) -> list[int]:
        """Indices of the templates without an empty column in this row."""
        templates = enumerate(self.captions.templates)
        return [index for index, text in templates if all(self.columns[name][row] for name in FIELD.findall(text))]

    def _render(self, template: str, row: int, choose: Callable[[Sequence[str]], str]) -> str:
        def fill(match: re.Match[str]) -> str:
            words = self._words(match[1], self.columns[match[1]][row])
            return words[0] if len(words) == 1 else choose(words)

        return " ".join(FIELD.sub(fill, template).split())

    def _words(self, column: str, value: str) -> list[str]:
        word = self.captions.words.get(column, {}).get(value, value)
        return [word, *self.captions.synonyms.get(column, {}).get(value, ())]
