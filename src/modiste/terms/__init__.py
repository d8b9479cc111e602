"""Terms that are added to the contrastive loss."""

from typing import TYPE_CHECKING

from modiste.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from modiste.terms.base import Term as Term
    from modiste.terms.distill import Distill as Distill
    from modiste.terms.parallel import Parallel as Parallel
    from modiste.terms.regions import Regions as Regions
    from modiste.terms.soft_labels import SoftLabels as SoftLabels
    from modiste.terms.tags import Tags as Tags
    from modiste.terms.teacher import Teacher as Teacher

_HOMES = {
    "Distill": "modiste.terms.distill",
    "Parallel": "modiste.terms.parallel",
    "Regions": "modiste.terms.regions",
    "SoftLabels": "modiste.terms.soft_labels",
    "Tags": "modiste.terms.tags",
    "Teacher": "modiste.terms.teacher",
    "Term": "modiste.terms.base",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_exports(__name__, _HOMES)
