"""Contrastive losses: exact over all processes, in tiles, with several positives per product."""

from modiste.losses.base import ContrastiveLoss, LogitBias, LogitScale, TiledLoss
from modiste.losses.clip import ClipLoss
from modiste.losses.gather import all_gather_with_grad, gather_pairs
from modiste.losses.gcl import GclLoss
from modiste.losses.matryoshka import MatryoshkaLoss
from modiste.losses.siglip import SigLipLoss
from modiste.losses.soft import soft_infonce
from modiste.losses.vsepp import VseppLoss

__all__ = [
    "ClipLoss",
    "ContrastiveLoss",
    "GclLoss",
    "LogitBias",
    "LogitScale",
    "MatryoshkaLoss",
    "SigLipLoss",
    "TiledLoss",
    "VseppLoss",
    "all_gather_with_grad",
    "gather_pairs",
    "soft_infonce",
]
