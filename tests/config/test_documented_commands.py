"""Every `modiste …` line of README, docs, YAML headers, help texts and docstrings composes and validates."""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from modiste.cli.call import Call
from modiste.cli.outline import commands
from modiste.config import config_dir
from modiste.errors import ModisteError

HOME = Path(__file__).parents[2]
TEXTS = [HOME / "README.md", HOME / "CONTRIBUTING.md", HOME / "SECURITY.md", *sorted(HOME.glob("docs/*.md"))]
TEXTS += [file for name in ("start", "guides", "reference") for file in sorted(HOME.glob(f"docs/{name}/*.md"))]
TEXTS += [*sorted(HOME.glob("experiments/**/README.md")), HOME / "benchmarks" / "README.md"]
TABLES = sorted(HOME.glob("experiments/*/table.yaml"))
# Words in capitals, and dots, stand for something of the reader's.
PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]{2,}\b(?![./\w])|…")
# What these say is about the machine or files, not about the command.
NOT_HERE = (
    "No model given",
    "There is no option 'x'",
    "does not exist",
    "no run directory",
    "not a run directory",
    "is not a run",
    "no folder",
    "has no GPU",
    "no checkpoint",
    "is not installed",
)


def lines_of_markdown(text):
    """Lines of code blocks that start with the program, continued ones joined, and commands in backquotes."""
    for language, block in re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.S | re.M):
        if language in ("", "bash", "sh", "console", "shell"):
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                if match := re.match(r"\s*(?:\$ )?((?:\w+=\S+ )*modiste .*)", line):
                    yield match[1]
    yield from re.findall(r"`(modiste [^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M))


def lines_of_yaml(text):
    """Comments that are a command or end with one, after a colon, and commands in backquotes."""
    for line in text.splitlines():
        if match := re.search(r"#(?:.*:)?\s+(modiste .*)", line):
            yield match[1]
        yield from re.findall(r"`(modiste [^`]+)`", line)


def lines_of_table(text):
    """The commands that a paper's table names, one for each of its rows' models."""
    for line in re.findall(r"^\s*command: (modiste .*)$", text, re.M):
        yield line.replace("{model}", "fashionclip_2")


def lines_of_make(text):
    """The commands of the targets and those that they print, with the run's directory in place."""
    run = re.search(r"^DEMO := (.*)$", text, re.M)[1]
    printed = re.findall(r"^\t@echo \"\s*\$\(BIN\)/(modiste .*?)(?:\s{3,}.*)?\"$", text, re.M)
    for line in re.findall(r"^\t\$\(BIN\)/(modiste .*)$", text, re.M) + printed:
        yield line.replace("$(DEMO)", run)


def lines_of_python(text):
    """Commands in docstrings, as help shows them."""
    if not re.search(r"(`|: )modiste ", text):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and (doc := ast.get_docstring(node)):
            yield from re.findall(r"`(modiste [^`]+)`", re.sub(r"\n\s*", " ", doc))
            yield from re.findall(r"^[A-Z][^`\n]*: (modiste .*)$", doc, re.M)


def documented():
    """(place, line) of every command line."""
    found = {}
    for file in TEXTS:
        if file.is_file():
            found.update(dict.fromkeys(lines_of_markdown(file.read_text(encoding="utf-8")), file))
    found.update(dict.fromkeys(lines_of_make((HOME / "Makefile").read_text(encoding="utf-8")), HOME / "Makefile"))
    for file in TABLES:
        found.update(dict.fromkeys(lines_of_table(file.read_text(encoding="utf-8")), file))
    for file in config_dir().rglob("*.yaml"):
        found.update(dict.fromkeys(lines_of_yaml(file.read_text(encoding="utf-8")), file))
    for file in (HOME / "src").rglob("*.j2"):
        found.update(dict.fromkeys(lines_of_markdown(file.read_text(encoding="utf-8")), file))
    for file in (HOME / "src").rglob("*.py"):
        found.update(dict.fromkeys(lines_of_python(file.read_text(encoding="utf-8")), file))
    return sorted(
        (file.relative_to(HOME).as_posix() if HOME in file.parents else file.name, line) for line, file in found.items()
    )


def typed(line):
    """What is typed of a documented command, without a shell's comment or pipe."""
    line = re.split(r"\s+(?:\||>|&&|2>)\s|\s+#\s|\s{3,}\(", line)[0]
    return re.sub(r"\s\[[^\]=]*=[^\]]*\|.*\]", "", line)  # [a=b | c=d]


def words(line):
    """The arguments of a documented command, with something in place of each placeholder."""
    line = typed(line)
    line = re.sub(r"(?<!\S)…(?!\S)", "", line)  # what is not shown
    found = shlex.split(PLACEHOLDER.sub("x", line), comments=True)
    while "=" in found[0]:
        found.pop(0)
    return found[1:]


DOCUMENTED = documented()


def test_there_are_command_lines_in_every_kind_of_place():
    places = [place for place, _ in DOCUMENTED]
    assert {"README.md", "CONTRIBUTING.md", "Makefile", "docs/guides/ground.md"} <= set(places)
    assert any(place.endswith("table.yaml") for place in places)
    assert any(place.startswith(("conf", "experiment")) or place.endswith(".yaml") for place in places)
    assert any(place.startswith("src/modiste/commands") for place in places)
    assert any(place.endswith(".j2") for place in places)
    assert {"conf/sweep.yaml", "conf/loss/matryoshka.yaml", "conf/data/table.yaml"} <= set(places)
    assert any("modiste serve" in line for place, line in DOCUMENTED if place == "Makefile")
    assert len(DOCUMENTED) > 40


def by_place():
    """The README's at every run; those of docs, comments and docstrings, a hundred and more, with `make test-all`."""
    for place, line in DOCUMENTED:
        if "CONTRIBUTING.md" in place and "--config-dir" in line:
            continue  # the reader's own parts: tests/test_contributing.py writes them and runs it
        yield pytest.param(place, line, marks=[] if place == "README.md" else pytest.mark.slow)


@pytest.mark.parametrize(("place", "line"), by_place(), ids=lambda value: value[:70])
def test_it_composes_and_validates(place, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *arguments = words(line)
    if command.startswith("-") or not arguments or arguments == ["x"]:
        assert command in (*commands(), "--help", "--version", "--completion")
        return
    call = Call.parse(command, arguments)
    if call.args.help or call.args.shell_completion:
        return
    Path("x").mkdir()  # what a placeholder stands for
    if call.args.config_dir:  # as `modiste data shop.csv write=shop` leaves it
        own = Path(call.args.config_dir, "data", "shop.yaml")
        own.parent.mkdir(parents=True)
        own.write_text("defaults: [table, _self_]\nname: shop\ncatalogue: {path: shop.csv}\n")
    try:
        call.check()
    except ModisteError as error:
        if not any(word in str(error) for word in NOT_HERE):
            raise AssertionError(f"{place}: {error}") from error


def test_every_documented_command_is_shell():
    lines = [line for _, line in documented()]
    found = subprocess.run(["bash", "-n"], input="\n".join(lines), capture_output=True, text=True)
    assert not found.stderr, [lines[int(number) - 1] for number in re.findall(r"line (\d+)", found.stderr)]


def test_no_documented_command_has_patterns_for_the_shell():
    """An unquoted [a,b] is a pattern for the names of files: zsh refuses it where none matches."""
    outside = {line: re.sub(r"'[^']*'|\"[^\"]*\"", "", typed(line)) for _, line in documented()}
    assert not [line for line, text in outside.items() if re.search(r"[][{}*?]", text)]
