"""The command line behind a configuration."""

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
    """A command line; for a call from Python, its overrides alone.

    Attributes:
        command: The line as typed in a shell, for the record.
        overrides: Hydra overrides.
        config_dirs: Additional folders with config groups (``--config-dir``).
        choices: Config group → chosen option.
    """

    command: str = ""
    overrides: tuple[str, ...] = ()
    config_dirs: tuple[Path, ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)

    def choice(self, group: str) -> str | None:
        """Return the option that the user chose for a group; None if it was left at its default."""
        named = any(override.startswith(f"{group}=") for override in self.overrides)
        return self.choices.get(group) if named else None


def given(job: HydraConf) -> dict[str, list[str]]:
    """Return the overrides of a job, under ``hydra`` and ``task``, exactly as given.

    Args:
        job: Hydra's own configuration. Plain access to its overrides would resolve their interpolations.
    """
    return cast("dict[str, list[str]]", OmegaConf.to_container(job.overrides, resolve=False))
