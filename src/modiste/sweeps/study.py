"""The Optuna study of a sweep, stored in the sweep's directory so that a killed sweep resumes."""

from __future__ import annotations

import json
import logging
import math
import re
import sqlite3
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiste.config import instantiate
from modiste.errors import ModisteError, did_you_mean
from modiste.metrics.direction import direction
from modiste.utils.atomic import DiskFullError, atomic, make_folder
from modiste.utils.run_dir import check_links
from modiste.utils.seeds import mix

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")
"""Last bytes of an SQLite rollback journal that names a super-journal (sqlite.org/fileformat2.html)."""
FILES = {"journal": "study.journal", "sqlite": "study.db"}
"""Storage → its file in the sweep's directory."""
NAME = "sweep"
CUT_OFF, REPEATS = "cut_off", "repeats"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Objective:
    """A validation metric and its mode, ``min`` or ``max``; empty: the metric's own direction."""

    metric: str
    mode: str = ""

    def __post_init__(self) -> None:
        if self.mode not in ("", "min", "max"):
            raise ModisteError(f"The mode of {self.metric} must be 'min' or 'max', not '{self.mode}'.")
        object.__setattr__(self, "mode", self.mode or direction(self.metric))

    @property
    def direction(self) -> str:
        """Direction in Optuna's terms, ``minimize`` or ``maximize``."""
        return f"{self.mode}imize"

    def best(self, history: Sequence[Mapping[str, float]]) -> float:
        """The best value over the epochs. Raises ModisteError as `best_epoch`.

        >>> Objective("val/loss", "min").best([{"val/loss": 2.0}, {"val/loss": 1.5}])
        1.5
        """
        return self.best_epoch(history)[self.metric]

    def best_epoch(self, history: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        """All metrics of the epoch with the best value, the first of equal ones.

        Raises:
            ModisteError: No epoch has the metric, or it is NaN in all of them.

        >>> Objective("val/loss", "min").best_epoch([{"val/loss": math.nan}, {"val/loss": 1.5}])
        {'val/loss': 1.5}
        """
        logged = [epoch for epoch in history if self.metric in epoch]
        epochs = [epoch for epoch in logged if not math.isnan(epoch[self.metric])]
        if logged and not epochs:
            raise ModisteError(f"{self.metric} is NaN in every epoch: lower optim.lr, or choose another objective.")
        if not epochs:
            known = sorted({name for epoch in history for name in epoch})
            raise ModisteError(f"Validation logs no '{self.metric}'. {did_you_mean(self.metric, known)}")
        return (min if self.mode == "min" else max)(epochs, key=lambda epoch: epoch[self.metric])


def open_study(
    folder: Path, storage: str, objectives: Sequence[Objective], pruner: BasePruner, names: Sequence[str] = ()
) -> Study:
    """Create or load the study in ``folder``; trials cut off by a kill are repeated with the same values.

    Args:
        folder: The sweep's directory.
        storage: ``journal`` or ``sqlite``.
        objectives: Objectives of the study.
        pruner: An Optuna pruner.
        names: Names of the parameters. A trial that was cut off before it had all of them is drawn again: `sampler_of`
            gives it the same values.

    Raises:
        ModisteError: Optuna is not installed, the storage is unknown or damaged, or the folder's name cannot hold
            SQLite; or see `modiste.utils.run_dir.check_links`.
    """
    try:
        import optuna
    except ImportError:
        raise ModisteError("modiste sweep needs optuna: pip install 'modiste[sweep]'.") from None
    if storage not in FILES:
        raise ModisteError(f"sweep.storage={storage} is unknown. {did_you_mean(storage, FILES)}")
    if storage == "sqlite" and re.search(r"[?{}]", str(folder.absolute())):  # Optuna reads a URL and a template
        raise ModisteError(
            f"'{folder.absolute()}' cannot hold an SQLite study: rename the folder without ?, {{ and }}."
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # Modiste logs a failed trial in one line
    check_links(folder)
    make_folder(folder)
    check_journal(folder / "study.db-journal")
    check_schema(folder / "study.db")
    directions: Any = [objective.direction for objective in objectives]
    kept: Any = f"sqlite:///{folder / 'study.db'}"
    try:
        if storage == "journal":
            from optuna.storages.journal import JournalFileBackend

            path = folder / FILES[storage]
            mend(path, names)
            kept = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(
            study_name=NAME, storage=kept, pruner=pruner, load_if_exists=True, directions=directions
        )
    except (KeyError, ValueError, AssertionError, optuna.exceptions.StorageInternalError) as error:
        raise ModisteError(
            f"The study in '{folder}' is damaged ({type(error).__name__}: {error}): start a new sweep; the run "
            "directories of its trials are not affected."
        ) from None
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study._storage.set_trial_user_attr(trial._trial_id, CUT_OFF, True)
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if trial.params and set(names) <= set(trial.params):
            study.enqueue_trial(trial.params, user_attrs={REPEATS: trial.number})
    return study


def check_journal(path: Path) -> None:
    """Check that SQLite's rollback journal names no other file, which SQLite would delete.

    Raises:
        ModisteError: It names a super-journal, which only transactions over several databases have, never Optuna's.
    """
    if path.is_file() and path.read_bytes()[-8:] == SUPER_JOURNAL:
        raise ModisteError(f"'{path}' names another file, which SQLite would delete: start a new sweep.")


def check_schema(path: Path) -> None:
    """Check that an SQLite study has Optuna's tables and indexes only: views and triggers would run.

    Raises:
        ModisteError: It has others, or is not a database.
    """
    if not path.is_file():
        return
    import optuna

    fresh = optuna.storages.RDBStorage("sqlite:///:memory:").engine.raw_connection()
    own = _schema(fresh)
    try:
        with closing(sqlite3.connect(path)) as database:
            foreign = _schema(database) - own
    except sqlite3.Error as error:
        raise ModisteError(f"'{path}' is damaged ({error}): start a new sweep.") from None
    if foreign:
        kind, name, _ = min(foreign)
        raise ModisteError(f"'{path}' has the {kind} '{name}', which is not Optuna's: start a new sweep.")


def _schema(database: Any) -> set[tuple[str, str, str]]:
    """Kind, name and definition of everything in a database, without evaluating any of it."""
    cursor = database.cursor()
    cursor.execute("PRAGMA trusted_schema=OFF")
    cursor.execute("SELECT type, name, sql FROM sqlite_master")
    return {(kind, name, " ".join((sql or "").split())) for kind, name, sql in cursor.fetchall()}


def mend(journal: Path, names: Sequence[str] = ()) -> None:
    """Drop lines of a journal that a full disk or a power failure truncated; their trials are repeated.

    Args:
        journal: Optuna's journal, one JSON object per line.
        names: Names of the parameters. A trial that lost one of them is no longer complete.
    """
    if not journal.is_file():
        return
    raw = journal.read_bytes()
    lines = raw.split(b"\n")
    whole = [line for line in lines if line and _is_json(line)]
    torn = sum(bool(line) for line in lines) - len(whole)
    mended = b"".join(line + b"\n" for line in (_without_lost(whole, names) if torn else whole))
    if mended != raw:
        if torn:
            log.warning("%s: %d incomplete lines dropped; their trials are repeated", journal, torn)
        with atomic(journal) as unfinished:
            unfinished.write_bytes(mended)


# Values of optuna.storages.journal.JournalOperation, and of TrialState with a result.
CREATE_TRIAL, SET_PARAM, SET_STATE = 4, 5, 6
COMPLETE_OR_PRUNED = (1, 2)


def _without_lost(lines: Sequence[bytes], names: Sequence[str]) -> list[bytes]:
    """Rewrite a journal as if the trials that lost lines had been cut off.

    A trial's number is the position of the line that creates it, so lost ones are inserted again; a result without its
    parameters is dropped. Lines of a trial number that is too high for the journal's size are dropped too: inserting
    all trials before it would let a short journal grow without bound.
    """
    known = [(line, json.loads(line)) for line in lines]
    creates = next((line for line, entry in known if entry.get("op_code") == CREATE_TRIAL), None)
    kept: list[tuple[bytes, dict[str, Any]]] = []
    parameters: dict[int, set[str]] = {}
    spare: float = sum(map(len, lines)) // len(creates) if creates else 0
    for line, entry in known:
        trial = len(parameters) if entry.get("op_code") == CREATE_TRIAL else entry.get("trial_id", -1)
        missing = 0 if entry.get("op_code") == CREATE_TRIAL else _beyond(trial, len(parameters))
        if missing > spare:
            continue
        spare -= missing
        while creates is not None and trial >= len(parameters):
            parameters[len(parameters)] = set()
            if entry.get("op_code") != CREATE_TRIAL:
                kept.append((creates, {}))
        if entry.get("op_code") == SET_PARAM:
            parameters.setdefault(trial, set()).add(str(entry.get("param_name")))
        kept.append((line, entry))
    lost = {trial for trial, found in parameters.items() if not set(names) <= found}
    return [
        line
        for line, entry in kept
        if not (
            entry.get("op_code") == SET_STATE
            and entry.get("state") in COMPLETE_OR_PRUNED
            and entry.get("trial_id") in lost
        )
    ]


def _beyond(trial: object, count: int) -> float:
    """Number of trials missing between ``count`` and this trial; infinite if it is not a number."""
    return max(0, trial - count + 1) if isinstance(trial, int) else math.inf


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


class Full(BaseException):
    """Leaves `optuna.Study.optimize` without a result of the trial; the cause is the error."""


def run_trials(
    study: Study, count: int, objective: Callable[[Any], Sequence[float]], sampler: Callable[[int], Any]
) -> None:
    """Run trials until the study has ``count`` of them, not counting those that were cut off.

    A failed trial is recorded with its error message, and the next one starts. A full disk ends them all.

    Args:
        study: Study from `open_study`.
        count: Number of trials.
        objective: Trial → values of the objectives.
        sampler: Number of previous trials → sampler of the next one, as `sampler_of`.

    Raises:
        DiskFullError: No space is left; when the study is opened again, the trial is repeated.
    """
    import optuna

    def attempt(trial: Any) -> Any:
        try:
            values = list(objective(trial))
        except optuna.TrialPruned:
            raise
        except DiskFullError as error:  # every further trial would fail, too: this one stays open and is repeated
            raise Full from error
        except (KeyboardInterrupt, SystemExit):  # not a failure: the trial stays open and is repeated
            raise SystemExit(130) from None
        except Exception as error:
            sentence = " ".join(str(error).split())[:300] or type(error).__name__
            trial.set_user_attr("error", sentence)
            log.warning("trial_%03d failed: %s", trial.number, sentence)
            raise
        return values if len(values) > 1 else values[0]

    def before() -> int:
        return len(finished(study)) - len(cut_off(study))

    def next_sampler(*_: Any) -> None:
        study.sampler = sampler(before())

    next_sampler()
    if before() >= count:
        log.info("All %d trials are done: raise sweep.trials for more.", count)
    else:
        try:
            study.optimize(attempt, n_trials=count - before(), catch=(Exception,), callbacks=[next_sampler])
        except Full as stop:
            raise stop.__cause__ or stop from None


# Samplers with a fixed order from the seed; the storage has their position.
ORDERED = ("QMCSampler", "GridSampler")


def sampler_of(node: Mapping[str, Any], before: int) -> BaseSampler:
    """The sampler of the trial after ``before`` others.

    Except for `ORDERED` samplers, its seed depends on ``before``: a resumed sweep draws the same values as an
    uninterrupted one, rather than those of its first trials again.

    >>> node = {"_target_": "optuna.samplers.RandomSampler", "seed": 0}
    >>> draw = lambda before: sampler_of(node, before)._rng.rng.random()
    >>> draw(1) == draw(1), draw(0) == draw(1)
    (True, False)
    """
    if node.get("seed") is None or str(node["_target_"]).endswith(ORDERED):
        return instantiate(node)
    return instantiate({**node, "seed": mix(int(node["seed"]), before)})


def finished(study: Study) -> list[FrozenTrial]:
    """Finished trials in any state, by number."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def cut_off(study: Study) -> dict[int, int | None]:
    """Trials that a kill cut off → the trial that repeats their values; None: drawn again."""
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs[REPEATS]: trial.number for trial in trials if REPEATS in trial.user_attrs}
    return {trial.number: again.get(trial.number) for trial in trials if CUT_OFF in trial.user_attrs} | again


def rows(study: Study, objectives: Sequence[Objective]) -> list[dict[str, Any]]:
    """One row per trial: number, state, values with standard deviations over seeds, parameters, error."""
    cut = {
        number: "cut off" if again is None else f"cut off, repeated as trial {again}"
        for number, again in cut_off(study).items()
    }
    return [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            **{o.metric: value for o, value in zip(objectives, trial.values or [None] * len(objectives), strict=True)},
            **{f"{name} s.d.": value for name, value in trial.user_attrs.get("deviations", {}).items()},
            **trial.params,
            "error": cut.get(trial.number, trial.user_attrs.get("error", "")),
        }
        for trial in finished(study)
    ]


def best_first(table: Sequence[dict[str, Any]], objectives: Sequence[Objective]) -> list[dict[str, Any]]:
    """Complete trials, the best by the first objective first, then the others by number.

    >>> table = [{"trial": 0, "state": "complete", "loss": 2.0}, {"trial": 1, "state": "complete", "loss": 1.0}]
    >>> [row["trial"] for row in best_first(table, [Objective("loss", "min")])]
    [1, 0]
    """
    first = objectives[0]
    sign = 1 if first.mode == "min" else -1
    complete = [row for row in table if row["state"] == "complete"]
    return sorted(complete, key=lambda row: sign * row[first.metric]) + [row for row in table if row not in complete]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for a single value).

    >>> mean_and_deviation([1.0, 3.0])
    (2.0, 1.4142135623730951)
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def over_seeds(found: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """One row per metric: mean, sample standard deviation, and the value of each seed.

    Args:
        found: Seed → metric → value, at the seed's best epoch by the first objective.

    >>> over_seeds({"0": {"val/loss": 1.0}, "1": {"val/loss": 3.0}})
    [{'metric': 'val/loss', 'mean': 2.0, 's.d.': 1.4142135623730951, 'seed 0': 1.0, 'seed 1': 3.0}]
    """
    names = [name for name in next(iter(found.values()), {}) if all(name in metrics for metrics in found.values())]
    table = []
    for name in names:
        values = {f"seed {seed}": metrics[name] for seed, metrics in found.items()}
        mean, deviation = mean_and_deviation(list(values.values()))
        table.append({"metric": name, "mean": mean, "s.d.": deviation, **values})
    return table


def plus_minus(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `over_seeds` for display, with mean ± standard deviation in one column.

    >>> plus_minus([{"metric": "val/loss", "mean": 2.0, "s.d.": 1.41421, "seed 0": 1.0, "seed 1": 3.0}])
    [{'metric': 'val/loss', 'mean ± s.d.': '2 ± 1.4', 'seed 0': 1.0, 'seed 1': 3.0}]
    """
    return [
        {"metric": row["metric"], "mean ± s.d.": f"{row['mean']:.4g} ± {row['s.d.']:.2g}"}
        | {name: value for name, value in row.items() if name.startswith("seed ")}
        for row in table
    ]
