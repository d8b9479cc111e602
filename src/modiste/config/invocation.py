"""The command line that a configuration came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from omegaconf import OmegaConf

if TYPE_CHECKING:
    from hydra.conf import HydraConf


@dataclass(frozen=True)
class Invocation:
    """A command line; for a call from Python, only its overrides.

    Attributes:
        command: The line as one would type it, for the record.
        overrides: Hydra's overrides.
        config_dirs: Folders with groups of the user's (``--config-dir``).
        choices: Group → the option that was chosen.
    """

    command: str = ""
    overrides: tuple[str, ...] = ()
    config_dirs: tuple[Path, ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)

    def choice(self, group: str) -> str | None:
        """The option of a group that the user named; None: left at its default."""
        named = any(override.startswith(f"{group}=") for override in self.overrides)
        return self.choices.get(group) if named else None


def given(job: HydraConf) -> dict[str, list[str]]:
    """The overrides of a job, ``hydra`` and ``task``, as they were given.

    Args:
        job: Hydra's own configuration. To read its overrides otherwise would resolve their interpolations, and the
            values would be parsed again.
    """
    return cast("dict[str, list[str]]", OmegaConf.to_container(job.overrides, resolve=False))
