"""Search hyperparameters: modiste sweep sweep=heads experiment=kagl_heads

Trials are run directories of `modiste train`. They share one process where features.cache is true, and the catalogue
and the features are then loaded once; otherwise each has a process of its own. A killed sweep goes on with
continue=DIR. The space is in conf/sweep/*.yaml; everything that `modiste train` takes is given as there. Several seeds
of one configuration, with mean ± s.d. of every metric: `modiste sweep sweep=seeds sweep.repeats=5`. With logger=wandb
every trial is a run of one group, the sweep's directory.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from modiste.config import compose, instantiate, quote
from modiste.errors import ModisteError, did_you_mean

if TYPE_CHECKING:
    from modiste.sweeps.study import Objective

PROCESSES = ("auto", "shared", "own")
POLL_SECONDS = 1.0
History = list[dict[str, float]]


def run(cfg: DictConfig) -> None:
    """Runs the trials that are missing, then writes table, pictures and page.

    Raises:
        ModisteError: The space or a setting is wrong, or no trial of a finished sweep is complete.
    """
    from modiste.sweeps.space import Space
    from modiste.sweeps.study import Objective, best_first, mean_and_deviation, open_study, rows, run_trials, sampler_of

    plain: Any = OmegaConf.to_container(cfg.sweep, resolve=True)
    space = Space(plain["space"], may_be_empty=plain["repeats"] > 1)
    chosen = plain["objectives"] or [OmegaConf.to_container(cfg.monitor)]
    objectives = [Objective(**objective) for objective in chosen]
    base = base_overrides()
    for values in space.all_choices():
        compose("train", [*base, *as_overrides(values)])
    if plain["processes"] not in PROCESSES:
        raise ModisteError(
            f"sweep.processes={plain['processes']} is not known. {did_you_mean(plain['processes'], PROCESSES)}"
        )
    folder = Path(cfg.run_dir)
    write_start(cfg, folder)
    study = open_study(folder, plain["storage"], objectives, instantiate(cfg.sweep.pruner))
    shared = plain["processes"] == "shared" or (plain["processes"] == "auto" and cfg.features.cache)
    train_one = SharedProcess() if shared else own_process

    def objective(trial: Any) -> list[float]:
        values = as_overrides(space.suggest(trial))
        found = []
        seeds: dict[str, Any] = {}
        for repeat in range(plain["repeats"]):
            place = places(folder, trial.number, plain["repeats"], cfg.seed)[repeat]
            own = [f"seed={cfg.seed + repeat}", f"run_dir={quote(str(place))}", *wandb_overrides(cfg, folder, place)]
            watch = Watch(trial, objectives, report=repeat == 0)
            train_one([*base, *values, *own], place, watch)
            found.append([objective.best(watch.history) for objective in objectives])
            seeds[str(cfg.seed + repeat)] = dict(objectives[0].best_epoch(watch.history))
        spread = [mean_and_deviation(column) for column in zip(*found, strict=True)]
        if plain["repeats"] > 1:
            names = [objective.metric for objective in objectives]
            trial.set_user_attr("deviations", dict(zip(names, (deviation for _, deviation in spread), strict=True)))
            trial.set_user_attr("seeds", seeds)
        return [mean for mean, _ in spread]

    try:
        run_trials(study, plain["trials"], objective, functools.partial(sampler_of, plain["sampler"]))
    except SystemExit as stop:
        raise SystemExit(interrupted(folder) if stop.code == 130 else stop.code) from None
    conclude(study, objectives, list(space.space), folder)
    best = best_first(rows(study, objectives), objectives)[0]["trial"]
    print(f"Evaluate the best: modiste evaluate run={places(folder, best, plain['repeats'], cfg.seed)[0]}")


def places(folder: Path, number: int, repeats: int, seed: int) -> list[Path]:
    """The run directories of a trial, one a seed.

    >>> [place.as_posix() for place in places(Path("s"), 7, 2, seed=0)]
    ['s/trial_007/seed_0', 's/trial_007/seed_1']
    """
    trial = folder / f"trial_{number:03}"
    return [trial / f"seed_{seed + repeat}" for repeat in range(repeats)] if repeats > 1 else [trial]


def wandb_overrides(cfg: DictConfig, folder: Path, place: Path) -> list[str]:
    """Where wandb logs, a trial is a run of the sweep's group, with its own name; a group that is given stays."""
    if "wandb" not in cfg.logger:
        return []
    group, name = cfg.logger.wandb.group or folder.name, place.relative_to(folder).as_posix()
    return [f"logger.wandb.group={quote(group)}", f"logger.wandb.name={quote(name)}", "logger.wandb.job_type=trial"]


def interrupted(folder: Path) -> int:
    """Says how to go on; returns the exit code of an interruption."""
    print(f"\nInterrupted; nothing is lost. Go on with: modiste sweep continue={folder}", file=sys.stderr)
    return 130


def base_overrides() -> list[str]:
    """What the command line gave for `modiste train`."""
    from hydra.core.hydra_config import HydraConfig

    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    own = ("sweep", "run_dir", "continue", "seed")
    return [o for o in given if o.lstrip("+~").split("=")[0].split(".")[0] not in own]


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Values of a trial in Hydra's grammar.

    >>> as_overrides({"optim.lr": 0.001, "loss": "clip", "data.captions.weights": "[0.5,0.5]"})
    ['optim.lr=0.001', 'loss=clip', 'data.captions.weights=[0.5,0.5]']
    """
    words = {None: "null", True: "true", False: "false"}
    return [f"{key}={words.get(value, value) if value is None or isinstance(value, bool) else value}"
            for key, value in values.items()]  # fmt: skip


def write_start(cfg: DictConfig, folder: Path) -> None:
    """The sweep's configuration and overrides, with which continue=DIR starts it again."""
    from hydra.core.hydra_config import HydraConfig

    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True)), folder / "config.yaml")
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    kept = [override for override in given if override.split("=")[0] not in ("continue", "run_dir")]
    OmegaConf.save(OmegaConf.create(kept), folder / "overrides.yaml")


class Watch:
    """Collects what validation says, epoch by epoch, and asks the pruner."""

    def __init__(self, trial: Any, objectives: Sequence[Objective], report: bool) -> None:
        self.trial, self.objectives, self.report = trial, objectives, report and len(objectives) == 1
        self.history: History = []

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        """Take in an epoch's metrics; returns whether the trial is hopeless."""
        self.history.append(dict(metrics))
        value = metrics.get(self.objectives[0].metric)
        if not self.report or value is None:
            return False
        self.trial.report(value, len(self.history))
        return bool(self.trial.should_prune())


class SharedProcess:
    """Trains in this process; a catalogue is loaded once for all trials that ask for the same."""

    def __init__(self) -> None:
        self.catalogues: dict[str, Any] = {}

    def __call__(self, overrides: list[str], place: Path, watch: Watch) -> None:
        from modiste.config.invocation import Invocation
        from modiste.data.build import identity, load
        from modiste.sweeps.report import EpochReporter
        from modiste.training.fit import train

        cfg = compose("train", overrides)
        key = identity(cfg.data)
        if key not in self.catalogues:
            self.catalogues = {key: load(cfg.data)}  # one at a time: it may be large
        reporter = EpochReporter(watch)
        line = Invocation(overrides=tuple(overrides))
        trained = train(cfg, catalogue=self.catalogues[key], callbacks=[reporter], line=line)
        if trained.interrupted:
            raise KeyboardInterrupt
        reporter.check()


def own_process(overrides: list[str], place: Path, watch: Watch) -> None:
    """Trains in a process of its own, whose log is read while it runs."""
    import optuna

    place.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "modiste", "train", *overrides]
    with (place / "train.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        pruned = False
        try:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                if not pruned and new_epochs(place, watch):
                    pruned = True
                    process.send_signal(signal.SIGTERM)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
    if pruned:
        raise optuna.TrialPruned
    if process.returncode:
        lines = (place / "train.log").read_text(encoding="utf-8").strip().splitlines()
        raise ModisteError(lines[-1] if lines else f"The training ended with code {process.returncode}.")
    new_epochs(place, watch)


def new_epochs(place: Path, watch: Watch) -> bool:
    """Tells ``watch`` the epochs of the run's log that it has not seen; whether it calls the trial hopeless."""
    logs = sorted(place.glob("csv/version_*/metrics.csv"))
    if not logs:
        return False
    with logs[-1].open(newline="") as file:
        table = [{k: float(v) for k, v in row.items() if v and k.startswith("val/")} for row in csv.DictReader(file)]
    epochs = [row for row in table if row]
    hopeless = [watch(row) for row in epochs[len(watch.history) :]]  # all of them are told
    return any(hopeless)


def conclude(study: Any, objectives: Sequence[Objective], names: Sequence[str], folder: Path) -> None:
    """Writes ``trials.csv``, ``sweep.json``, the pictures and the page, and prints the table, best first.

    Of several seeds a trial, ``seeds.csv`` has mean and s.d. of every metric; those of the best trial are printed, too.
    """
    from modiste.sweeps.pictures import write_page
    from modiste.sweeps.study import best_first, finished, over_seeds, plus_minus, rows

    table = rows(study, objectives)
    columns = write_csv(folder / "trials.csv", table)
    ordered = best_first(table, objectives)
    seeds = {trial.number: over_seeds(trial.user_attrs.get("seeds", {})) for trial in finished(study)}
    if any(seeds.values()):
        write_csv(
            folder / "seeds.csv", [{"trial": row["trial"], **line} for row in ordered for line in seeds[row["trial"]]]
        )
    content = {"objectives": [vars(objective) for objective in objectives], "trials": ordered}
    (folder / "sweep.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    best = plus_minus(seeds[ordered[0]["trial"]]) if ordered else []
    page = write_page(study, objectives, names, folder, f"Sweep {folder.name}", best)
    print(markdown(ordered, columns))
    if best:
        print(f"\nTrial {ordered[0]['trial']} over its seeds:\n\n{markdown(best, list(best[0]))}")
    print(f"\nSweep directory: {folder}\nReport: {page}")
    if not any(row["state"] == "complete" for row in table):
        first = table[0]["error"] if table else "there were none"
        raise ModisteError(f"No trial of the sweep is complete; the first says: {first}")


def write_csv(path: Path, table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Writes rows with all their columns; returns these."""
    columns = list(dict.fromkeys(name for row in table for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(table)
    return columns


def markdown(table: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A Markdown table.

    >>> print(markdown([{"trial": 1, "loss": 0.25}], ["trial", "loss"]))
    | trial | loss |
    | --- | --- |
    | 1 | 0.25 |
    """

    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else "—" if value is None else str(value)

    lines = [columns, ["---"] * len(columns), *([cell(row.get(name)) for name in columns] for row in table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
