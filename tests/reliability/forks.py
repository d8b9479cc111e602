"""Commands as forks of this process, which has imported what they need: a `modiste` in a fraction of a second."""

from __future__ import annotations

import os
import pickle
import random
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from helpers import forkserver

SECONDS = 300.0
"""After which a command that has not ended is a fault."""


def ready() -> None:
    """Import everything once. Nothing may run torch in this process before it forks."""
    if not hasattr(ready, "done"):
        forkserver.preload()
        ready.done = True  # type: ignore[attr-defined]


def start(arguments: Sequence[str], cwd: Path, output: Path, before: Callable[[], None] | None = None) -> int:
    """Fork `modiste ARGUMENTS` in a session of its own; returns its process id.

    Args:
        arguments: Of the command.
        cwd: Its working directory.
        output: What it prints is appended here.
        before: Called in the fork, before the command.
    """
    ready()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        os.chdir(cwd)
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.path.insert(0, "")  # as `python -m` does
        sys.argv = ["modiste", *map(str, arguments)]
        if before is not None:
            before()
        runpy.run_module("modiste", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, seconds: float = SECONDS) -> int:
    """The exit code of a command, negative for the signal that ended it.

    Raises:
        TimeoutError: It has not ended; it is killed.
    """
    code = forkserver.wait(pid, seconds, every=0.002)
    if code is None:
        raise TimeoutError(f"process {pid} has not ended in {seconds:.0f} s")
    return code


def run(arguments: Sequence[str], cwd: Path, output: Path, before: Callable[[], None] | None = None) -> int:
    """The exit code of `modiste ARGUMENTS`."""
    return wait(start(arguments, cwd, output, before))


def kill_after(pid: int, seconds: float, number: int = signal.SIGKILL) -> int:
    """Send a signal after ``seconds`` to a command that still runs; returns its exit code."""
    code = forkserver.ended(pid, seconds, every=0.001)
    if code is None:
        os.kill(pid, number)
        return wait(pid)
    return code


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function`` returns in a fork, so that torch never runs in this process."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.close(read)
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(function(*arguments), pipe)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    if wait(pid):
        raise RuntimeError(f"{function.__name__}{arguments} failed")
    return pickle.loads(answer)


def moments(number: int, longest: float, seed: int) -> list[float]:
    """Random moments in seconds, uniform up to ``longest``."""
    draw = random.Random(seed)
    return [draw.uniform(0, longest) for _ in range(number)]
