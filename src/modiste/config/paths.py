"""The location of conf/ and its config groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modiste.errors import ModisteError


def config_dir() -> Path:
    """Return the folder conf/ of the installed package, else of the checkout.

    Raises:
        ModisteError: Neither has one.
    """
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "conf", here.parents[3] / "conf"):
        if folder.is_dir():
            return folder
    raise ModisteError("The folder conf/ is neither in the package nor in the checkout: reinstall modiste.")


def list_groups(folders: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """Map group → option → file for the config folders; names with a leading underscore are private.

    >>> "clip" in list_groups([config_dir()])["loss"]
    True
    """
    groups: dict[str, dict[str, Path]] = {}
    for folder in folders:
        for file in sorted(folder.rglob("*.yaml")):
            group = file.parent.relative_to(folder).as_posix()
            if group != "." and not file.stem.startswith("_"):
                groups.setdefault(group, {}).setdefault(file.stem, file)
    return groups
