"""Arguments and annotations of a config target, read from its source without importing it.

The annotations are the schema of the target's config node, and importing torch to read them would take seconds.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modiste.config.targets import is_allowed
from modiste.utils.ranges import NAMES, Range


class Unknown:
    """Stands for every annotation that is not a plain type; any value fits it."""

    def __class_getitem__(cls, item: Any) -> type[Unknown]:
        return cls


@dataclass(frozen=True)
class Parameter:
    """An argument's type, whether it is required, and whether its default is None."""

    type: Any
    required: bool
    none: bool = False


@dataclass(frozen=True)
class Signature:
    """Arguments of a target by name; ``open`` if it takes arbitrary keyword arguments."""

    parameters: Mapping[str, Parameter]
    open: bool


class _Names(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        return Unknown


PLAIN = {name: getattr(typing, name) for name in ("Annotated", "Any", "Literal", "Optional", "Union")}
PLAIN |= {"Callable": Unknown, "Path": str, "PathLike": str, "StrPath": str, "typing": typing}
PLAIN |= {"List": list, "Dict": dict, "Tuple": tuple, "Sequence": Sequence, "Mapping": Mapping, "Iterable": Iterable}
PLAIN |= {type_.__name__: type_ for type_ in (int, float, str, bool, list, dict, tuple)}
PLAIN |= {"Range": Range} | NAMES

TYPE_NODES = (
    ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.Tuple, ast.List, ast.BinOp, ast.BitOr, ast.UnaryOp,
    ast.USub, ast.Load, ast.keyword,
)  # fmt: skip
"""Nodes permitted in an annotation before it is evaluated: no comprehensions, and no calls but of Range."""


@functools.cache
def signature(target: str) -> Signature | None:
    """Return the arguments of ``target``; None if its source does not tell, or is not to be read.

    Only Modiste's own source and allowed targets are read: an untrusted configuration could otherwise name a file
    shipped with it, whose annotations would be evaluated here.

    >>> sorted(signature("modiste.losses.siglip.SigLipLoss").parameters)[:2]
    ['init_bias', 'init_scale']
    """
    if not (target.startswith("modiste.") or is_allowed(target)):
        return None
    module, _, name = target.rpartition(".")
    return _of_name(module, name, depth=0) if module else None


def _of_name(module: str, name: str, depth: int) -> Signature | None:
    tree = _tree(module)
    if tree is None or depth > 8:
        return None
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return _of_function(node) if isinstance(node, ast.FunctionDef) else _of_class(module, node, depth)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _of_name(_absolute(module, node), alias.name, depth + 1)
    return None


def _of_class(module: str, node: ast.ClassDef, depth: int) -> Signature | None:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _of_function(item, method=True)
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
        fields = [item for item in fields if "ClassVar" not in ast.unparse(item.annotation)]
        inherited = [_of_name(module, ast.unparse(base), depth + 1) for base in node.bases]
        found = {name: parameter for base in inherited if base for name, parameter in base.parameters.items()}
        found |= {item.target.id: _parameter(item.annotation, item.value) for item in fields}  # type: ignore[union-attr]
        return Signature(found, open=False)
    for base in node.bases:
        if isinstance(base, ast.Name) and (found_base := _of_name(module, base.id, depth + 1)):
            return found_base
    return None


def _of_function(node: ast.FunctionDef, method: bool = False) -> Signature:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [*zip(positional, defaults, strict=True)][1 if method else 0 :]
    pairs += [*zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    found = {argument.arg: _parameter(argument.annotation, default) for argument, default in pairs}
    return Signature(found, open=arguments.kwarg is not None)


def _parameter(annotation: ast.expr | None, default: ast.expr | None) -> Parameter:
    none = isinstance(default, ast.Constant) and default.value is None
    return Parameter(_type(annotation), default is None, none)


def _type(annotation: ast.expr | None) -> Any:
    if annotation is None or not all(map(_is_permitted, ast.walk(annotation))):
        return Unknown
    try:
        return eval(compile(ast.Expression(annotation), "annotation", "eval"), {"__builtins__": {}}, _Names(PLAIN))
    except Exception:  # only the defining module can evaluate it
        return Unknown


def _is_permitted(node: ast.AST) -> bool:
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Range"
    return called or isinstance(node, TYPE_NODES)


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    file = _file(module)
    package = module.split(".") if file is not None and file.name == "__init__.py" else module.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *(node.module or "").split(".")]).rstrip(".")


@functools.cache
def _tree(module: str) -> ast.Module | None:
    file = _file(module)
    try:
        return ast.parse(file.read_text(encoding="utf-8")) if file is not None else None
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


@functools.cache
def _file(module: str) -> Path | None:
    """The source of a module, found without importing its packages."""
    first, *parts = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not parts:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or []:
        path = Path(folder, *parts)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None
