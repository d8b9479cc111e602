"""The one exception for a user's mistake, and the "did you mean" that goes with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import PurePath


class ModisteError(Exception):
    """A user's mistake: one clear sentence and the remedy. The command line prints it without a traceback."""


class NothingToMeasureError(ModisteError):
    """The data lack what a task measures: an evaluation by default tasks skips it."""


class MissingEmbeddingError(ModisteError):
    """A text is to be embedded where there are embeddings from files alone."""


def did_you_mean(word: str, options: Iterable[str], folder: str | PurePath = "") -> str:
    """A sentence that names the closest option, whatever its case, or lists the options when none is close.

    Args:
        word: What was given.
        options: What there is.
        folder: Where files and folders of these names are: they are named as they have to be typed.

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
