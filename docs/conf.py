"""Sphinx settings: `make docs` builds these pages, executes the notebooks and checks the links between pages."""

import os
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

project = "Modiste"
copyright = "The Modiste authors, Apache-2.0"
release = metadata.version("modiste")
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "links",
    "reference",
]
html_theme = "furo"
html_title = "Modiste"
exclude_patterns = ["_build", "_ext"]
suppress_warnings = ["mystnb.unknown_mime_type"]
default_role = "code"
highlight_language = "sh"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = os.environ.get("MODISTE_NOTEBOOKS", "cache")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_output_stderr = "remove"  # progress, and warnings of libraries about the notebook
viewcode_follow_imported_members = False  # else sources link back to anchors that no page has
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # Lightning's are not ours
napoleon_use_ivar = True
autodoc_typehints = "signature"
maximum_signature_line_length = 88
autodoc_default_options = {"show-inheritance": True}
