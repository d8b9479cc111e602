"""`modiste.evaluate`: tasks of a model on a data set, from Python and from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from modiste.config.invocation import Invocation
from modiste.config.overrides import as_overrides, override_value
from modiste.data.argument import Composed, Entry, compose_for
from modiste.data.catalogue import Catalogue
from modiste.embedding.build import embedder_options
from modiste.errors import ModisteError
from modiste.evaluation.runner import Evaluator, Outcome
from modiste.evaluation.spec import Evaluation, EvaluationSpec
from modiste.evaluation.subject import Subject, subject_of
from modiste.evaluation.suite import run_suite, suite_specs
from modiste.models.dual_encoder import DualEncoder
from modiste.models.load import Loaded, as_model, run_of
from modiste.reporting.report import write_report
from modiste.utils.run_dir import RunDir

if TYPE_CHECKING:
    from modiste.tasks.result import Result, Task


def evaluate(
    model: DualEncoder | Loaded | RunDir | str | Path,
    data: Catalogue | Entry | None = None,
    tasks: Sequence[str] | Mapping[str, Task] = ("retrieval",),
    *,
    split: str = "test",
    out: str | Path | None = None,
    **settings: Any,
) -> list[Result]:
    """Evaluate a model on tasks of `modiste.tasks`.

    Args:
        model: A run directory or what `modiste.train` returns, a hub id or local directory of a published model, a
            model in memory, or what `modiste.load` returns.
        data: A catalogue, whose captions and prompts are those of the run, else those of ``data=table``; a data set's
            name; config groups and keys of `modiste evaluate` with their values
            (``{"data": "kagl", "data/split": "marqo"}``); None: that of the run.
        tasks: Names of tasks, or tasks by name.
        split: The evaluated split; ``all``: every row.
        out: Directory for result files; existing results of the same model, data and protocol are reused. None: results
            of a run directory are stored in it, others are not stored. Results of data or tasks that are passed as
            objects are stored only with ``out``, and always recomputed.
        settings: Further keys of conf/evaluate.yaml: ``precision``, ``batch_size``, ``backend``, ``dim``,
            ``**{"data.prompts.colour": ["a {} dress"]}`` …

    Returns:
        One result per task.

    Raises:
        ModisteError: A name is unknown, ``model`` is no model, ``data`` is no catalogue or name, ``tasks`` are no
            names or tasks, data or weights are missing, or a task refuses the data.

    >>> from modiste.config import compose
    >>> from modiste.data.synthetic import Synthetic
    >>> from modiste.models.load import build_model
    >>> model = build_model(compose("evaluate", ["image=timm", "image.name=test_efficientnet", "image.size=32",
    ...     "image.pretrained=false"]))
    >>> catalogue = Synthetic(products=40, views=1, size=32)()
    >>> (result,) = evaluate(model, catalogue, ["retrieval"], split="all", cache=False)
    >>> result.task, result.data, 0 < result.metrics["t2i/mrr"].value < 1
    ('retrieval', 'synthetic', True)
    """
    _check_tasks(tasks)
    if out is not None and not isinstance(out, (str, Path)):
        raise ModisteError(f"out={out!r:.60}: give a directory for the result files.")
    if "suite" in settings:
        raise ModisteError("A suite sets the data and tasks itself: run it with modiste evaluate suite=NAME.")
    words = [f"split={override_value(split)}", *as_overrides(settings)]
    if not isinstance(tasks, Mapping):
        words.append(f"task={override_value(list(tasks))}")
    held = None if isinstance(model, (RunDir, str, Path)) else as_model(model)
    run = run_of(model)
    if held is None:
        named = {"run": str(run.path)} if run else {"model": "exported", "model.source": str(model)}
        words += as_overrides(named)
    composed = compose_for("evaluate", data, run, words)
    spec = EvaluationSpec("", composed.config, composed.overrides)
    subject = subject_of(spec.config, str(model)) if held is None else _in_memory(held, composed)
    objects = composed.catalogue is not None or isinstance(tasks, Mapping)
    if composed.catalogue is not None:  # a run stores only results of data that a configuration can name
        subject = replace(subject, run=None, trained=None)
    elif objects:
        subject = replace(subject, run=None)
    cfg = spec.config
    # Objects are in no configuration, so an existing result may be of different ones.
    evaluator = Evaluator(
        subject, RunDir(Path(out)) if out else None, overwrite=cfg.overwrite or objects, overlap=cfg.overlap,
        deterministic=cfg.deterministic,
    )  # fmt: skip
    evaluation = spec.load(composed.catalogue)
    if isinstance(tasks, Mapping):
        evaluation = Evaluation(evaluation.spec, evaluation.catalogue, dict(tasks))
    prepared = evaluator.prepare_loaded(evaluation)
    return [done.result for name in evaluation.tasks if (done := evaluator.run_task(prepared, name)).result]


def _check_tasks(tasks: object) -> None:
    if isinstance(tasks, Mapping):
        fit = bool(tasks) and all(isinstance(name, str) and callable(task) for name, task in tasks.items())
    else:
        fit = isinstance(tasks, (list, tuple)) and bool(tasks) and all(isinstance(name, str) for name in tasks)
    if not fit:
        raise ModisteError(f'tasks={tasks!r:.60}: give a list of names, ["retrieval"], or tasks by name.')


def _in_memory(model: DualEncoder, composed: Composed) -> Subject:
    options = embedder_options(composed.config)
    return Subject(type(model).__name__, "memory", model, options, trained=composed.trained)


@dataclass(frozen=True)
class Evaluated:
    """Outcome of `evaluate_config`.

    Attributes:
        outcomes: One per task.
        paths: Result files, in order.
        folder: The run directory that contains them.
        report: Its ``report.html``.
    """

    outcomes: list[Outcome]
    paths: list[Path]
    folder: RunDir
    report: Path


def evaluate_config(cfg: DictConfig, line: Invocation) -> Evaluated:
    """Run an ``evaluate`` configuration: its tasks, or those of its suite.

    Args:
        cfg: The composed configuration.
        line: Command line that composed it.

    Raises:
        ModisteError: Nothing could be evaluated, or a single evaluation cannot run.
    """

    evaluator = Evaluator(
        subject_of(cfg, line.choice("model")), None, Path(cfg.run_dir), line.command, cfg.overwrite, cfg.overlap,
        cfg.deterministic,
    )  # fmt: skip
    if cfg.get("suite") is None:
        asked = any(override.startswith("task") for override in line.overrides)
        outcomes = list(evaluator.run(EvaluationSpec("", cfg, line.overrides), skip=not asked))
    else:
        outcomes = run_suite(evaluator, cfg.suite.name, suite_specs(cfg, line.overrides, line.config_dirs))
    paths = [outcome.path for outcome in outcomes if outcome.path]
    if not paths or evaluator.store is None:
        missing = "; ".join(f"{o.entry} · {o.task}: {o.why}" for o in outcomes)
        raise ModisteError(f"Nothing could be evaluated: {missing or 'there are no tasks'}.")
    run = evaluator.store.run
    if cfg.get("suite") is not None:
        run.write_json(f"suite.{cfg.suite.name}", {"suite": cfg.suite.name, "outcomes": list(map(_plain, outcomes))})
    return Evaluated(outcomes, paths, run, write_report(run.path, evaluator.catalogues))


def _plain(outcome: Outcome) -> dict[str, str]:
    return {name: getattr(outcome, name) for name in ("entry", "task", "status", "why")}
