"""Published numbers: the reference file, and what they are called here."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modiste.errors import ModisteError
from modiste.reporting.tables.names import number

PACKAGED = Path(__file__).parents[1] / "reference" / "published.csv"
COLUMNS = ("source", "dataset", "task", "model", "metric", "value")


@dataclass(frozen=True)
class Naming:
    """How the published numbers of one benchmark are named here, and what they were measured on.

    Attributes:
        data: Our name of the data set.
        task: Our name of the task.
        datasets: The data set's names in the reference file.
        metrics: Published metric → our metric.
        queries: Our part, the text before the last "/" of a metric's name → number of published queries.
        gallery: Number of documents, of every part or of each; None where it does not apply.
        part: Published data set and task → what stands before our metric.
        protocol: What the result's protocol must say.
    """

    data: str
    task: str
    datasets: tuple[str, ...]
    metrics: Mapping[str, str]
    queries: Mapping[str, int]
    gallery: int | Mapping[str, int] | None = None
    part: Callable[[str, str], str] = lambda dataset, task: ""
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def name(self, line: Mapping[str, str]) -> str | None:
        """Our name of the number in a line of the reference file; None for a number of another benchmark."""
        metric = self.metrics.get(line["metric"])
        if line["dataset"] not in self.datasets or metric is None:
            return None
        return "/".join(word for word in (self.part(line["dataset"], line["task"]), metric) if word)

    def covers(self, result: Mapping[str, Any]) -> bool:
        """Whether ``result`` is of this benchmark, its sizes aside."""
        said = result.get("protocol") or {}
        same = all(said.get(key) == value for key, value in self.protocol.items())
        return same and (self.data, self.task) == (result["data"], result["task"])

    def documents(self, part: str) -> int | None:
        """The published gallery of a part."""
        return self.gallery.get(part) if isinstance(self.gallery, Mapping) else self.gallery


# Marqo's sets: our data set → their names in the reference file, documents, queries of each task.
MARQO: dict[str, tuple[tuple[str, ...], int, dict[str, int]]] = {
    "marqo_atlas": (("Atlas",), 78370, {"text-to-image": 2000, "sub-category-to-product": 34}),
    "marqo_inshop": (
        ("DeepFashion-InShop", "DeepFashion InShop"),
        52591,
        {
            "text-to-image": 2000,
            "category-to-product": 16,
            "sub-category-to-product": 8,
            "color-to-product": 804,
        },
    ),
    "marqo_multimodal": (
        ("DeepFashion-Multimodal", "DeepFashion Multimodal"),
        42537,
        {"text-to-image": 2000, "category-to-product": 16},
    ),
    "marqo_fashion200k": (
        ("Fashion200k", "Fashion200K"),
        201624,
        {
            "text-to-image": 2000,
            "category-to-product": 5,
            "sub-category-to-product": 31,
            "fine-category-to-product": 2000,
        },
    ),
    "kagl": (
        ("KAGL",),
        44434,
        {
            "text-to-image": 2000,
            "category-to-product": 7,
            "sub-category-to-product": 45,
            "fine-category-to-product": 142,
            "color-to-product": 46,
            "season-to-product": 4,
            "usage-to-product": 8,
        },
    ),
    "marqo_polyvore": (("Polyvore",), 94096, {"text-to-image": 2000, "category-to-product": 377}),
    "marqo_imaterialist": (
        ("iMaterialist",),
        721065,
        {"category-to-image": 105, "style-to-image": 21, "neckline-to-image": 11},
    ),
}
MARQO_METRICS = {
    "AvgRecall": "avg_recall",
    "AvgP": "avg_precision",
    "Recall@1": "recall@1",
    "Recall@10": "recall@10",
    "R@1": "recall@1",
    "R@10": "recall@10",
    "P@1": "precision@1",
    "P@10": "precision@10",
    "MRR": "mrr@10",
    "MAP@1": "map@1",
    "MAP@10": "map@10",
    "nDCG@1": "ndcg@1",
    "nDCG@10": "ndcg@10",
}
LOOKBENCH = {  # subset → queries, gallery with the distractors
    "RealStudioFlat": (1011, 62226),
    "AIGen-Studio": (193, 59254),
    "RealStreetLook": (981, 61553),
    "AIGen-StreetLook": (160, 58846),
}
FASHION_IQ = {  # category → queries, original gallery, gallery of references and targets
    "dress": (2017, 3817, 2628),
    "shirt": (2038, 6346, 3089),
    "toptee": (1961, 5373, 2902),
}


def _fashion_iq(gallery: str) -> Naming:
    at = {"original": 1, "val": 2}[gallery]
    parts = (*FASHION_IQ, "mean")
    metrics = {f"{part}_R@{k}": f"{part}/hit_rate@{k}" for part in parts for k in (10, 50)} | {"mean": "mean/mean"}
    return Naming(
        data="fashion_iq",
        task="composed",
        datasets=(f"fashion_iq/{gallery}",),
        metrics=metrics,
        queries={part: sizes[0] for part, sizes in FASHION_IQ.items()}
        | {"mean": sum(s[0] for s in FASHION_IQ.values())},
        gallery={part: sizes[at] for part, sizes in FASHION_IQ.items()},
        protocol={"gallery": gallery},
    )


def _of_task(dataset: str, task: str) -> str:
    return task.lower()


def _of_subset(dataset: str, task: str) -> str:
    return dataset.rpartition("/")[2]


NAMINGS = (
    *(
        Naming(data, "marqo", datasets, MARQO_METRICS, queries, gallery, part=_of_task)
        for data, (datasets, gallery, queries) in MARQO.items()
    ),
    Naming(
        data="fashion_mnist",
        task="zeroshot",
        datasets=("fashion_mnist",),
        metrics={"weighted_f1": "category/weighted_f1"},
        queries={"category": 10000},
    ),
    Naming(
        data="lookbench",
        task="similar",
        datasets=(*(f"lookbench/{subset}" for subset in LOOKBENCH), "lookbench/overall"),
        metrics={f"{kind}_R@{k}": f"{kind}/hit_rate@{k}" for kind in ("fine", "coarse") for k in (1, 5, 10, 20)}
        | {f"nDCG@{k}": f"fine/ndcg@{k}" for k in (1, 5, 10, 20)},
        queries={f"{s}/{kind}": n for kind in ("fine", "coarse") for s, (n, _) in LOOKBENCH.items()}
        | {f"overall/{kind}": sum(n for n, _ in LOOKBENCH.values()) for kind in ("fine", "coarse")},
        gallery={f"{s}/{kind}": n for kind in ("fine", "coarse") for s, (_, n) in LOOKBENCH.items()},
        part=_of_subset,
    ),
    _fashion_iq("original"),
    _fashion_iq("val"),
    Naming(
        data="polyvore",
        task="compatibility",
        datasets=("polyvore_outfits",),
        metrics={"cp_auc": "compatibility/auc", "fitb_accuracy": "fill_in_blank/accuracy"},
        queries={},
        protocol={"kind": "nondisjoint"},
    ),
)


def read_published(path: str | Path | None = None) -> list[dict[str, str]]:
    """The rows of a reference file (columns source, dataset, task, model, metric, value); None is the packaged one.

    Raises:
        ModisteError: the file is missing, lacks a column, or holds a value that is not a number.
    """
    path = Path(path) if path else PACKAGED
    if not path.is_file():
        raise ModisteError(f"There is no file of published numbers '{path}'. `published=null` uses the packaged one.")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = set(COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise ModisteError(
                f"'{path}' lacks the column(s) {', '.join(sorted(missing))}. Add them to its first line."
            )
        rows = list(reader)
    for line, row in enumerate(rows, 2):
        if number(row["value"]) is None:
            raise ModisteError(f"'{path}', line {line}: the value '{row['value']}' is not a number. Correct the line.")
    return rows


def as_printed(value: str) -> str:
    """A published value in the digits of its publication.

    >>> as_printed("0.290"), as_printed("0.49810000000000004")
    ('0.290', '0.4981')
    """
    return value if len(value) < 12 else f"{float(value):.10g}"


def named_lines(
    result: Mapping[str, Any], published: Sequence[Mapping[str, str]]
) -> Iterator[tuple[Naming, str, Mapping[str, str]]]:
    """The published numbers of what ``result`` measured, with the benchmark and our name of each."""
    for naming in NAMINGS:
        if naming.covers(result):
            for line in published:
                name = naming.name(line)
                if name is not None:
                    yield naming, name, line
