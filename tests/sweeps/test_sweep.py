"""A sweep resumes after a kill, records what fails, and finds the same in one process as in one process per trial."""

import base64
import contextlib
import csv
import functools
import hashlib
import json
import math
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest

from helpers.commands import TINY, modiste
from helpers.wandb_log import OfflineRun
from modiste.config import compose
from modiste.config.invocation import Invocation
from modiste.config.overrides import as_overrides
from modiste.errors import ModisteError
from modiste.reporting.tables import print_sheets
from modiste.sweeps.conclude import conclude
from modiste.sweeps.execution import SeparateProcess, Watch, why_failed
from modiste.sweeps.pictures import importance, parallel_coordinates
from modiste.sweeps.search import Sweep
from modiste.sweeps.space import Space
from modiste.sweeps.study import (
    Objective,
    best_first,
    finished,
    mend,
    open_study,
    over_seeds,
    rows,
    run_trials,
    sampler_of,
)
from modiste.utils.atomic import DiskFullError
from modiste.utils.lock import held

LOSS = Objective("loss", "min")
SPACE = Space(
    {"lr": {"low": 1e-4, "high": 1.0, "log": True}, "kind": {"choices": ["a", "b"]}, "n": {"low": 1, "high": 4}}
)


def study(folder, objectives=(LOSS,), storage="journal", pruner=None):
    return open_study(folder, storage, objectives, pruner or optuna.pruners.NopPruner(), list(SPACE.space))


def run(study, count, objective):
    node = {"_target_": "optuna.samplers.TPESampler", "seed": 0, "n_startup_trials": 5}
    run_trials(study, count, objective, functools.partial(sampler_of, node))


def valley(trial):
    values = SPACE.suggest(trial)
    return [abs(np.log10(values["lr"]) + 2) + (values["kind"] == "b")]


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_a_killed_study_repeats_the_trial_that_was_cut_off_and_ends_with_as_many_as_asked(tmp_path, storage):
    first = study(tmp_path, storage=storage)
    run(first, 2, valley)
    cut = first.ask()
    values = SPACE.suggest(cut)  # and now the process is killed
    again = study(tmp_path, storage=storage)
    run(again, 5, valley)
    states = [trial.state.name for trial in finished(again)]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert finished(again)[3].params == values
    assert "cut off" in rows(again, [LOSS])[2]["error"]
    run(study(tmp_path, storage=storage), 5, valley)
    assert len(finished(again)) == 6


def test_a_resumed_study_draws_what_the_whole_one_draws(tmp_path):
    """Random trials at first, then those of the model: none is drawn twice, and a kill changes none."""

    def killed(trial):
        if trial.number in (3, 9):
            SPACE.suggest(trial)
            raise KeyboardInterrupt
        return valley(trial)

    whole = study(tmp_path / "whole")
    run(whole, 12, valley)
    for _ in range(2):
        with pytest.raises(SystemExit):
            run(study(tmp_path / "part"), 12, killed)
    part = study(tmp_path / "part")
    run(part, 12, valley)
    drawn = [trial.params for trial in whole.get_trials()]
    assert len({params["lr"] for params in drawn}) == 12
    assert [trial.params for trial in part.get_trials() if trial.state.name == "COMPLETE"] == drawn


def test_a_grid_is_searched_once_and_then_over_also_when_it_goes_on(tmp_path):
    grid = {"n": [1, 2, 3], "kind": ["a", "b"]}
    node = {"_target_": "optuna.samplers.GridSampler", "search_space": grid, "seed": 0}
    space = Space({"n": {"low": 1, "high": 3}, "kind": {"choices": ["a", "b"]}})
    for count in (2, 20):
        found = study(tmp_path)
        run_trials(found, count, lambda trial: [space.suggest(trial)["n"]], functools.partial(sampler_of, node))
    drawn = [(trial.params["n"], trial.params["kind"]) for trial in found.get_trials()]
    assert sorted(drawn) == [(n, kind) for n in grid["n"] for kind in grid["kind"]]


@pytest.mark.parametrize("drawn", [0, 1, 2, 3])
def test_a_study_that_is_killed_while_it_draws_repeats_the_same_draw(tmp_path, drawn):
    def killed(trial):
        if trial.number == 6:
            for key in list(SPACE.space)[:drawn]:
                SPACE._suggest(trial, key, SPACE.space[key])
            raise KeyboardInterrupt
        return valley(trial)

    whole = study(tmp_path / "whole")
    run(whole, 8, valley)
    with pytest.raises(SystemExit):
        run(study(tmp_path / "part"), 8, killed)
    part = study(tmp_path / "part")
    run(part, 8, valley)
    complete = [trial.params for trial in part.get_trials() if trial.state.name == "COMPLETE"]
    assert complete == [trial.params for trial in whole.get_trials()]


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_torn_line_of_the_journal_loses_its_trial_alone(tmp_path, cut):
    """A full disk or a power cut may leave a part of the last line, or all of it without its end."""
    run(study(tmp_path), 3, valley)
    journal = tmp_path / "study.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-cut])
    again = study(tmp_path)
    run(again, 5, valley)
    states = [trial.state.name for trial in finished(again)]
    assert states.count("COMPLETE") == 5
    assert states.count("FAIL") == (cut > 1)  # without the line's end alone nothing is lost
    reference = study(tmp_path / "whole")
    run(reference, 5, valley)
    drawn = [trial.params for trial in again.get_trials() if trial.state.name == "COMPLETE"]
    assert sorted(map(str, drawn)) == sorted(str(trial.params) for trial in reference.get_trials())


@pytest.mark.parametrize("number", [10**12, 10**4, "1", None, [0]])
def test_a_trial_that_a_journal_cannot_have_lost_is_not_made_again(tmp_path, number):
    """Nor does what is made again outgrow the journal, whatever the length of the line that creates a trial."""
    run(study(tmp_path), 2, valley)
    journal = tmp_path / "study.journal"
    evil = [{"op_code": 4, "study_id": 0, "x": "x" * 1000}, {"op_code": 5, "trial_id": number, "param_name": "x"}]
    before = b"".join(json.dumps(line).encode() + b"\n" for line in evil) + b"{}\n" * 10**5
    journal.write_bytes(before + journal.read_bytes() + b"{torn\n")
    size = journal.stat().st_size
    mend(journal, list(SPACE.space))
    assert journal.stat().st_size <= 2 * size
    assert b'"param_name": "x"' not in journal.read_bytes()


def test_trials_without_a_parameter_are_not_drawn(tmp_path):
    table = [{"trial": i, "state": "complete", "lr": 0.1 * i, "n": i, "loss": 1.0 - 0.1 * i} for i in range(4)]
    del table[2]["n"]
    for missing in (table, [{**row, "n": 1} for row in table[:1]], [table[2]]):
        path = parallel_coordinates(missing, ["lr", "n"], LOSS, tmp_path / "parallel.svg")
        assert path.stat().st_size


def test_a_torn_line_with_more_after_it_is_dropped_too(tmp_path):
    run(study(tmp_path), 2, valley)
    journal = tmp_path / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:20] + b"\n")
    run(study(tmp_path), 4, valley)
    assert [t.state.name for t in finished(study(tmp_path))].count("COMPLETE") == 4


@pytest.mark.parametrize("line", range(1, 11))
def test_a_byte_that_flipped_anywhere_in_the_journal_loses_its_trial_alone(tmp_path, line):
    """Two trials of five lines: created, three parameters, the result."""
    run(study(tmp_path), 2, valley)
    journal = tmp_path / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 11
    middle = len(lines[line]) // 2
    lines[line] = lines[line][:middle] + bytes([lines[line][middle] ^ 0xFF]) + lines[line][middle + 1 :]
    journal.write_bytes(b"".join(lines))
    again = study(tmp_path)
    run(again, 4, valley)
    found = [trial for trial in finished(again) if trial.state.name == "COMPLETE"]
    assert len(found) == 4
    assert {frozenset(trial.params) for trial in found} == {frozenset(SPACE.space)}
    conclude(again, [LOSS], list(SPACE.space), tmp_path)


def test_choices_are_values_and_need_no_quoting(tmp_path):
    """Words with commas, braces, quotes or parentheses, lists and mappings reach the trial as they are."""
    choices = {
        "name": ["spring, summer", "autumn (old)", "{}, on white", 'a "b" \\', "${seed}", "null", "1e3"],
        "tags": [["a, b"], ["c"]],
        "optim.tower_lr": [{"image": 1.0, "text": 1.0}, {"image": 0.1, "text": 0.5}],
        "trainer.deterministic": [True, None],
    }
    space = Space({key: {"choices": values} for key, values in choices.items() if key != "tags"})
    for values in space.all_choices():
        cfg = compose("train", as_overrides(values))
        assert cfg.name == values["name"]
        assert dict(cfg.optim.tower_lr) == values["optim.tower_lr"]
        assert cfg.trainer.deterministic == values["trainer.deterministic"]
    seen = []
    found = open_study(tmp_path, "journal", [LOSS], optuna.pruners.NopPruner(), list(space.space))
    run(found, 12, lambda trial: seen.append(space.suggest(trial)) or [0.0])
    assert all(value in choices[key] for values in seen for key, value in values.items())
    assert {values["optim.tower_lr"]["image"] for values in seen} == {1.0, 0.1}


def test_an_interrupt_leaves_the_trial_to_be_repeated(tmp_path):
    def interrupt(trial):
        SPACE.suggest(trial)
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run(study(tmp_path), 3, interrupt)
    assert stop.value.code == 130
    again = study(tmp_path)
    run(again, 3, valley)
    assert [trial.state.name for trial in finished(again)] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]


def test_a_failing_trial_is_recorded_and_the_next_one_starts(tmp_path, capsys, caplog):
    def sometimes(trial):
        if trial.number == 1:
            SPACE.suggest(trial)
            raise ModisteError("data.batch_size=9 is too large: lower it.")
        return valley(trial)

    found = study(tmp_path)
    run(found, 12, sometimes)
    table = rows(found, [LOSS])
    assert [row["state"] for row in table].count("complete") == 11
    assert table[1]["error"] == "data.batch_size=9 is too large: lower it."
    assert "trial_001 failed: data.batch_size=9 is too large" in caplog.text
    assert "Traceback" not in caplog.text + capsys.readouterr().err
    (tmp_path / "trial_004").mkdir()
    print_sheets(conclude(found, [LOSS], list(SPACE.space), tmp_path))
    printed = capsys.readouterr().out
    assert "too large" in printed
    with (tmp_path / "trials.csv").open() as file:
        assert [row["trial"] for row in csv.DictReader(file)] == [str(i) for i in range(12)]
    ordered = json.loads((tmp_path / "sweep.json").read_text())["trials"]
    losses = [row["loss"] for row in ordered if row["state"] == "complete"]
    assert losses == sorted(losses)
    assert ordered[-1]["trial"] == 1
    for name in ("history", "importance", "parallel"):
        assert "<path" in (tmp_path / "figures" / f"{name}.svg").read_text()
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 3
    assert "too large" in page
    assert 'href="trial_004/"' in page
    assert "From 11 trials: read it as a hint" in page
    assert "Orange: the best" in page


def test_of_few_trials_nothing_is_said_of_importance(tmp_path):
    found = study(tmp_path)
    run(found, 9, valley)
    assert importance(found, [LOSS]) == {}


def test_an_objective_without_a_mode_has_the_direction_of_its_metric():
    assert (Objective("val/loss").mode, Objective("val/retrieval/t2i/mrr").mode) == ("min", "max")
    assert Objective("val/hue/error", "min").direction == "minimize"
    with pytest.raises(ModisteError, match="'min' or 'max', not 'maximum'"):
        Objective("val/loss", "maximum")


@pytest.mark.parametrize(
    ("words", "directions"),
    [
        (["monitor.metric=val/gap/gap"], ["minimize"]),
        (["sweep.objectives=[{metric: val/other/gap/gap}, {metric: val/retrieval/t2i/mrr}]"], ["minimize", "maximize"]),
        (["sweep.objectives=[{metric: val/gap/gap, mode: min}, {metric: val/loss}]"], ["minimize", "minimize"]),
        (["sweep.objectives=[{metric: val/retrieval/t2i/median_rank}]"], ["minimize"]),
        (["sweep.objectives=[{metric: val/gap/gap, mode: max}]"], "mode=max would keep the worst val/gap/gap"),
        (["sweep.objectives=[{metric: val/other/loss, mode: max}]"], "mode=max would keep the worst val/other/loss"),
        (["monitor.metric=val/gap/gap", "monitor.mode=max"], "monitor.mode=max would keep the worst val/gap/gap"),
    ],
)
def test_a_sweep_asks_the_task_for_the_direction_of_its_metric(tmp_path, monkeypatch, words, directions):
    """Optuna would otherwise look for the largest error, and the table would name the worst trial as the best."""
    monkeypatch.setenv("MODISTE_ALLOW", "helpers.task_fakes")
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "gap.yaml").write_text("gap: {_target_: helpers.task_fakes.Gap}\n")
    sets = ["task=[retrieval,gap]", "transfer={other: {split: test}}"]
    overrides = [*TINY, *sets, "sweep=seeds", *words, f"run_dir={tmp_path}"]
    line = Invocation(overrides=tuple(overrides), config_dirs=(tmp_path,))
    config = compose("sweep", overrides, [tmp_path])
    if isinstance(directions, str):
        with pytest.raises(ModisteError, match=directions):
            Sweep(config, line)
        return
    sweep = Sweep(config, line)
    assert [objective.direction for objective in sweep.objectives] == directions
    errors = [{"trial": number, "state": "complete", "val/gap/gap": value} for number, value in enumerate([0.3, 0.1])]
    if sweep.objectives[0].metric == "val/gap/gap":
        best = best_first(errors, sweep.objectives)[0]
        assert best["val/gap/gap"] == 0.1


@pytest.mark.parametrize(
    "objective", ["{mode: max}", "{metric: 3}", "{metric: val/loss, modes: min}", "{metrc: val/loss}"]
)
def test_a_malformed_objective_is_one_sentence(tmp_path, objective):
    overrides = [*TINY, "sweep=seeds", f"sweep.objectives=[{objective}]", f"run_dir={tmp_path}"]
    with pytest.raises(ModisteError, match=r"sweep\.objectives has .*: it takes \{metric: val/…, mode: min or max\}"):
        Sweep(compose("sweep", overrides), Invocation(overrides=tuple(overrides)))


@pytest.mark.parametrize("sweep", ["heads", "finetune", "seeds"])
def test_the_objective_of_a_sweep_can_be_replaced_without_its_mode(sweep):
    cfg = compose("sweep", [f"sweep={sweep}"])
    assert not [objective for objective in cfg.sweep.objectives if "mode" in objective]


def test_an_objective_that_its_task_does_not_measure_is_one_sentence(tmp_path):
    overrides = [*TINY, "sweep=seeds", "sweep.objectives=[{metric: val/retrieval/t2i/mmr}]", f"run_dir={tmp_path}"]
    with pytest.raises(ModisteError, match=r"retrieval does not measure. Did you mean 'val/retrieval/t2i/mrr'"):
        Sweep(compose("sweep", overrides), Invocation(overrides=tuple(overrides)))


def test_a_bound_that_no_trial_could_use_is_one_sentence_before_the_first_trial(tmp_path):
    for bounds, wrong in (("{low: -1, high: 1}", "-1"), ("{low: 0.001, high: 0.1, log: true}", None)):
        overrides = [*TINY, "~sweep.space", f"+sweep.space={{optim.lr: {bounds}}}", f"run_dir={tmp_path}"]
        with pytest.raises(ModisteError, match=f"'optim.lr' is {wrong}") if wrong else contextlib.nullcontext():
            Sweep(compose("sweep", overrides), Invocation(overrides=tuple(overrides)))


def test_a_space_that_is_a_list_is_one_sentence(tmp_path):
    done = modiste("sweep", *TINY, "~sweep.space", "+sweep.space=[a]", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "Error: 'sweep.space' is ['a']: it takes a mapping.\n")


def sweep_in(folder, *changed):
    overrides = [*TINY, "sweep=heads", f"run_dir={folder}", *changed]
    return Sweep(compose("sweep", overrides), Invocation(overrides=tuple(overrides)))


CHANGES = {
    "sweep.objectives=[{metric: val/loss}]": r"sweep.objectives=\[\{'metric': 'val/retrieval/t2i/mrr'",
    "sweep.space.loss.choices=[clip]": "sweep.space=.*'siglip'",
    "sweep.repeats=2": "sweep.repeats=1, not 2",
    "sweep.storage=sqlite": "sweep.storage=journal, not sqlite",
    "data.batch_size=8": "data.batch_size=16, not 8",
    "seed=1": "seed=0, not 1",
    "loss=siglip": "loss._target_=.*, not",
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with a sweep of one trial, of which nothing was trained."""
    folder = tmp_path_factory.mktemp("begun")
    sweep = sweep_in(folder)
    sweep._objective = lambda train_one, trial: [float(len(sweep.space.suggest(trial)))]
    sweep.settings["trials"] = 1
    sweep.run()
    return folder


@pytest.mark.parametrize("change", CHANGES)
def test_a_sweep_with_other_settings_in_the_same_folder_is_refused(begun, change):
    """Its table would have shown the values of one metric under the name of another."""
    before = {path.name: path.read_bytes() for path in begun.iterdir() if path.name != ".lock"}
    with pytest.raises(ModisteError, match=f"{begun} has a sweep with {CHANGES[change]}.*: give the former value, or"):
        sweep_in(begun, change).run()
    assert {path.name: path.read_bytes() for path in begun.iterdir() if path.name != ".lock"} == before


def test_a_sweep_resumes_with_more_trials_and_what_decides_no_result(begun, caplog):
    more = ("sweep.trials=1", "sweep.processes=own", "data.num_workers=0", "sweep.sampler.seed=7", "name=other")
    with caplog.at_level("INFO"):
        assert len(sweep_in(begun, *more).run().trials) == 1
    assert "All 1 trials are done: raise sweep.trials for more" in caplog.text


def test_a_training_run_is_no_folder_for_a_sweep(tmp_path):
    (tmp_path / "config.yaml").write_text("name: run\n")
    with pytest.raises(ModisteError, match="has a training run, not a sweep: choose another directory"):
        sweep_in(tmp_path).run()


PARENT = """
import sys, time
from modiste.sweeps.execution import end, start
from modiste.utils.interrupts import stoppable
with stoppable():
    process = start([sys.executable, "-c", sys.argv[1]], open("log", "w"))
    try:
        print(process.pid, flush=True)
        time.sleep(60)
    finally:
        end(process)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="SIGKILL of the parent is noticed on Linux only")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, signal.SIGINT])
def test_a_trial_does_not_outlive_its_sweep(tmp_path, number):
    # A training run takes its time over SIGTERM: it finishes its step and saves.
    slow = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " if number == signal.SIGKILL else ""
    command = [sys.executable, "-c", PARENT, f"{slow}import time; print(flush=True); time.sleep(60)"]
    parent = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    child = int(parent.stdout.readline())
    while not (tmp_path / "log").read_text():  # until it has begun
        time.sleep(0.02)
    parent.send_signal(number)
    parent.wait(20)
    for _ in range(100):
        if not running(child):
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the trial goes on alone")


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_sweep_that_another_process_works_at_is_refused_and_left_alone(tmp_path):
    with held(tmp_path):
        refused = modiste("sweep", "sweep=heads", *TINY, "sweep.trials=1", f"hydra.run.dir={tmp_path}", cwd=tmp_path)
    assert refused.returncode == 1
    assert f"{tmp_path} is in use by process {os.getpid()} on" in refused.stderr
    assert not (tmp_path / "overrides.yaml").exists()


def test_a_sweep_without_a_complete_trial_is_one_sentence(tmp_path):
    def never(trial):
        raise ModisteError("no such file.")

    found = study(tmp_path)
    run(found, 2, never)
    with pytest.raises(ModisteError, match="start a new one in another directory; trial 0 failed with: no such file"):
        conclude(found, [LOSS], list(SPACE.space), tmp_path)


def test_the_parameter_that_decides_is_the_most_important(tmp_path):
    found = study(tmp_path)
    run(found, 30, lambda trial: [10 * (SPACE.suggest(trial)["kind"] == "b") + 0.01 * trial.params["n"]])
    shares = importance(found, [LOSS])
    assert next(iter(shares)) == "kind"
    assert sum(shares.values()) == pytest.approx(1)


def test_a_hopeless_trial_is_pruned_by_the_epochs_it_reports(tmp_path):
    found = study(tmp_path, pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=0))

    def epochs(trial):
        watch = Watch(trial, [LOSS], report=True)
        for epoch in range(3):
            if watch({"loss": float(trial.number + epoch)}):
                raise optuna.TrialPruned
        return [LOSS.best(watch.history)]

    run(found, 4, epochs)
    assert [row["state"] for row in rows(found, [LOSS])] == ["complete", "complete", "pruned", "pruned"]


def test_several_objectives_have_a_column_each(tmp_path):
    objectives = [LOSS, Objective("recall", "max")]
    found = study(tmp_path, objectives)
    run(found, 3, lambda trial: [*valley(trial), 0.5])
    assert all(row["recall"] == 0.5 for row in rows(found, objectives))
    assert found.directions == [optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE]


def test_mean_and_deviation_over_seeds_are_numpys():
    generator = np.random.default_rng(0)
    names = ["val/loss", "val/retrieval/t2i/mrr", "val/retrieval/t2i/recall@1"]
    matrix = generator.normal(size=(5, 3)) * [3, 0.1, 1e-4] + [2, 0.5, 0.9]
    found = {str(seed): dict(zip(names, map(float, row), strict=True)) for seed, row in enumerate(matrix)}
    found["4"]["val/only_here"] = 1.0
    table = over_seeds(found)
    assert [row["metric"] for row in table] == names
    np.testing.assert_allclose([row["mean"] for row in table], matrix.mean(0), rtol=1e-12)
    np.testing.assert_allclose([row["s.d."] for row in table], matrix.std(0, ddof=1), rtol=1e-10)
    assert [table[0][f"seed {seed}"] for seed in range(5)] == list(matrix[:, 0])


def test_the_metrics_of_a_seed_are_those_of_its_best_epoch():
    epochs = [{"loss": 3.0, "mrr": 0.1}, {"loss": 1.0, "mrr": 0.3}, {"loss": 2.0, "mrr": 0.9}, {"mrr": 1.0}]
    assert LOSS.best_epoch(epochs) == {"loss": 1.0, "mrr": 0.3}
    assert Objective("mrr", "max").best_epoch(epochs) == {"mrr": 1.0}


def test_a_sweep_over_seeds_alone_needs_no_space(tmp_path):
    found = study(tmp_path)
    run(found, 5, lambda trial: [float(trial.number), *Space({}, may_be_empty=True).suggest(trial)])
    assert [row["loss"] for row in rows(found, [LOSS])] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert importance(found, [LOSS]) == {}
    conclude(found, [LOSS], [], tmp_path)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "sweep.space is empty"),
        ({"lr": {"low": 1, "hihg": 2}}, "Did you mean 'high'"),
        ({"lr": {"choices": []}}, "at least one value"),
        ({"lr": {"low": 2, "high": 1}}, "low ≤ high"),
        ({"lr": {"low": 2}}, "low and high"),
        ({"lr": {"low": "a", "high": 1}}, "two finite numbers"),
        ({"lr": {"low": False, "high": True}}, "two finite numbers"),
        ({"lr": {"low": 0.0, "high": math.inf}}, "two finite numbers"),
        ({"lr": {"low": math.nan, "high": 1.0}}, "two finite numbers"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "lr.low is 0: a log scale begins above 0"),
        ({"lr": {"low": 1, "high": 2, "log": "maybe"}}, "lr.log is maybe: it takes true or false"),
        ({"lr": {"low": 0.1, "high": 1, "step": -1}}, "lr.step is -1: it takes a number above 0"),
        ({"lr": {"low": 0.1, "high": 1, "step": "x"}}, "lr.step is x"),
        ({"lr": {"low": 0.1, "high": 1, "step": 0.1, "log": True}}, "no log scale"),
        ({"n": {"low": 1, "high": 4, "step": 0.5}}, "n.step is 0.5: it takes a whole number above 0"),
        ({"lr": {"choices": 3}}, "choices is 3: it takes a list"),
        ({"loss": {"choices": "clip"}}, "choices is clip: it takes a list"),
        ({"lr": {"choices": [1], "low": 1}}, "choices and a range: give one"),
        ({"seed": {"choices": [1, 2]}}, "seed would be ignored, as the sweep sets it"),
        ({"sweep.trials": {"low": 1, "high": 2}}, "would be ignored"),
    ],
)
def test_a_space_that_is_none_is_one_sentence(space, message):
    with pytest.raises(ModisteError, match=message):
        Space(space)


@pytest.mark.parametrize("space", [{"n": {"low": 2, "high": 2}}, {"x": {"low": 0.1, "high": 0.1, "log": True}}])
def test_equal_bounds_are_one_value(tmp_path, space):
    found = study(tmp_path)
    run(found, 2, lambda trial: [0.0 * len(Space(space).suggest(trial))])
    assert {tuple(trial.params.values()) for trial in found.get_trials()} == {(next(iter(space.values()))["low"],)}


def test_values_are_written_in_hydras_grammar():
    assert as_overrides({"a": None, "b": True, "c": 0, "d": "x, y"}) == ["a=null", "b=true", "c=0", 'd="x, y"']


def test_an_epoch_without_a_number_is_never_the_best():
    """min and max return NaN where it comes first."""
    epochs = [{"loss": math.nan}, {"loss": 2.0}, {"loss": 1.0}]
    assert LOSS.best(epochs) == 1.0
    assert Objective("loss", "max").best(epochs) == 2.0
    with pytest.raises(ModisteError, match="loss is NaN in every epoch: lower"):
        LOSS.best(epochs[:1])


@pytest.mark.parametrize(
    ("code", "output", "said"),
    [
        (-signal.SIGKILL, "epoch 1/3  val/loss 2.0", "The training run was killed by SIGKILL: memory may have run out"),
        (-signal.SIGSEGV, "", "killed by SIGSEGV: see "),
        (1, "epoch 1/3\nError: data.batch_size=9 is too large: lower it.", "data.batch_size=9 is too large: lower it."),
        (1, "a \xff byte\nRuntimeError: out of memory", "RuntimeError: out of memory"),
        (3, "", "ended with code 3"),
    ],
)
def test_a_process_that_failed_says_why(tmp_path, code, output, said):
    """The last line of a killed run's log is an epoch, not a reason."""
    (tmp_path / "output.log").write_text(output, encoding="latin-1")
    assert why_failed(code, tmp_path / "output.log").startswith(said) or said in why_failed(
        code, tmp_path / "output.log"
    )


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_a_full_disk_stops_the_sweep_and_its_trial_is_repeated(tmp_path, storage):
    """It would have failed all further trials, and no more would have run with space again."""

    def full(trial):
        values = SPACE.suggest(trial)
        if trial.number == 1:
            raise DiskFullError(f"No space left for {values['n']}.")
        return valley(trial)

    with pytest.raises(DiskFullError, match=r"No space left for \d"):
        run(study(tmp_path, storage=storage), 4, full)
    again = study(tmp_path, storage=storage)
    run(again, 4, valley)
    assert [trial.state.name for trial in finished(again)] == ["COMPLETE", "FAIL", *["COMPLETE"] * 3]
    assert "cut off" in rows(again, [LOSS])[1]["error"]
    assert finished(again)[1].params == finished(again)[2].params


def test_a_process_that_failed_for_want_of_space_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("modiste.sweeps.execution.POLL_SECONDS", 0.05)
    monkeypatch.setattr("modiste.sweeps.execution.own_command", lambda *words: [sys.executable, "-c", "1 / 0"])
    train_one = functools.partial(SeparateProcess(), [], tmp_path / "trial_000", None)
    with pytest.raises(ModisteError, match="ZeroDivisionError"):
        train_one()
    monkeypatch.setattr("modiste.utils.atomic.shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(DiskFullError, match=r"No space left for .*: free some, then resume the sweep"):
        train_one()


def test_a_killed_trial_is_a_failed_one(tmp_path, monkeypatch):
    monkeypatch.setattr("modiste.sweeps.execution.POLL_SECONDS", 0.05)
    script = "import os, signal; print('epoch 1/3', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr("modiste.sweeps.execution.own_command", lambda *words: [sys.executable, "-c", script])
    train_one = SeparateProcess()
    found = study(tmp_path)

    def objective(trial):
        if trial.number == 1:
            train_one([], tmp_path / "trial_001", Watch(trial, [LOSS], report=False))
        return valley(trial)

    run(found, 3, objective)
    assert [row["state"] for row in rows(found, [LOSS])] == ["complete", "fail", "complete"]
    assert "killed by SIGKILL" in rows(found, [LOSS])[1]["error"]


def test_an_unknown_metric_is_one_sentence():
    with pytest.raises(ModisteError, match="Did you mean 'val/loss'"):
        Objective("val/los", "min").best([{"val/loss": 1.0}])


FROZEN = [*TINY, "trainer.max_epochs=1", "tune.image.train=last_n", "tune.image.layers=1"]
FROZEN += ["tune.text.train=last_n", "tune.text.layers=1", "features.cache=true"]
GRID = """
defaults: [_base]
trials: 3
objectives: [{metric: val/retrieval/t2i/mrr}]
space: {data.batch_size: {choices: [16, 100000, 32]}}
sampler: {_target_: optuna.samplers.GridSampler, search_space: {data.batch_size: [16, 100000, 32]}, seed: 0}
"""


@pytest.mark.slow
def test_trials_in_one_process_and_in_their_own_find_the_same(tmp_path):
    (tmp_path / "mine" / "sweep").mkdir(parents=True)
    (tmp_path / "mine" / "sweep" / "grid.yaml").write_text(GRID)
    tables = []
    for name in ("shared", "own"):
        done = modiste(
            "sweep", "--config-dir=mine", *FROZEN, "sweep=grid", f"sweep.processes={name}", f"hydra.run.dir={name}",
            cwd=tmp_path, MODISTE_CACHE=str(tmp_path / "cache"),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        tables.append(json.loads((tmp_path / name / "sweep.json").read_text())["trials"])
    metric = "val/retrieval/t2i/mrr"
    for shared, own in zip(*tables, strict=True):
        assert (shared["trial"], shared["state"]) == (own["trial"], own["state"])
        assert shared[metric] == (own[metric] and pytest.approx(own[metric], rel=1e-5))
        assert ("larger than" in own["error"]) == ("larger than" in shared["error"]) == (shared[metric] is None)
    assert [row["state"] for row in tables[0]] == ["complete", "complete", "fail"]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_with_continue(tmp_path):
    many = [*FROZEN, "sweep=heads", "sweep.trials=3", "hydra.run.dir=search"]
    process = modiste("sweep", *many, cwd=tmp_path, background=True, MODISTE_CACHE=str(tmp_path / "cache"))
    last = tmp_path / "search" / "trial_001"
    for _ in range(2400):
        if last.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert last.exists(), "the sweep ended before it could be killed"
    done = modiste("sweep", "continue=search", cwd=tmp_path, MODISTE_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr
    table = json.loads((tmp_path / "search" / "sweep.json").read_text())["trials"]
    assert [row["state"] for row in table].count("complete") == 3
    assert sorted(row["trial"] for row in table) == [0, 1, 2, 3]


def test_a_wrong_override_of_the_space_is_one_sentence_before_the_first_trial(tmp_path):
    done = modiste("sweep", *TINY, "~sweep.space", "+sweep.space={optim.lrr: {low: 1, high: 2}}", cwd=tmp_path)
    assert done.returncode != 0
    assert "Did you mean" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("trial_*"))


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """`modiste sweep sweep=seeds` with two seeds in one process, logged by wandb without an account."""
    pytest.importorskip("wandb")
    folder = tmp_path_factory.mktemp("seeds")
    done = modiste(
        "sweep", *FROZEN, "trainer.max_epochs=2", "sweep=seeds", "sweep.repeats=2", "seed=3", "logger=wandb",
        "optim.lr=0.002", "hydra.run.dir=search", cwd=folder, WANDB_API_KEY="", MODISTE_CACHE=str(folder / "cache"),
        WANDB_DATA_DIR=str(folder / "staging"), WANDB_CACHE_DIR=str(folder / "staging"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "search", done.stdout


def best_validation(place):
    """The row of the run's log with the smallest loss of validation."""
    (log,) = place.glob("csv/version_*/metrics.csv")
    with log.open(newline="") as file:
        epochs = [row for row in csv.DictReader(file) if row["val/loss"]]
    best = min(epochs, key=lambda row: float(row["val/loss"]))
    return {name: float(value) for name, value in best.items() if name.startswith("val/") and value}


@pytest.mark.slow
def test_seeds_are_one_word_and_the_table_has_every_metric(seeds):
    """Against numpy, from the logs that the runs themselves wrote."""
    folder, printed = seeds
    runs = [best_validation(folder / "trial_000" / f"seed_{seed}") for seed in (3, 4)]
    with (folder / "seeds.csv").open(newline="") as file:
        table = {row["metric"]: row for row in csv.DictReader(file)}
    assert set(table) == set(runs[0])
    assert len(table) > 10
    for name, row in table.items():
        values = np.array([run[name] for run in runs])
        np.testing.assert_allclose(float(row["mean"]), values.mean(), rtol=1e-5)
        np.testing.assert_allclose(float(row["s.d."]), values.std(ddof=1), rtol=1e-3, atol=1e-7)
    assert runs[0]["val/loss"] != runs[1]["val/loss"]
    assert "val/retrieval/t2i/mrr" in printed
    assert "mean ± s.d." in (folder / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4])
def test_wandb_has_everything_of_every_trial_offline(seeds, seed):
    """Group, configuration, history, samples, results and weights, read back from what wandb wrote."""
    place = seeds[0] / "trial_000" / f"seed_{seed}"
    (folder,) = (place / "wandb").glob("offline-run-*")
    run = OfflineRun(folder)
    assert (run.group, run.name, run.job_type) == ("search", f"trial_000/seed_{seed}", "trial")
    assert run.config["seed"] == seed
    assert run.config["optim.lr"] == 0.002
    assert {"model", "loss", "data", "optim", "trainer", "tune"} <= {name.split(".")[0] for name in run.config}
    losses = [step["val/loss"] for step in run.history if "val/loss" in step]
    assert len(losses) == 2
    assert min(losses) == pytest.approx(best_validation(place)["val/loss"], rel=1e-5)
    assert sum("train/loss" in step for step in run.history) >= 10
    samples = [step["val/retrieval/samples"] for step in run.history if "val/retrieval/samples" in step]
    assert len(samples) == 2
    table = json.loads((folder / "files" / samples[0]["path"]).read_text())
    assert table["columns"][:3] == ["query", "rank", "top 1"]
    assert len(table["data"]) >= 4
    gallery = [entry for kept in run.artifacts.values() if kept.type == "run_table" for entry in kept.manifest.contents]
    assert sum(entry.path.endswith(".png") for entry in gallery) >= 4
    results, weights = run.artifacts[f"results-{run.id}"], run.artifacts[f"weights-{run.id}"]
    assert (results.type, weights.type) == ("results", "model")
    assert "best" in weights.aliases
    files = {entry.path: entry for entry in results.manifest.contents}
    assert set(files) == {"results.json", "cost.json"}
    content = json.loads(Path(files["results.json"].local_path).read_text())
    assert content["metrics"]["val/loss"] == pytest.approx(losses[-1], rel=1e-5)
    assert content["results"]["retrieval"]["metrics"]["t2i/mrr"]["low"] <= content["metrics"]["val/retrieval/t2i/mrr"]
    (best,) = weights.manifest.contents
    file = place / "checkpoints" / "best.ckpt"
    assert best.ref == file.resolve().as_uri()
    assert best.digest == base64.b64encode(hashlib.md5(file.read_bytes()).digest()).decode()
    assert run.summary["cost/pairs"] == json.loads((place / "cost.json").read_text())["pairs"]


@pytest.mark.parametrize("value", [{"_target_": "os.system"}, "x", [1], True, 2.0, None])
def test_a_strangers_study_gives_no_value_out_of_the_space(value):
    """Optuna returns what the storage says of a trial that waits, of any type."""
    given = lambda *args, **kwargs: value  # noqa: E731
    trial = SimpleNamespace(suggest_float=given, suggest_categorical=given)
    for entry in ({"low": 0.0, "high": 1.0}, {"choices": ["a", "b"]}):
        with pytest.raises(ModisteError, match="not in the space"):
            Space({"+callbacks.x": entry}).suggest(trial)


@pytest.mark.parametrize("key", ["a: ${oc.env:SECRET}, b", "${x}", "a}", "a=b", "a, b"])
def test_a_key_within_a_value_is_nothing_but_a_key(key):
    with pytest.raises(ModisteError, match="cannot be a key"):
        as_overrides({"optim.x": {key: 1}})
    assert as_overrides({"transfer": {"T shirts": {"data/split": "x"}}}) == ['transfer={T shirts: {data/split: "x"}}']


def test_sqlite_deletes_no_file_that_a_strangers_journal_names(tmp_path):
    victim, folder = tmp_path / "victim.txt", tmp_path / "sweep"
    victim.write_text("precious")
    folder.mkdir()
    open_study(folder, "sqlite", [LOSS], optuna.pruners.NopPruner())
    name = str(victim).encode()
    tail = struct.pack(">I", len(name)) + struct.pack(">I", sum(name)) + bytes.fromhex("d9d505f920a163d7")
    (folder / "study.db-journal").write_bytes(b"x" * 512 + b"\0\0\0\0" + name + tail)
    with pytest.raises(ModisteError, match="SQLite would delete"):
        open_study(folder, "sqlite", [LOSS], optuna.pruners.NopPruner())
    assert victim.read_text() == "precious"


def test_a_strangers_sweep_is_written_through_no_link(tmp_path):
    victim, folder = tmp_path / "victim", tmp_path / "sweep"
    victim.mkdir()
    found = study(folder)
    run(found, 2, valley)
    (victim / "study.journal").write_text("precious")
    for name, target in (("figures", victim), ("trial_000", victim), ("study.journal", victim / "study.journal")):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)
        with pytest.raises(ModisteError, match=f"{name} leads out of"):
            conclude(found, [LOSS], list(SPACE.space), folder)
        with pytest.raises(ModisteError, match=f"{name} leads out of"):
            study(folder)
        (folder / name).unlink()
    assert [path.read_text() for path in victim.iterdir()] == ["precious"]


@pytest.mark.parametrize("name", ["x?", "a?b/c", "{x}", "x?mode=ro"])
def test_an_sqlite_study_lies_in_its_folder_alone(tmp_path, name):
    """Behind a ? SQLAlchemy reads options: the study would be the file before it, whose journal nobody has checked."""
    with pytest.raises(ModisteError, match="cannot hold an SQLite study: rename the folder"):
        open_study(tmp_path / name, "sqlite", [LOSS], optuna.pruners.NopPruner())
    assert list(tmp_path.iterdir()) == []


VIEW = """
    alter table version_info rename to other;
    create view version_info as with recursive c(x) as (select 1 union all select x + 1 from c)
        select max(x) as version_info_id, 12 as schema_version, '5.0.0' as library_version from c;
"""
TRIGGER = "create trigger t after insert on trials begin insert into studies select zeroblob(1000000); end;"


@pytest.mark.parametrize("program", [VIEW, TRIGGER, "create table big (b);"], ids=["view", "trigger", "table"])
def test_an_sqlite_study_with_more_than_optunas_tables_is_refused(tmp_path, program):
    """A view over an endless query hung the sweep, where no signal but SIGKILL ended it; a trigger filled the disk."""
    run(study(tmp_path, storage="sqlite"), 1, valley)
    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as database:
        database.executescript(program)
    with pytest.raises(ModisteError, match=r"study.db' has the \w+ '\w+', which is not Optuna's: start a new sweep"):
        study(tmp_path, storage="sqlite")


def test_an_sqlite_study_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "study.db").write_bytes(b"SQLite format 3\0" + bytes(4096))
    with pytest.raises(ModisteError, match="damaged"):
        study(tmp_path, storage="sqlite")
