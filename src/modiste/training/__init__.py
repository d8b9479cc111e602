"""Training: the LightningModule, the optimizer settings, and `train`, which builds and runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modiste.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from modiste.training.fit import Run, train
    from modiste.training.grad_cache import GradCache
    from modiste.training.module import ContrastiveModule
    from modiste.training.optim import Optim

__all__ = ["ContrastiveModule", "GradCache", "Optim", "Run", "train"]

__getattr__ = lazy_exports(
    __name__,
    {
        "ContrastiveModule": "modiste.training.module",
        "GradCache": "modiste.training.grad_cache",
        "Optim": "modiste.training.optim",
        "Run": "modiste.training.fit",
        "train": "modiste.training.fit",
    },
)
