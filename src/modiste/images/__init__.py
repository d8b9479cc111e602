"""Image encoders of `modiste.models.dual_encoder.TwoTower`."""

from typing import TYPE_CHECKING

from modiste.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from modiste.images.lite import LiteEncoder as LiteEncoder
    from modiste.images.timm import TimmEncoder as TimmEncoder

_HOMES = {
    "LiteEncoder": "modiste.images.lite",
    "TimmEncoder": "modiste.images.timm",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_exports(__name__, _HOMES)
