"""Contrastive losses: exact over all processes, in tiles, with several positives per product."""

from typing import TYPE_CHECKING

from modiste.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from modiste.losses.base import ContrastiveLoss as ContrastiveLoss
    from modiste.losses.base import LogitBias as LogitBias
    from modiste.losses.base import LogitScale as LogitScale
    from modiste.losses.base import TiledLoss as TiledLoss
    from modiste.losses.clip import ClipLoss as ClipLoss
    from modiste.losses.filip import FilipLoss as FilipLoss
    from modiste.losses.gather import all_gather_with_grad as all_gather_with_grad
    from modiste.losses.gather import gather_pairs as gather_pairs
    from modiste.losses.gcl import GclLoss as GclLoss
    from modiste.losses.matryoshka import MatryoshkaLoss as MatryoshkaLoss
    from modiste.losses.siglip import SigLipLoss as SigLipLoss
    from modiste.losses.soft import soft_infonce as soft_infonce
    from modiste.losses.vsepp import VseppLoss as VseppLoss

_HOMES = {
    "ClipLoss": "modiste.losses.clip",
    "ContrastiveLoss": "modiste.losses.base",
    "FilipLoss": "modiste.losses.filip",
    "GclLoss": "modiste.losses.gcl",
    "LogitBias": "modiste.losses.base",
    "LogitScale": "modiste.losses.base",
    "MatryoshkaLoss": "modiste.losses.matryoshka",
    "SigLipLoss": "modiste.losses.siglip",
    "TiledLoss": "modiste.losses.base",
    "VseppLoss": "modiste.losses.vsepp",
    "all_gather_with_grad": "modiste.losses.gather",
    "gather_pairs": "modiste.losses.gather",
    "soft_infonce": "modiste.losses.soft",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_exports(__name__, _HOMES)
