"""Marqo's retrieval benchmark (github.com/marqo-ai/marqo-FashionCLIP, 2024), on any of its data sets.

Published queries with published relevance. Each data set's ``config.json`` defines the documents: the image embedding
for text-to-image, normalise(0.9 · image + 0.1 · text) for the attribute tasks, the image for iMaterialist, which has no
text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modiste.errors import ModisteError, did_you_mean
from modiste.metrics.relevance import Floats
from modiste.tasks.result import Embedder, Result
from modiste.tasks.retrieval import Documents, Judgements, Ranking, judged_relevance, read_judgements, text_search

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue

KS = (1, 10)
SPLIT = "test"
GALLERIES = {
    "judged": "every product of the relevance files, whatever its split",
    "all": "every row of the catalogue, whatever its split",
}
PRIMARY = {"text-to-image": "avg_recall"}
"""The benchmark ranks text-to-image by AvgRecall and every other task by AvgP."""


@dataclass(frozen=True)
class MarqoTask:
    """One task of a ``config.json``: its name, its relevance file and the weights of a document's columns."""

    name: str
    file: str
    weights: dict[str, float]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> MarqoTask:
        """Read an entry of ``tasks``.

        >>> MarqoTask.from_config({"name": "text-to-image", "query_col": ["text"], "doc_col": ["image"]})
        MarqoTask(name='text-to-image', file='ground_truth_text-image.json', weights={'image': 1.0})
        """
        columns = config["doc_col"]
        weights = config.get("doc_weights", [1.0] * len(columns))
        file = f"ground_truth_{'+'.join(config['query_col'])}-{'+'.join(columns)}.json"
        return cls(config["name"], file, dict(zip(columns, weights, strict=True)))


class Marqo:
    """All tasks of one data set of the benchmark.

    The published gallery is every row of the data set, regardless of split. Use ``all`` with a catalogue from the
    Hugging Face Hub. Kaggle's KAGL has a few more products: use ``judged``, the 44,434 that the relevance files name.
    Metrics are those of pytrec_eval: true recall, MAP@k over the number of relevant items, MRR cut off at 10. A model
    trained on products of the gallery is an in-domain model: the count ``relevant_in_train`` is the number of a task's
    relevant items, summed over its queries, in the catalogue's train split.

    Args:
        path: Folder with ``config.json`` and the ``ground_truth_*.json`` of the data set.
        gallery: ``judged`` or ``all`` (`GALLERIES`).
        query_prefix: Prefix of every query.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap and the examples.
        examples: Number of example queries kept per task.

    Raises:
        ModisteError: The gallery is unknown.
    """

    name = "marqo"
    files = ("path",)

    def __init__(
        self,
        path: str,
        query_prefix: str = "",
        resamples: int = 1000,
        seed: int = 0,
        examples: int = 12,
        gallery: str = "judged",
    ) -> None:
        if gallery not in GALLERIES:
            raise ModisteError(f"Unknown gallery '{gallery}'. {did_you_mean(gallery, GALLERIES)}")
        self.path, self.query_prefix, self.gallery = Path(path), query_prefix, gallery
        self.ranking = Ranking(KS, "relevant", resamples, seed, examples, select=marqo_metrics)

    @staticmethod
    def validate_config(node: Mapping[str, Any], cfg: Mapping[str, Any]) -> None:
        """Raise ModisteError for a training run, whose validation must not use a test set."""
        if "trainer" in cfg:
            raise ModisteError("Marqo's queries are a test set: evaluate the run with task=[marqo] after training.")

    def __call__(self, embedder: Embedder, catalogue: Catalogue, split: str = SPLIT) -> Result:
        """Evaluate on the published queries.

        Raises:
            ModisteError: A file is missing or malformed, the catalogue lacks a product of the benchmark or has several
                rows of one, ``split`` is not ``test``, or an embedding is not finite.
        """
        if split != SPLIT:
            raise ModisteError(f"Marqo's queries are a test set: evaluate with split={SPLIT}, not split={split}.")
        tasks = read_tasks(self.path)
        judgements = read_all(self.path, tasks)
        gallery = select_gallery(catalogue, judgements, self.gallery)
        documents = Documents(embedder, gallery)
        product_ids = gallery.column("product_id")
        searches = [
            text_search(
                task.name,
                list(queries),
                self.query_prefix,
                documents,
                task.weights,
                judged_relevance(queries, product_ids, task.file),
            )
            for task, queries in zip(tasks, judgements, strict=True)
        ]
        scored = self.ranking.run(searches)
        in_train = np.asarray(gallery.column("split")) == "train"
        scored["counts"] |= {f"{s.name}/relevant_in_train": int(in_train[s.relevance.items].sum()) for s in searches}
        primary = f"{tasks[0].name}/{PRIMARY.get(tasks[0].name, 'avg_precision')}"
        return Result(
            self.name,
            catalogue.card.name,
            split,
            protocol=self.describe(tasks),
            primary=primary,
            summary=["avg_recall", "avg_precision"],
            **scored,
        )

    def describe(self, tasks: Sequence[MarqoTask]) -> dict[str, Any]:
        """The protocol as plain values."""
        scoring = self.ranking.describe()
        kept = marqo_metrics(dict.fromkeys(scoring["metrics"], np.zeros(0)))
        averages = {"avg_recall": "mean of recall@1 and recall@10", "avg_precision": "mean of precision@1 and @10"}
        return scoring | {
            "source": "github.com/marqo-ai/marqo-FashionCLIP, 2024",
            "query_prefix": self.query_prefix,
            "gallery": GALLERIES[self.gallery],
            "documents": {task.name: task.weights for task in tasks},
            "relevance": {task.name: task.file for task in tasks},
            "metrics": {name: (scoring["metrics"] | averages)[name] for name in kept},
        }


def marqo_metrics(metrics: dict[str, Floats]) -> dict[str, Floats]:
    """The metrics that the benchmark reports, with its averages over the two cut-offs."""
    kept = ("recall@", "precision@", "map@", "ndcg@", "mrr@10")
    averages = {
        "avg_recall": (metrics["recall@1"] + metrics["recall@10"]) / 2,
        "avg_precision": (metrics["precision@1"] + metrics["precision@10"]) / 2,
    }
    return {name: values for name, values in metrics.items() if name.startswith(kept)} | averages


def read_tasks(path: Path) -> list[MarqoTask]:
    """Read the tasks that ``config.json`` in ``path`` declares.

    Raises:
        ModisteError: The file is missing or malformed.
    """
    file = path / "config.json"
    try:
        return [MarqoTask.from_config(config) for config in json.loads(file.read_text(encoding="utf-8"))["tasks"]]
    except FileNotFoundError:
        raise ModisteError(
            f"{file} does not exist: give the folder of one data set of Marqo's benchmark: from github.com/marqo-ai/"
            f"marqo-FashionCLIP, configs/NAME.json as config.json, and the files of data/NAME/gt_query_doc."
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModisteError(f"{file} is not a configuration of Marqo's benchmark: {error!r}.") from None


def read_all(path: Path, tasks: Sequence[MarqoTask]) -> list[Judgements]:
    """Read the relevance of every task.

    Raises:
        ModisteError: A file is missing or malformed.
    """
    missing = [task.file for task in tasks if not (path / task.file).is_file()]
    if missing:
        raise ModisteError(
            f"{len(missing)} of {len(tasks)} relevance files are missing in {path}: {', '.join(missing)}."
        )
    return [read_judgements(path / task.file) for task in tasks]


def select_gallery(catalogue: Catalogue, judgements: Sequence[Judgements], gallery: str = "judged") -> Catalogue:
    """Select all rows, or those of products in a relevance file, in the catalogue's order.

    Raises:
        ModisteError: A judged product is not in the catalogue, or a selected product has several rows.
    """
    wanted = {item for queries in judgements for items in queries.values() for item in items}
    product_ids = catalogue.column("product_id")
    missing = sorted(wanted - set(product_ids))
    if missing:
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise ModisteError(
            f"{len(missing)} of the benchmark's {len(wanted)} products are not in {catalogue.card.name} ({shown}): "
            f"the protocol needs the full catalogue."
        )
    rows = [row for row, product in enumerate(product_ids) if gallery == "all" or product in wanted]
    products = len({product_ids[row] for row in rows})
    if len(rows) != products:
        raise ModisteError(
            f"{len(rows)} rows of {catalogue.card.name} belong to {products} products: the protocol needs one row each."
        )
    return catalogue.select(rows=rows)
