"""The public names of the packages exist, have types, and importing a package imports none of its modules."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ["losses", "metrics", "tasks", "terms", "images", "texts", "pretrained"]


def declared(package):
    """Public name → module, as type checkers see it."""
    tree = ast.parse(Path(package.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.asname: line.module for line in block.body for alias in line.names}


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_are_found_and_typed(name):
    package = importlib.import_module(f"modiste.{name}")
    modules = {file.stem for file in Path(package.__file__).parent.glob("*.py")}
    assert not set(package.__all__) & modules, "a module of the name would hide it"
    assert declared(package) == package._HOMES
    for public in package.__all__:
        assert getattr(package, public).__module__.startswith(f"modiste.{name}.")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def test_packages_are_light():
    words = "; ".join(f"import modiste.{name}" for name in PACKAGES)
    code = f"import sys; {words}; print([m for m in ('torch', 'transformers', 'timm') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
