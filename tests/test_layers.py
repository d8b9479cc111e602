"""Imports only point inwards: the layers of CONTRIBUTING.md, and no cycle between modules."""

import ast
import itertools
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import modiste

ROOT = Path(modiste.__file__).parent
# From the outside in; a folder may import from its own layer and from those after it.
LAYERS = (
    ("__main__", "cli", "commands"),
    ("serve", "sweeps", "compat"),
    ("training", "evaluation", "search", "export"),
    ("reporting",),
    ("embedding", "tasks"),
    ("data", "losses", "terms"),
    ("models", "images", "texts", "pretrained"),
    ("metrics", "config", "utils", "errors"),
)
LEVEL = {folder: level for level, folders in enumerate(LAYERS) for folder in folders}


MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip("."): file
    for file in ROOT.rglob("*.py")
}


def imports():
    """(importing module, imported module) of every import statement, inside functions and for type checkers, too."""
    for module, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "modiste":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.startswith("modiste.")]
            else:
                continue
            for name in names:
                yield module, name.removeprefix("modiste.")


def module_of(name):
    """The module that an import names, or that has the name."""
    return name if name in MODULES else name.rpartition(".")[0]


def cycle(edges):
    """One cycle of (importing, imported) modules; None where there is none."""
    graph = {}
    for a, b in edges:
        graph.setdefault(a, set()).add(b)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def folders():
    return {(a.split(".")[0], b.split(".")[0]) for a, b in imports()} - {("__init__", name) for name in LEVEL}


def test_every_folder_has_a_layer():
    found = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert found - {"__init__"} == set(LEVEL) & found
    assert len(list(ROOT.glob("*.py"))) <= 10


def test_imports_point_inwards():
    upward = {
        f"{a} → {b}"
        for a, b in imports()
        if a.split(".")[0] in LEVEL and b.split(".")[0] in LEVEL and LEVEL[b.split(".")[0]] < LEVEL[a.split(".")[0]]
    }
    assert not upward


def test_only_config_names_modules_in_strings_that_it_could_not_import():
    """A target in a string would be an import that the other tests do not see: outwards, or in a circle."""
    naming, importing = set(), folders()
    for module, file in MODULES.items():
        folder = module.split(".")[0]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) else None
            named = re.fullmatch(r"modiste\.(\w+)[\w.]*", text) if isinstance(text, str) else None
            if not (named and folder in LEVEL and named[1] in LEVEL) or named[1] == folder:
                continue
            if LEVEL[named[1]] < LEVEL[folder] or (named[1], folder) in importing:
                naming.add(folder)
    assert naming == {"config"}


def test_one_function_builds_the_embedder_of_a_model():
    building = {
        module
        for module, file in MODULES.items()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "ModelEmbedder"
    }
    assert building == {"embedding.build"}


def test_no_two_folders_import_each_other():
    edges = {(a, b) for a, b in folders() if a != b}
    assert not {(a, b) for a, b in edges if (b, a) in edges and a < b}


def test_no_modules_import_each_other_in_a_circle():
    edges = {(a, module_of(b)) for a, b in imports()}
    assert not cycle({(a, b) for a, b in edges if b and a != b})


def test_commands_are_short_and_do_not_import_each_other():
    commands = {name: file for name, file in MODULES.items() if name.startswith("commands.")}
    assert len(commands) > 15
    long = {
        name: n for name, file in commands.items() if (n := len(file.read_text(encoding="utf-8").splitlines())) > 80
    }
    assert not long
    shared = "commands._invocation"
    assert not {(a, b) for a, b in imports() if a in commands and module_of(b) in {*commands} - {shared}}


def test_a_cycle_is_found_at_any_length():
    chain = list(itertools.pairwise("abcd"))
    assert cycle(chain) is None
    assert set(cycle([*chain, ("d", "b")])) == set("bcd")


def test_the_layers_are_those_of_contributing():
    text = (ROOT.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d \| (`.+?`) \|", text, re.MULTILINE)
    assert [tuple(re.findall(r"`(\w+)`", row)) for row in rows] == [LAYERS[0][1:], *LAYERS[1:]]
