"""Suites: many data sets and tasks, one model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from modiste.config.overrides import override_key
from modiste.errors import ModisteError
from modiste.evaluation.runner import Evaluator, Outcome
from modiste.evaluation.spec import EvaluationSpec, named_entries

log = logging.getLogger(__name__)
OF_THE_SUITE = ("data", "task", "split")


def suite_specs(cfg: DictConfig, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> list[EvaluationSpec]:
    """Compose the entries of ``cfg.suite``: the user's overrides come first, then those of the entry.

    An entry without tasks has those of conf/evaluate.yaml.

    Args:
        cfg: An ``evaluate`` configuration with a suite.
        overrides: The user's overrides; those of a task's settings come last.
        config_dirs: Folders with the user's config groups.

    Raises:
        ModisteError: The user also names embeddings, data or tasks, an entry cannot be composed, or the suite's name is
            not a valid file name.
    """
    if Path(cfg.suite.name).name != cfg.suite.name:
        raise ModisteError(f"suite.name={cfg.suite.name} names a result's file: remove the /.")
    if cfg.embeddings.image:
        raise ModisteError("suite= needs a model (run= or model=): embeddings on disk belong to one data set.")
    own = [o for o in overrides if override_key(o) not in ("suite", "variant")]
    settings = [o for o in own if override_key(o).startswith("task.")]  # for the entries that have the task
    shared = [o for o in own if o not in settings]
    for override in shared:
        if override_key(override).partition(".")[0].partition("/")[0] in OF_THE_SUITE:
            raise ModisteError(f"suite={cfg.suite.name} sets the data and tasks itself: remove {override}.")
    specs = []
    for name, entry in named_entries(cfg.suite.entries).items():
        spec = EvaluationSpec.compose(name, entry, shared, (), config_dirs)
        mine = [o for o in settings if override_key(o).split(".")[1] in spec.config.task]
        specs.append(EvaluationSpec.compose(name, entry, shared, mine, config_dirs) if mine else spec)
    tasks = {str(task) for spec in specs for task in spec.config.task}
    for override in settings:
        if override_key(override).split(".")[1] not in tasks:
            raise ModisteError(f"suite={cfg.suite.name} has no such task: remove {override}.")
    return specs


def run_suite(evaluator: Evaluator, name: str, specs: Sequence[EvaluationSpec]) -> list[Outcome]:
    """Run every entry; one that cannot run gives an outcome with the reason, and the rest continues."""
    total = sum(len(spec.config.task) for spec in specs)
    outcomes: list[Outcome] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(name, total=total)
        for spec in specs:
            for outcome in _entry(evaluator, spec):
                progress.update(bar, advance=1, description=f"{name}: {spec.name}")
                outcomes.append(outcome)
                log.info("%d/%d %s · %s: %s", len(outcomes), total, outcome.entry, outcome.task, outcome.status)
    return outcomes


def _entry(evaluator: Evaluator, spec: EvaluationSpec) -> Iterator[Outcome]:
    try:
        prepared = evaluator.prepare(spec)
    except ModisteError as error:
        for task in spec.config.task:
            yield Outcome(spec.name, str(task), "missing", str(error))
        return
    for task in prepared.evaluation.tasks:
        try:
            yield evaluator.run_task(prepared, task)
        except ModisteError as error:
            yield Outcome(spec.name, task, "missing", str(error))
