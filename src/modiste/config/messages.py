"""Explanations of Hydra's composition errors: what is wrong and what to do."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from modiste.config.paths import list_groups
from modiste.config.quoting import quote
from modiste.config.tree import walk
from modiste.errors import did_you_mean

# Hydra launcher plugin → what to install.
LAUNCHERS = {
    "submitit_slurm": "'modiste[slurm]'",
    "submitit_local": "'modiste[slurm]'",
    "joblib": "hydra-joblib-launcher",
    "ray": "'modiste[ray]'",
}


def explain(
    error: Exception,
    config_name: str,
    overrides: Sequence[str],
    folders: Sequence[Path],
    compose: Callable[..., DictConfig],
) -> str:
    """Explain an error of `modiste.config.compose`, which is passed as ``compose``, and give the remedy."""
    groups = list_groups(folders)
    first_line = str(error).split("\n")[0]
    where, first_line = re.fullmatch(r"(?:In '(.*?)': )?(.*)", first_line).groups()  # type: ignore[union-attr]
    if isinstance(error, OverrideParseException):
        return _explain_grammar(error.override, groups)
    if isinstance(error, MissingConfigException):
        return explain_missing_config(error, config_name, overrides, folders)
    if isinstance(error, yaml.YAMLError):
        return f"This is not YAML: {' '.join(str(error).split())}."
    if first_line.startswith("Config group override") or isinstance(error, (TypeError, AttributeError)):
        wrong = [o for o in overrides if o.partition("=")[0].lstrip("+") in groups]
        return f"Cannot read {' '.join(wrong)}: give a name or a list of names for a group; ~group removes it."
    if first_line.startswith("Unsupported item value in defaults"):
        return f"A defaults list names a choice that YAML reads as something else: quote it ({first_line})."
    if first_line.startswith(("Ambiguous value", "Sweep parameters")):
        override = first_line.split("'")[1]
        key, _, value = override.partition("=")
        return f"{override} has several values: add -m to run them all, or write {key}=[{value}] for a list."
    if first_line.startswith("You must specify"):
        group = first_line.split("'")[1]
        return f"Choose a {group}: {group}={'|'.join(sorted(groups.get(group, {})))}."
    cause = error.__cause__
    if where and first_line.startswith(("Could not override", "Invalid Defaults List override")):
        group = re.split("[':/]+", first_line)[1]
        return f"{where}.yaml overrides the group {group}, which is not in {config_name}.yaml."
    if first_line.startswith("Could not override"):
        if getattr(cause, "full_key", None):
            return _explain_key(cause, config_name, overrides, groups)
        group = first_line.split("'")[1]
        return f"The group {group} is not in {config_name}.yaml: add it with +{group}=…"
    if first_line.startswith("Multiple values for"):
        group = first_line.split()[3].rstrip(".")
        return f"The group {group} is in {config_name}.yaml already: write {group}=… without the +."
    if first_line.startswith("Could not delete from"):
        key = first_line.split("'")[1]
        rest = [o for o in overrides if not o.startswith(f"~{key}")]
        config = compose(config_name, rest, folders[1:], root=folders[0])
        return f"There is no {key} to remove from {config_name}. {closest_key(key, config, groups)}"
    detail = str(cause).split("\n")[0] if cause else ""
    return ": ".join(part for part in (where, first_line, detail) if part)


def _explain_grammar(override: str, groups: Collection[str]) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return f"'{override}' is not an override: write key=value. {did_you_mean(override, groups)}"
    if not re.fullmatch(r"[+~]*[\w./@:\-$]+", key):
        return f"Cannot read '{override}': '{key}' is not a key."
    return f"Cannot read the value of '{override}': quote it, {shlex.quote(f'{key}={quote(value)}')}."


def explain_missing_config(
    error: MissingConfigException, config_name: str, overrides: Sequence[str], folders: Sequence[Path]
) -> str:
    missing = str(error.missing_cfg_file)
    if missing.removesuffix(".yaml") == config_name:
        roots = [file.stem for folder in folders for file in folder.glob("[!_]*.yaml")]
        return f"There is no config {config_name}.yaml. {did_you_mean(config_name, roots)}"
    group, _, option = missing.rpartition("/")
    # Hydra lists the options only if one option of the group was asked for, not a list.
    found = error.options or [file.stem for folder in folders for file in (folder / group).glob("*.yaml")]
    options = [name for name in found if not name.startswith("_")]
    if group == "hydra/launcher" and option in LAUNCHERS:
        return f"The launcher {option} is not installed: pip install {LAUNCHERS[option]}."
    asked = any(o.lstrip("+").startswith(f"{group}=") for o in overrides)
    where = "" if asked else f" (named in {str(error).split(chr(39))[1]}.yaml)"
    return f"There is no option '{option}' in the group {group}{where}. {did_you_mean(option, options)}"


def _explain_key(cause: Any, config_name: str, overrides: Sequence[str], groups: Collection[str]) -> str:
    key = str(cause.full_key)
    asked = [o for o in overrides if o.partition("=")[0] == key]
    remedy = closest_key(key, cause.parent_node._get_root(), groups)
    add = f" (+{asked[0]} would add it.)" if asked and "/" not in key else ""
    return f"There is no key '{key}' in {config_name}. {remedy}{add}"


def closest_key(key: str, config: DictConfig, groups: Collection[str]) -> str:
    """Suggest the same name elsewhere, else the most similar key or group, else the keys next to it."""
    keys = [path for path, *_ in walk(config) if path.startswith("hydra") == key.startswith("hydra")]
    parent, _, leaf = key.rpartition(".")
    same_leaf = [k for k in keys if k.rpartition(".")[2] == leaf]
    if same_leaf:
        return f"Did you mean '{min(same_leaf, key=len)}'?"
    everything = {*keys, *groups}
    if difflib.get_close_matches(key, everything):
        return did_you_mean(key, everything)
    return did_you_mean(leaf, [k.rpartition(".")[2] for k in keys if k.rpartition(".")[0] == parent])


def explain_interpolation(error: OmegaConfBaseException, cfg: DictConfig) -> str:
    line = str(error).splitlines()[0].rstrip(".")
    if match := re.search(r"Interpolation key '(.+)' not found", line):
        return f"there is no '{match[1]}'. {closest_key(match[1], cfg, ())}"
    return f"{line}."
