"""The epoch that each criterion would choose, and its scores on all other criteria.

The in-domain loss is a poor guide to transfer (FashionCLIP, Sci Rep 12:18958, Methods): this shows what a run would
have gained or lost with another criterion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from modiste.errors import ModisteError
from modiste.reporting.tables import EMPTY
from modiste.reporting.tables.sheets import Grid, Item, grid_markdown
from modiste.utils.atomic import write_text
from modiste.utils.run_dir import RunDir

MODES = {"min": 1.0, "max": -1.0}


@dataclass(frozen=True)
class Validation:
    """Results of a validation: ``values`` by metric, after ``step`` steps, in ``epoch`` (from 0)."""

    epoch: int
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Choice:
    """The validation that a criterion chooses.

    Attributes:
        criterion: The metric that decides.
        epoch: Epoch of the chosen validation, from 0.
        step: Optimizer steps before it.
        values: Its values of all criteria.
        regret: Absolute difference of each value from the best of all validations.
    """

    criterion: str
    epoch: int
    step: int
    values: dict[str, float]
    regret: dict[str, float]


def choose(validations: Sequence[Validation], criteria: Mapping[str, str]) -> list[Choice]:
    """The choice of every criterion; of equally good validations the first, as for checkpoints.

    Args:
        validations: Validations in the order of training.
        criteria: Metric → ``min`` or ``max``. A criterion ignores validations without a finite value.

    Raises:
        ModisteError: A mode is neither min nor max.

    >>> criteria = {"val/loss": "min", "val/acc": "max"}
    >>> first, second = {"val/loss": 2.0, "val/acc": 0.4}, {"val/loss": 1.0, "val/acc": 0.3}
    >>> choices = choose([Validation(0, 10, first), Validation(1, 20, second)], criteria)
    >>> [(choice.criterion, choice.epoch, round(choice.regret["val/acc"], 3)) for choice in choices]
    [('val/loss', 1, 0.1), ('val/acc', 0, 0.0)]
    """
    for name, mode in criteria.items():
        if mode not in MODES:
            raise ModisteError(f"The mode of {name} must be 'min' or 'max', not '{mode}'.")
    best = {}
    for name, mode in criteria.items():
        known = _with(validations, name)
        if known:
            best[name] = known[int(np.argmin([MODES[mode] * v.values[name] for v in known]))]
    choices = []
    for name, chosen in best.items():
        values = {other: chosen.values[other] for other in best if _with([chosen], other)}
        regret = {other: abs(value - best[other].values[other]) for other, value in values.items()}
        choices.append(Choice(name, chosen.epoch, chosen.step, values, regret))
    return choices


def _with(validations: Sequence[Validation], name: str) -> list[Validation]:
    """Validations with a finite value of a metric."""
    return [v for v in validations if math.isfinite(v.values.get(name, math.nan))]


def table(choices: Sequence[Choice]) -> str:
    """Markdown table with a row per choice and a column per criterion, with the regret in brackets.

    Epochs are counted from 1, as in the progress of training.

    >>> print(table([Choice("val/loss", 1, 20, {"val/loss": 1.0, "val/acc": 0.3}, {"val/loss": 0.0, "val/acc": 0.1})]))
    | chosen by | epoch | step | val/loss | val/acc |
    | --- | ---: | ---: | ---: | ---: |
    | val/loss | 2 | 20 | **1** | 0.3 (0.1 worse) |
    """
    names = [choice.criterion for choice in choices]
    names = list(dict.fromkeys([*names, *(name for choice in choices for name in choice.values)]))
    rows = [
        [
            Item(choice.criterion),
            Item(str(choice.epoch + 1)),
            Item(str(choice.step)),
            *(_cell(choice, n) for n in names),
        ]
        for choice in choices
    ]
    return grid_markdown(Grid(["chosen by", "epoch", "step", *names], f"lrr{'r' * len(names)}", rows))


def _cell(choice: Choice, name: str) -> Item:
    if name not in choice.values:
        return Item(EMPTY)
    value, regret = choice.values[name], choice.regret[name]
    return Item(f"{value:.4g} ({regret:.2g} worse)") if regret else Item(f"{value:.4g}", "bold")


def write(run_dir: RunDir, validations: Sequence[Validation], criteria: Mapping[str, str]) -> list[Choice]:
    """Write ``selection.json`` and ``selection.md``, unless there are no choices; return the choices."""
    choices = choose(validations, criteria)
    if not choices:
        return []
    content: dict[str, Any] = {
        "criteria": dict(criteria),
        "choices": [asdict(choice) for choice in choices],
        "validations": [asdict(validation) for validation in validations],
    }
    run_dir.write_json("selection", content)
    write_text(run_dir.path / "selection.md", table(choices) + "\n")
    return choices
