"""Short versions of the attacks of ``PYTHONPATH=tests python -m reliability``.

MODISTE_FUZZ sets their number.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from reliability import commands, damage, forks, fuzz, hostile, kills, orphans, settings

NUMBER = int(os.environ.get("MODISTE_FUZZ", "20"))


def apart(function, *arguments):
    """What ``function`` returns in a fresh Python: nothing may have run torch where the attacks fork."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result(timeout=540)


def test_it_is_started_as_documented_and_no_helper_edits_the_search_path():
    """Forks that become `modiste` do: they get the path that a new Python would have."""
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["tests", os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "reliability", "--help"]
    shown = subprocess.run(command, cwd=tests.parent, env=environment, capture_output=True, text=True, check=True)
    assert "PYTHONPATH=tests python -m reliability" in shown.stdout
    edited = re.compile(r"^ *sys\.path(\.(insert|append|extend|remove)\(|\[.*\] *=)", re.M)
    files = {file.name for file in tests.rglob("*.py") if edited.search(file.read_text(encoding="utf-8"))}
    assert files <= {"forks.py", "forkserver.py"}


def test_mutated_tables_are_read_or_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("MODISTE_CACHE", str(tmp_path))
    assert fuzz.catalogues(NUMBER, seed=1) == []


def test_mutated_pictures_are_read_or_bad_rows():
    assert fuzz.images(10 * NUMBER, seed=1) == []


def test_a_fault_of_a_reader_is_noticed():
    assert fuzz.reading(lambda: 1 / 0, (ValueError,)) == "ZeroDivisionError: division by zero"
    assert fuzz.reading(lambda: [], (ValueError,), empty=True) == "an empty catalogue"


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_ends_the_same():
    assert apart(kills.random_kills, 3, 1) == []


@pytest.mark.slow
def test_a_command_that_is_interrupted_at_random_and_repeated_gives_the_same():
    assert apart(commands.faults, 5, 0, ("prepare", "embed")) == []


@pytest.mark.slow
def test_a_run_that_is_killed_at_a_boundary_ends_the_same():
    count, faults = apart(kills.aimed_kills, kills.SHORT, 12)
    assert count > 5
    assert faults == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cached features, moving average", "max_steps in mid-epoch", "LoRA"])
def test_a_setting_of_training_continues_to_the_same_bits(name):
    assert apart(settings.setting, name, 1) == ""


@pytest.mark.slow
def test_what_a_stranger_hands_over_runs_no_code_and_reads_nothing_outside():
    count, faults = apart(hostile.measure, 9)
    assert count > 10
    assert faults == []


@pytest.mark.slow
def test_damaged_files_are_noticed():
    count, faults = apart(damage.measure, 7)
    assert count > 8
    assert faults == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGKILL", "Ctrl-C twice"])
def test_nothing_outlives_an_embedding_that_is_killed(how):
    assert orphans.measure(("embed number=2",), (how,)) == {"embed number=2": {how: 0}}


def test_a_command_that_takes_too_long_is_killed():
    waiting = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    with pytest.raises(TimeoutError):
        forks.wait(waiting.pid, 0.2)
