"""Configurations and overrides stored in a run directory, sweep or result, which may be untrusted.

Their contents are data and never passed to Hydra unchecked: its resolvers read the environment, and its own node can
name code to run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader

from modiste.config import schema
from modiste.config.aliases import current, rename_keys, rename_override
from modiste.config.overrides import is_own_key, override_key, parse
from modiste.config.quoting import escape_interpolations
from modiste.errors import ModisteError
from modiste.utils import plain_yaml
from modiste.utils.run_dir import read_text

# An interpolation that calls no resolver: the path of another key.
KEY_PATH = re.compile(r"\$\{[\w.\[\]]+\}")
LEAVE = "download"
"""Key that permits downloads."""
RUN_KEYS = ("name", "seed", "data", "model", "tune")
"""Keys that the configuration of every run has."""


def load_config(path: str | Path, required: Collection[str] = ()) -> DictConfig:
    r"""Load the resolved configuration written by a run; ``${…}`` in a value stays literal text.

    Moved classes and renamed keys get their current names. Permission to download is withdrawn.

    Args:
        path: A ``config.yaml``.
        required: Top-level keys that it must have.

    Raises:
        ModisteError: The file is missing or damaged, lacks a required key, or calls a resolver.
    """
    path = Path(path)
    content = read_plain(path)
    if not isinstance(content, dict) or not content:
        raise ModisteError(f"{path} is not the configuration of a run: restore it, or retrain.")
    missing = [key for key in required if key not in content]
    if missing:
        raise ModisteError(f"{path} is not the configuration of a training run: it has no '{missing[0]}'.")
    return literal(content, path)


def literal(content: dict[str, Any], source: Path) -> DictConfig:
    """Convert the content of a stored configuration as `load_config` does.

    Args:
        content: Plain content of a file or a checkpoint.
        source: Path of that file, for messages.

    Raises:
        ModisteError: A value calls a resolver.
    """
    return OmegaConf.create(rename_keys(_literal(content, source)))


def load_run_config(path: str | Path) -> DictConfig:
    """Load the configuration of a training run and check its types and ranges.

    Raises:
        ModisteError: See `load_config`; one of `RUN_KEYS` is missing, or a value has the wrong type or is out of range.
    """
    config = load_config(path, RUN_KEYS)
    problems = schema.value_problems(config)
    if problems:
        raise ModisteError(f"{path} is damaged: {problems[0]} Restore it, or retrain.")
    return config


def load_overrides(path: str | Path) -> list[str]:
    """Load the overrides that a run was started with, checked by `check_overrides`, with current keys.

    Raises:
        ModisteError: The file is missing, or not a list of overrides of Modiste's own keys.
    """
    path = Path(path)
    content = read_plain(path) if path.is_file() else None
    if not isinstance(content, list):
        raise ModisteError(f"{path.parent} has no record of its overrides: {path.name} is missing or not a list.")
    return [rename_override(override) for override in check_overrides(content, path)]


def check_overrides(overrides: Sequence[object], source: str | Path) -> list[str]:
    """Check ``overrides`` from a file: they may only set keys of Modiste's configuration to plain values.

    Hydra's parser decides what a value is. Overrides that permit downloads (``data.catalogue.download=true``) are
    dropped, since only the command line may give that permission.

    Args:
        overrides: Content of the file.
        source: The file, for messages.

    Returns:
        The overrides that remain.

    Raises:
        ModisteError: An override is a flag, a sweep or unreadable, sets a Hydra key, calls a resolver, or permits
            downloads inside a nested value.

    >>> check_overrides(["optim.lr=0.1", "loss=clip"], "overrides.yaml")
    ['optim.lr=0.1', 'loss=clip']
    >>> check_overrides(["+hydra.callbacks.x={_target_: os.system}"], "overrides.yaml")
    Traceback (most recent call last):
    ...
    modiste.errors.ModisteError: overrides.yaml holds '+hydra.callbacks.x={_target_: os.system}', which is refused: \
a file may only set Modiste's keys.
    """
    kept = []
    for override in overrides:
        if why := _refusal(override):
            raise ModisteError(f"{source} holds '{override}', which is refused: a file may {why}.")
        if override_key(str(override)).rpartition(".")[2] != LEAVE:
            kept.append(str(override))
    return kept


def _refusal(override: object) -> str:
    """Return what a file may not do, completing "a file may …"; empty if the override is permitted."""
    if not isinstance(override, str) or not is_own_key(override.partition("=")[0]):
        return "only set Modiste's keys"
    try:
        parsed = parse(override)
    except HydraException:
        return "only set keys to plain values"
    if parsed.is_sweep_override() or parsed.get_key_element() != override.partition("=")[0]:
        return "only set keys to plain values"
    values = list(parts_of(parsed.value()))
    if any(isinstance(key, str) and key.rpartition(".")[2] == LEAVE for key, _ in values):
        return "not permit downloads"
    if any(isinstance(text, str) and "${" in KEY_PATH.sub("", text) for item in values for text in item):
        return "not call a resolver"
    return ""


def parts_of(value: object, key: object = None) -> Iterator[tuple[object, object]]:
    """Yield (key, value) of a plain value and of everything nested in it.

    >>> list(parts_of({"a": ["x"]}))
    [(None, {'a': ['x']}), ('a', ['x']), (None, 'x')]
    """
    yield key, value
    if isinstance(value, dict):
        for name, item in value.items():
            yield from parts_of(item, name)
    if isinstance(value, list):
        for item in value:
            yield from parts_of(item)


def read_plain(path: Path) -> Any:
    """Read a YAML file as plain containers and values. Raises ModisteError if it cannot be read."""
    try:
        return plain_yaml.load(read_text(path), get_yaml_loader())
    except FileNotFoundError:
        raise ModisteError(f"File {path} does not exist.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise ModisteError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}. Restore it.") from error


def _literal(value: Any, path: Path, key: str = "") -> Any:
    if isinstance(value, dict):
        plain = {name: _literal(item, path, f"{key}.{name}".lstrip(".")) for name, item in value.items()}
        if isinstance(plain.get("_target_"), str):
            plain["_target_"] = current(plain["_target_"])
        # A file may not permit downloads.
        return {name: False if str(name).rpartition(".")[2] == LEAVE else item for name, item in plain.items()}
    if isinstance(value, list):
        return [_literal(item, path, f"{key}.{i}") for i, item in enumerate(value)]
    if isinstance(value, str) and "${" in value:
        if _calls(value):
            raise ModisteError(f"{path}: '{key}' calls a resolver ({value}), which a stored configuration may not.")
        return escape_interpolations(value)
    return value


def _calls(text: str) -> bool:
    """Whether a colon follows a ``${``: OmegaConf could read it as a call of a resolver."""
    return ":" in text.partition("${")[2]
