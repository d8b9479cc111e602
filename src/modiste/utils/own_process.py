"""Commands of Modiste in processes of their own."""

from __future__ import annotations

import os
import sys

# As `python -m modiste`, which would import modules of the working directory first: they may be a stranger's.
START = (
    "import sys; sys.path[:] = [path for path in sys.path if path]; "
    "import runpy; runpy.run_module('modiste', run_name='__main__', alter_sys=True)"
)


def own_command(*words: str) -> list[str]:
    """The command line of ``modiste`` with ``words``, by this interpreter."""
    return [sys.executable, "-c", START, *words]


def own_environment() -> dict[str, str]:
    """The environment for `own_command`: what it starts does not import from the working directory, either."""
    return {**os.environ, "PYTHONSAFEPATH": "1"}
