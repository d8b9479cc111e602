"""Conversion of command-line arguments to Hydra's override grammar."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from modiste.cli.outline import Outline
from modiste.config.overrides import parse
from modiste.config.paths import config_dir, list_groups
from modiste.config.quoting import quote
from modiste.config.restart import restart
from modiste.config.validation import STARTS
from modiste.errors import ModisteError, did_you_mean
from modiste.utils.run_dir import RunDir

POSITIONAL = {"sources": "sources", "query": "query.text", "action": "action"}
"""Key that a command has → key that receives its positional arguments."""
QUERY = ("text", "image", "like", "minus")
"""Keys that may be written without ``query.`` in a command with a ``query``; in others they are groups."""
LITERAL = (*(f"query.{name}" for name in QUERY), "where")
"""Keys with free text as value, which is not parsed."""
WHOLE = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*\'""", re.DOTALL)
"""A value that is already quoted as a whole."""

# Key in other programs → key here.
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
    """Convert arguments to Hydra overrides.

    Positional arguments get keys, values are quoted, and the stored overrides of a restarted run come first.

    Raises:
        ModisteError: An argument is not an override, or the run to restart does not exist.
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
    """Expand ``model=DIR`` if DIR is a folder and not an option of the group."""

    key, _, value = arg.partition("=")
    folder = Path(value.strip("'\"")).expanduser()
    if key != "model" or "model" not in outline.groups or not value or not folder.is_dir():
        return [arg]
    if value in list_groups([config_dir()]).get("model", {}):
        return [arg]
    return ["model=exported", f"model.source={quote(str(folder))}"]


def check_local(overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """Raise ModisteError for an unknown option of ``local``, which Hydra ignores in an optional group."""
    for override in overrides:
        key, _, value = override.partition("=")
        options = list_groups(folders).get("local", {}) if key == "local" else {}
        if key == "local" and value not in options:
            raise ModisteError(f"There is no option '{value}' in the group local. {did_you_mean(value, options)}")


def _is_positional(arg: str, outline: Outline) -> bool:
    """Whether an argument is not key=value or, if the command takes paths, is an existing path with a =."""
    if {"sources", "phrases", "write_to"} & set(outline.keys) and os.path.exists(arg):
        return True
    return "=" not in arg and not arg.startswith("~")


def _table_overrides(positional: list[str]) -> list[str]:
    """Convert the positional argument of `modiste data`, the user's own table."""
    if len(positional) > 1:
        raise ModisteError(f"'{positional[1]}' is a second table: modiste data takes one.")
    table = Path(positional[0]).expanduser()
    if not table.is_file():
        raise ModisteError(f"Table '{positional[0]}' does not exist: give a file, or data=NAME.")
    name = re.sub(r"\W+", "_", table.name.partition(".")[0]).strip("_") or "table"
    return ["data=table", f"data.catalogue.path={quote(str(table))}", f"data.name={quote(name)}"]


def _phrase_overrides(positional: list[str], overrides: Sequence[str], outline: Outline) -> list[str]:
    """Convert the positional arguments of `modiste ground`: run or model folder, photo, phrases."""
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
    """Convert positional arguments: paths to a list, words to one text or to the command's action."""
    key = next((target for key, target in POSITIONAL.items() if key in outline.keys), None)
    if key is None:
        raise ModisteError(f"'{positional[0]}' is not an override: {_meant(positional[0], outline)}")
    if key == "sources":
        return f"sources=[{','.join(map(quote, positional))}]"
    return f"{key}={quote(' '.join(positional))}"


def _meant(word: str, outline: Outline) -> str:
    """Suggest an override for a bare ``word``."""
    known = [*outline.keys, *outline.groups]
    if word in known:
        return f"write {word}=… with a value."
    if word in SYNONYMS:
        return f"write {SYNONYMS[word]}=…"
    if "run" in outline.keys and ("/" in word or Path(word).exists()):
        return f"write run={word}."
    return f"write key=value. {did_you_mean(word, known)}"


def flag_as_override(flag: str, outline: Outline, value: str = "") -> str | None:
    """Return the override of a command that corresponds to another program's ``--flag``, or None.

    >>> train = Outline.read([config_dir()], "train")
    >>> flag_as_override("--experiment", train, "demo"), flag_as_override("--optim.lr=3", train)
    ('experiment=demo', 'optim.lr=3')
    >>> flag_as_override("--epochs=3", train), flag_as_override("--mutirun", train)
    ('trainer.max_epochs=3', None)
    """
    name, _, own = flag.lstrip("-").partition("=")
    name = name.replace("-", "_")
    known = {"hydra", *outline.keys, *outline.groups, *(QUERY if "query" in outline.keys else ())}
    if "paths" in outline.groups:  # its keys are at the top of the configuration
        known |= set(Outline.read([config_dir() / "paths"], "default").keys)
    for key in (name, SYNONYMS.get(name, "")):
        if key.partition(".")[0] in known:
            return f"{key}={own or value or '…'}"
    return None


def _quoted(override: str, outline: Outline, multirun: bool) -> str:
    """Quote a value that Hydra's grammar would split: a local path, a run, free text."""
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
    """Prepend the stored overrides of RUN for ``resume=RUN`` and ``continue=RUN``."""
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
    """Return the overrides into which Hydra's basic sweeper expands one: all for a group, else the first."""
    from hydra.core.override_parser.types import Glob
    from hydra.errors import OverrideParseException

    try:
        parsed = parse(override)
    except OverrideParseException:
        return [override]  # composition reports the error
    if not parsed.is_sweep_override():
        return [override]
    key = parsed.get_key_element()
    options = list_groups(folders).get(key.lstrip("+"))
    if not parsed.is_discrete_sweep():
        return []  # an interval, for sweepers that search
    value = parsed.value()
    if isinstance(value, Glob):
        return [f"{key}={option}" for option in value.filter(list(options or []))]
    values = [f"{key}={value}" for value in parsed.sweep_string_iterator()]
    return values if options else values[:1]
