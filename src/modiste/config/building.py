"""Instantiation of config nodes."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from modiste.config.aliases import current
from modiste.config.targets import WRITERS, check_name, check_place, locate, targets_of
from modiste.config.tree import join
from modiste.errors import ModisteError, did_you_mean

# fsspec, through which Lightning writes, reads these as URLs.
ADDRESS = re.compile(r"://|::")
SPECIAL = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")


def instantiate(node: Any, **kwargs: Any) -> Any:
    """Instantiate ``node`` like Hydra's ``instantiate``, but only targets on the allow-list.

    Nested targets are built first, except below ``_recursive_: false``. Arguments are always plain containers and
    values; ``_convert_`` is ignored. ``kwargs`` replace the node's arguments and are passed without copy or conversion.
    A node without ``_target_`` gives a dict or list of its instantiated items; None gives None.

    Raises:
        ModisteError: A target is not allowed, or not at this key (checked for the whole tree before any import), or
            does not exist; an argument is unknown or missing; a package is not installed; or a callback or logger
            would write to a URL. Other errors of a constructor are not caught.

    >>> instantiate({"_target_": "torch.nn.Linear", "in_features": 2}, out_features=3)
    Linear(in_features=2, out_features=3, bias=True)
    >>> instantiate({"_target_": "os.system", "command": "ls"})
    Traceback (most recent call last):
    ...
    modiste.errors.ModisteError: 'os.system' may not be instantiated from a config.
    """
    path = ""
    if OmegaConf.is_config(node):
        path = node._get_full_key(None)
        try:
            node = OmegaConf.to_container(node, resolve=True)
        except OmegaConfBaseException as error:
            raise ModisteError(f"In '{path}': {str(error).splitlines()[0]}.") from error
    targets = list(targets_of(node))
    for target in targets:
        check_name(target)
        check_place(target, path)
    for target in targets:
        locate(target)
    if kwargs and not (isinstance(node, dict) and "_target_" in node):
        raise ModisteError(f"'{path}' has no _target_ that accepts {', '.join(kwargs)}.")
    return _build(node, path, kwargs)


def _build(node: Any, path: str, kwargs: Mapping[str, Any] | None = None) -> Any:
    if isinstance(node, list):
        return [_build(value, f"{path}[{i}]") for i, value in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {key: _build(value, join(path, key)) for key, value in node.items()}
    target, kwargs = locate(node["_target_"]), kwargs or {}
    partial, recursive = (
        _flag(node, name, default, path) for name, default in (("_partial_", False), ("_recursive_", True))
    )
    arguments = {key: value for key, value in node.items() if key not in SPECIAL and key not in kwargs}
    if partial:
        arguments = {key: value for key, value in arguments.items() if value != "???"}
    problems = [f"'{join(path, key)}' has no value: give one." for key, value in arguments.items() if value == "???"]
    if current(node["_target_"]).startswith(WRITERS):
        problems += [
            f"'{join(path, key)}' is the URL {value}: give a local folder."
            for key, value in arguments.items()
            if isinstance(value, str) and ADDRESS.search(value)
        ]
    args = node.get("_args_", [])
    problems += signature_problems(
        node["_target_"], target, [*arguments, *kwargs], len(args), path, complete=not partial
    )
    if problems:
        raise ModisteError(problems[0])
    if recursive:
        args = _build(args, join(path, "_args_"))
        arguments = {key: _build(value, join(path, key)) for key, value in arguments.items()}
    if partial:
        return functools.partial(target, *args, **arguments, **kwargs)
    try:
        return target(*args, **arguments, **kwargs)
    except ImportError as error:  # Lightning names the package only in its message
        package = error.name or next(iter(re.findall(r"'([\w.-]+)", str(error))), str(error).partition("\n")[0])
        raise ModisteError(
            f"'{path}': {node['_target_']} needs the package '{package}', which is not installed: install it, or "
            "use another target."
        ) from error
    except Exception as error:
        noted = getattr(error, "__notes__", None) or isinstance(error, ModisteError)
        if hasattr(error, "add_note") and not noted:  # Python 3.11
            error.add_note(f"While building {path or 'the config'}: {node['_target_']}")
        raise


def _flag(node: Mapping[str, Any], name: str, default: bool, path: str) -> bool:
    value = node.get(name, default)
    if not isinstance(value, bool):
        raise ModisteError(f"'{join(path, name)}' must be true or false, not {value!r}.")
    return value


def signature_problems(
    name: str, target: Any, keys: Collection[str], positional: int, path: str, complete: bool
) -> list[str]:
    """Describe unknown arguments of ``target`` and, if the call is ``complete``, missing ones.

    Args:
        name: Name of the target for the messages.
        target: The class or function.
        keys: Names of the keyword arguments.
        positional: Number of ``_args_``, which only targets with ``*args`` may have.
        path: Dotted path of the config node.
        complete: Whether all required arguments must be given; False for ``_partial_``.
    """
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        return []
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in named]
    problems = []
    if positional and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        problems.append(f"'{join(path, '_args_')}': {name} takes its arguments by name: {', '.join(names)}.")
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        problems += [
            f"'{join(path, key)}': {name} takes no '{key}'. {did_you_mean(str(key), names)}"
            for key in keys
            if key not in names
        ]
    if complete:
        filled = {p.name for p in [p for p in parameters if p.kind is not p.KEYWORD_ONLY][:positional]} | set(keys)
        problems += [
            f"'{join(path, p.name)}' is missing: {name} needs it."
            for p in named
            if p.default is p.empty and p.name not in filled
        ]
    return problems
