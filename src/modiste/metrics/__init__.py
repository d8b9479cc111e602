"""Metrics with exact ranks and bootstrap intervals."""

from typing import TYPE_CHECKING

from modiste.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from modiste.metrics.classification import ClassificationMetrics as ClassificationMetrics
    from modiste.metrics.direction import higher_is_better as higher_is_better
    from modiste.metrics.intervals import Interval as Interval
    from modiste.metrics.intervals import bootstrap as bootstrap
    from modiste.metrics.ranking import metric_definitions as metric_definitions
    from modiste.metrics.ranking import query_metrics as query_metrics
    from modiste.metrics.ranks import relevant_ranks as relevant_ranks
    from modiste.metrics.relevance import Relevance as Relevance
    from modiste.metrics.retrieval import RankingMetrics as RankingMetrics
    from modiste.metrics.retrieval import RetrievalMetrics as RetrievalMetrics

_HOMES = {
    "ClassificationMetrics": "modiste.metrics.classification",
    "Interval": "modiste.metrics.intervals",
    "RankingMetrics": "modiste.metrics.retrieval",
    "Relevance": "modiste.metrics.relevance",
    "RetrievalMetrics": "modiste.metrics.retrieval",
    "bootstrap": "modiste.metrics.intervals",
    "higher_is_better": "modiste.metrics.direction",
    "metric_definitions": "modiste.metrics.ranking",
    "query_metrics": "modiste.metrics.ranking",
    "relevant_ranks": "modiste.metrics.ranks",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_exports(__name__, _HOMES)
