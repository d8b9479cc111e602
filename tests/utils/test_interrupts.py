"""Signals that end a command: a sentence, an exit code, and nothing unfinished."""

import os
import signal
import subprocess
import sys
import time

import pytest

from modiste.utils.interrupts import Stopped, delayed, stoppable

COMMAND = """
import sys, time, types
from pathlib import Path
from modiste.cli import dispatch
from modiste.utils.atomic import atomic

def job():
    with atomic(Path(sys.argv[1])) as unfinished:
        unfinished.write_text("half")
        print("in", flush=True)
        time.sleep(60)

dispatch.prepare = lambda argv: job
sys.exit(dispatch.main([]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_interrupted_command_says_a_sentence_and_leaves_nothing_unfinished(tmp_path, number):
    process = start(COMMAND, str(tmp_path / "file"))
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.strip() == "Interrupted: run the same command again."
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_that_a_library_turned_into_an_error_is_one_still(tmp_path):
    library = """
def job():
    print("in", flush=True)
    try:
        time.sleep(60)
    finally:
        None.flags

dispatch.prepare"""
    process = start(COMMAND.replace("dispatch.prepare", library), str(tmp_path / "file"))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said.strip()) == (130, "Interrupted: run the same command again.")


def test_what_nohup_ignores_is_ignored(tmp_path):
    ignoring = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{COMMAND}"
    process = start(ignoring, str(tmp_path / "file"))
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_a_fork_ends_by_the_signal_as_it_did():
    with stoppable():
        pid = os.fork()
        if not pid:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_delayed_to_the_end_of_a_block(number):
    done = []

    def work():
        with delayed():
            os.kill(os.getpid(), number)
            time.sleep(0.05)
            done.append("in")
        done.append("after")

    with pytest.raises(KeyboardInterrupt), stoppable():
        work()
    assert done == ["in"]


def test_the_signal_is_known_and_the_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stopped, stoppable():
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def start(code: str, *arguments: str) -> subprocess.Popen:
    """A Python that has printed its first line; with the default handler of Ctrl-C, which a shell may have ignored."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout.readline() == "in\n"
    return process
