"""Search space: override of `modiste train` → its values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from modiste.errors import ModisteError, did_you_mean

if TYPE_CHECKING:
    from optuna import Trial

RANGE = ("low", "high", "log", "step")
OWN = ("sweep", "run_dir", "continue", "seed")
"""Settings of the sweep that its trials do not get."""


class Space:
    """Distributions by override.

    Args:
        space: Override → ``{choices: [a, b]}``, or ``{low: 1e-4, high: 1e-2, log: true}`` with an optional ``step``;
            values are integers if ``low`` and ``high`` are. Choices need no quoting: strings with commas or braces,
            lists and mappings reach the trial unchanged.
        may_be_empty: Allow an empty space, for a sweep over seeds only.

    Raises:
        ModisteError: The space is empty and may not be, an entry has neither form, or trials would ignore its key.

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

    def last(self) -> dict[str, Any]:
        """The last choice or ``high`` of each override."""
        return {key: entry["choices"][-1] if "choices" in entry else entry["high"] for key, entry in self.space.items()}

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
    if key.lstrip("+~").split(".")[0] in OWN:
        raise ModisteError(
            f"sweep.space.{key} would be ignored, as the sweep sets it for every trial: remove it (sweep.repeats gives "
            "several seeds)."
        )
    if "choices" in entry and set(RANGE) & set(entry):
        raise ModisteError(f"sweep.space.{key} has choices and a range: give one of them.")
    for word in entry:
        if word not in ("choices", *RANGE):
            raise ModisteError(f"sweep.space.{key} has no '{word}'. {did_you_mean(word, ('choices', *RANGE))}")
    if "choices" not in entry:
        _check_range(key, entry)
    elif not isinstance(entry["choices"], list):
        raise ModisteError(f"sweep.space.{key}.choices is {entry['choices']}: it takes a list.")
    elif not entry["choices"]:
        raise ModisteError(f"sweep.space.{key}.choices is empty: give at least one value.")


def _check_range(key: str, entry: Mapping[str, Any]) -> None:
    low, high, log, step = entry.get("low"), entry.get("high"), entry.get("log", False), entry.get("step")
    if not _is_number(low) or not _is_number(high) or not low <= high:
        raise ModisteError(f"sweep.space.{key} needs choices, or low and high, two finite numbers with low ≤ high.")
    if not isinstance(log, bool):
        raise ModisteError(f"sweep.space.{key}.log is {log}: it takes true or false.")
    if log and low <= 0:
        raise ModisteError(f"sweep.space.{key}.low is {low}: a log scale begins above 0.")
    if "step" not in entry:
        return
    whole = isinstance(low, int) and isinstance(high, int)
    if log or not _is_number(step) or step <= 0 or (whole and not isinstance(step, int)):
        kind = "a whole number" if whole else "a number"
        raise ModisteError(f"sweep.space.{key}.step is {step}: it takes {kind} above 0, and no log scale.")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
