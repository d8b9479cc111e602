"""Text in Markdown stays text, by markdown-it's parse of it."""

import pytest

from modiste.reporting import markdown
from modiste.reporting.tables.sheets import Grid, Item, Sheet
from modiste.reporting.tables.sheets import markdown as write

HOSTILE = (
    "# head", "<script>alert(1)</script>", "<img src=x onerror=y>", "<!-- c", "[l](http://e.example)", "![i](http://e)",
    "`code`", "``` x ```", "~~~", "~~s~~", "**b**", "*e*", "__b__", "_e_", "<http://e.example>", "a | b", "> q",
    "- i", "+ i", "1. n", "12) n", "---", "===", "***", "    code", "\tcode", "[r]: http://e", "[r][r]", "&lt;b&gt;", "\\[l](http://e)",
    "x\n---\n# head", "x\r\n\r\n```\ncode", "x\u2028# head", "\\", "a\\|b", "!", "[", "](http://e)", "<",
)  # fmt: skip


def parsed(text):
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return parser.parse(text)


def kinds(text):
    """What a text is made of, but its words."""
    found = []
    for token in parsed(text):
        found += [token.type] if token.type != "inline" else [child.type for child in token.children]
    return [kind for kind in found if kind != "text"]


def words(text):
    return "".join(child.content for token in parsed(text) for child in token.children or ())


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_is_the_text(text):
    plain = " ".join(markdown.one_line(text).split())
    written = markdown.paragraph(text)
    assert (kinds(written), " ".join(words(written).split())) == (["paragraph_open", "paragraph_close"], plain)
    heading = f"# {markdown.escape(text)} ."
    assert (kinds(heading), " ".join(words(heading).split())) == (["heading_open", "heading_close"], f"{plain} .")


@pytest.mark.parametrize("text", [text for text in HOSTILE if text.strip()])
def test_code_is_the_text(text):
    (inline,) = [token for token in parsed(f"a {markdown.code(text)} b.") if token.type == "inline"]
    assert [child.type for child in inline.children] == ["text", "code_inline", "text"]
    assert inline.children[1].content.strip() == markdown.one_line(text).strip()
    (block,) = parsed(markdown.fence(text, "python"))
    assert (block.type, block.info, block.content) == ("fence", "python", text.replace("\r\n", "\n") + "\n")


def test_a_sheet_of_hostile_text_has_the_structure_of_any_other():
    def sheet(texts):
        return Sheet(texts, [Grid([texts, "b"], "lr", [[Item(texts, style), Item("1")] for style in ("", "bold")])],
                     texts, [texts])  # fmt: skip

    wanted = kinds(write([sheet("x")]))
    for text in HOSTILE:
        assert kinds(write([sheet(text)])) == wanted, text
