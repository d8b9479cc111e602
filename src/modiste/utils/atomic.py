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
"""Of the file that holds a cache file's checksum."""


FULL = (errno.ENOSPC, errno.EDQUOT)
LIMITED = re.compile(r"inline_container|PytorchStreamWriter|iostream error|\(os error 27\)")
"""In the errors of torch, OpenVINO and safetensors for a file that a limit cut short though the disk has space."""
RESERVE = 2**20
"""Bytes below which a disk counts as full: what is written is buffered, and the writer's error may not say why."""


class DiskFullError(ModisteError, OSError):
    """There is no space left for a file."""


@contextmanager
def atomic(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path whose file replaces ``path`` at the end, on disk even after a power cut.

    After an error ``path`` is as before and the temporary file is gone. Temporary files that killed processes left for
    the same ``path`` are removed.

    Args:
        path: Its folder is made where it does not exist.
        durable: False does not wait for the disk: of a file that a checksum guards and that can be made again.

    Raises:
        OSError: The folder cannot be written.
        DiskFullError: There is no space left, or the file is larger than files may be.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with atomic(Path(folder, "a", "b.txt")) as unfinished:
    ...         _ = unfinished.write_text("whole")
    ...     print([file.name for file in Path(folder, "a").iterdir()])
    ['b.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    unfinished.unlink(missing_ok=True)  # a stranger's link of this name would be written through
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
    """Turns the errors of whatever writes ``path`` into `DiskFullError` where the disk or a limit is the cause."""
    try:
        yield
    except ModisteError:
        raise
    except Exception as error:  # torch, OpenVINO and safetensors have errors of their own
        if is_full(error, path.parent):
            raise DiskFullError(f"No space left for {path}: free some, then run the same command again.") from error
        if getattr(error, "errno", None) == errno.EFBIG or LIMITED.search(str(error)):
            raise DiskFullError(
                f"{path} is larger than files may be here: raise the limit (ulimit -f) or the quota, or choose another "
                "disk, then run the same command again."
            ) from error
        raise


def is_full(error: BaseException, folder: Path) -> bool:
    """Whether an error while writing into ``folder`` comes from a full disk or quota."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    with suppress(OSError):
        return shutil.disk_usage(folder).free < RESERVE
    return False


def check_space(folder: Path, size: int, what: str) -> None:
    """Raise DiskFullError where ``folder`` has less than ``size`` bytes left for ``what``, before the work is done."""
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
    """Yield a new folder that takes the place of the folder ``path`` at the end.

    After an error ``path`` is as before and the new folder is gone. What killed processes left is removed as `atomic`
    does.

    Args:
        path: Its parent is made where it does not exist.

    Raises:
        OSError: The folder cannot be written.
        DiskFullError: There is no space left, or a file is larger than files may be.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as parent:
    ...     for content in ("first", "second"):
    ...         with atomic_folder(Path(parent, "a")) as unfinished:
    ...             _ = (unfinished / content).write_text(content)
    ...     print([str(file.relative_to(parent)) for file in sorted(Path(parent).rglob("*"))])
    ['a', 'a/second']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _restore_former(path)
    remove_leftovers(path)
    unfinished, former = (path.with_name(f"{path.name}.{word}{os.getpid()}.tmp") for word in ("", "former."))
    unfinished.mkdir()
    try:
        with _explained(path):
            yield unfinished
        _replace_folder(unfinished, path, former)
    finally:
        for folder in (unfinished, former):
            shutil.rmtree(folder, ignore_errors=True)


def _replace_folder(new: Path, path: Path, former: Path) -> None:
    """Put ``new`` at ``path``, whose folder goes to ``former``: a folder replaces no folder that holds something."""
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
        shutil.rmtree(former, ignore_errors=True)  # another process has put its own there meanwhile


def _restore_former(path: Path) -> None:
    """Put back the folder that a process moved away and, killed at this moment, did not replace."""
    for former in path.parent.glob(f"{_escaped(path.name)}.former.*.tmp"):
        match = TEMPORARY.search(former.name)
        if match and not _runs(int(match[1])) and not path.exists():
            with suppress(OSError):
                former.replace(path)


def refuse_other_writers(path: Path) -> None:
    """Raise ModisteError where the temporary folder of another process shows that it writes ``path``, too."""
    for other in path.parent.glob(f"{_escaped(path.name)}.*.tmp"):
        match = TEMPORARY.search(other.name)
        if match and int(match[1]) != os.getpid() and _runs(int(match[1])):
            raise ModisteError(
                f"{path} is being written by process {match[1]} on {socket.gethostname()}: wait for it to end, or "
                "choose another directory."
            )


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Write a text file in UTF-8, whole or not at all; see `atomic` for ``durable``."""
    with atomic(path, durable) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_image(path: Path, image: Image.Image) -> None:
    """Write a PIL image in the format that the file's suffix names (PNG without one), whole or not at all."""
    from PIL import Image

    with atomic(path) as unfinished:
        image.save(unfinished, Image.registered_extensions().get(path.suffix.lower(), "PNG"))


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files and folders of ``path`` whose processes no longer run."""
    _remove(path.parent.glob(f"{_escaped(path.name)}.*.tmp"))


def remove_all_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders anywhere in ``folder`` whose processes no longer run."""
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
    """Return the SHA-256 of a file."""
    return _digest(path, hashlib.sha256())


def quick_digest(path: Path) -> str:
    """Return the XXH3 (128 bits) of a file: against damage, not against intent, and several times as fast as SHA-256.

    For large files that are verified whenever they are opened.
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
        write: Writes the content to the path that it is given.
        digest: Of a file; the same for `read_cache`.
        durable: See `atomic`.

    Raises:
        OSError: It cannot be written.
    """
    with atomic(path, durable) as unfinished:
        write(unfinished)
        value = digest(unfinished)
    write_text(path.with_name(path.name + SUFFIX), value, durable)


def write_cache(
    path: Path, write: Callable[[Path], Any], what: str, digest: Callable[[Path], str] = file_digest
) -> bool:
    """Write a cache file and its checksum; where that fails, warn and continue.

    Args:
        path: The file.
        write: Writes the content to the path that it is given.
        what: Names it in the warning, as in "The scan of 'shop'".
        digest: Of the file; the same for `read_cache`.

    Returns:
        Whether it was written.
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
    """Return what ``read`` makes of a cache file; None if it is missing or damaged, which is logged.

    Args:
        path: A file that `write_cache` or `write_checked` wrote.
        read: Reads it. An error of its own counts as damage, too.
        what: Names it in the log.
        digest: That it was written with.
        then: What happens to a damaged one, for the log.

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
    except OSError:  # it is somebody else's
        return True
    return True
