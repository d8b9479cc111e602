"""Image→image retrieval: other views of a product, query and gallery splits, grouped benchmarks.

DeepFashion In-shop (Liu et al., CVPR 2016): hit rate@k of the query partition in the gallery partition. LookBench
(arXiv 2601.14706): category and main attribute equal (fine) or category equal (coarse), four subsets that share their
distractors; its published numbers count a query without a relevant item as a miss and divide nDCG@k by k relevant ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modiste.errors import ModisteError, did_you_mean
from modiste.metrics.direction import LOWER_IS_BETTER, directions
from modiste.metrics.intervals import bootstrap
from modiste.metrics.relevance import Floats, Ints, Relevance
from modiste.tasks.result import Embedder, Result
from modiste.tasks.retrieval import Documents, Ranking, Search
from modiste.utils.ranges import Count

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue

EVERY_GROUP = "all"
"""Value of the group column that puts a gallery row into every group's gallery."""
OVERALL = "overall"
WITHOUT_RELEVANT = ("excluded", "miss")


@dataclass(frozen=True)
class Part:
    """Queries and gallery of one group, as positions in the embedded rows.

    Attributes:
        prefix: Prefix of the metrics' names: "" or ``<group>/``.
        queries: (Q,) positions.
        gallery: (G,) positions.
        own: (Q,) index of the query itself in ``gallery``; -1: not in the gallery.
    """

    prefix: str
    queries: Ints
    gallery: Ints
    own: Ints

    @classmethod
    def of(cls, prefix: str, queries: Ints, gallery: Ints) -> Part:
        """Look up ``own`` for queries and their gallery.

        >>> Part.of("", np.array([3, 5]), np.array([5, 6])).own
        array([-1,  0])
        """
        place = np.full(max(queries.max(initial=0), gallery.max(initial=0)) + 1, -1)
        place[gallery] = np.arange(len(gallery))
        return cls(prefix, queries, gallery, place[queries])

    def relevance(self, ids: Ints) -> Relevance:
        """Gallery items with the query's id, without the query itself; an id of -1 matches nothing."""
        of_queries = np.where(ids[self.queries] < 0, -2, ids[self.queries])
        return Relevance.from_ids(of_queries, ids[self.gallery]).without(self.own)


class Similar:
    """Image-to-image retrieval.

    A query is excluded from its own gallery by row, so a second image with the same pixels stays; the count
    ``queries_with_identical_image`` is the number of queries that have one.

    Args:
        relevance: Name (the metrics' prefix) to columns: rows that are equal in all of them are relevant. A row whose
            columns are all empty is relevant to nothing.
        query_split: Split of the queries; None: the evaluated split.
        gallery_split: Split of the gallery; None: that of the queries ("the same product, another view").
        group_by: Column whose groups are searched separately, each group's queries in its own gallery; gallery rows
            with the value ``all`` are in every gallery. The metrics' prefix is then ``<group>/<relevance>``, and
            ``overall/<relevance>`` is the mean (of ranks: the median) over the queries of all groups.
        ks: Cut-offs.
        ideal: Denominator of nDCG@k: ``relevant``, the DCG of the ideal order, or ``full``, that of k relevant items
            (LookBench).
        without_relevant: ``excluded`` drops queries without a relevant item, ``miss`` scores them as misses; both
            count them.
        map_denominator: Denominator of MAP@k: ``relevant`` or ``min_relevant_k``.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap and the examples.
        examples: Number of example queries kept per search.

    Raises:
        ModisteError: An option is unknown, or ``relevance`` has no columns.
    """

    name = "similar"

    def __init__(
        self,
        relevance: Mapping[str, Sequence[str]] | None = None,
        query_split: str | None = None,
        gallery_split: str | None = None,
        group_by: str | None = None,
        ks: Sequence[Count] = (1, 5, 10),
        ideal: str = "relevant",
        without_relevant: str = "excluded",
        map_denominator: str = "relevant",
        resamples: int = 1000,
        seed: int = 0,
        examples: int = 12,
    ) -> None:
        given = {"product": ["product_id"]} if relevance is None else relevance
        self.relevance = {str(k): [v] if isinstance(v, str) else [str(c) for c in v] for k, v in given.items()}
        if not self.relevance or not all(self.relevance.values()):
            raise ModisteError(
                "The similar task needs columns that define relevance: relevance={product: [product_id]}."
            )
        if without_relevant not in WITHOUT_RELEVANT:
            hint = did_you_mean(without_relevant, WITHOUT_RELEVANT)
            raise ModisteError(f"Unknown without_relevant '{without_relevant}'. {hint}")
        self.query_split, self.gallery_split, self.group_by = query_split, gallery_split, group_by
        self.ranking = Ranking(
            list(ks), map_denominator, resamples, seed, examples, ideal=ideal, misses=without_relevant == "miss"
        )

    @staticmethod
    def validate_config(node: Mapping[str, Any], cfg: Mapping[str, Any]) -> None:
        """Raise ModisteError for a training run with splits other than the validation split."""
        if "trainer" in cfg and (node.get("query_split") or node.get("gallery_split")):
            raise ModisteError(
                "Validation in training sees the validation split only: set task.similar.query_split=null and "
                "task.similar.gallery_split=null, and evaluate the run with them after training."
            )

    def __call__(self, embedder: Embedder, catalogue: Catalogue, split: str) -> Result:
        """Evaluate on ``split`` of the full ``catalogue``.

        Raises:
            ModisteError: A split or column is missing, no query has a relevant item, or an embedding is not finite.
        """
        query_split = self.query_split or split
        gallery_split = self.gallery_split or query_split
        for name in (query_split, gallery_split):
            catalogue.select(split=name)
        splits = np.asarray(catalogue.column("split"))
        rows = catalogue.select(rows=np.flatnonzero((splits == query_split) | (splits == gallery_split)))
        splits = np.asarray(rows.column("split"))
        documents = Documents(embedder, rows)
        documents.column("image")  # embed once, before the galleries are selected
        ids = {name: row_ids(rows, columns) for name, columns in self.relevance.items()}
        parts = self._parts(rows, np.flatnonzero(splits == query_split), np.flatnonzero(splits == gallery_split))
        scored = self.ranking.run(self._searches(documents, parts, ids))
        scored["counts"] |= self._identical(parts, row_ids(rows, ["pixels"]))
        if self.group_by is not None:
            self._add_overall(scored, parts)
        first = f"{OVERALL}/{next(iter(ids))}" if self.group_by is not None else next(iter(ids))
        ks = self.ranking.ks
        return Result(
            task=self.name,
            data=catalogue.card.name,
            split=query_split,
            protocol=self.describe(query_split, gallery_split),
            primary=f"{first}/hit_rate@{ks[0]}",
            summary=[*(f"hit_rate@{k}" for k in ks), "ndcg@5", "mrr"],
            **scored,
        )

    def describe(self, query_split: str, gallery_split: str) -> dict[str, Any]:
        """The protocol as plain values."""
        overall = {"overall": "mean over the queries of all groups: the groups' means weighted by their queries"}
        return {
            "query_split": query_split,
            "gallery_split": gallery_split,
            "query_in_gallery": "never: excluded by its row; other images with the same pixels stay",
            "relevance": self.relevance,
            "relevance_rule": "all columns equal; a row without a value in any of them is relevant to nothing",
            "group_by": self.group_by,
            **(overall if self.group_by is not None else {}),
            **self.ranking.describe(),
            "ideal": self.ranking.ideal,
        }

    def _parts(self, rows: Catalogue, queries: Ints, gallery: Ints) -> list[Part]:
        if self.group_by is None:
            return [Part.of("", queries, gallery)]
        groups = np.asarray(rows.column(self.group_by))
        names = [name for name in dict.fromkeys(groups[queries].tolist()) if name not in ("", EVERY_GROUP)]
        if not names:
            raise ModisteError(f"No query has a group in the column '{self.group_by}': change task.similar.group_by.")
        of_gallery = groups[gallery]
        return [
            Part.of(
                f"{name}/",
                queries[groups[queries] == name],
                gallery[(of_gallery == name) | (of_gallery == EVERY_GROUP)],
            )
            for name in names
        ]

    def _searches(self, documents: Documents, parts: Sequence[Part], ids: Mapping[str, Ints]) -> Iterator[Search]:
        """Yield one search at a time, so that only one group's copy of the gallery is in memory."""
        for part in parts:
            gallery = documents.select(part.gallery) if len(part.gallery) else None
            labels = documents.rows[part.queries].tolist()
            queries = documents.column("image")[part.queries]
            for name, of_rows in ids.items():
                relevance = part.relevance(of_rows)
                if gallery is None or not len(relevance.items):
                    raise ModisteError(
                        f"No query image has another image with the same {' and '.join(self.relevance[name])} in the "
                        f"gallery of {part.prefix}{name}: use a data set with several images per product, or choose "
                        "other columns with task.similar.relevance={NAME: [COLUMN]}."
                    )
                yield Search(part.prefix + name, "i2i", labels, queries, gallery, {"image": 1.0}, relevance, part.own)

    def _identical(self, parts: Sequence[Part], pixels: Ints) -> dict[str, int]:
        counts = {part.prefix: int((part.relevance(pixels).counts > 0).sum()) for part in parts}
        return {
            f"{prefix}{name}/queries_with_identical_image": n for prefix, n in counts.items() for name in self.relevance
        }

    def _add_overall(self, scored: dict[str, Any], parts: Sequence[Part]) -> None:
        per_query: dict[str, Floats] = scored["per_query"]
        for name in self.relevance:
            prefixes = [f"{part.prefix}{name}/" for part in parts]
            metrics = [key.removeprefix(prefixes[0]) for key in per_query if key.startswith(prefixes[0])]
            values = {m: np.concatenate([per_query[prefix + m] for prefix in prefixes]) for m in metrics}
            intervals = bootstrap(values, ["median_rank"], self.ranking.resamples, self.ranking.seed)
            scored["metrics"] |= {f"{OVERALL}/{name}/{m}": interval for m, interval in intervals.items()}
            scored["higher_is_better"] |= directions(scored["metrics"], LOWER_IS_BETTER)
            per_query |= {f"{OVERALL}/{name}/{m}": v for m, v in values.items()}
            for count in ("queries", "queries_without_relevant"):
                total = sum(scored["counts"][prefix + count] for prefix in prefixes)
                scored["counts"][f"{OVERALL}/{name}/{count}"] = total


def row_ids(catalogue: Catalogue, columns: Sequence[str]) -> Ints:
    """(N,) integer ids: equal where all columns are equal, -1 where all of them are empty."""
    numbers: dict[tuple[str, ...], int] = {("",) * len(columns): -1}
    values = zip(*(catalogue.column(name) for name in columns), strict=True)
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)
