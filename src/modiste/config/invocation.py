"""The command line that a configuration came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


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
