"""Modiste: contrastive vision-language learning for fashion.

The Python API of the commands of the same names: `train`, `evaluate`, `embed` and `compare`. `load` returns the model
of a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modiste.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from modiste.embedding.api import Embeddings, embed
    from modiste.evaluation.api import evaluate
    from modiste.evaluation.compare import compare
    from modiste.models.load import Loaded, load
    from modiste.training.fit import Run, train

__all__ = ["Embeddings", "Loaded", "Run", "__version__", "compare", "embed", "evaluate", "load", "train"]

_lazy = lazy_exports(
    __name__,
    {
        "Embeddings": "modiste.embedding.api",
        "Loaded": "modiste.models.load",
        "Run": "modiste.training.fit",
        "compare": "modiste.evaluation.compare",
        "embed": "modiste.embedding.api",
        "evaluate": "modiste.evaluation.api",
        "load": "modiste.models.load",
        "train": "modiste.training.fit",
    },
)


def __getattr__(name: str) -> Any:
    if name != "__version__":
        return _lazy(name)
    from importlib.metadata import version  # slower than the rest of `modiste --help` together

    return version("modiste")
