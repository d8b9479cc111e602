"""Command-line arguments in the grammar of Hydra's overrides."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from modiste.cli.outline import Outline
from modiste.config import paths
from modiste.config.overrides import parse
from modiste.config.paths import config_dir, list_groups
from modiste.config.quoting import quote
from modiste.config.restart import restart
from modiste.config.validation import STARTS
from modiste.errors import ModisteError, did_you_mean
from modiste.utils.run_dir import RunDir

POSITIONAL = {"sources": "sources", "query": "query.text", "action": "action"}
"""Keys of commands, and what takes the words of a line that stand without key=."""
QUERY = ("text", "image", "like", "minus")
"""What may stand without ``query.`` before it, in a command that has a ``query``; else they are groups."""
LITERAL = (*(f"query.{name}" for name in QUERY), "where")
"""Keys whose values are free text, which is not parsed."""
WHOLE = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*\'""", re.DOTALL)
"""A value that is quoted already, as a whole."""

# Words of other programs, and what they are here.
SYNONYMS = {
    "batch": "data.batch_size",
    "batch_size": "data.batch_size",
    "bs": "data.batch_size",
    "dataset": "data",
    "devices": "trainer.devices",
    "epochs": "trainer.max_epochs",
    "gpus": "trainer.devices",
    "learning_rate": "optim.lr",
    "lr": "optim.lr",
    "max_epochs": "trainer.max_epochs",
    "num_epochs": "trainer.max_epochs",
    "num_workers": "data.num_workers",
    "optimizer": "optim",
    "output_dir": "hydra.run.dir",
    "recipe": "experiment",
    "steps": "trainer.max_steps",
    "wd": "optim.weight_decay",
    "weight_decay": "optim.weight_decay",
    "workers": "data.num_workers",
}


def normalised(arguments: Sequence[str], outline: Outline, multirun: bool) -> list[str]:
    """Overrides that Hydra reads: paths of positional arguments, values quoted, a restarted run's own overrides first.

    Raises:
        ModisteError: An argument is no override, or the run to restart is missing.
    """
    arguments = [word for arg in arguments for word in _model_folder(arg, outline)]
    positional = [arg for arg in arguments if _is_positional(arg, outline)]
    overrides = [_quoted(arg, outline, multirun) for arg in arguments if arg not in positional]
    for override in overrides:
        key, _, value = override.partition("=")
        if key in SYNONYMS and key not in outline.keys and key not in outline.groups:
            raise ModisteError(f"There is no key '{key}': write {SYNONYMS[key]}={value}.")
    if positional and "write_to" in outline.keys:
        overrides = [*_table_overrides(positional), *overrides]
    elif positional and "phrases" in outline.keys:
        overrides += _phrase_overrides(positional, overrides, outline)
    elif positional:
        overrides.append(_positional_override(positional, outline))
    return _restarted(overrides, outline, multirun)


def _model_folder(arg: str, outline: Outline) -> list[str]:
    """Expand ``model=DIR``, where DIR is a folder and no option of the group."""

    key, _, value = arg.partition("=")
    folder = Path(value.strip("'\"")).expanduser()
    if key != "model" or "model" not in outline.groups or not value or not folder.is_dir():
        return [arg]
    if value in list_groups([config_dir()]).get("model", {}):
        return [arg]
    return ["model=exported", f"model.source={quote(str(folder))}"]


def check_local(overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """Raise a ModisteError for a ``local=`` that does not exist: the group is optional, so Hydra would not say it."""
    for override in overrides:
        key, _, value = override.partition("=")
        options = list_groups(folders).get("local", {}) if key == "local" else {}
        if key == "local" and value not in options:
            raise ModisteError(f"There is no option '{value}' in the group local. {did_you_mean(value, options)}")


def _is_positional(arg: str, outline: Outline) -> bool:
    """Not key=value; or, for a command that takes paths, a path that exists although it has an equals sign in it."""
    if {"sources", "phrases", "write_to"} & set(outline.keys) and os.path.exists(arg):
        return True
    return "=" not in arg and not arg.startswith("~")


def _table_overrides(positional: list[str]) -> list[str]:
    """A table of the user's own, as the one positional argument of `modiste data`."""
    if len(positional) > 1:
        raise ModisteError(f"'{positional[1]}' is a second table: modiste data takes one.")
    table = Path(positional[0]).expanduser()
    if not table.is_file():
        raise ModisteError(f"Table '{positional[0]}' does not exist: give a file, or data=NAME.")
    name = re.sub(r"\W+", "_", table.name.partition(".")[0]).strip("_") or "table"
    return ["data=table", f"data.catalogue.path={quote(str(table))}", f"data.name={quote(name)}"]


def _phrase_overrides(positional: list[str], overrides: Sequence[str], outline: Outline) -> list[str]:
    """The run or folder of a model (where no model is named), the photo, and the phrases of `modiste ground`."""
    named = {override.partition("=")[0] for override in overrides}
    wanted = [key for key in ("run", "photo") if key not in named and not (key == "run" and "model" in named)]
    given = dict(zip(wanted, positional, strict=False))
    phrases = positional[len(wanted) :]
    source = given.pop("run", None)
    found = [] if source is None else [f"run={quote(source)}"]
    if source is not None and Path(source).is_dir() and RunDir.of(source) is None:
        found = _model_folder(f"model={source}", outline)
    found += [f"{key}={quote(value)}" for key, value in given.items()]
    return [*found, f"phrases=[{','.join(map(quote, phrases))}]"] if phrases else found


def _positional_override(positional: list[str], outline: Outline) -> str:
    """Paths as a list; words as one text, or as the action of a command that has several."""
    key = next((target for key, target in POSITIONAL.items() if key in outline.keys), None)
    if key is None:
        raise ModisteError(f"'{positional[0]}' is not an override: {_meant(positional[0], outline)}")
    if key == "sources":
        return f"sources=[{','.join(map(quote, positional))}]"
    return f"{key}={quote(' '.join(positional))}"


def _meant(word: str, outline: Outline) -> str:
    """A suggestion for a bare ``word``."""
    known = [*outline.keys, *outline.groups]
    if word in known:
        return f"write {word}=…, with a value."
    if word in SYNONYMS:
        return f"write {SYNONYMS[word]}=…"
    if "run" in outline.keys and ("/" in word or Path(word).exists()):
        return f"write run={word}."
    return f"write key=value. {did_you_mean(word, known)}"


def flag_as_override(flag: str, value: str = "") -> str | None:
    """The override that corresponds to another program's ``--flag``.

    >>> flag_as_override("--experiment", "demo"), flag_as_override("--epochs=3"), flag_as_override("--mutirun")
    ('experiment=demo', 'trainer.max_epochs=3', None)
    """
    name, _, own = flag.lstrip("-").partition("=")
    name = name.replace("-", "_")
    groups = {group for group in list_groups([paths.config_dir()]) if "/" not in group}
    keys = {"seed", "name", "run", "init", "resume", "continue", "split", "device", "precision", "out"}
    key = SYNONYMS.get(name, name if name in groups | keys else None)
    return f"{key}={own or value or '…'}" if key else None


def _quoted(override: str, outline: Outline, multirun: bool) -> str:
    """Quote a value that Hydra's grammar would split: a local path, the name of a run, free text."""
    key, _, value = override.partition("=")
    if key in QUERY and "query" in outline.keys:
        key = f"query.{key}"
        override = f"{key}={value}"
    if key in LITERAL and value != "null" and not WHOLE.fullmatch(value) and (key == "where" or not _is_list(value)):
        return f"{key}={quote(value)}"
    plain = re.fullmatch(r"[\w./:@+\-]*", value, re.ASCII) or value[:1] in "'\""
    if not plain and (os.path.exists(value) or (key in STARTS and not multirun)):
        return f"{key}={quote(value)}"
    return override


def _is_list(value: str) -> bool:
    return value.startswith("[") and value.endswith("]")


def _restarted(overrides: list[str], outline: Outline, multirun: bool) -> list[str]:
    """``resume=RUN`` and ``continue=RUN`` begin with the overrides that RUN was started with."""
    if not {"resume", "continue"} & set(outline.keys):
        return overrides

    again = restart(overrides, outline.groups)
    if again is None:
        return overrides
    if multirun and again.continues:
        raise ModisteError("continue=RUN resumes a single run: remove -m, or use continue=auto.")
    place = [f"hydra.run.dir={quote(str(again.run))}"] if again.continues else []
    return [*again.overrides, *place, *overrides]


def sweep_values(override: str, folders: Sequence[Path]) -> list[str]:
    """The single overrides that Hydra's basic sweeper would make of one: for a group all, else the first."""
    from hydra.core.override_parser.types import Glob
    from hydra.errors import OverrideParseException

    try:
        parsed = parse(override)
    except OverrideParseException:
        return [override]  # composing it says what is wrong
    if not parsed.is_sweep_override():
        return [override]
    key = parsed.get_key_element()
    options = list_groups(folders).get(key.lstrip("+"))
    if not parsed.is_discrete_sweep():
        return []  # an interval: for a sweeper that searches
    value = parsed.value()
    if isinstance(value, Glob):
        return [f"{key}={option}" for option in value.filter(list(options or []))]
    values = [f"{key}={value}" for value in parsed.sweep_string_iterator()]
    return values if options else values[:1]
