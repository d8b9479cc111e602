"""Whether a metric is better when higher or when lower."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

LOWER_IS_BETTER = frozenset({"loss", "median_rank"})
"""Last parts of the metrics that are better when lower and whose source does not say so: the losses that training
logs, and results stored before `modiste.tasks.Result` recorded ``higher_is_better``."""


def higher_is_better(metric: str, stated: Mapping[str, bool] | None = None) -> bool:
    """Whether a higher value of ``metric`` is better.

    Args:
        metric: Name with its parts (``t2i/mrr``, ``val/loss``).
        stated: ``higher_is_better`` of the result that holds the metric; it decides where it names the metric.

    >>> higher_is_better("t2i/mrr"), higher_is_better("t2i/median_rank"), higher_is_better("hue", {"hue": False})
    (True, False, False)
    """
    if stated is not None and metric in stated:
        return stated[metric]
    return metric.rpartition("/")[2] not in LOWER_IS_BETTER


def direction(metric: str, stated: Mapping[str, bool] | None = None) -> Literal["min", "max"]:
    """`higher_is_better` as the mode of a monitor, a checkpoint or a sweep's objective.

    >>> direction("val/retrieval/t2i/mrr"), direction("val/loss")
    ('max', 'min')
    """
    return "max" if higher_is_better(metric, stated) else "min"


def directions(metrics: Iterable[str], lower: Iterable[str] = ()) -> dict[str, bool]:
    """``higher_is_better`` of several metrics, those in ``lower`` (whole names or last parts) better when lower.

    >>> directions(["garment/accuracy", "garment/error"], lower=["error"])
    {'garment/accuracy': True, 'garment/error': False}
    """
    worse = set(lower)
    return {name: name not in worse and name.rpartition("/")[2] not in worse for name in metrics}
