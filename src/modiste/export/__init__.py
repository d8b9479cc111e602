"""Export of trained or published models to the layouts of other libraries, verified with each library.

>>> sorted(FORMATS)
['hub', 'onnx', 'open_clip', 'openvino', 'sentence_transformers', 'transformers', 'transformers_js']
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiste.export.formats import FORMATS

if TYPE_CHECKING:
    from modiste.export.writing import Exported
    from modiste.models.dual_encoder import DualEncoder

__all__ = ["FORMATS", "export"]


def export(run_or_model: str | Path | DualEncoder, format: str, out: str | Path, **options: Any) -> Exported:
    """Export a model to another library's layout; see `modiste.export.writing.export`."""
    from modiste.export import writing

    return writing.export(run_or_model, format, out, **options)
