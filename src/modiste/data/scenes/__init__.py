"""Scenes composed of a catalogue's product photos, with per-pixel labels: training data for grounding.

Products on a clean background are cut out (`cutouts`) and pasted as a collage or a dressed figure (`composer`, `zones`)
on generated backgrounds (`backgrounds`), following Cut, Paste and Learn (Dwibedi et al., ICCV 2017, arXiv:1708.01642).
`augment` puts single products into such scenes, cuts out garments, or draws silhouettes.
"""

from typing import TYPE_CHECKING

from modiste.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from modiste.data.scenes.augment import GarmentOnly as GarmentOnly
    from modiste.data.scenes.augment import InScene as InScene
    from modiste.data.scenes.augment import Silhouette as Silhouette
    from modiste.data.scenes.composer import Composer as Composer
    from modiste.data.scenes.composer import Scene as Scene
    from modiste.data.scenes.composer import Scenes as Scenes
    from modiste.data.scenes.cutouts import CutOut as CutOut
    from modiste.data.scenes.cutouts import cut_out as cut_out

_HOMES = {
    "Composer": "modiste.data.scenes.composer",
    "CutOut": "modiste.data.scenes.cutouts",
    "GarmentOnly": "modiste.data.scenes.augment",
    "InScene": "modiste.data.scenes.augment",
    "Scene": "modiste.data.scenes.composer",
    "Scenes": "modiste.data.scenes.composer",
    "Silhouette": "modiste.data.scenes.augment",
    "cut_out": "modiste.data.scenes.cutouts",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_exports(__name__, _HOMES)
