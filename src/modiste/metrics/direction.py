"""Whether a metric is better when higher or when lower."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

LOWER_IS_BETTER = frozenset({"loss", "median_rank"})
"""Last parts of metrics that are better when lower, for sources that do not state ``higher_is_better``: the losses
that training logs, and results stored before `modiste.tasks.Result` recorded it."""


def higher_is_better(metric: str, stated: Mapping[str, bool] | None = None) -> bool:
    """Whether a higher value of ``metric`` is better.

    Args:
        metric: Full name (``t2i/mrr``, ``val/loss``).
        stated: ``higher_is_better`` of the result that holds the metric, which takes precedence.

    >>> higher_is_better("t2i/mrr"), higher_is_better("t2i/median_rank"), higher_is_better("hue", {"hue": False})
    (True, False, False)
    """
    if stated is not None and metric in stated:
        return stated[metric]
    return metric.rpartition("/")[2] not in LOWER_IS_BETTER


def direction(metric: str, stated: Mapping[str, bool] | None = None) -> Literal["min", "max"]:
    """`higher_is_better` as the mode of a monitor, a checkpoint callback or a sweep.

    >>> direction("val/retrieval/t2i/mrr"), direction("val/loss")
    ('max', 'min')
    """
    return "max" if higher_is_better(metric, stated) else "min"


def directions(metrics: Iterable[str], lower: Iterable[str] = ()) -> dict[str, bool]:
    """``higher_is_better`` of several metrics; ``lower`` has full names or last parts of the exceptions.

    >>> directions(["garment/accuracy", "garment/error"], lower=["error"])
    {'garment/accuracy': True, 'garment/error': False}
    """
    worse = set(lower)
    return {name: name not in worse and name.rpartition("/")[2] not in worse for name in metrics}
