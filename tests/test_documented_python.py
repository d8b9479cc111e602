"""Every Python block of README and docs compiles, and the names, attributes and keywords of modiste in it exist."""

import ast
import builtins
import contextlib
import functools
import importlib
import inspect
import re
import sys
import textwrap
import types
import typing
from dataclasses import dataclass
from pathlib import Path

import pytest

import modiste

HOME = Path(modiste.__file__).resolve().parents[2]
WRITTEN_BY_THE_BUILD = ("docs/_build/", "docs/notebooks/", "docs/reference/generated/")
PAGES = [HOME / "README.md", *sorted(HOME.glob("docs/**/*.md"))]
UNKNOWN = object()


@dataclass(frozen=True)
class Value:
    """A value of an annotated type."""

    kind: object


def blocks():
    """(place, source) of every block."""
    for file in PAGES:
        place = file.relative_to(HOME).as_posix()
        if not place.startswith(WRITTEN_BY_THE_BUILD):
            text = file.read_text(encoding="utf-8")
            found = re.finditer(r"^( *)```python\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
            for match in found:
                line = text.count("\n", 0, match.start()) + 1
                yield pytest.param(textwrap.dedent(match[2]), id=f"{place}:{line}")


class Names(dict):
    """What annotations of a module may name, imports under TYPE_CHECKING included; anything else is Any."""

    def __init__(self, module):
        self.module = sys.modules[module]
        for block in ast.walk(ast.parse(inspect.getsource(self.module))):
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
                for statement in block.body:
                    with contextlib.suppress(ImportError):
                        exec(ast.unparse(statement), self)

    def __missing__(self, name):
        return getattr(self.module, name, getattr(builtins, name, typing.Any))


@functools.cache
def types_of(owner):
    """Name → type of a function's return or a class's attributes; none where it has no annotations."""
    try:
        return typing.get_type_hints(owner, localns=Names(owner.__module__))
    except TypeError:
        return {}


def is_ours(thing):
    name = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", None)
    return str(name).split(".")[0] == "modiste"


class Checker(ast.NodeVisitor):
    """Follows imports, assignments and annotated types, in the order of the lines; ``problems`` is what is wrong."""

    def __init__(self):
        self.names, self.problems = {}, []

    def visit_Import(self, node):
        for alias in node.names:
            if alias.name.split(".")[0] == "modiste":
                module = self.imported(alias.name)
                self.names[alias.asname or "modiste"] = module if alias.asname else modiste

    def visit_ImportFrom(self, node):
        if (node.module or "").split(".")[0] == "modiste":
            module = self.imported(node.module)
            for alias in node.names:
                self.names[alias.asname or alias.name] = self.attribute(module, alias.name)

    def imported(self, name):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("modiste"):
                raise  # the tests' environment has every package that the pages use
            self.problems.append(f"there is no module {name}")
            return UNKNOWN

    def visit_Assign(self, node):
        value = self.visit(node.value)
        for target in node.targets:
            self.bind(target, value)

    def visit_For(self, node):
        self.bind(ast.Tuple([node.target]), self.visit(node.iter))
        for statement in node.body:
            self.visit(statement)

    def bind(self, target, value):
        """Give a target its value; several targets get the fields of a named tuple or the entries of a list."""
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Tuple):
            kind = value.kind if isinstance(value, Value) else None
            parts = [Value(t) for t in typing.get_args(kind)[:1]] * len(target.elts)
            if hasattr(kind, "_fields"):
                parts = [Value(types_of(kind).get(field)) for field in kind._fields]
                if len(parts) != len(target.elts):
                    self.problems.append(f"{kind.__name__} has the fields {kind._fields}")
            for element, part in zip(target.elts, parts, strict=False):
                self.bind(element, part)

    def visit_Name(self, node):
        return self.names.get(node.id, UNKNOWN)

    def visit_Attribute(self, node):
        return self.attribute(self.visit(node.value), node.attr)

    def attribute(self, owner, name):
        kind = owner.kind if isinstance(owner, Value) else owner
        if kind is UNKNOWN or kind is None or not is_ours(kind):
            return UNKNOWN
        if isinstance(owner, Value) and name in types_of(kind):
            return Value(types_of(kind)[name])
        if hasattr(kind, name):
            found = getattr(kind, name)
            if isinstance(found, property):
                return Value(types_of(found.fget).get("return"))
            return found
        if isinstance(kind, types.ModuleType):
            try:
                return importlib.import_module(f"{kind.__name__}.{name}")
            except ModuleNotFoundError:
                pass
        elif any(re.search(rf"\bself\.{name}\b", inspect.getsource(one)) for one in kind.__mro__ if is_ours(one)):
            return UNKNOWN
        self.problems.append(f"{kind.__name__} has no {name}")
        return UNKNOWN

    def visit_Call(self, node):
        called = self.visit(node.func)
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            self.visit(argument)
        if called is UNKNOWN or isinstance(called, Value) or not callable(called) or not is_ours(called):
            return UNKNOWN
        method = inspect.isfunction(called) and isinstance(node.func, ast.Attribute) and "." in called.__qualname__
        given = [None] * (len(node.args) + method)
        if not any(isinstance(argument, ast.Starred) for argument in node.args):
            try:
                keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
                inspect.signature(called).bind_partial(*given, **keywords)
            except TypeError as error:
                self.problems.append(f"{called.__qualname__}: {error}")
        return Value(called if inspect.isclass(called) else types_of(called).get("return"))


def problems(source):
    checker = Checker()
    checker.visit(ast.parse(source))
    return checker.problems


@pytest.mark.parametrize("source", blocks())
def test_a_block_compiles_and_its_names_and_keywords_exist(source):
    compile(source, "block", "exec")
    assert problems(source) == []


def test_every_kind_of_page_has_blocks():
    places = [block.id.partition(":")[0] for block in blocks()]
    assert places.count("README.md") == 2
    assert any(place.startswith("docs/start/") for place in places)
    assert sum(place.startswith("docs/guides/") for place in places) >= 6


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import modiste\nmodiste.train([], callback=[])", "train: got an unexpected keyword argument 'callback'"),
        ("import modiste\nmodiste.trian([])", "modiste has no trian"),
        ("import modiste\nrun = modiste.train([])\nrun.pth", "Run has no pth"),
        ("import modiste\na, b = modiste.load('x')", "Loaded has the fields ('model', 'transform', 'tokenizer')"),
        ("import modiste\nfor r in modiste.evaluate('x'):\n    r.metric", "Result has no metric"),
        ("import modiste\nm = modiste.load('x').model\nm.ground(1, 'x', at=1)", "unexpected keyword argument 'at'"),
        ("from modiste import search\ni = search.open('x')\ni.search(txt='a')", "unexpected keyword argument 'txt'"),
        ("from modiste import search\nsearch.open('x').search(text='a').tabel", "Results has no tabel"),
        ("from modiste.losses import CliipLoss", "modiste.losses has no CliipLoss"),
        ("from modiste.loses import ClipLoss", "there is no module modiste.loses"),
        ("from modiste.losses import ClipLoss as Loss\nprint(Loss(scale=1))", "unexpected keyword argument 'scale'"),
    ],
)  # fmt: skip
def test_a_wrong_name_or_keyword_is_found(source, problem):
    assert any(problem in found for found in problems(source)), problems(source)


def test_what_is_not_of_modiste_is_left_alone():
    assert problems("from lightning import Trainer\nTrainer(max_epoch=3).fit(x, y).z") == []
