"""The command line, modiste COMMAND followed by overrides. A command is a file in commands/ and a YAML in conf/.

Nothing heavy is imported before a command runs, so help, completion and the report of a typo are immediate.
"""

from modiste.cli.dispatch import main

__all__ = ["main"]
