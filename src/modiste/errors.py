"""`ModisteError`, raised for a user's mistake, and its "Did you mean …?" hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import PurePath


class ModisteError(Exception):
    """A user's mistake: what is wrong and what to do. The command line prints it without a traceback."""


class NothingToMeasureError(ModisteError):
    """The data lack what a task measures. An evaluation with the default tasks skips that task."""


class MissingEmbeddingError(ModisteError):
    """A text has no embedding in the given files, and no model was given to encode it."""


def did_you_mean(word: str, options: Iterable[str], folder: str | PurePath = "") -> str:
    """Suggest the closest option, ignoring case, or list the options when none is close.

    Args:
        word: The unknown word.
        options: The valid words.
        folder: Folder of the options when they are file names; it is prepended, so that a suggestion can be copied.

    >>> did_you_mean("siglop", ["clip", "siglip"])
    "Did you mean 'siglip'?"
    >>> did_you_mean("xyz", ["clip", "siglip"])
    'Choose from: clip, siglip.'
    >>> did_you_mean("dmo", ["demo"], "runs")
    "Did you mean 'runs/demo'?"
    """
    options = sorted(options)

    def typed(name: str) -> str:
        return str(PurePath(folder, name)) if folder else name

    lower = {option.lower(): option for option in reversed(options)}
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    close = close or [lower[found] for found in difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)]
    close = close or [option for option in options if " " in option and word.lower() in option.lower().split()][:1]
    if close:
        return f"Did you mean '{typed(lower.get(word.lower(), close[0]))}'?"
    shown = ", ".join(map(typed, options[:20])) + (", …" if len(options) > 20 else "")
    return f"Choose from: {shown}." if options else "There is nothing to choose from."
