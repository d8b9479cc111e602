"""One process at a time in a run directory."""

import os
import subprocess
import sys
import threading

import pytest

from modiste.errors import ModisteError
from modiste.utils.lock import exclusive, held, owner

HOLD = """
import sys, time
from pathlib import Path
from modiste.utils.lock import exclusive

with exclusive(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_with_the_pid_and_a_dead_one_leaves_the_directory_free(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "in\n"
    with pytest.raises(ModisteError, match=f"in use by process {holder.pid} on .*: wait"), exclusive(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with exclusive(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".in_use.json").read_text()
    assert not (tmp_path / ".in_use.json").exists()


@pytest.mark.parametrize("name", ["LOCAL_RANK", "NODE_RANK"])
def test_the_other_processes_of_a_run_belong_to_the_first(tmp_path, monkeypatch, name):
    with exclusive(tmp_path):
        monkeypatch.setenv(name, "1")
        with exclusive(tmp_path):
            pass
        assert (tmp_path / ".in_use.json").exists(), "the first process is still running"
    assert not (tmp_path / ".in_use.json").exists()


def test_a_writer_may_wait_for_another_and_says_so(tmp_path, caplog):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "in\n"
    threading.Timer(1.5, holder.kill).start()
    with held(tmp_path, patience=30):
        assert f"in use by process {holder.pid} on" in caplog.text
    holder.wait()


@pytest.mark.parametrize("content", ["", "[]", "7", '{"pid": 7}', "[" * 100_000, "\xff"])
def test_a_damaged_record_of_the_owner_names_nobody(tmp_path, content):
    (tmp_path / ".in_use.json").write_text(content, encoding="latin-1")
    assert owner(tmp_path) == "another process"


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ModisteError, match="is a file: choose another directory"), held(tmp_path / "file"):
        pass
    with pytest.raises(ModisteError, match=r"cannot be created: .*: choose another"), held(tmp_path / "file" / "below"):
        pass
