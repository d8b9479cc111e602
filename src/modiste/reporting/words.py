"""Names of tasks and metrics in titles, and their chance levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modiste.reporting.tables.names import split_name

DIRECTIONS = {
    "t2i": "text→image",
    "i2t": "image→text",
    "i2i": "image→image",
    "queries": "text→image, among all rows that training did not use",
}
TASKS = {  # in reading order: title, and the adjective of a metric; other tasks use their names
    "retrieval": ("Retrieval", "retrieval"),
    "marqo": ("Retrieval, Marqo 2024 protocol", "Marqo"),
    "composed": ("Composed retrieval", "composed"),
    "similar": ("Similar products", "similar"),
    "zeroshot": ("Zero-shot classification", "zero-shot"),
    "grounding": ("Grounding", "grounding"),
    "attributes": ("Attributes", "attribute"),
    "compositional": ("Compositional probes", "compositional"),
    "compatibility": ("Outfit compatibility", "compatibility"),
    "probe": ("Linear probe", "probe"),
}
MEASURES = {
    "auc": "AUC",
    "avg_precision": "AvgPrecision",
    "avg_recall": "AvgRecall",
    "box_iou": "box IoU",
    "f1": "F1",
    "iou": "IoU",
    "macro_box_iou": "macro box IoU",
    "macro_f1": "macro F1",
    "macro_iou": "macro IoU",
    "macro_pixel_ap": "macro pixel AP",
    "map": "mAP",
    "mean_per_class_recall": "mean per-class recall",
    "mrr": "MRR",
    "ndcg": "nDCG",
    "pixel_ap": "pixel AP",
    "weighted_f1": "weighted F1",
}


def task_title(task: str) -> str:
    """Heading of a task.

    >>> task_title("zeroshot"), task_title("my_task")
    ('Zero-shot classification', 'My task')
    """
    words = task.replace("_", " ")
    return TASKS[task][0] if task in TASKS else words[:1].upper() + words[1:]


def reading_order(task: str) -> int:
    """Position of a task's section on a page."""
    return list(TASKS).index(task) if task in TASKS else len(TASKS)


def part_words(part: str) -> str:
    """A result's part in words.

    >>> part_words("t2i"), part_words("sub-category-to-product"), part_words("cam/own_mean"), part_words("")
    ('text→image', 'sub-category→product', 'cam: own mean', 'value')
    >>> part_words("queries")  # of data.queries
    'text→image, among all rows that training did not use'
    """
    if "/" in part:
        return part.replace("/", ": ").replace("_", " ")
    return DIRECTIONS.get(part, part.replace("-to-", "→")) or "value"


def measure_words(metric: str) -> str:
    """A metric in words, without its part.

    >>> measure_words("mrr"), measure_words("ndcg@10"), measure_words("hit_rate@1"), measure_words("4_shot_accuracy")
    ('MRR', 'nDCG@10', 'hit rate@1', '4-shot accuracy')
    """
    family, at, k = metric.partition("@")
    return MEASURES.get(family, family.replace("_shot_", "-shot ").replace("_", " ")) + at + k


def headline(result: Mapping[str, Any], name: str) -> str:
    """A metric of a result in words.

    >>> headline({"task": "retrieval"}, "t2i/mrr"), headline({"task": "zeroshot"}, "colour/accuracy")
    ('text→image MRR', 'colour, zero-shot accuracy')
    """
    part, metric = split_name(name)
    if "→" in part_words(part):
        return f"{part_words(part)} {measure_words(metric)}"
    kind = TASKS[result["task"]][1] if result["task"] in TASKS else result["task"].replace("_", " ")
    return f"{part}, {kind} {measure_words(metric)}" if part else f"{kind} {measure_words(metric)}"


def chance(result: Mapping[str, Any], name: str) -> float | None:
    """Chance level from the counts (accuracy, recall@k) or of AUC; None where it is not known.

    >>> chance({"counts": {"colour/classes": 20}}, "colour/accuracy")
    0.05
    >>> chance({"counts": {"t2i/gallery": 100}}, "t2i/recall@10"), chance({"counts": {}}, "t2i/mrr")
    (0.1, None)
    """
    part, metric = split_name(name)
    counts = result.get("counts") or {}
    classes, gallery = (counts.get(f"{part}/{word}" if part else word) for word in ("classes", "gallery"))
    family, _, k = metric.partition("@")
    if classes and (family in ("accuracy", "mean_per_class_recall") or family.endswith("_shot_accuracy")):
        return 1 / classes
    if gallery and family == "recall" and k.isdigit():
        return min(1.0, int(k) / gallery)
    return 0.5 if family == "auc" else None
