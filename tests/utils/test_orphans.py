"""A child that watches its parent ends with it, however the parent ended."""

import os
import signal
import subprocess
import sys
import time

import pytest

CHILD = """
import time
from modiste.utils.orphans import end_with_parent
end_with_parent()
print("up", flush=True)
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}])
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_child_ends_when_its_parent_is_killed(number):
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert parent.stdout.readline() == "up\n"
    os.kill(parent.pid, number)
    parent.wait()
    end = time.monotonic() + 20
    while time.monotonic() < end and runs(child):
        time.sleep(0.05)
    assert not runs(child)


WORKER = """
import time
from modiste.utils.orphans import obey_parent_only
obey_parent_only()
print("up", flush=True)
time.sleep(60)
"""


def test_a_worker_outlives_what_the_group_gets_and_obeys_its_parent():
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "up\n"
    stranger = f"import os; [os.kill({worker.pid}, number) for number in (1, 2, 15)]"
    subprocess.run([sys.executable, "-c", stranger], check=True)
    time.sleep(0.3)
    assert worker.poll() is None
    worker.terminate()
    assert worker.wait(10) == 0


def runs(pid):
    """Whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
