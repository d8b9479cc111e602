"""Execution of trials: in this process, which loads the catalogue once, or in separate processes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from modiste.config import compose, quote
from modiste.config.invocation import Invocation
from modiste.errors import ModisteError
from modiste.reporting.logs import read_metrics
from modiste.sweeps.study import Objective
from modiste.utils.atomic import DiskFullError, is_full, make_folder
from modiste.utils.own_process import own_command, own_environment

if TYPE_CHECKING:
    from optuna import Trial

POLL_SECONDS = 1.0
PATIENCE = 30.0
"""Seconds between SIGTERM and SIGKILL, in which a training run saves its state."""
PR_SET_PDEATHSIG = 1
History = list[dict[str, float]]


class Watch:
    """Collect validation metrics epoch by epoch, and query the pruner.

    Args:
        trial: The Optuna trial.
        objectives: Objectives of the study; several disable pruning.
        report: Whether to report to the pruner.
    """

    def __init__(self, trial: Trial, objectives: Sequence[Objective], report: bool) -> None:
        self.trial, self.objectives, self.report = trial, objectives, report and len(objectives) == 1
        self.history: History = []

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        """Record an epoch's metrics; returns whether to prune the trial."""
        self.history.append(dict(metrics))
        value = metrics.get(self.objectives[0].metric)
        if not self.report or value is None:
            return False
        self.trial.report(value, len(self.history))
        return bool(self.trial.should_prune())


class SharedProcess:
    """Train in this process; consecutive trials on the same data share the loaded catalogue.

    Args:
        config_dirs: The user's config folders (``--config-dir``).
    """

    def __init__(self, config_dirs: Sequence[Path] = ()) -> None:
        self.config_dirs = tuple(config_dirs)
        self.catalogues: dict[str, Any] = {}

    def __call__(self, overrides: Sequence[str], place: Path, watch: Watch) -> None:
        from modiste.data.build import identity, load
        from modiste.sweeps.reporter import EpochReporter
        from modiste.training.fit import train

        cfg = compose("train", overrides, self.config_dirs)
        key = identity(cfg.data)
        if key not in self.catalogues:
            self.catalogues = {key: load(cfg.data)}  # keep only one: it may be large
        reporter = EpochReporter(watch)
        line = Invocation(overrides=tuple(overrides), config_dirs=self.config_dirs)
        trained = train(cfg, catalogue=self.catalogues[key], callbacks=[reporter], line=line, report=False)
        # Ctrl-C in the last validation does not interrupt the training run, but must stop the sweep.
        callbacks = trained.trainer.callbacks  # type: ignore[attr-defined]
        asked = any(getattr(callback, "requested", 0) for callback in callbacks)
        if trained.interrupted or asked:
            raise KeyboardInterrupt
        reporter.check()


class SeparateProcess:
    """Train in a separate process, whose log is polled for pruning. It does not outlive this process.

    Args:
        config_dirs: The user's config folders (``--config-dir``).
    """

    def __init__(self, config_dirs: Sequence[Path] = ()) -> None:
        self.flags = [f"--config-dir={folder}" for folder in config_dirs]

    def __call__(self, overrides: Sequence[str], place: Path, watch: Watch) -> None:
        import optuna

        make_folder(place)
        here = f"hydra.run.dir={quote(str(place))}"
        command = own_command("train", *self.flags, *overrides, here)
        pruned = False
        with (place / "output.log").open("w") as log:
            process = start(command, log)
            try:
                while process.poll() is None:
                    time.sleep(POLL_SECONDS)
                    if not pruned and new_epochs(place, watch):
                        pruned = True
                        process.send_signal(signal.SIGTERM)
            finally:
                end(process)
        if pruned:
            raise optuna.TrialPruned
        if process.returncode:
            failure = ModisteError(why_failed(process.returncode, place / "output.log"))
            if is_full(failure, place):
                raise DiskFullError(f"No space left for {place}: free some, then resume the sweep.")
            raise failure
        new_epochs(place, watch)


def why_failed(code: int, output: Path) -> str:
    """Describe why a training process failed, from its exit code and the file with its output."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = ": memory may have run out; lower data.batch_size" if -code == signal.SIGKILL else f": see {output}"
        return f"The training run was killed by {name}{hint}."
    lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("Error: ") if lines else f"The training run ended with code {code}."


def start(command: Sequence[str], log: IO[str]) -> subprocess.Popen[Any]:
    """Start a process in a separate session; on Linux it is killed with this one."""
    return subprocess.Popen(
        command,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_die_with_parent(),
        env=own_environment(),
    )


def end(process: subprocess.Popen[Any]) -> None:
    """Stop a training process and its workers by SIGTERM and, after `PATIENCE` seconds, by SIGKILL."""
    for number, seconds in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, None)):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue


def _die_with_parent() -> Any:
    """A ``preexec_fn`` with which Linux kills the child when its parent dies; None on other systems.

    SIGKILL, since saving gains nothing: the resumed sweep repeats the trial from its start. Elsewhere
    `interrupts.stoppable` stops the child, except when the parent gets SIGKILL.
    """
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def new_epochs(place: Path, watch: Watch) -> bool:
    """Pass new epochs of the run's log to ``watch``; returns whether to prune the trial."""
    if not any(place.glob("csv/version_*/metrics.csv")):
        return False
    validation = {name: series for name, series in read_metrics(place).items() if name.startswith("val/")}
    epochs: dict[float, dict[str, float]] = {}
    for name, (steps, values) in validation.items():
        for step, value in zip(steps.tolist(), values.tolist(), strict=True):
            epochs.setdefault(step, {})[name] = value
    hopeless = [watch(epochs[step]) for step in sorted(epochs)[len(watch.history) :]]  # no short circuit: record all
    return any(hopeless)
