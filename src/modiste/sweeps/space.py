"""A search space: override of `modiste train` → the values it may take."""

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
        space: Override → ``{choices: [a, b]}``, or ``{low: 1e-4, high: 1e-2, log: true}``, integers where ``low``
            and ``high`` are; optionally ``step``. Choices are values, and need no quoting: words with commas or braces,
            lists and mappings reach the trial as they are.
        may_be_empty: For a sweep over seeds alone.

    Raises:
        ModisteError: The space is empty and may not be, or an entry is of neither form.

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
        """One value of each, to see that they compose."""
        return {key: entry["choices"][0] if "choices" in entry else entry["low"] for key, entry in self.space.items()}

    def all_choices(self) -> list[dict[str, Any]]:
        """`first`, and then every other choice once."""
        first = self.first()
        return [first] + [
            first | {key: choice} for key, entry in self.space.items() for choice in entry.get("choices", [])[1:]
        ]

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """The values of an Optuna trial. Raises ModisteError where the study's storage holds others than the space."""
        return {key: self._suggest(trial, key, entry) for key, entry in self.space.items()}

    def _suggest(self, trial: Any, key: str, entry: Mapping[str, Any]) -> Any:
        if "choices" in entry:
            # Optuna remembers plain values only; others go by their JSON.
            choices = {value if is_plain(value) else json.dumps(value): value for value in entry["choices"]}
            chosen = trial.suggest_categorical(key, list(choices))
            if chosen not in list(choices):
                raise _foreign(key)
            return choices[chosen]
        low, high, options = entry["low"], entry["high"], {k: entry[k] for k in ("log", "step") if k in entry}
        suggest = trial.suggest_int if isinstance(low, int) and isinstance(high, int) else trial.suggest_float
        value = suggest(key, low, high, **options)
        # The study's storage may be a stranger's: Optuna returns what it says of a trial that waits.
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise _foreign(key)
        return value


def _foreign(key: str) -> ModisteError:
    return ModisteError(f"The study has a value of {key} that is not of the space: start a new sweep.")


def is_plain(value: object) -> bool:
    """Whether Optuna can remember a choice as it is."""
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
