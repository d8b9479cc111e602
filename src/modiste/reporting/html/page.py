"""Rendering of self-contained pages that make no external requests."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from modiste.utils.atomic import write_text

TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg"}
SCRIPT = Path(__file__).parent / "templates" / "page.js"


def write_page(path: Path, template: str, **context: Any) -> Path:
    """Render a template of ``templates/`` into ``path``, atomically.

    All values are escaped. The content security policy forbids external requests and all scripts but the page's own.
    """
    script = SCRIPT.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    write_text(path, _environment().get_template(template).render(policy=policy, script=script, **context))
    return path


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("modiste.reporting.html"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["data_uri"] = data_uri
    return environment


def data_uri(picture: Path | bytes) -> str:
    """Data URI of a picture, given as a file or as encoded bytes."""
    if isinstance(picture, bytes):
        from modiste.data.sources import image_format

        kind, content = f"image/{image_format(picture).lower()}", picture
    else:
        kind, content = TYPES[picture.suffix], picture.read_bytes()
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
