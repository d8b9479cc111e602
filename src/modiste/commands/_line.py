"""What the command line said."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path


def command() -> str:
    """The command line as one would type it."""
    return shlex.join(["modiste", *sys.argv[1:]])


def command_overrides() -> list[str]:
    """The overrides of the command line."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def config_dirs() -> list[Path]:
    """The folder that ``--config-dir`` gave."""
    from hydra.core.hydra_config import HydraConfig

    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    return [Path(source.path) for source in sources if source.provider == "command-line"]
