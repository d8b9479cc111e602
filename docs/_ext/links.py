"""After the pages are written: every relative link leads to a page and a place in it. Nothing is fetched."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.errors import SphinxError


class Page(HTMLParser):
    """The anchors of a page and what it links to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.add(value)


def setup(app: Any) -> dict[str, bool]:
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}


def check(app: Any, exception: Exception | None) -> None:
    """Raises SphinxError with every broken link."""
    if exception is None and app.builder.name == "html" and (found := broken(Path(app.outdir))):
        raise SphinxError("Links that lead nowhere:\n" + "\n".join(found))


def broken(folder: Path) -> list[str]:
    """`page: link` of each relative link without a file, or without the anchor that it names."""
    pages = {file.resolve(): Page(file) for file in sorted(folder.rglob("*.html"))}
    found = []
    for file, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                found.append(f"{file.relative_to(folder.resolve())}: {link}")
    return found
