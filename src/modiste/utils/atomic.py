"""Atomic writes, and cache files with checksums that detect damage."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from modiste.errors import ModisteError

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

TEMPORARY = re.compile(r"\.([1-9][0-9]{0,9})\.tmp$")
Content = TypeVar("Content")
SUFFIX = ".sha256"
"""Suffix of the file with a cache file's checksum."""


FULL = (errno.ENOSPC, errno.EDQUOT)
LIMITED = re.compile(r"inline_container|PytorchStreamWriter|iostream error|\(os error 27\)")
"""Errors of torch, OpenVINO and safetensors for a file that exceeds a size limit on a disk with free space."""
RESERVE = 2**20
"""Free bytes below which a disk counts as full when a writer's error does not give the cause."""


class DiskFullError(ModisteError, OSError):
    """No space is left for a file, or a file is larger than a limit allows."""


class UnwritableError(ModisteError, OSError):
    """A file or folder cannot be created at its path."""


def make_folder(folder: Path) -> None:
    """Create a folder and its parents.

    Raises:
        UnwritableError: A file is in its place, or the system refuses, as below ``/proc``.

    >>> make_folder(Path("/dev/null"))
    Traceback (most recent call last):
    modiste.utils.atomic.UnwritableError: /dev/null is a file: choose another directory.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if folder.exists():
            raise UnwritableError(f"{folder} is a file: choose another directory.") from error
        raise UnwritableError(f"{folder} cannot be created: {error.strerror}: choose another directory.") from error


@contextmanager
def atomic(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path; at the end of the block its file atomically replaces ``path``.

    After an error ``path`` is unchanged and the temporary file is deleted. Temporary files that killed processes left
    for the same ``path`` are removed.

    Args:
        path: The file to write; its folder is created if needed.
        durable: Whether to fsync, so that the file survives a power cut. False suits files that have a checksum and
            can be recomputed.

    Raises:
        OSError: The folder cannot be written.
        UnwritableError: The folder cannot be created, or holds no files, as ``/proc``.
        DiskFullError: No space is left, or the file exceeds a size limit.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with atomic(Path(folder, "a", "b.txt")) as unfinished:
    ...         _ = unfinished.write_text("whole")
    ...     print([file.name for file in Path(folder, "a").iterdir()])
    ['b.txt']
    """
    make_folder(path.parent)
    remove_leftovers(path)
    unfinished, _ = _temporary(path)
    unfinished.unlink(missing_ok=True)  # a planted link of this name would be written through
    try:
        with _explained(path):
            yield unfinished
            if durable:
                _flush(unfinished)
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    if durable:
        with suppress(OSError):  # not every file system lets a folder be opened
            _flush(path.parent)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn errors while writing ``path`` into `DiskFullError` or `UnwritableError` by their cause."""
    try:
        yield
    except ModisteError:
        raise
    except Exception as error:  # torch, OpenVINO and safetensors do not raise OSError
        if isinstance(error, FileNotFoundError) and str(error.filename) in map(str, _temporary(path)):
            raise UnwritableError(f"{path} cannot be created: choose another path.") from error
        if is_full(error, path.parent):
            raise DiskFullError(f"No space left for {path}: free some, then run the same command again.") from error
        if getattr(error, "errno", None) == errno.EFBIG or LIMITED.search(str(error)):
            raise DiskFullError(
                f"{path} exceeds the size limit of files: raise the limit (ulimit -f) or the quota, or choose another "
                "disk, then run the same command again."
            ) from error
        raise


def is_full(error: BaseException, folder: Path) -> bool:
    """Whether an error while writing into ``folder`` was caused by a full disk or quota."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    with suppress(OSError):
        return shutil.disk_usage(folder).free < RESERVE
    return False


def reserve(path: Path) -> None:
    """Allocate the blocks of a sparse file that will be written through a memory map.

    On a full disk, storing to a page without a block kills the process by SIGBUS.

    Raises:
        OSError: No space is left.
    """
    if not hasattr(os, "posix_fallocate"):
        check_space(path.parent, path.stat().st_size, path.name)
        return
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def check_space(folder: Path, size: int, what: str) -> None:
    """Raise DiskFullError before any work if ``folder`` has less than ``size`` bytes free for ``what``."""
    while not folder.exists() and folder.parent != folder:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DiskFullError(
            f"{what} needs {size / 2**20:,.0f} MiB, and {folder} has {free / 2**20:,.0f} MiB left: free some, or "
            "choose another directory."
        )


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder that replaces the folder ``path`` at the end of the block.

    After an error ``path`` is unchanged and the new folder is deleted. Leftovers of killed processes are removed, as by
    `atomic`.

    Args:
        path: The folder to write; its parent is created if needed.

    Raises:
        OSError: The folder cannot be written.
        DiskFullError: No space is left, or a file exceeds a size limit.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as parent:
    ...     for content in ("first", "second"):
    ...         with atomic_folder(Path(parent, "a")) as unfinished:
    ...             _ = (unfinished / content).write_text(content)
    ...     print([str(file.relative_to(parent)) for file in sorted(Path(parent).rglob("*"))])
    ['a', 'a/second']
    """
    make_folder(path.parent)
    _restore_former(path)
    remove_leftovers(path)
    unfinished, former = _temporary(path)
    try:
        with _explained(path):
            unfinished.mkdir()
            yield unfinished
        _replace_folder(unfinished, path, former)
    finally:
        for folder in (unfinished, former):
            shutil.rmtree(folder, ignore_errors=True)


def _temporary(path: Path) -> tuple[Path, Path]:
    """This process's temporary paths for ``path``: the unfinished one, and the former one of a folder."""
    return path.with_name(f"{path.name}.{os.getpid()}.tmp"), path.with_name(f"{path.name}.former.{os.getpid()}.tmp")


def _replace_folder(new: Path, path: Path, former: Path) -> None:
    """Move ``path`` to ``former`` and ``new`` to ``path``: rename replaces empty folders only."""
    while True:
        with suppress(FileNotFoundError):
            path.replace(former)
        try:
            new.replace(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                with suppress(FileNotFoundError):
                    former.replace(path)
                raise
        shutil.rmtree(former, ignore_errors=True)  # another process has written its own folder to ``path`` meanwhile


def _restore_former(path: Path) -> None:
    """Move the former folder back where a process was killed between the two renames of `_replace_folder`."""
    for former in path.parent.glob(f"{_escaped(path.name)}.former.*.tmp"):
        match = TEMPORARY.search(former.name)
        if match and not _runs(int(match[1])) and not path.exists():
            with suppress(OSError):
                former.replace(path)


def refuse_other_writers(path: Path) -> None:
    """Raise ModisteError if another running process has a temporary folder for ``path``."""
    for other in path.parent.glob(f"{_escaped(path.name)}.*.tmp"):
        match = TEMPORARY.search(other.name)
        if match and int(match[1]) != os.getpid() and _runs(int(match[1])):
            raise ModisteError(
                f"{path} is being written by process {match[1]} on {socket.gethostname()}: wait for it to end, or "
                "choose another directory."
            )


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Write a UTF-8 text file atomically; see `atomic` for ``durable``."""
    with atomic(path, durable) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_image(path: Path, image: Image.Image) -> None:
    """Write a PIL image atomically, in the format of the file's suffix (PNG if the suffix is unknown)."""
    from PIL import Image

    with atomic(path) as unfinished:
        image.save(unfinished, Image.registered_extensions().get(path.suffix.lower(), "PNG"))


def remove_leftovers(path: Path) -> None:
    """Remove temporary files and folders for ``path`` whose processes no longer run."""
    _remove(path.parent.glob(f"{_escaped(path.name)}.*.tmp"))


def remove_all_leftovers(folder: Path) -> None:
    """Remove temporary files and folders anywhere below ``folder`` whose processes no longer run."""
    _remove(list(folder.rglob("*.tmp")))


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        match = TEMPORARY.search(file.name)
        if match and not _runs(int(match[1])):
            if file.is_dir():
                shutil.rmtree(file, ignore_errors=True)
            else:
                with suppress(OSError):
                    file.unlink()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    return _digest(path, hashlib.sha256())


def quick_digest(path: Path) -> str:
    """Return the 128-bit XXH3 of a file in hex: several times as fast as SHA-256, but not cryptographic.

    It detects damage, not tampering, and suits large files that are verified each time they are opened.
    """
    from xxhash import xxh3_128

    return _digest(path, xxh3_128())


def _digest(path: Path, digest: Any) -> str:
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return str(digest.hexdigest())


def write_checked(
    path: Path, write: Callable[[Path], Any], digest: Callable[[Path], str] = file_digest, durable: bool = True
) -> None:
    """Write a file and its checksum.

    Args:
        path: The file.
        write: Writes the content to a given path.
        digest: Computes the checksum of a file; `read_cache` needs the same one.
        durable: See `atomic`.

    Raises:
        OSError: The file cannot be written.
    """
    with atomic(path, durable) as unfinished:
        write(unfinished)
        value = digest(unfinished)
    write_text(path.with_name(path.name + SUFFIX), value, durable)


def write_cache(
    path: Path, write: Callable[[Path], Any], what: str, digest: Callable[[Path], str] = file_digest
) -> bool:
    """Write a cache file and its checksum; if that fails, log a warning and continue.

    Args:
        path: The file.
        write: Writes the content to a given path.
        what: Name of the content for the warning, as in "The scan of 'shop'".
        digest: Computes the checksum of a file; `read_cache` needs the same one.

    Returns:
        Whether the file was written.
    """
    try:
        write_checked(path, write, digest, durable=False)
    except OSError as error:  # a cache that cannot be written costs time, not the result
        log.warning("%s could not be cached in %s: %s", what, path.parent, error)
        return False
    return True


def read_cache(
    path: Path,
    read: Callable[[Path], Content],
    what: str,
    digest: Callable[[Path], str] = file_digest,
    then: str = "will be recomputed",
) -> Content | None:
    """Return ``read(path)`` for a cache file; None if it is missing, or damaged, which logs a warning.

    Args:
        path: A file written by `write_cache` or `write_checked`.
        read: Reads the content; its OSError, ValueError, KeyError or EOFError also counts as damage.
        what: Name of the content for the log.
        digest: The checksum function that the file was written with.
        then: What happens to a damaged file, for the log.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder, "numbers.txt")
    ...     _ = write_cache(file, lambda path: path.write_text("1 2 3"), "Numbers")
    ...     before = read_cache(file, Path.read_text, "Numbers")
    ...     _ = file.write_text("1 2")
    ...     before, read_cache(file, Path.read_text, "Numbers")
    ('1 2 3', None)
    """
    if not path.is_file():
        return None
    try:
        recorded = path.with_name(path.name + SUFFIX).read_text(encoding="ascii")
        if digest(path) == recorded:
            return read(path)
    except (OSError, ValueError, KeyError, EOFError):
        pass
    log.warning("%s: the cached file %s is damaged and %s.", what, path, then)
    return None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _escaped(name: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", name)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # no system has processes of so large a number
        return False
    except OSError:  # a process of another user
        return True
    return True
