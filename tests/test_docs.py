"""The documentation's pages, links and notebooks, without building them: `make docs` does that."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
DOCS = HOME / "docs"
WRITTEN_BY_THE_BUILD = ("notebooks", "reference/generated")
PAGES = sorted(
    path.relative_to(DOCS).with_suffix("").as_posix()
    for path in DOCS.rglob("*.md")
    if not path.relative_to(DOCS).as_posix().startswith((*WRITTEN_BY_THE_BUILD, "_build"))
)
NOTEBOOKS = sorted((HOME / "notebooks").glob("*.ipynb"))
TEXTS = [HOME / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + [DOCS / f"{p}.md" for p in PAGES]


def entries():
    """Every page that a table of contents names."""
    for page in PAGES:
        file = DOCS / f"{page}.md"
        for block in re.findall(r"```\{toctree\}\n(.*?)```", file.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.splitlines():
                if line and not line.startswith(":") and "*" not in line:
                    yield (file.parent / line).resolve().relative_to(DOCS).as_posix()


def test_the_tables_of_contents_name_every_page_and_notebook_once_and_nothing_else():
    named = list(entries())
    notebooks = [f"notebooks/{file.stem}" for file in NOTEBOOKS]
    assert len(PAGES) > 20
    assert sorted(named) == sorted([*(page for page in PAGES if page != "index"), *notebooks])


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.relative_to(HOME).as_posix())
def test_the_links_within_the_repository_lead_somewhere(file):
    text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" in target or "/generated/" in target:
            continue
        path = (file.parent / target).resolve()
        assert path.exists(), target
        assert not path.is_relative_to(DOCS / "notebooks"), "the build copies them there"


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_are_kept_without_outputs_and_parse(file):
    cells = [cell for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert cells
    for cell in cells:
        assert not cell["outputs"]
        assert cell["execution_count"] is None
        source = "".join(cell["source"])
        # Lines for the shell are IPython's.
        compile(re.sub(r"^(\s*)!.*$", r"\1pass", source, flags=re.MULTILINE), file.name, "exec")


def test_included_parts_begin_and_end_at_texts_that_exist():
    found = 0
    for page in sorted(DOCS.rglob("*.md")):
        for name, options in re.findall(r"```\{include\} (\S+)\n((?::.*\n)*)", page.read_text(encoding="utf-8")):
            text = (page.parent / name).read_text(encoding="utf-8")
            for mark in re.findall(r'^:(?:start-after|end-before): "(.*)"$', options, re.MULTILINE):
                assert text.count(mark) == 1, f"{page}: {name} has no single '{mark}'"
                found += 1
    assert found >= 4


def test_the_build_names_links_without_a_page_or_without_the_anchor(tmp_path):
    pytest.importorskip("sphinx", reason="sphinx is of the extra docs")
    spec = importlib.util.spec_from_file_location("links", DOCS / "_ext" / "links.py")
    links = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(links)
    (tmp_path / "a.html").write_text('<a href="b.html#here"></a><a href="b.html#gone"></a><a href="https://x.y/"></a>')
    (tmp_path / "b.html").write_text('<p id="here"><img src="none.png"><a href="#here"></a></p>')
    assert links.broken(tmp_path) == ["a.html: b.html#gone", "b.html: none.png"]
