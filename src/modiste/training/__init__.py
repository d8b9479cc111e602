"""Training: the LightningModule, optimizer settings, and `train`, which builds both from a configuration."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modiste.training.fit import Run, train
    from modiste.training.grad_cache import GradCache
    from modiste.training.module import ContrastiveModule
    from modiste.training.optim import Optim

__all__ = ["ContrastiveModule", "GradCache", "Optim", "Run", "train"]

# Imported when first used: callbacks and loggers import this package, too.
_HOMES = {"ContrastiveModule": "module", "GradCache": "grad_cache", "Optim": "optim", "Run": "fit", "train": "fit"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'modiste.training' has no attribute '{name}'")
    return getattr(importlib.import_module(f"modiste.training.{_HOMES[name]}"), name)
