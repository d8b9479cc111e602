"""Modiste commands in separate processes."""

from __future__ import annotations

import os
import sys

# Like `python -m modiste`, but without imports from the working directory, which may be untrusted.
START = (
    "import sys; sys.path[:] = [path for path in sys.path if path]; "
    "import runpy; runpy.run_module('modiste', run_name='__main__', alter_sys=True)"
)


def own_command(*words: str) -> list[str]:
    """Return the command line that runs ``modiste`` with the arguments ``words`` in this interpreter."""
    return [sys.executable, "-c", START, *words]


def own_environment() -> dict[str, str]:
    """Return the environment for `own_command`: child processes import nothing from the working directory."""
    return {**os.environ, "PYTHONSAFEPATH": "1"}
