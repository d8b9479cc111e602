"""The search index: one version of a catalogue, opened to search and update it."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modiste.errors import ModisteError, did_you_mean
from modiste.search import where as conditions
from modiste.search.calibrate import ALL, uncalibrated
from modiste.search.engines.memory import Snapshot, batch, places, top
from modiste.search.opened import (
    FIXED,
    Opened,
    Version,
    check_version,
    plain_column,
    read_facts,
)
from modiste.search.planner import Best, Measured, best_of, ranking, usual
from modiste.search.query import Pictures, Query
from modiste.search.results import Exactness, Results

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

    from modiste.data.catalogue import Catalogue
    from modiste.search.build import Changes
    from modiste.utils.progress import Progress

HYBRID = 0.3
"""Weight of the full-text score with ``hybrid=True``."""


class Index(Opened):
    """One version of an index; open it with `modiste.search.open`.

    Other processes may write new versions meanwhile: `refresh` switches to the newest. Attributes are those of
    `modiste.search.opened.Opened`.
    """

    # ------------------------------------------------------------------------------------------------------- search

    def search(
        self,
        text: str | Sequence[str] | None = None,
        image: Pictures = None,
        like: str | Sequence[str] | None = None,
        minus: str | Sequence[str] | None = None,
        where: str | None = None,
        k: int = 10,
        weights: Mapping[str, float] | None = None,
        hybrid: bool | float | None = None,
        group: bool = True,
    ) -> Results:
        """The k best products for texts, photos and products combined, among those that pass a filter.

        Args:
            text: Texts to search for.
            image: PIL images, encoded bytes, or paths of files.
            like: Ids of products in the index, which are excluded from the results.
            minus: Texts to avoid.
            where: A condition (`modiste.search.where.parse`), for instance ``price < 50 and gender = 'Men'``.
            k: Number of results.
            weights: Weights of ``text``, ``image``, ``like`` (default 1) and ``minus`` (default 0.5).
            hybrid: Weight in [0, 1] of the full-text score against the cosine, for brands and numbers that a model does
                not know; True: 0.3.
            group: Whether to return one result per product, with its views, rather than one per row.

        Raises:
            ModisteError: The query is empty or cancels out, an argument is out of range, an image cannot be read, or
                a product, column or weight is unknown.
        """
        query = Query.of(text, image, like, minus, weights)
        if k < 1:
            raise ModisteError(f"k={k} is the number of results: give 1 or more.")
        weight = _hybrid_weight(hybrid, query)
        condition = self._condition(where)
        near = self._near(self._vector(query), query, weight, condition, k)
        excluded = {code for like in query.like for code in near.snapshot.products[near.snapshot.of_product(like)]}
        best, scores, products = near.grouped(k, excluded, group)
        calibrated = self.facts.get("thresholds", {}).get(query.kind, {})
        threshold, split = calibrated.get("threshold"), calibrated.get("split", "")
        coverage = None if split == ALL else calibrated.get("coverage")
        cosines = near.snapshot.scores(near.vector, best) if weight else scores
        match = near.matches(best, cosines, threshold, query.texts if weight else ())
        table = near.table(best, scores, products, match)
        why = "" if threshold is not None else self._uncalibrated(query.kind)
        hints = [] if near.passing else conditions.near_misses(condition, self._distinct)
        return Results(
            table, near.exactness, threshold, coverage, near.passing, tuple(hints), why, split,
            near.count_products(excluded),
        )  # fmt: skip

    def browse(self, where: str | None = None, k: int = 10, group: bool = True) -> pa.Table:
        """The first k products that pass a filter, in the order of the index, as a table like `Results.table`."""
        positions = self.snapshot.passing(self._condition(where))
        order = np.arange(len(self.snapshot)) if positions is None else positions
        zeros = np.zeros(len(order), np.float32)
        near = Near(
            self.snapshot, positions, len(order), lambda n: (order[:n], zeros[:n]), Exactness("in order"), zeros
        )
        best, _, products = near.grouped(k, set(), group)
        return near.table(best, [None] * len(best), products, [None] * len(best))

    def nearest(self, vectors: np.ndarray, k: int = 10, where: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers and exact scores, (B, k) each, of the best rows for unit-norm vectors (B, D)."""
        positions = self.snapshot.passing(self._condition(where))
        matrix = self.snapshot.vectors if positions is None else self.snapshot.vectors[positions]
        order, scores = batch(matrix, np.asarray(vectors, np.float32), k)
        return self.snapshot.rows[order if positions is None else positions[order]], scores

    def _vector(self, query: Query) -> np.ndarray:
        parts = []
        if query.texts:
            parts.append(("text", np.asarray(self.embedder.texts(list(query.texts)))))
        if query.images:
            parts.append(("image", np.asarray(self.embedder.pictures(list(query.images)))))
        if query.like:
            own = [self._vectors_of(product).mean(0) for product in query.like]
            parts.append(("like", np.stack([vector / np.linalg.norm(vector) for vector in own])))
        if query.minus:
            parts.append(("minus", np.asarray(self.embedder.texts(list(query.minus)))))
        return query.vector(parts)

    def _vectors_of(self, product_id: str) -> np.ndarray:
        """Embeddings of a product's photos. Raises ModisteError for an unknown product."""
        found = self.snapshot.of_product(product_id)
        if not len(found):
            names = self.snapshot.table.column("product_id").combine_chunks().dictionary.to_pylist()
            names = ([name for name in names if name[:2] == product_id[:2]] or names)[:1000]
            raise ModisteError(f"like={product_id}: the index has no such product. {did_you_mean(product_id, names)}")
        return self.snapshot.vectors[found]

    def _near(self, vector: np.ndarray, query: Query, weight: float, condition: conditions.Node | None, k: int) -> Near:
        """The rows that pass the filter, and their ranking."""
        positions = self.snapshot.passing(condition)
        passing = len(self.snapshot) if positions is None else len(positions)
        if weight:
            rows, scores = self.store.full_text(" ".join(query.texts), condition)
            rank, exactness = hybrid_ranking(self.snapshot, vector, weight, rows, scores, positions)
        else:
            rank, exactness = ranking(self, vector, positions, condition, k + len(query.like))
        return Near(self.snapshot, positions, passing, rank, exactness, vector)

    def _uncalibrated(self, kind: str) -> str:
        """Why there is no threshold for a kind of query."""
        if kind not in self._why:
            self._why[kind] = uncalibrated(self, kind)
        return self._why[kind]

    # ---------------------------------------------------------------------------------------------- what is in it

    def __len__(self) -> int:
        return len(self.snapshot)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the model that embedded the index."""
        return self.card.fingerprint

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of the columns: row, product, title, attributes."""
        import pyarrow as pa

        fields = [(field.name, field.type) for field in self.snapshot.table.schema]
        return pa.schema([(n, t.value_type if pa.types.is_dictionary(t) else t) for n, t in fields])

    @property
    def attributes(self) -> list[str]:
        """Names of the catalogue's attribute columns."""
        return [name for name in self.types if name not in FIXED]

    def _condition(self, where: str | None) -> conditions.Node | None:
        return conditions.parse(where, self.types, self._distinct)

    def count(self, where: str | None = None) -> int:
        """Number of rows that pass a filter."""
        positions = self.snapshot.passing(self._condition(where))
        return len(self.snapshot) if positions is None else len(positions)

    def count_products(self, where: str | None = None) -> int:
        """Number of products that have a row that passes a filter."""
        return self.snapshot.count_products(self.snapshot.passing(self._condition(where)))

    def rows(self, count: int | None = None) -> list[int]:
        """The first ``count`` row numbers; None: all."""
        return self.snapshot.rows[:count].tolist()

    def facets(self, where: str | None = None) -> dict[str, dict[Any, int]]:
        """Attribute → value → number of rows that pass the filter, the most frequent value first."""
        import pyarrow.compute as pc

        positions = self.snapshot.passing(self._condition(where))
        found = {}
        for name in self.attributes:
            column = self.snapshot.table.column(name).combine_chunks()
            counts = pc.value_counts(column if positions is None else column.take(positions)).to_pylist()
            values = {entry["values"]: entry["counts"] for entry in counts if entry["values"] is not None}
            found[name] = dict(sorted(values.items(), key=lambda item: -item[1]))
        return found

    def _distinct(self, column: str) -> list[str]:
        import pyarrow.compute as pc

        return [
            value
            for value in pc.unique(plain_column(self.snapshot.table.column(column))).to_pylist()
            if value is not None
        ]

    def image(self, row: int) -> Image:
        """The photo of a row as a PIL image: the original file if it still exists, else the thumbnail.

        Raises:
            KeyError: The row does not exist.
            ModisteError: The thumbnail is damaged.
        """
        record = self._photo(row)
        original = _image_source(self.facts.get("images"))
        if original is not None:
            try:
                return original.read(record["_image"])
            except (OSError, ValueError):  # moved or changed since
                pass
        return _decoded(record["_thumbnail"])

    def thumbnail(self, row: int) -> bytes:
        """Thumbnail of a row, encoded as JPEG or as the original. Raises KeyError if the row does not exist."""
        return self._photo(row)["_thumbnail"]

    def _photo(self, row: int) -> dict[str, Any]:
        found = self.store.take([row], ["_image", "_thumbnail"]).to_pylist()
        if not found:
            raise KeyError(f"{self.path} has no row {row}")
        return found[0]

    # ---------------------------------------------------------------------------------------- how searches are made

    def plan(self, choices: Sequence[str] | None = None, recall_floor: float = 0.99) -> list[Measured]:
        """Measure cost and recall of search methods, and use the smallest that reaches the recall floor.

        Args:
            choices: ``exact``, ``bf16``, ``int8``, ``prefix-64`` (or another number of principal directions),
                ``matryoshka-64`` (or another number of first dimensions), ``binary``, ``ivf_rq`` (LanceDB's); None:
                all but ``ivf_rq``, with the prefixes that the model was trained on (``loss=matryoshka``).
            recall_floor: Minimum recall@10 and recall@100 of an approximate search, averaged over sampled queries, at
                every measured selectivity.

        Raises:
            ModisteError: The index has no rows, a choice is unknown, or none reaches the floor.
        """
        from modiste.search.build import record_plan

        measured = record_plan(self, list(choices or usual(self.card.prefixes)), recall_floor)
        self.refresh()
        return measured

    def calibrate(self, coverage: float = 0.9) -> dict[str, Any]:
        """Recalibrate the match thresholds (`modiste.search.calibrate`); returns them by kind of query.

        Raises:
            ModisteError: The index has no rows, or ``coverage`` is not between 0 and 1.
        """
        from modiste.search.build import record_thresholds

        found = record_thresholds(self, coverage)
        self.refresh()
        return found

    # ------------------------------------------------------------------------------------------------------ versions

    def versions(self) -> list[Version]:
        """All versions of the index, also newer ones than the opened one, oldest first."""
        return [Version.of(commit) for commit in read_facts(self.path)["commits"]]

    def refresh(self) -> bool:
        """Switch to the newest version and facts; returns whether anything changed."""
        facts = read_facts(self.path)
        version = facts["commits"][-1]["version"]
        if version == self.version and facts == self.facts:
            return False
        embedder, same = self.embedder, facts["model"] == self.facts["model"]
        self.__init__(self.path, facts, version)  # type: ignore[misc]
        for cached in ("schema", "plan_in_use"):
            self.__dict__.pop(cached, None)
        if same:
            self.embedder = embedder
        return True

    def at(self, version: int) -> Index:
        """Open another version of the index for searching.

        Raises:
            ModisteError: The version does not exist.
        """
        facts = read_facts(self.path)
        check_version(facts, version, self.path)
        index = Index(self.path, facts, version)
        index.embedder = self.embedder
        return index

    def upsert(self, catalogue: Catalogue, delete_missing: bool = False, progress: Progress | None = None) -> Changes:
        """Add new and changed rows of a catalogue; only photos with new pixels are embedded.

        Args:
            catalogue: The new and changed rows, or all rows.
            delete_missing: Delete rows that the catalogue lacks.
            progress: `modiste.utils.progress.progress_bar` or `silent`.

        Returns:
            Numbers of added, changed, embedded and deleted rows.

        Raises:
            ModisteError: The columns differ, a value is not of its column's type, or new photos have no model.
        """
        from modiste.search.build import upsert

        changes = upsert(self, catalogue, delete_missing, progress)
        self.refresh()
        return changes

    def delete(self, product_ids: str | Sequence[str]) -> int:
        """Delete products; returns the number of deleted rows.

        On a Qdrant server it also finishes an interrupted deletion, whose rows count. Raises ModisteError for an
        unknown product.
        """
        from modiste.search.build import delete

        count = delete(self, [product_ids] if isinstance(product_ids, str) else list(product_ids))
        self.refresh()
        return count

    def restore(self, version: int) -> None:
        """Restore an earlier version as the newest. Raises ModisteError if it does not exist."""
        from modiste.search.build import restore

        restore(self, version)
        self.refresh()


@dataclass(frozen=True)
class Near:
    """The rows that a search ranks.

    Attributes:
        snapshot: The rows.
        positions: Positions of the rows that pass the filter; None: all.
        passing: Number of rows that pass the filter.
        rank: Number of rows → positions and scores of the best ones.
        exactness: How the ranking is made.
        vector: Query vector (D,).
    """

    snapshot: Snapshot
    positions: np.ndarray | None
    passing: int
    rank: Best
    exactness: Exactness
    vector: np.ndarray

    def grouped(self, k: int, excluded: set[int], group: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions, scores and product codes of the k best products, or rows, not in ``excluded``."""
        products, available = self.snapshot.products, min(self.passing, len(self.snapshot))
        found, scores = best_of(self.rank, products, k, available, excluded, group)
        return found, scores, products[found] if group else np.empty(0, np.int64)

    def count_products(self, excluded: Collection[int]) -> int | None:
        """Number of products with a row that passes the filter, without those of these codes.

        None: not known, since the snapshot holds a server's candidates only.
        """
        if self.passing > len(self.snapshot):
            return None
        own = self._views(np.fromiter(excluded, np.int64))
        return self.snapshot.count_products(self.positions) - sum(map(bool, own))

    def matches(
        self, best: np.ndarray, cosines: np.ndarray, threshold: float | None, words: Sequence[str]
    ) -> list[bool | None]:
        """Whether each result is a match: its cosine reaches the threshold, or ``words`` contain its id."""
        if threshold is None:
            return [None] * len(best)
        near: list[bool | None] = [bool(score >= threshold) for score in cosines]
        if not words:
            return near
        asked = {word for text in words for word in (text.strip().lower(), *text.lower().split())}
        ids = self.snapshot.table.column("product_id").take(best).to_pylist()
        return [match or name.lower() in asked for match, name in zip(near, ids, strict=True)]

    def table(
        self, best: np.ndarray, scores: np.ndarray | list[None], products: np.ndarray, match: list[bool | None]
    ) -> pa.Table:
        """Build `Results.table`."""
        import pyarrow as pa

        rows = self.snapshot.table.take(best)
        plain = {name: plain_column(rows.column(name)) for name in rows.column_names}
        columns = {
            "product_id": plain.pop("product_id"),
            "row": plain.pop("row"),
            "score": pa.array(scores, pa.float32()),
            "match": pa.array(match, pa.bool_()),
        }
        if len(products):
            columns["views"] = pa.array(self._views(products), pa.list_(pa.int64()))
        return pa.table({**columns, **plain})

    def _views(self, products: np.ndarray) -> list[list[int]]:
        """The rows of each product that pass the filter."""
        views = [self.snapshot.of_code(code) for code in products]
        if self.positions is not None:
            views = [rows[places(self.positions, rows) >= 0] for rows in views]
        return [self.snapshot.rows[rows].tolist() for rows in views]


def hybrid_ranking(
    snapshot: Snapshot,
    vector: np.ndarray,
    weight: float,
    rows: np.ndarray,
    lexical: np.ndarray,
    positions: np.ndarray | None,
) -> tuple[Best, Exactness]:
    """Rank rows by ``(1 − weight) · cosine + weight · full-text score / its maximum``."""
    total = (1 - weight) * snapshot.scores(vector)
    hits = snapshot.positions(rows)
    known = hits >= 0
    if known.any():
        total[hits[known]] += weight * lexical[known] / lexical.max()
    chosen = total if positions is None else total[positions]

    def best(count: int) -> tuple[np.ndarray, np.ndarray]:
        order = top(chosen, count)
        return (order if positions is None else positions[order]), chosen[order]

    return best, Exactness(f"exact scores, and full text with weight {weight:g}")


def _hybrid_weight(hybrid: bool | float | None, query: Query) -> float:
    weight = HYBRID if hybrid is True else float(hybrid or 0)
    if not 0 <= weight <= 1:
        raise ModisteError(f"hybrid={hybrid} is the weight of the full text: give a number from 0 to 1.")
    if weight and not query.texts:
        raise ModisteError("hybrid= weighs full text, but the query has no words: add text= or remove hybrid=.")
    return weight


def _image_source(described: Mapping[str, str] | None) -> Any:
    """Reader of the original photos; None if they are not in files."""
    if not described:
        return None
    from modiste.data.sources import FolderImages, ZipImages

    if described["kind"] == "folder":
        return FolderImages(described["path"])
    return ZipImages(described["path"], described.get("prefix", ""))


def _decoded(data: bytes) -> Any:
    """Decode a thumbnail. Raises ModisteError if it is not an image or too large."""
    from modiste.data.sources import decode

    try:
        return decode(data)  # only safe formats of bounded size
    except (OSError, ValueError) as error:
        raise ModisteError(f"A thumbnail of the index is damaged ({error}): rebuild the index.") from error
