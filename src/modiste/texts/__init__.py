"""Text encoders of `modiste.models.dual_encoder.TwoTower`."""

from typing import TYPE_CHECKING

from modiste.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from modiste.texts.hf import HfTextEncoder as HfTextEncoder
    from modiste.texts.hf import HfTokenizer as HfTokenizer
    from modiste.texts.hf import minilm as minilm
    from modiste.texts.words import HashTokenizer as HashTokenizer

_HOMES = {
    "HashTokenizer": "modiste.texts.words",
    "HfTextEncoder": "modiste.texts.hf",
    "HfTokenizer": "modiste.texts.hf",
    "minilm": "modiste.texts.hf",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_exports(__name__, _HOMES)
