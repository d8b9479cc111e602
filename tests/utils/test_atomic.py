"""Whole files or none; damaged caches are noticed, unwritable ones cost a warning."""

import errno
import logging
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from modiste.errors import ModisteError
from modiste.utils import atomic as atomic_module
from modiste.utils.atomic import (
    DiskFullError,
    UnwritableError,
    atomic,
    atomic_folder,
    check_space,
    make_folder,
    quick_digest,
    read_cache,
    refuse_other_writers,
    remove_all_leftovers,
    reserve,
    write_cache,
    write_checked,
    write_image,
    write_text,
)


def test_an_error_leaves_the_file_as_it_was_and_nothing_behind(tmp_path):
    write_text(tmp_path / "a.txt", "before")
    with suppress(ZeroDivisionError), atomic(tmp_path / "a.txt") as unfinished:
        unfinished.write_text(str(1 / 0))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "before")]


def test_a_link_under_the_temporary_name_is_not_written_through(tmp_path):
    """In a container, the process id of a command is known beforehand."""
    (tmp_path / "victim").write_text("precious")
    (tmp_path / f"a.txt.{os.getpid()}.tmp").symlink_to("victim")
    write_text(tmp_path / "a.txt", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "new", "victim": "precious"}
    assert not (tmp_path / "a.txt").is_symlink()


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    with suppress(ZeroDivisionError), atomic_folder(tmp_path / "a") as unfinished:
        (unfinished / "new").write_text(str(1 / 0))
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == ["a", "a/old"]
    with atomic_folder(tmp_path / "a") as unfinished:
        (unfinished / "new").touch()
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == ["a", "a/new"]


def test_a_folder_that_a_killed_process_moved_away_is_put_back(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f"a.former.{dead.pid}.tmp").mkdir()
    (tmp_path / f"a.former.{dead.pid}.tmp" / "old").touch()
    with suppress(ZeroDivisionError), atomic_folder(tmp_path / "a") as unfinished:
        (unfinished / "new").write_text(str(1 / 0))
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == ["a", "a/old"]


def test_a_folder_that_another_process_writes_is_refused_with_its_pid(tmp_path):
    (tmp_path / f"a.{os.getppid()}.tmp").mkdir()
    with pytest.raises(ModisteError, match=f"being written by process {os.getppid()} on .*: wait"):
        refuse_other_writers(tmp_path / "a")
    refuse_other_writers(tmp_path / "b")


def test_of_two_that_replace_a_folder_at_once_the_last_wins(tmp_path):
    first, second = atomic_folder(tmp_path / "a"), atomic_folder(tmp_path / "b")
    with first as unfinished:
        (unfinished / "first").touch()
        with second as other:
            (other / "second").touch()
        (tmp_path / "b").replace(tmp_path / "a")  # between
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == ["a", "a/first"]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a"])
def test_a_picture_is_written_in_the_format_of_its_suffix(tmp_path, name):
    write_image(tmp_path / name, Image.new("RGB", (4, 4)))
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert Image.open(tmp_path / name).format == ("JPEG" if name == "a.jpg" else "PNG")


def test_leftovers_of_dead_processes_are_removed_and_those_of_others_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f"a[1].txt.{dead.pid}.tmp", f"b.txt.{dead.pid}.tmp", f"a[1].txt.{os.getppid()}.tmp"):
        (tmp_path / name).touch()
    (tmp_path / f"a[1].txt.former.{dead.pid}.tmp" / "part").mkdir(parents=True)
    write_text(tmp_path / "a[1].txt", "")
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"a[1].txt", f"b.txt.{dead.pid}.tmp", f"a[1].txt.{os.getppid()}.tmp"}
    (tmp_path / "below" / f"c.{dead.pid}.tmp").mkdir(parents=True)
    (tmp_path / "below" / f"c.{dead.pid}.tmp" / f"d.{dead.pid}.tmp").touch()
    (tmp_path / "below" / "mine.tmp").touch()
    remove_all_leftovers(tmp_path)
    left = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert left == {"a[1].txt", f"a[1].txt.{os.getppid()}.tmp", "below/mine.tmp"}


@pytest.mark.parametrize(
    ("number", "left"),
    [("4294967296", False), ("9999999999", False), ("9" * 20, True), ("9" * 200, True), ("0", True), ("١", True)],
)
def test_a_number_that_no_process_has_is_no_running_one(tmp_path, number, left):
    """What cannot be one of Modiste's own leftovers stays, and hinders nobody."""
    name = f"a.{number}.tmp"
    (tmp_path / name).mkdir()
    (tmp_path / f"a.former.{number}.tmp").touch()
    refuse_other_writers(tmp_path / "a")
    with atomic_folder(tmp_path / "a"):
        pass
    write_text(tmp_path / "a" / "b.txt", "")
    assert (tmp_path / name).exists() is left
    remove_all_leftovers(tmp_path)
    assert (tmp_path / name).exists() is left


@pytest.mark.parametrize("content", [b"", b"1 2", b"1 2 4"])
def test_every_damage_is_noticed(content, tmp_path, caplog):
    file = tmp_path / "numbers.txt"
    assert read_cache(file, lambda path: path.read_text(), "Numbers") is None
    assert not caplog.records
    write_cache(file, lambda path: path.write_text("1 2 3"), "Numbers")
    assert read_cache(file, lambda path: path.read_text(), "Numbers") == "1 2 3"
    file.write_bytes(content)
    assert read_cache(file, lambda path: path.read_text(), "Numbers") is None
    assert "Numbers: the cached file" in caplog.text


def test_a_cache_without_its_checksum_is_not_trusted(tmp_path):
    (tmp_path / "numbers.txt").write_text("1 2 3")
    assert read_cache(tmp_path / "numbers.txt", lambda path: path.read_text(), "Numbers") is None


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        assert not write_cache(tmp_path / "file" / "x", lambda path: path.write_text(""), "Numbers")
    assert "Numbers could not be cached" in caplog.text


@pytest.mark.parametrize(
    ("error", "free"),
    [(OSError(errno.ENOSPC, "No space left on device"), 2**30), (RuntimeError("unexpected pos 64 vs 0"), 0),
     (OSError("problem writing element 8192 to file"), 0)],
)  # fmt: skip
def test_a_full_disk_is_one_sentence_whatever_the_writer_says(error, free, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(DiskFullError, match=r"No space left for .*a\.txt: free some"), atomic(tmp_path / "a.txt"):
        raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux has a file system that refuses all files so")
def test_where_the_system_lets_nobody_write_is_one_sentence():
    """The error there is that of a missing file, which elsewhere is a bug and keeps its traceback."""
    for write in (atomic, atomic_folder):
        with pytest.raises(UnwritableError, match="/proc/x cannot be created: choose another path"):
            write_at(write, Path("/proc/x"))
        with pytest.raises(UnwritableError, match="/proc/x cannot be created: No such file"):
            write_at(write, Path("/proc/x/y"))
    with pytest.raises(UnwritableError, match="/proc/x/y cannot be created: No such file"):
        make_folder(Path("/proc/x/y"))


def write_at(write, path):
    with write(path) as at:
        (at / "a" if at.is_dir() else at).write_text("")


def test_a_missing_file_that_a_writer_reads_stays_an_error_of_its_own(tmp_path):
    with pytest.raises(FileNotFoundError) as raised, atomic(tmp_path / "a"):
        (tmp_path / "other").read_text()
    assert not isinstance(raised.value, ModisteError)


def test_other_errors_of_a_writer_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"), atomic(tmp_path / "a.txt"):
        raise RuntimeError("a bug")


def test_a_sparse_file_gets_its_blocks_before_it_is_mapped(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(2**20)
    assert (tmp_path / "a").stat().st_blocks * 512 < 2**20
    reserve(tmp_path / "a")
    assert (tmp_path / "a").stat().st_blocks * 512 >= 2**20
    assert (tmp_path / "a").read_bytes() == bytes(2**20)


def test_space_is_asked_for_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20))
    check_space(tmp_path / "new", 2**20, "Preparing")
    with pytest.raises(DiskFullError, match=r"Preparing needs 2 MiB, and .* has 1 MiB left"):
        check_space(tmp_path / "new", 2**21, "Preparing")


WRITERS = {
    "torch": "torch.save(torch.zeros(100_000), at)",
    "safetensors": "safetensors.torch.save_file({'a': torch.zeros(100_000)}, at)",
    "python": "at.write_bytes(bytes(100_000))",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_limit_on_file_sizes_is_one_sentence_whoever_writes(writer, tmp_path):
    """torch raises a RuntimeError without a number, safetensors an error of its own."""
    script = (
        "import resource, sys, torch, safetensors.torch; from pathlib import Path\n"
        "from modiste.utils.atomic import DiskFullError, atomic, atomic_folder\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "for make in (atomic, lambda path: atomic_folder(path)):\n"
        "    try:\n"
        "        with make(Path(sys.argv[1])) as at:\n"
        "            at = at / 'a' if at.is_dir() else at\n"
        f"            {WRITERS[writer]}\n"
        "    except DiskFullError as error: print(error)\n"
    )
    path = tmp_path / "a.ckpt"
    ran = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert ran.stdout.count(f"{path} exceeds the size limit of files: raise the limit (ulimit -f)") == 2, ran.stderr
    assert not list(tmp_path.iterdir())


def test_a_quick_digest_changes_with_any_byte_and_the_length(tmp_path):
    content = bytes(range(256)) * 5000
    digests = set()
    for changed in (content, content[:-1], content + b"\0", content[:-1] + b"\0", b"\1" + content[1:], b""):
        (tmp_path / "a").write_bytes(changed)
        digests.add(quick_digest(tmp_path / "a"))
    assert len(digests) == 6


def test_what_a_checksum_guards_and_can_be_made_again_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(atomic_module, "_flush", flushed.append)
    assert write_cache(tmp_path / "a", lambda path: path.write_text("x"), "A")
    assert flushed == []
    write_checked(tmp_path / "b", lambda path: path.write_text("x"))
    assert len(flushed) == 4  # the file, its checksum, and their folder after each
