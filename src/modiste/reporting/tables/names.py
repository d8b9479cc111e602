"""Names of metrics: part and metric, reading order, direction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modiste.metrics.direction import higher_is_better

PART_ORDER = (
    *("t2i", "i2t", "text-to-image", "category-to-product", "sub-category-to-product", "fine-category-to-product"),
    *("color-to-product", "season-to-product", "usage-to-product"),
)
METRIC_ORDER = (
    *("avg_recall", "avg_precision", "recall", "hit_rate", "precision", "mrr", "map", "ndcg", "median_rank"),
    *("accuracy", "weighted_f1", "macro_f1", "mean_per_class_recall"),
)


def number(value: Any) -> float | None:
    """``value`` as a finite float; None if it is not one.

    >>> number("0.5"), number("nan"), number(None)
    (0.5, None, None)
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def split_name(name: str) -> tuple[str, str]:
    """Split a metric's name into its part and its metric.

    >>> split_name("text-to-image/recall@1"), split_name("auc")
    (('text-to-image', 'recall@1'), ('', 'auc'))
    """
    part, _, metric = name.rpartition("/")
    return part, metric


def parts_of(names: Iterable[str]) -> list[str]:
    """Unique parts of metric names, in order of appearance."""
    return list(dict.fromkeys(split_name(name)[0] for name in names))


def ordered(names: Iterable[str]) -> list[str]:
    """Sort metric names by part, family of metric and k; unknown ones last, in order of appearance.

    >>> ordered(["i2t/mrr", "t2i/recall@10", "t2i/recall@5", "t2i/avg_recall"])
    ['t2i/avg_recall', 't2i/recall@5', 't2i/recall@10', 'i2t/mrr']
    """

    def place(word: str, order: Sequence[str]) -> int:
        return order.index(word) if word in order else len(order)

    names = list(dict.fromkeys(names))
    seen = parts_of(names)

    def key(name: str) -> tuple[float, ...]:
        part, metric = split_name(name)
        family, _, k = metric.partition("@")
        return (
            place(part.rpartition("/")[2], PART_ORDER),
            seen.index(part),
            place(family, METRIC_ORDER),
            number(k) or math.inf,
        )

    return sorted(names, key=key)


def summary_metrics(result: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The ``names`` that a summary of ``result`` shows; its primary metric if it declares none."""
    names, primary = ordered(names), result.get("primary", "")
    chosen = [name for name in names if split_name(name)[1] in (result.get("summary") or ())]
    return chosen or [name for name in names if name == primary] or names[:1]


def lower_is_better(result: Mapping[str, Any] | None, name: str) -> bool:
    """Whether a metric of ``result`` is better when lower, by its ``higher_is_better``.

    >>> lower_is_better({"higher_is_better": {"t2i/distance": False}}, "t2i/distance"), lower_is_better({}, "t2i/mrr")
    (True, False)
    """
    return not higher_is_better(name, (result or {}).get("higher_is_better"))


def best(values: Iterable[float], lower: bool = False) -> float:
    """The best of a metric's values.

    >>> best([0.2, 0.3]), best([12, 7], lower=True)
    (0.3, 7)
    """
    return min(values) if lower else max(values)
