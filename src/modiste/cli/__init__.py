"""The command line, modiste COMMAND OVERRIDES: a command is a file in commands/ and a YAML in conf/.

Nothing heavy is imported before a command runs, so that help, completion and error messages are fast.
"""

from modiste.cli.dispatch import main

__all__ = ["main"]
