"""A sweep: trials of `modiste.train`, each in a run directory."""

from __future__ import annotations

import functools
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from modiste.config import compose, instantiate, load_config, quote, report, schema
from modiste.config.invocation import Invocation
from modiste.config.monitor import check_mode, given_mode
from modiste.config.overrides import as_overrides
from modiste.config.restart import differences
from modiste.config.schema import plain
from modiste.errors import ModisteError, did_you_mean
from modiste.sweeps.execution import SeparateProcess, SharedProcess, Watch
from modiste.sweeps.space import OWN, Space
from modiste.sweeps.study import FILES, Objective, cut_off, mean_and_deviation, open_study, run_trials, sampler_of
from modiste.utils.atomic import write_text
from modiste.utils.interrupts import stoppable
from modiste.utils.lock import held
from modiste.utils.run_dir import CONFIG

if TYPE_CHECKING:
    from optuna import Study

PROCESSES = ("auto", "shared", "own")
MAY_CHANGE = ("sweep", "run_dir", "continue", "data_dir", "log_dir", "name", "logger", "data.num_workers")
"""Settings with which a sweep may resume; of ``sweep``, those in `FIXED` may not change."""
FIXED = ("space", "objectives", "repeats", "storage")
log = logging.getLogger(__name__)


class Sweep:
    """A sweep in its directory.

    Args:
        cfg: The composed ``sweep`` config: that of a training run, with ``cfg.sweep``.
        line: The command line; every trial gets its overrides, except those in `OWN`.

    Raises:
        ModisteError: The space or a setting is invalid, or a choice does not compose.
    """

    def __init__(self, cfg: DictConfig, line: Invocation) -> None:
        self.cfg, self.folder = cfg, Path(cfg.run_dir)
        plain: Any = OmegaConf.to_container(cfg.sweep, resolve=True)
        self.settings: dict[str, Any] = plain
        self.space = Space(self.settings["space"], may_be_empty=self.settings["repeats"] > 1)
        self.base = [o for o in line.overrides if o.lstrip("+~").split("=")[0].split(".")[0] not in OWN]
        processes = self.settings["processes"]
        if processes not in PROCESSES:
            raise ModisteError(f"sweep.processes={processes} is unknown. {did_you_mean(processes, PROCESSES)}")
        for values in [*self.space.all_choices(), self.space.last()]:
            report(schema.value_problems(compose("train", [*self.base, *as_overrides(values)], line.config_dirs)))
        self.shared = processes == "shared" or (processes == "auto" and bool(cfg.features.cache))
        self.config_dirs = line.config_dirs
        self.line = line
        self.objectives = self._objectives()

    def _objectives(self) -> list[Objective]:
        """The objectives, or the monitor; their modes are those that the metrics' tasks state."""
        from modiste.training.build import stated_modes

        monitor = {"metric": self.cfg.monitor.metric, "mode": given_mode(self.cfg)}
        objectives = self.settings["objectives"]
        given = given_modes(objectives or [monitor])
        modes: dict[str, str] = {metric: "min" for metric in given if metric.endswith("/loss")}
        others = [metric for metric in given if metric not in modes]
        if others:
            first = compose("train", [*self.base, *as_overrides(self.space.first())], self.config_dirs)
            modes |= stated_modes(first, others, self.config_dirs)
        for metric, better in modes.items():
            check_mode(metric, given[metric] or better, better, "mode" if objectives else "monitor.mode")
        return [Objective(metric, modes.get(metric, mode)) for metric, mode in given.items()]

    def _check_unchanged(self) -> None:
        """Refuse a folder with a training run or another sweep, whose trials one table would mix."""
        if not (self.folder / CONFIG).is_file():
            return
        stored = load_config(self.folder / CONFIG)
        if not isinstance(stored.get("sweep"), DictConfig):
            raise ModisteError(f"{self.folder} has a training run, not a sweep: choose another directory.")
        if not any((self.folder / name).exists() for name in FILES.values()):
            return
        changed = [(key, was, now) for key, was, now in differences(self.cfg, stored, MAY_CHANGE)]
        changed += [
            (f"sweep.{key}", was, self.settings[key])
            for key in FIXED
            if (was := plain(stored.sweep.get(key))) != self.settings[key]
        ]
        if changed:
            key, was, now = changed[0]
            raise ModisteError(
                f"{self.folder} has a sweep with {key}={was}, not {now}, and its table would mix both: give the former "
                "value, or choose another directory (hydra.run.dir=DIR)."
            )

    def _write_start(self) -> None:
        """Write the configuration and overrides with which continue=DIR resumes the sweep."""
        plain = OmegaConf.to_container(self.cfg, resolve=True)
        write_text(self.folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(plain)))
        kept = [override for override in self.line.overrides if override.split("=")[0] not in ("continue", "run_dir")]
        write_text(self.folder / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(kept)))

    def run(self) -> Study:
        """Run the missing trials; returns the study.

        Raises:
            KeyboardInterrupt: The sweep was interrupted; running it again resumes it.
            ModisteError: Another process runs this sweep, the folder has one with other settings, or see
                `modiste.sweeps.study.open_study`.
        """
        with held(self.folder):
            return self._run()

    def _run(self) -> Study:
        self._check_unchanged()
        self._write_start()
        storage, pruner = self.settings["storage"], instantiate(self.cfg.sweep.pruner)
        study = open_study(self.folder, storage, self.objectives, pruner, list(self.space.space))
        sampler = functools.partial(sampler_of, self.settings["sampler"])
        train_one = SharedProcess(self.config_dirs) if self.shared else SeparateProcess(self.config_dirs)
        try:
            with stoppable():
                run_trials(study, self.settings["trials"], functools.partial(self._objective, train_one), sampler)
        except SystemExit:
            raise KeyboardInterrupt from None
        return study

    @staticmethod
    def _place(trial: Any) -> int:
        """Number of trials before this one, except those that were cut off."""
        return trial.number - sum(number < trial.number for number in cut_off(trial.study))

    def _objective(self, train_one: Any, trial: Any) -> list[float]:
        """Train a trial once per seed; returns each objective's best value, averaged over the seeds."""
        values = self.space.suggest(trial)
        words = as_overrides(values)
        count, repeats = self.settings["trials"], self.settings["repeats"]
        which = f"trial {self._place(trial) + 1}/{count} (trial_{trial.number:03})"
        log.info("%s: %s", which, " ".join(words) or "the unchanged configuration")
        found, seeds = [], {}
        for repeat, place in enumerate(places(self.folder, trial.number, repeats, self.cfg.seed)):
            seed = self.cfg.seed + repeat
            own = [f"seed={seed}", f"run_dir={quote(str(place))}", *wandb_overrides(self.cfg, self.folder, place)]
            watch = Watch(trial, self.objectives, report=repeat == 0)
            train_one([*self.base, *words, *own], place, watch)
            found.append([objective.best(watch.history) for objective in self.objectives])
            seeds[str(seed)] = dict(self.objectives[0].best_epoch(watch.history))
        spread = [mean_and_deviation(column) for column in zip(*found, strict=True)]
        if repeats > 1:
            names = [objective.metric for objective in self.objectives]
            trial.set_user_attr("deviations", dict(zip(names, (deviation for _, deviation in spread), strict=True)))
            trial.set_user_attr("seeds", seeds)
        scores = ", ".join(f"{o.metric} {mean:.4g}" for o, (mean, _) in zip(self.objectives, spread, strict=True))
        log.info("%s: %s", which, scores)
        return [mean for mean, _ in spread]

    def next_command(self, best: int) -> str:
        """The command that evaluates a trial, with its first seed."""
        place = places(self.folder, best, self.settings["repeats"], self.cfg.seed)[0]
        return f"modiste evaluate run={shlex.quote(str(place))}"


def given_modes(objectives: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Metric → given mode of objectives, "" without one.

    Raises:
        ModisteError: An objective has no metric, another key, or an unknown mode.

    >>> given_modes([{"metric": "val/loss"}, {"metric": "val/retrieval/t2i/mrr", "mode": "max"}])
    {'val/loss': '', 'val/retrieval/t2i/mrr': 'max'}
    """
    for node in objectives:
        if not isinstance(node.get("metric"), str) or set(node) - {"metric", "mode"}:
            raise ModisteError(f"sweep.objectives has {dict(node)}: it takes {{metric: val/…, mode: min or max}}.")
        Objective(**{key: value for key, value in node.items() if value is not None})
    return {node["metric"]: node.get("mode") or "" for node in objectives}


def places(folder: Path, number: int, repeats: int, seed: int) -> list[Path]:
    """The run directories of a trial, one per seed.

    >>> [place.as_posix() for place in places(Path("s"), 7, 2, seed=0)]
    ['s/trial_007/seed_0', 's/trial_007/seed_1']
    """
    trial = folder / f"trial_{number:03}"
    return [trial / f"seed_{seed + repeat}" for repeat in range(repeats)] if repeats > 1 else [trial]


def wandb_overrides(cfg: DictConfig, folder: Path, place: Path) -> list[str]:
    """Overrides that make a trial a run of the sweep's wandb group; a configured group is kept."""
    if "wandb" not in cfg.logger:
        return []
    group, name = cfg.logger.wandb.group or folder.name, place.relative_to(folder).as_posix()
    return [f"logger.wandb.group={quote(group)}", f"logger.wandb.name={quote(name)}", "logger.wandb.job_type=trial"]
