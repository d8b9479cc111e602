"""Which validation each criterion would have chosen, and what the chosen ones score on all the others.

The loss on the training's own kind of product is a poor guide to transfer (FashionCLIP, Sci Rep 12:18958, Methods):
this shows what a run would have gained or lost by another one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modiste.errors import ModisteError
from modiste.utils.run_dir import RunDir

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODES = {"min": 1.0, "max": -1.0}
MARKERS = "os^DvP*X"


@dataclass(frozen=True)
class Validation:
    """What one validation said: ``values`` by metric, after ``step`` steps, in ``epoch`` (from 0)."""

    epoch: int
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Choice:
    """The validation that a criterion chooses.

    Attributes:
        criterion: The metric that decides.
        epoch: Of the chosen validation, from 0.
        step: Optimizer steps before it.
        values: What it scores on every criterion.
        regret: How much worse that is than the best that any validation scores there; never negative.
    """

    criterion: str
    epoch: int
    step: int
    values: dict[str, float]
    regret: dict[str, float]


def choose(validations: Sequence[Validation], criteria: Mapping[str, str]) -> list[Choice]:
    """The choice of every criterion; of equally good validations the first, as a checkpoint that must improve.

    Args:
        validations: In the order of training.
        criteria: Metric → ``min`` or ``max``. One that a validation lacks, or that is not finite, does not choose it.

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
            raise ModisteError(f"The criterion {name} is 'min' or 'max', not '{mode}'.")
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
    """Those that have a finite value of a metric."""
    return [v for v in validations if math.isfinite(v.values.get(name, math.nan))]


def table(choices: Sequence[Choice]) -> str:
    """A Markdown table, a row a choice, a column a criterion; in brackets how far from the column's best.

    >>> print(table([Choice("val/loss", 1, 20, {"val/loss": 1.0, "val/acc": 0.3}, {"val/loss": 0.0, "val/acc": 0.1})]))
    | chosen by | epoch | step | val/loss | val/acc |
    | --- | --- | --- | --- | --- |
    | val/loss | 1 | 20 | **1** | 0.3 (0.1 worse) |
    """
    names = [choice.criterion for choice in choices]
    names += [name for choice in choices for name in choice.values if name not in names]
    names = list(dict.fromkeys(names))
    lines = [["chosen by", "epoch", "step", *names], ["---"] * (3 + len(names))]
    for choice in choices:
        lines.append([choice.criterion, str(choice.epoch), str(choice.step), *(_cell(choice, name) for name in names)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(choice: Choice, name: str) -> str:
    if name not in choice.values:
        return "—"
    value, regret = choice.values[name], choice.regret[name]
    return f"{value:.4g} ({regret:.2g} worse)" if regret else f"**{value:.4g}**"


def figure(validations: Sequence[Validation], choices: Sequence[Choice], path: Path) -> Path:
    """A panel a criterion: its curve over the steps, and where each criterion's choice lies on it."""
    from modiste.reporting.figures import PALETTE, new_figure

    width = min(3, len(choices))
    height = math.ceil(len(choices) / width)
    with new_figure(3.6 * width, 2.5 * height + 0.5 + 0.2 * len(choices), path) as canvas:
        for i, panel in enumerate(choices, 1):
            axes = canvas.add_subplot(height, width, i)
            known = _with(validations, panel.criterion)
            values = [v.values[panel.criterion] for v in known]
            axes.plot([v.step for v in known], values, color="#888888", linewidth=1.2)
            for number, choice in enumerate(choices):
                _mark(axes, choice, panel.criterion, number, PALETTE[number % len(PALETTE)])
            axes.set_title(panel.criterion, fontsize=8.5 if len(panel.criterion) < 40 else 7)
            axes.margins(0.12)
            if i > len(choices) - width:
                axes.set_xlabel("step")
        handles, labels = canvas.axes[0].get_legend_handles_labels()
        canvas.legend(
            handles,
            labels,
            loc="outside lower left",
            title="chosen by",
            alignment="left",
            markerscale=0.6,
            labelspacing=0.8,
        )
    return path


def _mark(axes: Axes, choice: Choice, name: str, number: int, color: str) -> None:
    """A hollow marker, each larger than the last: those of criteria that agree lie around each other."""
    if name not in choice.values:
        return
    label = f"{choice.criterion}: epoch {choice.epoch}"
    at = [choice.step], [choice.values[name]]
    marker, size = MARKERS[number % len(MARKERS)], 30 + 45 * number
    axes.scatter(*at, size, marker=marker, facecolors="none", edgecolors=color, linewidths=1.6, label=label, zorder=3)
    if choice.criterion == name:
        axes.plot(*at, ".", color=color, zorder=4)


def write(run_dir: RunDir, validations: Sequence[Validation], criteria: Mapping[str, str]) -> list[Choice]:
    """``selection.json``, ``selection.md`` and ``figures/selection.png``; returns the choices, empty without any."""
    choices = choose(validations, criteria)
    if not choices:
        return []
    content: dict[str, Any] = {
        "criteria": dict(criteria),
        "choices": [asdict(choice) for choice in choices],
        "validations": [asdict(validation) for validation in validations],
    }
    run_dir.write_json("selection", content)
    (run_dir.path / "selection.md").write_text(table(choices) + "\n", encoding="utf-8")
    figure(validations, choices, run_dir.figures / "selection.png")
    return choices
