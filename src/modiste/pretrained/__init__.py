"""Published dual encoders, by hub id or local directory."""

from typing import TYPE_CHECKING

from modiste.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from modiste.pretrained.openclip import OpenClipDualEncoder as OpenClipDualEncoder
    from modiste.pretrained.sentence_transformers import (
        SentenceTransformersDualEncoder as SentenceTransformersDualEncoder,
    )
    from modiste.pretrained.transformers import TransformersDualEncoder as TransformersDualEncoder

_HOMES = {
    "OpenClipDualEncoder": "modiste.pretrained.openclip",
    "SentenceTransformersDualEncoder": "modiste.pretrained.sentence_transformers",
    "TransformersDualEncoder": "modiste.pretrained.transformers",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_exports(__name__, _HOMES)
