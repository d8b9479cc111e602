"""The command line of a job."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modiste.config.invocation import Invocation, given


def invocation() -> Invocation:
    """Return the command line of the running job."""
    from hydra.core.hydra_config import HydraConfig

    command = shlex.join(["modiste", *sys.argv[1:]])
    if not HydraConfig.initialized():
        return Invocation(command)
    job = HydraConfig.get()
    folders = [Path(source.path) for source in job.runtime.config_sources if source.provider == "command-line"]
    choices = {str(group): str(option) for group, option in job.runtime.choices.items()}
    return Invocation(command, tuple(given(job)["task"]), tuple(folders), choices)


@contextmanager
def resumable(finished: str) -> Iterator[None]:
    """Turn Ctrl-C into a sentence and exit code 130, for commands that keep ``finished`` and resume."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nInterrupted; finished {finished} are kept. Resume with the same command.", file=sys.stderr)
        raise SystemExit(130) from None
