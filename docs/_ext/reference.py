"""Before Sphinx reads the pages: the reference of every config key and public class, and the notebooks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import yaml

import modiste
from modiste.cli.outline import Outline, commands
from modiste.config import config_dir, list_groups
from modiste.config.comments import comments, head

# The packages that people import from, outermost first, with what the page says of each.
PACKAGES = {
    "training": "Training: the LightningModule, optimizer settings, GradCache, callbacks",
    "evaluation": "Evaluation: runs the tasks of a model, keeps, compares and verifies results",
    "search": "Search over an index",
    "export": "Export to other libraries",
    "compat": "Drop-in replacements of other packages",
    "embedding": "Embeddings of a catalogue, on any backend",
    "tasks": "Tasks: one protocol per module",
    "data": "Data: catalogues, splits, captions, batches, the data module",
    "losses": "Losses: exact over processes, in tiles",
    "terms": "Terms added to the loss",
    "models": "Models: dual encoders, preprocessing, fine-tuning, interpolation",
    "images": "Image encoders",
    "texts": "Text encoders",
    "pretrained": "Published models",
    "metrics": "Metrics and intervals, in NumPy and PyTorch",
}


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write)
    app.connect("source-read", to_copied_notebooks)
    app.connect("autodoc-process-docstring", escape_types, priority=600)  # after napoleon
    return {"parallel_read_safe": True}


def escape_types(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """`numpy.str_` in an attribute's type, which napoleon writes, is no link of reStructuredText."""
    lines[:] = [re.sub(r"_(?=[\],])", r"\\_", line) if line.startswith(":vartype ") else line for line in lines]


def to_copied_notebooks(app: Any, page: str, source: list[str]) -> None:
    """Links to notebooks, which work in the repository, lead to the copies that are pages here."""
    source[0] = source[0].replace("](../../notebooks/", "](../notebooks/")


def write(app: Any) -> None:
    """`reference/generated/`: a page per command, per group and per package; and `notebooks/`."""
    for notebook in (Path(app.srcdir).parent / "notebooks").glob("*.ipynb"):
        write_changed(Path(app.srcdir) / "notebooks" / notebook.name, notebook.read_text(encoding="utf-8"))
    folder = Path(app.srcdir) / "reference" / "generated"
    pages = {f"command_{name}": command(name, line) for name, line in commands().items()}
    groups: dict[str, dict[str, dict[str, Path]]] = {}
    for name, options in list_groups([config_dir()]).items():
        groups.setdefault(name.split("/")[0], {})[name] = options
    pages |= {f"group_{name}": group(name, parts) for name, parts in groups.items()}
    pages |= {f"package_{name}": package(name, line) for name, line in PACKAGES.items()}
    for page, text in pages.items():
        write_changed(folder / f"{page}.md", text)


def write_changed(path: Path, text: str) -> None:
    """Writes a page unless it says the same: Sphinx then reads it only once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def command(name: str, line: str) -> str:
    """The page of a command: its groups and its keys with their comments."""
    file = config_dir() / f"{name}.yaml"
    groups = Outline.read([config_dir()], name).groups
    rows = [
        f"| [`{key}`](group_{key.split('/')[0]}.md) | `{choice}` | {escaped(note)} |"
        for key, (choice, note) in groups.items()
        if (config_dir() / key).is_dir()
    ]
    table = ["| group | default | what it is |", "| --- | --- | --- |", *rows, ""] if rows else []
    return "\n".join([f"# modiste {name}", "", f"{escaped(line)}.", "", *opening(file), *table, *keys(file), ""])


def group(name: str, parts: dict[str, dict[str, Path]]) -> str:
    """The page of a group: every option with its keys."""
    lines = [f"# {name}", ""]
    for part, options in sorted(parts.items()):
        for option, file in sorted(options.items()):
            lines += [f"## {part}={option}", "", *opening(file), *keys(file), ""]
    return "\n".join(lines)


def package(name: str, line: str) -> str:
    """The page of a package: its public classes, and the functions whose docstring says more than a line."""
    source = Path(modiste.__file__).parent
    lines = [f"# modiste.{name}", "", f"{line}.", ""]
    for file in sorted((source / name).rglob("*.py")):
        if names := public(ast.parse(file.read_text(encoding="utf-8"))):
            module = ".".join(file.relative_to(source.parent).with_suffix("").parts).removesuffix(".__init__")
            directive = f".. automodule:: {module}\n   :members: {', '.join(names)}"
            lines += [f"## {module}", "", "```{eval-rst}", directive, "```", ""]
    return "\n".join(lines)


def public(module: ast.Module) -> list[str]:
    """The names of a module that are for others."""
    found = []
    for node in module.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            text = ast.get_docstring(node) or ""
            if "\n" in text or (text and isinstance(node, ast.ClassDef)):
                found.append(node.name)
    return found


def opening(file: Path) -> list[str]:
    """The header of a YAML: prose as a paragraph, commands as code."""
    lines = []
    for is_command, group in groupby(head(file), lambda line: line.startswith("modiste ")):
        text = [line for line in group if line]
        lines += ["```sh", *text, "```", ""] if is_command else [escaped(" ".join(text)), ""]
    return lines


def escaped(text: str) -> str:
    """Prose of a comment in which Markdown has nothing to say but code."""
    parts = text.split("`")
    plain = [re.sub(r"([\\*_<>\[\]{}$|#])", r"\\\1", part) for part in parts[::2]]
    return "`".join(part for pair in zip_longest(plain, parts[1::2]) for part in pair if part is not None)


def keys(file: Path) -> list[str]:
    """A table of the keys of a YAML, with values and comments."""
    content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    notes = comments(file.read_text(encoding="utf-8"))
    rows = [(key, value, notes.get(key, "")) for key, value in leaves(content, notes)]
    if not rows:
        return []
    table = [f"| `{key}` | {cell(key, value)} | {escaped(note)} |" for key, value, note in rows]
    return ["| key | value | what it is |", "| --- | --- | --- |", *table]


def leaves(node: dict[str, Any], notes: dict[str, str], path: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a configuration that hold values, or that a comment explains as a whole."""
    for key, value in node.items():
        here = f"{path}{key}"
        if here in ("defaults", "hydra"):
            continue
        if isinstance(value, dict) and value and here not in notes:
            yield from leaves(value, notes, f"{here}.")
        else:
            yield here, value


def cell(key: str, value: Any) -> str:
    """A value as YAML, in code; a class of ours as a link to it."""
    if key.endswith("_target_") and str(value).startswith("modiste."):
        return f"{{py:obj}}`{value}`"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).strip()
    text = text.removesuffix("...").strip().replace("|", "\\|").replace("`", "'")
    return f"`{text}`"
