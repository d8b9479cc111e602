"""A process that has imported what the commands import, and forks one for each: a `modiste` without seconds of imports.

It reads requests, a JSON object a line, from its standard input, and answers each with the command's exit code. A fork
of it runs the command as ``python -m modiste`` does, in its own directory, environment and output files.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import sys
import time
from pathlib import Path

# Only a few commands import these, which take longest.
LATER = tuple(f"modiste.{name}" for name in ("compat", "export", "search", "serve", "pretrained.sentence_transformers"))
FURTHER = ("transformers.models.bert.modeling_bert", "sklearn.linear_model", "matplotlib.pyplot", "optuna")


def preload() -> None:
    """Imports, and runs nothing: a process that has run torch cannot be forked safely."""
    import modiste

    names = [module.name for module in pkgutil.walk_packages(modiste.__path__, "modiste.")]
    for name in [*names, *FURTHER]:
        if not name.endswith("__main__") and not name.startswith(LATER):
            importlib.import_module(name)
    detect_hardware()
    gc.collect()
    gc.freeze()  # the forks share these pages


def detect_hardware() -> None:
    """codecarbon keeps what it found for later trackers of the process, and so of the forks."""
    from modiste.utils.energy import EnergyMeter

    meter = EnergyMeter()
    meter.start()
    meter.stop()


def run(request: dict) -> None:
    """Becomes the command."""
    os.setsid()
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    for stream, path in enumerate((os.devnull, request["stdout"], request["stderr"])):
        opened = os.open(path, os.O_RDONLY if stream == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, stream)
        os.close(opened)
    sys.stdin = open(0)  # noqa: SIM115
    sys.path[:0] = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.argv = ["modiste", *request["arguments"]]
    runpy.run_module("modiste", run_name="__main__", alter_sys=True)


def ended(pid: int, seconds: float, every: float = 0.01) -> int | None:
    """The exit code of a process, negative for the signal that ended it; None: it still runs after ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(every)
    return None


def wait(pid: int, seconds: float, every: float = 0.01) -> int | None:
    """The exit code of a process that leads a session, or None after it was killed for taking too long."""
    code = ended(pid, seconds, every)
    if code is None:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return code


def main() -> None:
    """Answers requests until the input ends."""
    sys.path.remove(str(Path(__file__).parent))  # of a script, not of `python -m modiste`
    preload()
    answers = os.dup(1)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.close(answers)
            return run(request)
        os.write(answers, f"{json.dumps(wait(pid, request['timeout']))}\n".encode())
    return None


if __name__ == "__main__":
    main()
