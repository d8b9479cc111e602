"""What the command line said."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from modiste.config.invocation import Invocation


def invocation() -> Invocation:
    """The command line of the job that runs."""
    from hydra.core.hydra_config import HydraConfig

    command = shlex.join(["modiste", *sys.argv[1:]])
    if not HydraConfig.initialized():
        return Invocation(command)
    job = HydraConfig.get()
    folders = [Path(source.path) for source in job.runtime.config_sources if source.provider == "command-line"]
    choices = {str(group): str(option) for group, option in job.runtime.choices.items()}
    return Invocation(command, tuple(job.overrides.task), tuple(folders), choices)
