"""Rows of an index on a Qdrant server, for catalogues beyond one machine."""

from __future__ import annotations

import functools
import os
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from modiste.errors import ModisteError
from modiste.search import where as conditions

if TYPE_CHECKING:
    import pyarrow as pa
    from qdrant_client import models

MEMORY = ":memory:"
"""URL of the client's in-memory mode: exact scoring in this process, for tests on few rows."""
UPLOAD = 512
KEY, WORDS, OWNER = "_key", "_words", "_index"
SPACE = uuid.UUID("6b1f6a0e-6a3c-4f5e-9a54-0f2b7d8f1c11")

_given: set[str] = {MEMORY}


def confirm(url: str | None) -> None:
    """Register a server URL that the user gave; no other server is contacted, whatever an index names."""
    if url:
        _given.add(url.rstrip("/"))


@functools.cache
def _client(url: str) -> Any:
    try:
        from qdrant_client import QdrantClient
    except ImportError:
        raise ModisteError("engine=qdrant needs qdrant-client: pip install 'modiste[search]'.") from None
    # The check would query the server's version, and warn if none answers.
    return QdrantClient(MEMORY) if url == MEMORY else QdrantClient(url=url, timeout=60, check_compatibility=False)


class _Calls:
    """Proxy of a client that turns its errors into ModisteErrors of one sentence."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __getattr__(self, name: str) -> Callable[..., Any]:
        from qdrant_client.http.exceptions import ApiException

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return getattr(_client(self.url), name)(*args, **kwargs)
            except (ApiException, OSError, ValueError) as error:
                reason = " ".join(str(error).split())[:200].rstrip(".")
                raise ModisteError(
                    f"The Qdrant server at {self.url} does not answer as it should ({reason}): start it, or correct "
                    "qdrant.url."
                ) from error

        return call


class QdrantStore:
    """A collection on a server, or in the client's in-memory mode.

    Rows are points whose id is a UUID of their key, so that an upsert replaces them; their columns are the payload,
    with the thumbnail in base64. Only the newest version is kept; for earlier ones use the server's snapshots. Upserts
    and deletions are not atomic: readers see each request's rows.

    Args:
        url: URL of the server, or `MEMORY`.
        collection: Name of the collection.
        id: Id of the index, stored in every row. Upserts and deletions are refused in a collection with rows of another
            index: the file that names the collection is not trusted.
    """

    version = 0

    def __init__(self, url: str, collection: str, id: str) -> None:
        self.url, self.collection, self.id = url, collection, id

    @property
    def client(self) -> Any:
        """The server's client, shared within the process.

        Raises:
            ModisteError: The index names a URL that the user did not give (`confirm`).
        """
        confirm(os.environ.get("MODISTE_QDRANT_URL"))
        if self.url.rstrip("/") not in _given:
            raise ModisteError(
                f"The index is on the server {self.url}, which would receive your queries: set qdrant.url or "
                "MODISTE_QDRANT_URL to this address if you trust it."
            )
        return _Calls(self.url)

    def create(self, data: pa.Table, types: Mapping[str, str]) -> None:
        """Create the collection with its first rows and an index of each filter column.

        An existing collection is that of a killed build (`check_free`) and is replaced. Raises ModisteError as
        `check_own`.
        """
        from qdrant_client import models

        dim = data.schema.field("_vector").type.list_size
        if self.client.collection_exists(self.collection):
            self.check_own()
            self.client.delete_collection(self.collection)
        self.client.create_collection(
            self.collection, vectors_config=models.VectorParams(size=dim, distance=models.Distance.DOT)
        )
        if self.url != MEMORY:  # the in-memory mode has no payload indexes, and warns
            kinds = models.PayloadSchemaType
            # An index of integers serves lists of values, one of floats only ranges. Attributes need ranges with
            # decimals, which Qdrant truncates for an index of integers (qdrant#9049).
            schemas = {name: kinds.KEYWORD if kind == conditions.TEXT else kinds.FLOAT for name, kind in types.items()}
            for name, schema in {**schemas, "row": kinds.INTEGER, WORDS: kinds.TEXT, OWNER: kinds.KEYWORD}.items():
                self.client.create_payload_index(self.collection, name, schema)
        self.upsert(data)

    def upsert(self, data: pa.Table) -> None:
        """Replace rows whose key exists and add the others. Raises ModisteError as `check_own`."""
        import base64

        from qdrant_client import models

        self.check_own()
        for start in range(0, len(data), UPLOAD):
            part = data.slice(start, UPLOAD)
            points = []
            for row in part.to_pylist():
                vector = row.pop("_vector")
                row["_thumbnail"] = base64.b64encode(row["_thumbnail"]).decode()
                payload = {name: value for name, value in row.items() if value is not None} | {OWNER: self.id}
                points.append(models.PointStruct(id=self._id(row[KEY]), vector=vector, payload=payload))
            self.client.upsert(self.collection, points, wait=True)

    def widen(self, names: Sequence[str]) -> None:
        """Do nothing: payloads and their indexes of numbers hold decimals."""

    def types(self, names: Iterable[str]) -> dict[str, str]:
        """Raise ModisteError: payloads have no types, and no earlier ones are restored."""
        raise ModisteError("engine=qdrant does not store the types of columns: re-index with another out=.")

    def delete(self, keys: Sequence[str]) -> None:
        """Delete rows by their keys. Raises ModisteError as `check_own`."""
        self.check_own()
        for start in range(0, len(keys), UPLOAD):
            self.client.delete(self.collection, [self._id(key) for key in keys[start : start + UPLOAD]], wait=True)

    def check_free(self, resumed: bool) -> None:
        """Raise ModisteError if a new index cannot use the collection.

        Args:
            resumed: Whether a killed build of this index may have created the collection, perhaps without rows.
        """
        if not self.client.collection_exists(self.collection):
            return
        if not resumed:
            raise ModisteError(
                f"The server {self.url} already has a collection {self.collection}, which was not changed: choose "
                "another qdrant.collection, or delete it there if nothing uses it."
            )
        self.check_own()

    def check_own(self) -> None:
        """Raise ModisteError if the collection has rows of another index."""
        from qdrant_client import models

        own = models.FieldCondition(key=OWNER, match=models.MatchValue(value=self.id))
        if self.client.count(self.collection, count_filter=models.Filter(must_not=[own]), exact=True).count:
            raise ModisteError(
                f"The collection {self.collection} of {self.url} holds rows of another index, so nothing was changed: "
                "rebuild this index with another qdrant.collection."
            )

    def count(self, condition: conditions.Node | None = None) -> int:
        """Number of rows that match a condition."""
        return self.client.count(self.collection, count_filter=filter_of(condition), exact=True).count

    def nearest(self, vector: np.ndarray, k: int, condition: conditions.Node | None) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers and scores of the k best; the server scores all rows exactly, not by its HNSW graph."""
        from qdrant_client import models

        found = self.client.query_points(
            self.collection, query=vector.tolist(), query_filter=filter_of(condition), limit=k, with_payload=["row"],
            search_params=models.SearchParams(exact=True),
        ).points  # fmt: skip
        rows = np.array([point.payload["row"] for point in found], np.int64)
        return rows, np.array([point.score for point in found], np.float32)

    def tidy(self) -> None:
        """Do nothing: the server compacts by itself."""

    def restore(self, version: int) -> None:
        """Raise ModisteError: Qdrant keeps no earlier versions."""
        raise ModisteError("engine=qdrant keeps only the newest version: restore one of the server's own snapshots.")

    def read(self, columns: Sequence[str], condition: conditions.Node | None = None) -> pa.Table:
        """Read columns of matching rows as an Arrow table, ascending by ``row`` if that is one of them."""
        import base64

        import pyarrow as pa

        names = [name for name in columns if name != "_vector"]
        points, offset = [], None
        while True:
            found, offset = self.client.scroll(
                self.collection, scroll_filter=filter_of(condition), limit=UPLOAD, offset=offset, with_payload=names,
                with_vectors="_vector" in columns,
            )  # fmt: skip
            points += found
            if offset is None:
                break
        if "row" in columns:
            points.sort(key=lambda point: point.payload["row"])
        data = {name: [(point.payload or {}).get(name) for point in points] for name in names}
        if "_thumbnail" in data:
            data["_thumbnail"] = [base64.b64decode(text or "") for text in data["_thumbnail"]]
        table = pa.table(data)
        if "_vector" in columns:
            flat = pa.array(np.array([point.vector for point in points], np.float32).reshape(-1))
            dim = len(points[0].vector) if points else 1
            table = table.append_column("_vector", pa.FixedSizeListArray.from_arrays(flat, dim))
        return table

    def take(self, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Read columns of some rows; rows that do not exist are missing."""
        return self.read(["row", *columns], conditions.In("row", tuple(map(int, rows))))

    def full_text(self, query: str, condition: conditions.Node | None) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers and scores of all rows that have words of the query, best first.

        A score is Σ IDF over the words that the row has. The IDF of a word is log(1 + number of rows / number of rows
        with the word that pass the condition).
        """
        total = self.count()
        scores: dict[int, float] = {}
        for word in set(re.findall(r"\w+", query.lower())):
            table = self.read(["row", WORDS], _with_word(condition, word))
            texts = [set(re.findall(r"\w+", text.lower())) for text in table.column(WORDS).to_pylist()]
            having = [row for row, words in zip(table.column("row").to_pylist(), texts, strict=True) if word in words]
            for row in having:
                scores[row] = scores.get(row, 0.0) + log(1 + total / len(having))
        best = sorted(scores, key=lambda row: (-scores[row], row))
        return np.array(best, np.int64), np.array([scores[row] for row in best], np.float32)

    @staticmethod
    def _id(key: str) -> str:
        return str(uuid.uuid5(SPACE, key))


class _Word:
    """Qdrant-specific condition: the full text has a word."""

    def __init__(self, word: str) -> None:
        self.word = word


def _with_word(condition: conditions.Node | None, word: str) -> Any:
    own: Any = _Word(word)
    return own if condition is None else conditions.Join("and", (condition, own))


def filter_of(node: conditions.Node | None) -> models.Filter | None:
    """A condition as a Qdrant filter; None for no condition.

    Raises:
        ModisteError: Qdrant does not support it: an order comparison of text, or a pattern other than ``%word%``.
    """
    from qdrant_client import models

    if node is None:
        return None
    condition = _condition(node, models)
    return condition if isinstance(condition, models.Filter) else models.Filter(must=[condition])


def _condition(node: Any, models: Any) -> Any:
    if isinstance(node, _Word):
        return models.FieldCondition(key=WORDS, match=models.MatchText(text=node.word))
    if isinstance(node, conditions.Join):
        parts = [_condition(part, models) for part in node.parts]
        return models.Filter(must=parts) if node.word == "and" else models.Filter(should=parts)
    if isinstance(node, conditions.Not):
        return models.Filter(must_not=[_condition(node.part, models)])
    if isinstance(node, conditions.Constant):
        nothing = models.HasIdCondition(has_id=[])
        return models.Filter(must_not=[nothing]) if node.value else models.Filter(must=[nothing])
    if isinstance(node, conditions.Missing):
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=node.column))
    if isinstance(node, conditions.In):
        return _any_of(node, models)
    if isinstance(node, conditions.Like):
        word = re.fullmatch(r"%(\w+)%", node.pattern)
        if word is None:
            raise ModisteError("engine=qdrant matches whole words of titles: write text like '%word%'.")
        return models.FieldCondition(key=node.column, match=models.MatchText(text=word[1]))
    return _compared(node, models)


def _any_of(node: conditions.In, models: Any) -> Any:
    if all(isinstance(value, str) or (node.column == "row" and isinstance(value, int)) for value in node.values):
        return models.FieldCondition(key=node.column, match=models.MatchAny(any=list(node.values)))
    return models.Filter(should=[_compared(conditions.Compare(node.column, "=", v), models) for v in node.values])


def _compared(node: conditions.Compare, models: Any) -> Any:
    if isinstance(node.value, str):
        if node.sign not in ("=", "!="):
            raise ModisteError(f"engine=qdrant cannot compare texts: {node.column} {node.sign} is for numbers.")
        equal: Any = models.FieldCondition(key=node.column, match=models.MatchValue(value=node.value))
    elif node.sign in ("=", "!="):
        equal = models.FieldCondition(key=node.column, range=models.Range(gte=node.value, lte=node.value))
    else:
        name = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}[node.sign]
        return models.FieldCondition(key=node.column, range=models.Range(**{name: node.value}))
    if node.sign == "=":
        return equal
    # A missing value matches no comparison, not even !=.
    missing = models.IsEmptyCondition(is_empty=models.PayloadField(key=node.column))
    return models.Filter(must_not=[equal, missing])
