"""The tables of experiments/ are what their scripts write of the stored results today."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def script(monkeypatch, folder, name):
    """A script of experiments/, imported as it imports its neighbours, and forgotten afterwards."""
    monkeypatch.syspath_prepend(ROOT / "experiments" / folder)
    before = {*sys.modules}
    module = importlib.import_module(name)
    for new in {*sys.modules} - before:
        if Path(getattr(sys.modules[new], "__file__", None) or "/").is_relative_to(ROOT / "experiments"):
            monkeypatch.delitem(sys.modules, new)
    return module


def written(readme, name):
    """What stands between the marks of a table."""
    text = readme.read_text(encoding="utf-8")
    return text.split(f"<!-- {name}: begin -->\n")[1].split(f"\n<!-- {name}: end -->")[0]


@pytest.mark.parametrize(
    ("folder", "name", "tables"),
    [
        ("record", "record", lambda module: module.tables()),
        ("record", "general", lambda module: {"general": module.domains()}),
        ("record", "probes", lambda module: {"general probes": module.probes()}),
        ("grounding", "grounding", lambda module: module.tables()),
    ],
)
def test_tables_are_those_of_the_stored_results(monkeypatch, folder, name, tables):
    module = script(monkeypatch, folder, name)
    readme = ROOT / "experiments" / folder / "README.md"
    found = tables(module)
    assert found
    assert {name: written(readme, name) for name in found} == found


def test_the_projects_readme_has_the_records_headline(monkeypatch):
    module = script(monkeypatch, "record", "record")
    assert written(ROOT / "README.md", "record") == module.headline()
