"""The commands, and the outline of a root config: groups and keys with their comments."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

COMMANDS = Path(__file__).parents[1] / "commands"


def commands() -> dict[str, str]:
    """Map command → first line of its module's docstring without the example, read without importing."""
    found = {}
    for file in sorted(COMMANDS.glob("*.py")):
        if not file.stem.startswith("_"):
            first_line = docstring(file.stem).split("\n")[0]
            line = re.sub(r"^`[^`]*`: |: `?modiste .*", "", first_line).rstrip(".")
            found[file.stem] = line[:1].upper() + line[1:]
    return found


def docstring(command: str) -> str:
    """Return the docstring of a command's module, read without importing."""
    source = (COMMANDS / f"{command}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


@dataclass
class Outline:
    """Outline of a root config: its groups and keys with their comments."""

    head: list[str] = field(default_factory=list)
    groups: dict[str, tuple[str, str]] = field(default_factory=dict)  # name: (choice, comment)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)  # name: (value, comment)

    @classmethod
    def read(cls, folders: Sequence[Path], name: str) -> Outline:
        """Read ``name``.yaml from the first folder that contains it, and the root configs in its defaults."""
        files = [folder / f"{name}.yaml" for folder in folders]
        file = next((file for file in files if file.is_file()), None)
        outline = cls()
        if file is None:
            return outline
        in_defaults = False
        inherited: dict[str, tuple[str, str]] = {}
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("#"):
                outline.head.append(line.lstrip("# ").rstrip())
            elif match := re.match(r"([A-Za-z_]\w*)\s*:\s*([^#]*?)\s*(?:#\s*(.*))?$", line):
                in_defaults = match[1] == "defaults"
                if match[1] not in ("defaults", "hydra"):
                    outline.keys[match[1]] = (match[2], match[3] or "")
            elif in_defaults and (
                match := re.match(r"\s*-\s*(?:optional\s+)?([\w/]+)\s*:\s*([^#]*?)\s*(?:#\s*(.*))?$", line)
            ):
                outline.groups[match[1]] = (match[2], match[3] or "")
            elif in_defaults and (match := re.match(r"\s*-\s*/?(?!_self_)(\w+)\s*(?:#.*)?$", line)):
                base = cls.read(folders, match[1])
                outline.groups = {**base.groups, **outline.groups}
                inherited |= base.keys
        outline.keys = {**outline.keys, **inherited, **outline.keys}  # in this order
        return outline
