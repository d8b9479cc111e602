"""Reading of an index: its facts, its versions, and the rows of one version."""

from __future__ import annotations

import copy
import functools
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from modiste.errors import ModisteError, did_you_mean
from modiste.search.encoder import Encoder, ModelCard
from modiste.search.engines.compressed import Codes
from modiste.search.engines.lancedb import LanceStore
from modiste.search.engines.memory import Snapshot
from modiste.search.engines.qdrant import QdrantStore
from modiste.search.planner import EXACT, IVF, Plan
from modiste.utils.links import refuse_links
from modiste.utils.run_dir import RunDir, read_json

if TYPE_CHECKING:
    import pyarrow as pa

    from modiste.models.dual_encoder import DualEncoder
    from modiste.search.engines.qdrant import QdrantStore

FACTS = "index.json"
ELSEWHERE = "is not part of the index"
FIXED = ("row", "product_id", "text")
"""Columns of every index; the others are the catalogue's attributes."""


class Version(int):
    """Number of a version, with its facts.

    Attributes:
        created: Time of creation, ISO 8601.
        rows: Number of rows.
        note: What the version changed.
    """

    created: str
    rows: int
    note: str

    @classmethod
    def of(cls, commit: Mapping[str, Any]) -> Version:
        """Read a record of the index's facts."""
        version = cls(commit["version"])
        version.created, version.rows, version.note = commit["created"], commit["rows"], commit["note"]
        return version


class Opened:
    """One version of an index, opened for reading.

    Attributes:
        path: Folder of the index.
        facts: Content of ``index.json``.
        snapshot: Rows of the version; no rows for an index on a server.
        version: Number of the opened version.
        card: The model that embedded the index: name, fingerprint, preprocessing.
        types: Column → ``text`` or ``number``.
        embedder: ``texts(list) -> (N, D)`` and ``pictures(list of PIL images) -> (N, D)`` of the model; `modiste serve`
            replaces it with a batching one.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], version: int, snapshot: Snapshot | None = None) -> None:
        self.path, self.facts, self.version = path, facts, version
        self.snapshot = read_snapshot(path, facts, version) if snapshot is None else snapshot
        self.card = ModelCard(**facts["model"])
        self.types: dict[str, str] = facts["types"]
        self.embedder: Any = Encoder(path / "model")
        self.store: Any = store_of(path, facts["engine"], version)
        self._codes: dict[str, Codes] = {}
        self._why: dict[str, str] = {}  # kind of query → why it has no threshold

    @property
    def has_model(self) -> bool:
        """Whether the index has a model; one built from embeddings on disk may have none."""
        return Encoder(self.path / "model").exists

    @property
    def model(self) -> DualEncoder:
        """The dual encoder, loaded on first access. Raises ModisteError as `Encoder.model`."""
        return self.embedder.model

    @functools.cached_property
    def plan_in_use(self) -> Plan:
        """The search plan that `Index.plan` chose; by default and of earlier versions, exact search."""
        return Plan.of(self.facts.get("plan") if self.version == newest_version(self.facts) else None)

    def codes(self, kind: str) -> Codes | None:
        """Compressed vectors of this version; None for a choice without codes in memory."""
        if kind in (EXACT, IVF):
            return None
        if kind not in self._codes:
            stored = Codes.read(snapshot_folder(self.path, self.version), kind)
            self._codes[kind] = stored or Codes.make(kind, self.snapshot.vectors)
        return self._codes[kind]


def newest(folder: Path) -> Opened:
    """Open the newest version. Raises ModisteError as `read_facts`."""
    facts = read_facts(folder)
    return Opened(folder, facts, newest_version(facts))


def newest_version(facts: Mapping[str, Any]) -> int:
    """The number of the version that readers see."""
    return facts["commits"][-1]["version"]


def read_facts(folder: Path) -> dict[str, Any]:
    """Read the facts of an index. Raises ModisteError if it does not exist, is unfinished or damaged."""
    refuse_links(folder, ELSEWHERE)
    facts = read_json(folder / FACTS)
    if facts:
        if not is_complete(facts):
            raise ModisteError(
                f"{folder / FACTS} is damaged: rebuild the index with modiste index run=RUN data=… "
                f"out={shlex.quote(str(folder))}."
            )
        return facts
    if (folder / "staging").is_dir() or (folder / "lance").is_dir():
        raise ModisteError(f"{folder} is unfinished: repeat the modiste index command that created it; it resumes.")
    if folder.exists():
        raise ModisteError(f"{folder} is not an index: it has no {FACTS}. {remedy(folder)}")
    near = [path.name for path in folder.parent.glob("*") if (path / FACTS).is_file()] if folder.parent.is_dir() else []
    hint = (
        did_you_mean(folder.name, near, folder.parent)
        if near
        else f"Make one with modiste index run=RUN data=… out={shlex.quote(str(folder))}."
    )
    raise ModisteError(f"There is no index {folder}. {hint}")


def is_complete(facts: Any) -> bool:
    """Whether the content of an ``index.json`` has the form that `modiste.search.build` writes."""
    try:
        card = ModelCard(**facts["model"])
        Plan.of(facts.get("plan"))
        engine, columns = facts["engine"], facts["columns"].values()
        words = [*facts["types"].values(), *columns, *engine.values(), engine["kind"]]
        versions = [*map(Version.of, facts["commits"]), *(commit["version"] for commit in facts["commits"])]
        numbers = [facts["model"]["embed_dim"], facts["next_row"], *versions, *card.prefixes]
        missing = {"url", "collection"} - engine.keys() if engine["kind"] == "qdrant" else ()
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    right = all(isinstance(word, str) for word in words) and all(isinstance(number, int) for number in numbers)
    return right and bool(facts["commits"]) and not missing and engine["kind"] in ("lancedb", "qdrant")


def remedy(folder: Path) -> str:
    """Remedy for a folder that exists and is not an index."""
    inside, run = shlex.quote(str(folder / "index")), shlex.quote(str(folder))
    if (folder / "index" / FACTS).is_file():
        return f"It holds one: give index={inside}."
    if RunDir(folder).is_run:
        return f"It is a run directory: index its catalogue with modiste index run={run} out={inside}."
    return "Make one in a new folder with modiste index run=RUN data=… out=shop.index."


def snapshot_folder(folder: Path, version: int) -> Path:
    """Folder of a version's snapshot."""
    return folder / "snapshots" / str(version)


def store_of(folder: Path, engine: Mapping[str, str], version: int | None = None) -> LanceStore | QdrantStore:
    """The store of an index's rows, at ``version`` or the newest."""
    if engine["kind"] == "qdrant":
        return QdrantStore(engine["url"], engine["collection"], engine.get("id", ""))
    return LanceStore(folder, version)


def read_snapshot(folder: Path, facts: Mapping[str, Any], version: int) -> Snapshot:
    """Read the rows of a version; no rows for an index on a server."""
    if facts["engine"]["kind"] == "qdrant":
        return no_rows(facts)
    place = snapshot_folder(folder, version)
    snapshot = Snapshot.read(place)
    if snapshot is None:  # of an old version, or damaged
        snapshot = snapshot_of(LanceStore(folder, version), facts["types"])
        if place.is_dir():
            with suppress(OSError):  # a reader may lack write permission
                snapshot.write(place)
    return snapshot


def no_rows(facts: Mapping[str, Any]) -> Snapshot:
    """Snapshot with an index's columns and no rows."""
    import pyarrow as pa

    kinds = {"row": "int64", **facts["columns"]}
    fields = {name: pa.array([], pa.type_for_alias(kind)) for name, kind in kinds.items()}
    fields["product_id"] = fields["product_id"].dictionary_encode()
    return Snapshot(pa.table(fields), np.empty((0, facts["model"]["embed_dim"]), np.float32))


AnyIndex = TypeVar("AnyIndex", bound=Opened)


def whole(index: AnyIndex) -> AnyIndex:
    """The index with all its rows in memory: the rows of an index on a server are read from it.

    Raises:
        ModisteError: The index has no rows.
    """
    if len(index.snapshot):
        return index
    if index.facts["engine"]["kind"] != "qdrant" or not index.store.count():
        raise ModisteError(f"{index.path} has no rows: add products with modiste index first.")
    loaded = copy.copy(index)
    loaded.snapshot = snapshot_of(index.store, index.types, index.facts["columns"])
    return loaded


class Rows(Protocol):
    """Protocol of readable rows: a store, or a view of one."""

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Read columns of all rows."""
        ...


def snapshot_of(store: Rows, types: Mapping[str, str], columns: Mapping[str, str] | None = None) -> Snapshot:
    """Read a store's rows; ``columns`` gives Arrow types for a store without types."""
    import pyarrow as pa

    table = store.read(["row", "product_id", "text", *(n for n in types if n not in FIXED), "_vector"])
    for name, kind in (columns or {}).items():
        column = table.column(name)
        if not pa.types.is_floating(column.type):  # decimals may have come to whole numbers since
            table = table.set_column(table.column_names.index(name), name, column.cast(pa.type_for_alias(kind)))
    return snapshot_from(table)


def snapshot_from(table: pa.Table) -> Snapshot:
    """Snapshot of ascending rows with a column ``_vector``."""
    table = table.combine_chunks()
    column = table.column("_vector").combine_chunks()
    flat = column.values if hasattr(column, "values") else column.flatten()
    vectors = flat.to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)
    return Snapshot(_encoded(table.drop_columns(["_vector"])), np.ascontiguousarray(vectors, np.float32))


def _encoded(table: pa.Table) -> pa.Table:
    """Dictionary-encode string columns, except ``text``, whose values are nearly all distinct."""
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type) and field.name != "text":
            table = table.set_column(place, field.name, table.column(field.name).combine_chunks().dictionary_encode())
    return table


def changed_snapshot(old: Snapshot, part: pa.Table, gone: Sequence[int]) -> Snapshot:
    """Apply an upsert to a snapshot: equal to `snapshot_of` the changed store, without reading all of it.

    Args:
        old: Snapshot of the previous version.
        part: Changed and new rows, with the columns of ``old`` and ``_vector``; new ones have the highest numbers.
        gone: Row numbers of the deleted rows.
    """
    import pyarrow as pa

    new = snapshot_from(part.select([*old.table.column_names, "_vector"]).sort_by("row"))
    place = old.positions(new.rows)
    added = np.flatnonzero(place < 0)
    count = len(old) + len(added)
    place[added] = np.arange(len(old), count)
    source = np.arange(count)
    source[place] = len(old) + np.arange(len(new))
    vectors = np.empty((count, old.vectors.shape[1]), np.float32)
    vectors[: len(old)], vectors[place] = old.vectors, new.vectors
    if len(gone):
        kept = ~np.isin(np.concatenate([old.rows, new.rows[added]]), gone)
        source, vectors = source[kept], vectors[kept]
    names = old.table.column_names
    both = [pa.table({name: plain_column(some.table.column(name)) for name in names}) for some in (old, new)]
    joined = pa.concat_tables(both, promote_options="permissive")  # whole numbers may have become decimals
    return Snapshot(_encoded(joined.take(pa.array(source)).combine_chunks()), vectors)


def plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column without dictionary encoding."""
    import pyarrow as pa

    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def check_version(facts: Mapping[str, Any], version: int, folder: Path) -> None:
    """Raise ModisteError for a version that an index does not have."""
    known = [commit["version"] for commit in facts["commits"]]
    if version not in known:
        raise ModisteError(f"{folder} has no version {version}. Choose from: {', '.join(map(str, known))}.")
