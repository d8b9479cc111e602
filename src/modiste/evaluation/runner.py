"""Evaluation of one model by the tasks of one or many data sets, reusing existing results."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from modiste.errors import NothingToMeasureError
from modiste.evaluation.overlap import overlap_of_run
from modiste.evaluation.spec import Evaluation, EvaluationSpec
from modiste.evaluation.store import ResultStore, identity, run_unless_stored, variant_of
from modiste.evaluation.subject import Subject
from modiste.reporting.tables import read_values
from modiste.tasks.result import Embedder, Result
from modiste.utils.hardware import keep_pages
from modiste.utils.run_dir import RunDir, read_json

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a task.

    Attributes:
        entry: Name of the evaluation in its suite.
        task: The task's name.
        status: ``computed``, ``kept`` (its result existed) or ``missing``.
        why: The reason for ``missing``.
        path: The result file; None if results are not stored.
        result: The result; None for ``missing``.
    """

    entry: str
    task: str
    status: str
    why: str = ""
    path: Path | None = None
    result: Result | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Prepared:
    """A loaded data set with its embedder, and the facts that results record."""

    evaluation: Evaluation
    embedder: Embedder
    facts: dict[str, Any]


class Evaluator:
    """Evaluate one model.

    Args:
        subject: The model, or embeddings on disk.
        out: Where results are stored; None: those of a run in the run.
        folder: Without ``out``, parent of a separate folder for each model that is no run; None: not stored.
        command: The command line, to be recorded.
        overwrite: Recompute existing results.
        overlap: For a run, count what the evaluated images share with its training data.
        deterministic: Make torch refuse nondeterministic operations.
    """

    def __init__(
        self,
        subject: Subject,
        out: RunDir | None = None,
        folder: Path | None = None,
        command: str = "",
        overwrite: bool = False,
        overlap: bool = True,
        deterministic: bool = False,
    ) -> None:
        self.subject, self.out, self.folder, self.command = subject, out or subject.run, folder, command
        self.overwrite, self.overlap = overwrite, overlap
        self.catalogues: dict[str, Catalogue] = {}
        self.store: ResultStore | None = None
        self._overlaps: dict[EvaluationSpec, dict[str, Any]] = {}
        keep_pages()
        if deterministic:
            torch.use_deterministic_algorithms(True)

    def prepare(self, spec: EvaluationSpec) -> Prepared:
        """Load the data and tasks of a specification, for `run_task`.

        Raises:
            ModisteError: The configuration is invalid, or the data are missing.
        """
        if self.subject.trained is not None:
            spec = spec.of_run(self.subject.trained)
        return self.prepare_loaded(spec.load())

    def prepare_loaded(self, evaluation: Evaluation) -> Prepared:
        """`prepare` for a loaded data set."""
        prepared = Prepared(evaluation, *self.subject.embedder(evaluation))
        self.store = self._store(prepared.facts)
        return prepared

    def run(self, spec: EvaluationSpec, skip: bool = False) -> Iterator[Outcome]:
        """Run the tasks of a specification, yielding each outcome.

        Args:
            spec: What to evaluate.
            skip: If the data lack the attributes of a task, yield an outcome with the reason instead of raising.

        Raises:
            ModisteError: The configuration is invalid, the data are missing, or a task refuses them.
        """
        prepared = self.prepare(spec)
        for name in prepared.evaluation.tasks:
            try:
                yield self.run_task(prepared, name)
            except NothingToMeasureError as error:
                if not skip:
                    raise
                yield Outcome(prepared.evaluation.spec.name, name, "missing", str(error))

    def run_task(self, prepared: Prepared, name: str) -> Outcome:
        """Run the task ``name``, unless its result exists.

        Raises:
            ModisteError: The task refuses the data or the embeddings.
        """
        evaluation, entry = prepared.evaluation, prepared.evaluation.spec.name
        expected = identity(evaluation, name, prepared.facts)
        store = self.store
        path = store.path(evaluation, name) if store else None
        if path is not None:
            self.catalogues[path.stem] = evaluation.catalogue

        def write(path: Path, result: Result, seconds: float) -> None:
            assert store is not None
            store.write(path, result, expected | self._record(prepared, name) | {"seconds": seconds})

        result = run_unless_stored(evaluation, name, prepared.embedder, path, expected, write, self.overwrite)
        if path is not None and result is None:
            log.info("%s exists for the same model, data and protocol: reused (overwrite=true recomputes it)", path)
            return Outcome(entry, name, "kept", path=path, result=read(path))
        return Outcome(entry, name, "computed", path=path, result=result)

    def _record(self, prepared: Prepared, name: str) -> dict[str, Any]:
        """Provenance of a result, for its file."""
        spec = prepared.evaluation.spec
        facts = {
            "overrides": spec.for_task(name),
            "variant": variant_of(prepared.evaluation),
            "overlap": self._overlap(prepared.evaluation),
        }
        if "backend" in prepared.facts["describe"]:
            facts["backends"] = dict(getattr(prepared.embedder, "used", {}))  # those that auto selected
        return facts

    def _store(self, facts: dict[str, Any]) -> ResultStore | None:
        if self.out is not None:
            return ResultStore(self.out, self.command)
        # Several models may be evaluated under one name, such as model=pretrained.
        return ResultStore(RunDir(self.folder / facts["fingerprint"][:8]), self.command) if self.folder else None

    def _overlap(self, evaluation: Evaluation) -> dict[str, Any]:
        """Overlap of the evaluated images with the run's training data; empty without overlap or run."""

        trained, spec = self.subject.trained, evaluation.spec
        if trained is None or not self.overlap:
            return {}
        if spec not in self._overlaps:
            found = overlap_of_run(trained, evaluation.catalogue, spec.split, spec.config.data)
            self._overlaps[spec] = {"train": trained.data.name, **found} if found else {}
        return self._overlaps[spec]


def read(path: Path) -> Result:
    """Read a stored result with its values per query."""
    content: Mapping[str, Any] = read_json(path)
    values = path.with_suffix(".npz")
    return Result.from_json(content, read_values(values) if values.exists() else None)
