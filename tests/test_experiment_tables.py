"""What experiments/ hold: tables are what their scripts write of the stored results, and their commands compose."""

import contextlib
import importlib
import sys
from pathlib import Path

import pytest

from modiste.config import compose, validate
from modiste.evaluation.spec import EvaluationSpec, named_entries

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


STEPS = {
    "interpolate": lambda record, general: record.interpolate(),
    "probe": lambda record, general: record.probe(),
    "transfer": lambda record, general: record.TRANSFER.measure(0),
    "adaptation": lambda record, general: record.ADAPTATION.measure(0),
    "held_out": lambda record, general: record.HELD_OUT.measure(0),
    "general": lambda record, general: general.train_and_measure(0),
    "average": lambda record, general: general.average([Path("a"), Path("b"), Path("c")], Path("d"), Path("e")),
}


@pytest.mark.parametrize("step", STEPS)
def test_the_records_commands_compose(monkeypatch, tmp_path, step):
    general = script(monkeypatch, "record", "general")
    record = importlib.import_module("record")
    monkeypatch.delitem(sys.modules, "record")
    called = []
    for module in (record, general):
        monkeypatch.setattr(module, "modiste", lambda *arguments: called.append(arguments))
        for folder in {"MEASURED", "RESULTS", "WISE"} & {*vars(module)}:
            monkeypatch.setattr(module, folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(FileNotFoundError):  # of the results, since nothing runs
        STEPS[step](record, general)
    assert called
    for command, *overrides in called:
        if command == "compare":  # its files are no overrides
            continue
        cfg = compose(command, overrides)
        validate(cfg)
        for name, entry in named_entries(cfg.get("transfer")).items():
            EvaluationSpec.compose(name, entry, [])
