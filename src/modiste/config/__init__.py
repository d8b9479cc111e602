"""Where conf/ is, how it is composed, what it may build, and what is wrong with it. Imports nothing heavy."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import os
import pkgutil
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import hydra
import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from modiste.config.aliases import current
from modiste.errors import ModisteError, did_you_mean
from modiste.utils.run_dir import RunDir

# Hydra 1.3 asks for a version_base, 1.4 deprecates it.
VERSION_BASE: dict[str, str] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}

# Packages and classes that a `_target_` may name; MODISTE_ALLOW adds the user's own. lightning.pytorch is not allowed
# as a whole: its `cli` module builds any class by name.
ALLOWED = (
    "modiste.training.callbacks",
    "modiste.data",
    "modiste.images",
    "modiste.training.loggers",
    "modiste.losses",
    "modiste.metrics",
    "modiste.models.dual_encoder",
    "modiste.training.optim",
    "modiste.pretrained",
    "modiste.tasks",
    "modiste.terms",
    "modiste.texts",
    "torch.nn",
    "torch.optim",
    "torchvision.transforms",
    "torchmetrics",
    "lightning.pytorch.Trainer",
    "lightning.pytorch.accelerators",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.plugins",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "lightning.pytorch.trainer",
    "optuna.pruners",
    "optuna.samplers",
)
SPECIAL = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")
STARTS = ("init", "resume", "continue")
# Launchers of Hydra's plugins, and what to install.
LAUNCHERS = {
    "submitit_slurm": "'modiste[slurm]'",
    "submitit_local": "'modiste[slurm]'",
    "joblib": "hydra-joblib-launcher",
    "ray": "'modiste[ray]'",
}
HELD_OUT = "held_out"
"""The validation set that ``data.held_out`` makes."""


def run_or(run: str | None, other: str) -> str:
    """``run`` when it is a run directory, else ``other``; in YAML ``${run_or:${run},other}``."""
    return run if run and RunDir(Path(run).expanduser()).is_run else other


OmegaConf.register_new_resolver("run_or", run_or, replace=True)


# --------------------------------------------------------------------------------------------------------------- conf/


def config_dir() -> Path:
    """The folder of the configs: the one inside the installed package, else the checkout's."""
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "conf", here.parents[3] / "conf"):
        if folder.is_dir():
            return folder
    raise ModisteError("The folder conf/ is neither in the package nor in the checkout: install modiste again.")


def list_groups(folders: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """``{group: {option: file}}`` of the config folders; names with a leading underscore are private.

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


def quote(text: str) -> str:
    r"""A value for Hydra's override grammar that means exactly ``text``.

    >>> quote("runs/a (1), b")
    '"runs/a (1), b"'
    """
    text = re.sub(r'(\\*)"', r'\1\1\\"', text)  # a quote, and the backslashes before it, are escaped
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # and so is what would be an interpolation
    return '"' + re.sub(r"(\\+)$", r"\1\1", text) + '"'


def compose(
    config_name: str, overrides: Sequence[str] = (), config_dirs: Sequence[Path] = (), *, root: Path | None = None
) -> DictConfig:
    """The config ``config_name`` with Hydra ``overrides``, as the command line composes it.

    Args:
        config_name: A YAML at the top of conf/: "train", "evaluate", ...
        overrides: In Hydra's grammar; see `quote` for values with special characters.
        config_dirs: Further folders with groups of the user's (``--config-dir``).
        root: Folder to use in place of `config_dir`.

    Raises:
        ModisteError: Unknown group, option or key, bad grammar, unreadable YAML: one sentence, with what was meant.

    >>> compose("train", ["loss=siglip"]).loss._target_
    'modiste.losses.siglip.SigLipLoss'
    """
    from hydra import initialize_config_dir

    folders = [root or config_dir(), *config_dirs]
    try:
        with _set_aside(), initialize_config_dir(config_dir=str(folders[0].resolve()), **VERSION_BASE):
            return hydra.compose(config_name, _with_searchpath(overrides, config_dirs))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ModisteError(_explain(error, config_name, overrides, folders)) from error


@contextmanager
def _set_aside() -> Iterator[None]:
    """Within a job of Hydra's another config may be composed only when the job's own Hydra is out of the way."""
    from hydra.core.global_hydra import GlobalHydra

    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running


def _with_searchpath(overrides: Sequence[str], config_dirs: Sequence[Path]) -> list[str]:
    if not config_dirs:
        return list(overrides)
    key = "hydra.searchpath=["
    given = [o[len(key) : -1] for o in overrides if o.startswith(key)]
    paths = [quote(f"file://{folder.resolve()}") for folder in config_dirs]
    return [*(o for o in overrides if not o.startswith(key)), f"{key}{','.join(paths + given)}]"]


# ------------------------------------------------------------------------------------------- what Hydra's errors mean


def _explain(error: Exception, config_name: str, overrides: Sequence[str], folders: Sequence[Path]) -> str:
    """One sentence and the remedy, for an error of Hydra's composition."""
    groups = list_groups(folders)
    first_line = str(error).split("\n")[0]
    where, first_line = re.fullmatch(r"(?:In '(.*?)': )?(.*)", first_line).groups()  # type: ignore[union-attr]
    if isinstance(error, OverrideParseException):
        return _explain_grammar(error.override, groups)
    if isinstance(error, MissingConfigException):
        return _explain_missing_config(error, config_name, overrides, folders)
    if isinstance(error, yaml.YAMLError):
        return f"This is not YAML: {' '.join(str(error).split())}."
    if first_line.startswith("Config group override"):
        wrong = [o for o in overrides if o.partition("=")[0].lstrip("+") in groups]
        return f"Cannot read {' '.join(wrong)}: a group's choice is a name or a list of names; ~group leaves it out."
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
        return f"There is no {key} to leave out of {config_name}. {_closest_key(key, config, groups)}"
    detail = str(cause).split("\n")[0] if cause else ""
    return ": ".join(part for part in (where, first_line, detail) if part)


def _explain_grammar(override: str, groups: Collection[str]) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return f"'{override}' is not an override: write key=value. {did_you_mean(override, groups)}"
    if not re.fullmatch(r"[+~]*[\w./@:\-$]+", key):
        return f"Cannot read '{override}': '{key}' is not a key."
    return f"Cannot read the value of '{override}': quote it, {shlex.quote(f'{key}={quote(value)}')}."


def _explain_missing_config(
    error: MissingConfigException, config_name: str, overrides: Sequence[str], folders: Sequence[Path]
) -> str:
    missing = str(error.missing_cfg_file)
    if missing.removesuffix(".yaml") == config_name:
        roots = [file.stem for folder in folders for file in folder.glob("*.yaml")]
        return f"There is no config {config_name}.yaml. {did_you_mean(config_name, roots)}"
    group, _, option = missing.rpartition("/")
    options = [name for name in error.options or () if not name.startswith("_")]
    if group == "hydra/launcher" and option in LAUNCHERS:
        return f"The launcher {option} is not installed: pip install {LAUNCHERS[option]}."
    asked = any(o.lstrip("+").startswith(f"{group}=") for o in overrides)
    where = "" if asked else f" (named in {str(error).split(chr(39))[1]}.yaml)"
    return f"There is no option '{option}' in the group {group}{where}. {did_you_mean(option, options)}"


def _explain_key(cause: Any, config_name: str, overrides: Sequence[str], groups: Collection[str]) -> str:
    key = str(cause.full_key)
    asked = [o for o in overrides if o.partition("=")[0] == key]
    remedy = _closest_key(key, cause.parent_node._get_root(), groups)
    add = f" (+{asked[0]} would add it.)" if asked and "/" not in key else ""
    return f"There is no key '{key}' in {config_name}. {remedy}{add}"


def _closest_key(key: str, config: Any, groups: Collection[str]) -> str:
    """The same name elsewhere in the config, else the most similar key or group, else the neighbours."""
    keys = [path for path, *_ in _walk(config) if path.startswith("hydra") == key.startswith("hydra")]
    parent, _, leaf = key.rpartition(".")
    same_leaf = [k for k in keys if k.rpartition(".")[2] == leaf]
    if same_leaf:
        return f"Did you mean '{min(same_leaf, key=len)}'?"
    everything = {*keys, *groups}
    if difflib.get_close_matches(key, everything):
        return did_you_mean(key, everything)
    return did_you_mean(leaf, [k.rpartition(".")[2] for k in keys if k.rpartition(".")[0] == parent])


# ----------------------------------------------------------------------------------------------------------- building


def instantiate(node: Any, **kwargs: Any) -> Any:
    """What ``node`` describes: Hydra's ``_target_`` notation, for targets on the allow-list only.

    Nested targets are built first (not below ``_recursive_: false``). Every argument is a plain dict, list or number,
    whatever ``_convert_`` says. ``kwargs`` replace the node's arguments and are handed over as they are: no copies, no
    conversion. A node without ``_target_`` gives a dict or list of what is in it; None gives None.

    Raises:
        ModisteError: A target that is not allowed (checked for the whole tree before anything is imported) or not
            there, an argument that it does not take, a value that is missing. Other errors of a constructor are raised
            as they are.

    >>> instantiate({"_target_": "torch.nn.Linear", "in_features": 2}, out_features=3)
    Linear(in_features=2, out_features=3, bias=True)
    >>> instantiate({"_target_": "os.system", "command": "ls"})
    Traceback (most recent call last):
    ...
    modiste.errors.ModisteError: 'os.system' may not be built from a config. If you trust it, set MODISTE_ALLOW=os.
    """
    path = ""
    if OmegaConf.is_config(node):
        path = node._get_full_key(None)
        try:
            node = OmegaConf.to_container(node, resolve=True)
        except OmegaConfBaseException as error:
            raise ModisteError(f"In '{path}': {str(error).splitlines()[0]}.") from error
    targets = list(_targets(node))
    for target in targets:
        _check_name(target)
    for target in targets:
        locate(target)
    if kwargs and not (isinstance(node, dict) and "_target_" in node):
        raise ModisteError(f"'{path}' has no _target_ that could take {', '.join(kwargs)}.")
    return _build(node, path, kwargs)


def locate(target: str) -> Any:
    """The class or function that a dotted ``target`` names.

    Raises:
        ModisteError: It is not on the allow-list, by its name or by the module that defines it, or it does not exist.

    >>> locate("torch.nn.Linear").__name__
    'Linear'
    >>> locate("modiste.utils.run_dir.os.system")
    Traceback (most recent call last):
    ...
    modiste.errors.ModisteError: 'modiste.utils.run_dir.os.system' may not be built from a config.
    """
    target = current(target)
    _check_name(target)
    first, *parts = target.split(".")
    found: Any = _import(first, target)
    for part in parts:
        if hasattr(found, part):
            found = getattr(found, part)
        elif isinstance(found, ModuleType) and hasattr(found, "__path__"):
            found = _import(f"{found.__name__}.{part}", target)
        else:
            raise _absent(found, part, target)
        # Attributes of an allowed module reach whatever it imported.
        if isinstance(found, ModuleType) and not _leads_to_allowed(found.__name__):
            raise _refused(target)
    if not callable(found):
        raise ModisteError(f"'{target}' is not a class or a function.")
    # A method could be called on an object that the config makes up.
    is_method = not isinstance(found, type) and "." in getattr(found, "__qualname__", "")
    if is_method or not _is_allowed(str(getattr(found, "__module__", None))):
        raise _refused(target)
    return found


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            if not isinstance(node["_target_"], str):
                raise ModisteError(f"_target_ is a dotted name, not {node['_target_']!r}.")
            yield current(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _targets(value)


def _allowed_prefixes() -> tuple[str, ...]:
    own = os.environ.get("MODISTE_ALLOW", "").split(",")
    return ALLOWED + tuple(name for name in (name.strip().rstrip(".") for name in own) if name)


def _is_allowed(name: str) -> bool:
    return _lies_in(name, _allowed_prefixes())


def _lies_in(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _leads_to_allowed(name: str) -> bool:
    return _is_allowed(name) or any(prefix.startswith(f"{name}.") for prefix in _allowed_prefixes())


def _check_name(target: str) -> None:
    if not all(part.isidentifier() and not part.startswith("__") for part in target.split(".")):
        raise ModisteError(f"'{target}' is not the dotted name of a class or a function.")
    if not _is_allowed(target):
        module = target.rpartition(".")[0] or target
        raise _refused(target, _remedy(target, module))


def _remedy(target: str, module: str) -> str:
    if not _lies_in(target, ("modiste",)):
        return f" If you trust it, set MODISTE_ALLOW={module}."
    parts = [name.split(".")[1] for name in ALLOWED if name.startswith("modiste.")]
    part = f"{target}.".split(".")[1]
    close = difflib.get_close_matches(part, parts, n=1)
    return f" Did you mean '{close[0]}'?" if close and part not in parts else ""


def _refused(target: str, remedy: str = "") -> ModisteError:
    return ModisteError(f"'{target}' may not be built from a config.{remedy}")


def _import(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise ModisteError(f"'{target}' needs the package '{error.name}', which is not installed.") from error
        parent, _, part = name.rpartition(".")
        if not parent:
            raise ModisteError(f"'{target}' needs the package '{name}', which is not installed.") from error
        raise _absent(importlib.import_module(parent), part, target) from None


def _absent(parent: Any, part: str, target: str) -> ModisteError:
    names = [name for name in dir(parent) if not name.startswith("_")]
    names += [module.name for module in pkgutil.iter_modules(getattr(parent, "__path__", None) or [])]
    where = target[: target.rfind(f".{part}")]
    return ModisteError(f"There is no '{part}' in '{where}' (target '{target}'). {did_you_mean(part, set(names))}")


def _build(node: Any, path: str, kwargs: Mapping[str, Any] | None = None) -> Any:
    if isinstance(node, list):
        return [_build(value, f"{path}[{i}]") for i, value in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {key: _build(value, _join(path, key)) for key, value in node.items()}
    target, kwargs = locate(node["_target_"]), kwargs or {}
    partial, recursive = (
        _flag(node, name, default, path) for name, default in (("_partial_", False), ("_recursive_", True))
    )
    arguments = {key: value for key, value in node.items() if key not in SPECIAL and key not in kwargs}
    if partial:
        arguments = {key: value for key, value in arguments.items() if value != "???"}
    problems = [f"'{_join(path, key)}' has no value: give one." for key, value in arguments.items() if value == "???"]
    args = node.get("_args_", [])
    problems += _signature_problems(
        node["_target_"], target, [*arguments, *kwargs], len(args), path, complete=not partial
    )
    if problems:
        raise ModisteError(problems[0])
    if recursive:
        args = _build(args, _join(path, "_args_"))
        arguments = {key: _build(value, _join(path, key)) for key, value in arguments.items()}
    if partial:
        return functools.partial(target, *args, **arguments, **kwargs)
    try:
        return target(*args, **arguments, **kwargs)
    except Exception as error:
        noted = getattr(error, "__notes__", None) or isinstance(error, ModisteError)
        if hasattr(error, "add_note") and not noted:  # Python 3.11
            error.add_note(f"While building {path or 'the config'}: {node['_target_']}")
        raise


def _flag(node: Mapping[str, Any], name: str, default: bool, path: str) -> bool:
    value = node.get(name, default)
    if not isinstance(value, bool):
        raise ModisteError(f"'{_join(path, name)}' is true or false, not {value!r}.")
    return value


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _signature_problems(
    name: str, target: Any, keys: Collection[str], positional: int, path: str, complete: bool
) -> list[str]:
    """Arguments that ``target`` does not take and, where it is called ``complete``-ly, those that it lacks."""
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        return []
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in named]
    problems = []
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        problems = [
            f"'{_join(path, key)}': {name} takes no '{key}'. {did_you_mean(str(key), names)}"
            for key in keys
            if key not in names
        ]
    if complete:
        filled = {p.name for p in [p for p in parameters if p.kind is not p.KEYWORD_ONLY][:positional]} | set(keys)
        problems += [
            f"'{_join(path, p.name)}' is missing: {name} needs it."
            for p in named
            if p.default is p.empty and p.name not in filled
        ]
    return problems


# --------------------------------------------------------------------------------------------------------- validation


def validate(cfg: DictConfig, given: Mapping[str, Collection[str]] | None = None) -> None:
    """Find what is wrong with a composed config before anything is built or loaded.

    Missing values, interpolations that lead nowhere, targets that are refused or absent, arguments that a target does
    not take or lacks, and contradictions. A target may define a static ``validate_config(node, cfg)`` that raises
    ModisteError.

    Args:
        cfg: The job's config.
        given: ``{key path: arguments that the caller adds}``, as in ``{"model": ["embed_dim"]}``.

    Raises:
        ModisteError: All the problems, a line each.

    >>> validate(OmegaConf.create({"act": {"_target_": "torch.nn.GELU", "aproximate": "tanh"}}))
    Traceback (most recent call last):
    ...
    modiste.errors.ModisteError: 'act.aproximate': torch.nn.GELU takes no 'aproximate'. Did you mean 'approximate'?
    """
    given = given or {}
    problems = value_problems(cfg, {_join(path, name) for path in given for name in given[path]}) + _contradictions(cfg)
    nodes = [("", cfg), *((path, node) for path, node in _nodes(cfg))]
    checks = []
    for path, node in nodes:
        if "_target_" not in node or OmegaConf.is_missing(node, "_target_"):
            continue
        try:
            target = locate(str(node["_target_"]))
        except ModisteError as error:
            problems.append(f"'{_join(path, '_target_')}': {error}")
            continue
        except OmegaConfBaseException:  # an interpolation that leads nowhere, already reported
            continue
        keys = [str(k) for k in node if k not in SPECIAL] + list(given.get(path, ()))
        args = len(node.get("_args_") or ())
        complete = not node.get("_partial_", False)
        problems += _signature_problems(str(node["_target_"]), target, keys, args, path, complete)
        if hasattr(target, "validate_config"):
            checks.append((path, node, target))
    if not problems:  # a target's own check may rely on everything else
        for path, node, target in checks:
            try:
                target.validate_config(node, cfg)
            except ModisteError as error:
                problems.append(f"'{path}': {error}")
    report(problems)


def report(problems: Sequence[str]) -> None:
    """Raise a ModisteError that lists ``problems``, if there are any."""
    if len(problems) > 1:
        raise ModisteError("\n- ".join([f"The config has {len(problems)} problems:", *problems]))
    if problems:
        raise ModisteError(problems[0])


def value_problems(cfg: DictConfig, given: Collection[str] = ()) -> list[str]:
    """Mandatory values (???) that are missing and not ``given``, and interpolations that lead nowhere; no imports."""
    problems = []
    for path, parent, key in _walk(cfg):
        if OmegaConf.is_missing(parent, key):
            if path not in given and not (isinstance(parent, DictConfig) and parent.get("_partial_", False)):
                problems.append(f"'{path}' has no value: give one with {path}=…")
        elif OmegaConf.is_interpolation(parent, key):
            try:
                parent[key]
            except MissingMandatoryValue:  # reported where it is
                continue
            except OmegaConfBaseException as error:
                if "HydraConfig was not set" in str(error):  # ${hydra:…} is known only while a job runs
                    continue
                text = OmegaConf.to_container(parent, resolve=False)[key]  # type: ignore[index]
                problems.append(f"'{path}' = {text} cannot be resolved: {_explain_interpolation(error, cfg)}")
    return problems


def _explain_interpolation(error: OmegaConfBaseException, cfg: DictConfig) -> str:
    line = str(error).splitlines()[0].rstrip(".")
    if match := re.search(r"Interpolation key '(.+)' not found", line):
        return f"there is no '{match[1]}'. {_closest_key(match[1], cfg, ())}"
    return f"{line}."


def _contradictions(cfg: DictConfig) -> list[str]:
    problems = []
    starts = [key for key in STARTS if _value(cfg, key) is not None]
    if len(starts) > 1:
        problems.append(f"{' and '.join(starts)} exclude each other: a run starts in one way.")
    batch_size = _value(cfg, "data.batch_size")
    if "loss" in cfg and isinstance(batch_size, int) and batch_size < 2:
        problems.append(f"'data.batch_size' is {batch_size}: a contrastive loss needs at least 2 pairs in a batch.")
    monitor, tasks = _value(cfg, "monitor.metric"), list(_value(cfg, "task") or {})
    sets = [*(_value(cfg, "transfer") or {}), *([HELD_OUT] if _value(cfg, "data.held_out") else [])]
    problems += [f"'transfer.{name}' has the name of a task: give the set another." for name in sets if name in tasks]
    measured = [["val", name] for name in (*tasks, *sets)]
    if isinstance(monitor, str) and monitor != "val/loss" and monitor.split("/")[:2] not in measured:
        problems.append(
            f"'monitor.metric' is {monitor}, which no task measures: give val/loss, or val/<task>/<metric> of one of "
            f"{', '.join(tasks) or 'no tasks'}"
            + (f", or val/<set>/loss or val/<set>/<task>/<metric> of one of {', '.join(sets)}." if sets else ".")
        )
    if "run" in cfg and "embeddings" in cfg:
        problems += _what_to_evaluate(cfg)
    for path, *_ in _walk(cfg):
        if path.rpartition(".")[2] in ("size", "image_size"):
            size = _value(cfg, path)
            if isinstance(size, (int, float)) and size <= 0:
                problems.append(f"'{path}' is {size}: an image has at least one pixel.")
    return problems


def _what_to_evaluate(cfg: DictConfig) -> list[str]:
    matrices = [name for name in ("image", "text") if _value(cfg, f"embeddings.{name}")]
    if len(matrices) == 1:
        return ["Evaluation from disk needs both embeddings.image=FILE and embeddings.text=FILE."]
    if matrices and _value(cfg, "run"):
        return ["run= and embeddings= exclude each other: one model is evaluated at a time."]
    return []


def _value(cfg: DictConfig, path: str) -> Any:
    try:
        return OmegaConf.select(cfg, path)
    except OmegaConfBaseException:  # reported by `value_problems`
        return None


def _walk(node: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted path, container, key) of everything in ``node``; what an interpolation points to is visited once."""
    if not isinstance(node, (DictConfig, ListConfig)) or node._is_none() or node._is_missing():
        return
    for key in range(len(node)) if isinstance(node, ListConfig) else list(node.keys()):
        here = _join(path, key)
        yield here, node, key
        if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):  # type: ignore[arg-type]
            yield from _walk(node[key], here)  # type: ignore[index]


def _nodes(cfg: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    for path, parent, key in _walk(cfg):
        if not OmegaConf.is_interpolation(parent, key) and not OmegaConf.is_missing(parent, key):
            value = parent[key]
            if isinstance(value, DictConfig) and not value._is_none():
                yield path, value
