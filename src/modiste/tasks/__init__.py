"""Evaluation tasks: ``task(embedder, catalogue, split) -> Result``."""

from typing import TYPE_CHECKING

from modiste.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from modiste.tasks.attributes import Attributes as Attributes
    from modiste.tasks.compatibility import Compatibility as Compatibility
    from modiste.tasks.composed import Composed as Composed
    from modiste.tasks.compositional import Compositional as Compositional
    from modiste.tasks.grounding import Grounding as Grounding
    from modiste.tasks.marqo import Marqo as Marqo
    from modiste.tasks.probe import Probe as Probe
    from modiste.tasks.result import Embedder as Embedder
    from modiste.tasks.result import Result as Result
    from modiste.tasks.retrieval import Retrieval as Retrieval
    from modiste.tasks.similar import Similar as Similar
    from modiste.tasks.zeroshot import ZeroShot as ZeroShot

_HOMES = {
    "Attributes": "modiste.tasks.attributes",
    "Compatibility": "modiste.tasks.compatibility",
    "Composed": "modiste.tasks.composed",
    "Compositional": "modiste.tasks.compositional",
    "Embedder": "modiste.tasks.result",
    "Grounding": "modiste.tasks.grounding",
    "Marqo": "modiste.tasks.marqo",
    "Probe": "modiste.tasks.probe",
    "Result": "modiste.tasks.result",
    "Retrieval": "modiste.tasks.retrieval",
    "Similar": "modiste.tasks.similar",
    "ZeroShot": "modiste.tasks.zeroshot",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_exports(__name__, _HOMES)
