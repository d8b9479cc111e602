"""`modiste.evaluate`: tasks of a model on a data set, from Python and from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from modiste.config import compose, escape_interpolations
from modiste.config.invocation import Invocation
from modiste.config.overrides import as_overrides, override_value
from modiste.data.catalogue import Catalogue
from modiste.embedding.build import embedder_options
from modiste.errors import ModisteError
from modiste.evaluation.runner import Evaluator, Outcome
from modiste.evaluation.spec import Entry, Evaluation, EvaluationSpec, entry_overrides
from modiste.evaluation.subject import Subject, subject_of
from modiste.evaluation.suite import run_suite, suite_specs
from modiste.models.dual_encoder import DualEncoder
from modiste.models.load import Loaded, as_model
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
            of a run are stored in the run, others are not stored. Results of data or tasks that are passed as objects
            are stored only with ``out``, and always recomputed.
        settings: Further keys of conf/evaluate.yaml: ``precision``, ``batch_size``, ``backend``, ``dim``,
            ``**{"data.prompts.colour": ["a {} dress"]}`` …

    Returns:
        One result per task.

    Raises:
        ModisteError: A name is unknown, ``model`` is no model, ``data`` is no catalogue or name, ``tasks`` are no
            names or tasks, data or weights are missing, or a task refuses the data.

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
    entry = {} if data is None or not isinstance(data, (str, Mapping)) else data
    words = [*entry_overrides(entry), f"split={override_value(split)}"]
    words += as_overrides(settings)
    if not isinstance(tasks, Mapping):
        words.append(f"task={override_value(list(tasks))}")
    run = RunDir.of(model)
    held = None if isinstance(model, (RunDir, str, Path)) else as_model(model)
    words += [f"run={override_value(str(run.path))}"] if run else []
    if held is None and run is None:
        words += ["model=exported", f"model.source={override_value(str(model))}"]
    if "suite" in settings:
        raise ModisteError("A suite sets the data and tasks itself: run it with modiste evaluate suite=NAME.")
    given = None if data is None or isinstance(data, (str, Mapping)) else data
    if given is not None and not isinstance(given, Catalogue):
        raise ModisteError("data: give a Catalogue, a data set's name, or config groups and keys with their values.")
    objects = given is not None or isinstance(tasks, Mapping)
    node = [] if given is None else ["data=table", "data.catalogue.path=memory"]
    spec = EvaluationSpec("", compose("evaluate", [*node, *words]), tuple(words))
    subject = subject_of(spec.config, str(model)) if held is None else _in_memory(held, spec.config)
    if subject.trained is not None:
        spec = spec.of_run(subject.trained)
    elif data is None:
        raise ModisteError("No data given: name a data set or pass a catalogue; only runs have default data.")
    if given is not None:  # a run stores only results of data that a configuration can name
        subject = replace(subject, run=None, trained=None)
        spec.config.data.name = escape_interpolations(given.card.name)
    elif objects:
        subject = replace(subject, run=None)
    cfg = spec.config
    # Objects are in no configuration, so an existing result may be of different ones.
    evaluator = Evaluator(
        subject, RunDir(Path(out)) if out else None, overwrite=cfg.overwrite or objects, overlap=cfg.overlap,
        deterministic=cfg.deterministic,
    )  # fmt: skip
    evaluation = spec.load(given)
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


def _in_memory(model: DualEncoder, cfg: DictConfig) -> Subject:
    return Subject(type(model).__name__, "memory", model, embedder_options(cfg))


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
