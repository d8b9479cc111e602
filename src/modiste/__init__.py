"""Modiste: contrastive vision-language learning for fashion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modiste.models.load import Loaded

__version__ = "0.1.0"


def load(source: str, **options: Any) -> Loaded:
    """A model with its transform and tokenizer, from a run directory, a hub id or a local model directory.

    See `modiste.models.load.load`.
    """
    from modiste.models.load import load

    return load(source, **options)
