"""Dispatch of the first argument to a command, and exit codes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence

import modiste
from modiste.cli import help
from modiste.cli.outline import commands
from modiste.errors import ModisteError, did_you_mean
from modiste.utils.interrupts import end_at_once, stoppable
from modiste.utils.terminal import as_utf8, safe_output

INTERRUPTED = 130
MACHINE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or ask for a larger quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or free some space",
    errno.EROFS: "choose a directory that can be written",
    errno.EACCES: "change its permissions, or choose another path",
    errno.EPERM: "change its permissions, or choose another path",
    errno.EIO: "check the disk or the network share",
    errno.ESTALE: "check the network share",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or lower data.num_workers",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EEXIST: "choose another path",
    errno.ENOTDIR: "choose another path",
    errno.EISDIR: "choose another path",
}
"""Error of the operating system → remedy; these are not bugs and print no traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: Arguments without the program's name; None: those of the process.

    Returns:
        0: success; 1: the command failed with a message; 2: invalid arguments; 130: interrupted by Ctrl-C, SIGTERM or
        SIGHUP.

    Raises:
        Exception: Any error that is not a user's mistake; with MODISTE_DEBUG=1 or HYDRA_FULL_ERROR=1, every error.
    """
    with stoppable() as signals, safe_output():
        return _main([as_utf8(argument) for argument in (sys.argv[1:] if argv is None else argv)], signals)


def _main(argv: list[str], signals: list[int]) -> int:
    code = 2
    try:
        job = prepare(argv)
        code = 1
        done = job() or 0
        sys.stdout.flush()
        return done
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as stop:
        # Lightning turns an interrupt into sys.exit(1); a command that has printed its own message exits with 130.
        if stop.code == INTERRUPTED:
            end_at_once()
        elif isinstance(stop.__context__, KeyboardInterrupt):
            return _interrupted()
        raise
    except Exception as error:
        if signals:  # a library may have turned the interrupt into another error
            return _interrupted()
        sentence = "" if "1" in map(os.environ.get, ("MODISTE_DEBUG", "HYDRA_FULL_ERROR")) else _sentence(error)
        if isinstance(error, BrokenPipeError):  # the reader has exited, as in `modiste … | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        if not sentence:
            raise
        print(f"Error: {sentence}", file=sys.stderr)
        return code if isinstance(error, (ModisteError, UnicodeEncodeError)) else 1


def _sentence(error: Exception) -> str:
    """Return the message of a user's mistake or an error in `MACHINE`; empty for a bug."""
    if isinstance(error, ModisteError):
        return str(error)
    if isinstance(error, OSError) and error.errno in MACHINE:
        place = f" ('{error.filename}')" if error.filename else ""
        return f"{error.strerror}{place}: {MACHINE[error.errno]}, then run the command again."
    if isinstance(error, UnicodeEncodeError) and (
        error.encoding == sys.getfilesystemencoding() or "surrogates" in error.reason
    ):
        if error.encoding == "utf-8":
            return f"{error.object!r:.60} has characters that UTF-8 does not have: write it in UTF-8."
        return (
            f"'{error.object}' cannot be written in {error.encoding}: use a UTF-8 locale (LC_ALL=C.UTF-8, without "
            "PYTHONUTF8=0)."
        )
    return ""


def _interrupted() -> int:
    end_at_once()
    print("\nInterrupted: run the same command again.", file=sys.stderr)
    return INTERRUPTED


def prepare(argv: list[str]) -> Callable[[], int | None]:
    """Check the arguments as far as possible, and return the function that runs the command.

    Raises:
        ModisteError: A command, flag, group, option or key is unknown, or a value is invalid or missing.
    """
    first = argv[0] if argv else ""
    if not argv or first in ("-h", "--help", "help"):
        return lambda: _print(help.overview(), 0 if argv else 2)
    if first in ("-V", "--version"):
        return lambda: _print(f"modiste {modiste.__version__}")
    # Hydra takes a third of a second to import.
    from modiste.cli import completion
    from modiste.cli.call import Call

    if first == "--completion":
        return completion.step(f"install={argv[1] if len(argv) > 1 else 'bash'}")
    if first in ("-sc", "--shell-completion"):
        return completion.step(argv[1] if len(argv) > 1 else "install=bash")
    if first not in commands():
        raise ModisteError(f"There is no command '{first}'. {did_you_mean(first, commands())}")
    call = Call.parse(first, argv[1:])
    if call.args.help:
        return lambda: _print(help.of_command(call))
    if call.args.shell_completion:
        return completion.step((call.args.overrides or ["install=bash"])[0])
    call.check()
    return call.run


def _print(text: str, code: int = 0) -> int:
    print(text)
    return code
