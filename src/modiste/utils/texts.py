"""Checks of texts that a user gives to a model."""

from __future__ import annotations

from collections.abc import Iterable

from modiste.errors import ModisteError


def check_texts(texts: Iterable[object]) -> None:
    """Raise ModisteError if an item is not text, or has bytes or surrogates that no encoding has.

    >>> check_texts(["a red dress", 5])
    Traceback (most recent call last):
    modiste.errors.ModisteError: 5 is not a text: give words in UTF-8.
    """
    for text in texts:
        try:
            if isinstance(text, str) and text.encode() is not None:
                continue
        except UnicodeEncodeError:
            pass
        raise ModisteError(f"{text!r:.60} is not a text: give words in UTF-8.")
