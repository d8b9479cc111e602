"""Search space: override of `modiste train` → its values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modiste.errors import ModisteError, did_you_mean

if TYPE_CHECKING:
    from optuna import Trial

RANGE = ("low", "high", "log", "step")


class Space:
    """Distributions by override.

    Args:
        space: Override → ``{choices: [a, b]}``, or ``{low: 1e-4, high: 1e-2, log: true}`` with an optional ``step``;
            values are integers if ``low`` and ``high`` are. Choices need no quoting: strings with commas or braces,
            lists and mappings reach the trial unchanged.
        may_be_empty: Allow an empty space, for a sweep over seeds only.

    Raises:
        ModisteError: The space is empty and may not be, or an entry has neither form.

    >>> Space({"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "loss": {"choices": ["clip", "siglip"]}}).first()
    {'optim.lr': 0.0001, 'loss': 'clip'}
    """

    def __init__(self, space: Mapping[str, Mapping[str, Any]], may_be_empty: bool = False) -> None:
        if not space and not may_be_empty:
            raise ModisteError(
                "sweep.space is empty: choose a sweep (sweep=heads; sweep=seeds for several seeds of one "
                "configuration), or add values, for example "
                "'sweep.space={optim.lr: {low: 1e-4, high: 1e-2, log: true}}'."
            )
        for key, entry in space.items():
            _check(key, entry)
        self.space = space

    def first(self) -> dict[str, Any]:
        """The first choice or ``low`` of each override."""
        return {key: entry["choices"][0] if "choices" in entry else entry["low"] for key, entry in self.space.items()}

    def all_choices(self) -> list[dict[str, Any]]:
        """`first`, then `first` with every other choice once."""
        first = self.first()
        return [first] + [
            first | {key: choice} for key, entry in self.space.items() for choice in entry.get("choices", [])[1:]
        ]

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Values of an Optuna trial. Raises ModisteError if the study has a value that is not in the space."""
        return {key: self._suggest(trial, key, entry) for key, entry in self.space.items()}

    def _suggest(self, trial: Any, key: str, entry: Mapping[str, Any]) -> Any:
        if "choices" in entry:
            # Optuna stores plain values only: others are stored as JSON.
            choices = {value if is_plain(value) else json.dumps(value): value for value in entry["choices"]}
            chosen = trial.suggest_categorical(key, list(choices))
            if chosen not in list(choices):
                raise _foreign(key)
            return choices[chosen]
        low, high, options = entry["low"], entry["high"], {k: entry[k] for k in ("log", "step") if k in entry}
        suggest = trial.suggest_int if isinstance(low, int) and isinstance(high, int) else trial.suggest_float
        value = suggest(key, low, high, **options)
        # The storage is not trusted: Optuna returns the stored values of a waiting trial unchecked.
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise _foreign(key)
        return value


def _foreign(key: str) -> ModisteError:
    return ModisteError(f"The study has a value of {key} that is not in the space: start a new sweep.")


def is_plain(value: object) -> bool:
    """Whether Optuna can store a choice unchanged."""
    return value is None or isinstance(value, (bool, int, float, str))


def _check(key: str, entry: Mapping[str, Any]) -> None:
    known = ("choices",) if "choices" in entry else RANGE
    for word in entry:
        if word not in known:
            raise ModisteError(f"sweep.space.{key} has no '{word}'. {did_you_mean(word, ('choices', *RANGE))}")
    if "choices" in entry:
        if not entry["choices"]:
            raise ModisteError(f"sweep.space.{key}.choices is empty: give at least one value.")
    elif not {"low", "high"} <= set(entry) or not entry["low"] <= entry["high"]:
        raise ModisteError(f"sweep.space.{key} needs choices, or low and high with low ≤ high.")
