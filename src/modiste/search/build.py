"""Writing of an index: vectors and thumbnails are staged, then an atomic commit publishes a version."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modiste.data.catalogue import Catalogue
from modiste.data.sources import FolderImages, ZipImages, decode, image_format
from modiste.errors import ModisteError
from modiste.search.calibrate import Threshold, calibrate, queries, record
from modiste.search.encoder import Encoder, ModelCard
from modiste.search.engines.compressed import Codes
from modiste.search.engines.lancedb import KEY, WORDS, LanceStore
from modiste.search.engines.memory import Snapshot, save_table
from modiste.search.engines.qdrant import confirm
from modiste.search.opened import (
    ELSEWHERE,
    FACTS,
    Opened,
    changed_snapshot,
    check_version,
    newest,
    read_facts,
    snapshot_folder,
    snapshot_of,
    store_of,
    whole,
)
from modiste.search.planner import EXACT, IVF, QUERIES, Measured, Plan, measure, measured_limit, smallest
from modiste.search.where import NUMBER, TEXT
from modiste.utils.arrow import read_table
from modiste.utils.atomic import make_folder, read_cache, write_checked
from modiste.utils.hardware import usable_cores
from modiste.utils.links import refuse_links
from modiste.utils.lock import held
from modiste.utils.progress import Progress, silent
from modiste.utils.run_dir import read_json, write_json

if TYPE_CHECKING:
    from modiste.data.sources import ImageSource
    from modiste.models.dual_encoder import DualEncoder
    from modiste.search.engines.qdrant import QdrantStore

FORMAT = 1
PATIENCE = 600.0
"""Seconds that a writer waits for another writer."""
CHUNK = 2048
"""Photos per staged file: at most these are embedded again after a kill."""
THUMBNAIL = 256
"""Longer side of thumbnails, in pixels."""
SMALL = 16 * 1024
"""Maximum bytes of an encoded photo that is its own thumbnail."""
WEB_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
KEPT_SNAPSHOTS = 2
TIDY_EVERY = 8
"""Commits between compactions; until then, searches scan rows that the database has not indexed."""
LONG = 1000
"""Smallest whole number in the full text, for article numbers: "air max 90" is no search for the price 90."""
RESULT_COLUMNS = ("score", "match", "views", KEY)


@dataclass(frozen=True)
class Source:
    """Source of a catalogue's embeddings.

    Attributes:
        card: Identity of the model.
        load: Returns the dual encoder when photos must be embedded; None for vectors without a model.
        node: ``model`` and ``tune`` of the configuration that builds the model.
        weights: Whether the index stores the weights.
        export_text: Export the text tower to ONNX, so that `modiste search` answers without importing torch.
        coverage: Fraction of true matches that reach the match threshold (`modiste.search.calibrate`).
        vectors: Pixel hash → precomputed embedding (`modiste embed`).
        options: Arguments of `modiste.embedding.build.build_embedder`: batch_size, precision, decode, backend,
            min_cosine.
    """

    card: ModelCard
    load: Callable[[], Any] | None = None
    node: Mapping[str, Any] = field(default_factory=dict)
    weights: bool = True
    export_text: bool = True
    coverage: float = 0.9
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_model(
        cls, model: DualEncoder, name: str, node: Mapping[str, Any], source: str = "", prefixes: Sequence[int] = (),
        **more: Any,
    ) -> Source:  # fmt: skip
        """From a dual encoder and the configuration that builds it; ``prefixes`` are those of `ModelCard`."""
        from modiste.embedding.embedder import fingerprint

        size = int(model.embed_dim)
        own = [int(prefix) for prefix in prefixes if prefix < size]
        card = ModelCard(name, fingerprint(model), plain(model.preprocess.describe()), size, source, own)
        return cls(card, lambda: model, node, **more)

    @classmethod
    def of_index(cls, index: Opened, **more: Any) -> Source:
        """From an index's own model, if it has one."""
        return cls(index.card, (lambda: index.model) if index.has_model else None, **more)


@dataclass(frozen=True)
class Changes:
    """Numbers of rows that an upsert changed.

    Attributes:
        added: New rows.
        changed: Rows of a known product and photo, with other pixels or attributes.
        embedded: Embedded photos; equal pixels are embedded once.
        deleted: Rows that the catalogue lacks.
        unchanged: Unchanged rows of the catalogue.
        version: Newest version after the upsert.
    """

    added: int = 0
    changed: int = 0
    embedded: int = 0
    deleted: int = 0
    unchanged: int = 0
    version: int = 0

    def __str__(self) -> str:
        """One line.

        >>> print(Changes(added=2, embedded=1, unchanged=7, version=3))
        2 added, 0 changed, 0 deleted, 7 unchanged; 1 photos embedded; version 3
        """
        return (
            f"{self.added:,} added, {self.changed:,} changed, {self.deleted:,} deleted, {self.unchanged:,} unchanged; "
            f"{self.embedded:,} photos embedded; version {self.version}"
        )


def build(
    folder: str | Path,
    catalogue: Catalogue,
    source: Source,
    delete_missing: bool = False,
    progress: Progress = silent,
    engine: Mapping[str, str] | None = None,
) -> Changes:
    """Build the index of a catalogue in ``folder``, or update it; a killed build resumes.

    Args:
        folder: Folder of the index.
        catalogue: Rows of the index.
        source: A model, or precomputed vectors.
        delete_missing: Delete rows of an existing index that the catalogue lacks.
        progress: Progress display of the embedded photos.
        engine: Engine of a new index: ``kind`` (``lancedb``, or ``qdrant`` with ``url`` and ``collection``).

    Raises:
        ModisteError: ``folder`` is not an index, the index is of another model or preprocessing, the columns differ, a
            value is not of its column's type, or another process keeps writing.
    """
    folder = Path(folder).expanduser()
    confirm((engine or {}).get("url"))
    if folder.is_dir():
        refuse_links(folder, ELSEWHERE)
    existing = (folder / FACTS).is_file()
    if existing:
        ModelCard(**read_facts(folder)["model"]).check(source.card, folder)
    elif folder.is_dir() and any(folder.iterdir()) and not any((folder / p).exists() for p in ("staging", "lance")):
        raise ModisteError(f"{folder} exists and is not an index: choose another out=.")
    with writing(folder):
        # Another process may have finished the build meanwhile.
        known = read_facts(folder) if (folder / FACTS).is_file() else None
        if known is not None:
            heal(folder, known)
            return _update(folder, known, catalogue, source, delete_missing, progress)
        return _create(folder, catalogue, source, progress, {"kind": "lancedb", **(engine or {})})


def upsert(index: Opened, catalogue: Catalogue, delete_missing: bool, progress: Progress | None) -> Changes:
    """See `Index.upsert`."""
    source = Source.of_index(index)
    return build(index.path, catalogue, source, delete_missing, progress or silent)


def _create(folder: Path, catalogue: Catalogue, source: Source, progress: Progress, engine: dict[str, str]) -> Changes:
    table = rows_of(catalogue)
    types = {name: TEXT if pa.types.is_string(table.schema.field(name).type) else NUMBER for name in public(table)}
    staging = Staging(folder, source)
    mark = staging.root / "engine.json"  # written before the store, so that a killed build recognises its own rows
    begun = read_json(mark)
    resumed = begun == {**begun, **engine}
    engine = begun if resumed else {**engine, "id": uuid.uuid4().hex}
    store = store_of(folder, engine)
    store.check_free(resumed)
    embedded = staging.embed(catalogue, progress)
    if source.load is not None:
        encoder = Encoder(folder / "model")
        encoder.save(source.load(), source.card.name, dict(source.node), source.weights)
        if source.export_text:
            encoder.export(source.load(), sorted(set(catalogue.column("text")))[:14])
    write_json(mark, engine)
    store.create(
        staging.complete(table.append_column("row", pa.array(range(len(table)), pa.int64()))), {"row": NUMBER, **types}
    )
    facts: dict[str, Any] = {
        "format": FORMAT,
        "engine": engine,
        "model": vars(source.card),
        "data": catalogue.card.name,
        "types": {"row": NUMBER, **types},
        "columns": {name: str(table.schema.field(name).type) for name in public(table)},
        "images": image_source(catalogue),
        "next_row": len(table),
        "commits": [],
    }
    version = _commit(folder, store, facts, f"{len(table):,} rows of {catalogue.card.name}", len(table))
    staging.clear()
    if source.load is not None:
        index = newest(folder)
        index.embedder.use(source.load())
        _record(folder, thresholds=record(calibrate(index, source.coverage)))
    return Changes(added=len(table), embedded=embedded, version=version)


def _update(
    folder: Path, facts: dict[str, Any], catalogue: Catalogue, source: Source, delete_missing: bool, progress: Progress
) -> Changes:
    store = store_of(folder, facts["engine"])
    table = rows_of(catalogue, facts["columns"], folder)
    old = store.read([KEY, "row", "_pixels", "_hash"])
    place = {key: index for index, key in enumerate(old.column(KEY).to_pylist())}
    _check_unique(folder, len(old) - len(place))
    wider = _widened(store, table, facts["columns"])
    hashes, pixels = old.column("_hash").to_pylist(), old.column("_pixels").to_pylist()
    at = [place.get(key) for key in table.column(KEY).to_pylist()]
    new_hashes = table.column("_hash").to_pylist()
    touched = [i for i, p in enumerate(at) if p is None or hashes[p] != new_hashes[i]]
    gone = sorted(set(place) - set(table.column(KEY).to_pylist())) if delete_missing else []
    added = sum(at[i] is None for i in touched)
    if not touched and not gone and not pending(folder).mark.exists():
        return Changes(unchanged=len(table), version=facts["commits"][-1]["version"])
    part = table.take(pa.array(touched, pa.int64()))
    staging = Staging(folder, source)
    wanted = set(part.column("_pixels").to_pylist())
    staging.remember(
        store, {p: row for p, row in zip(pixels, old.column("row").to_pylist(), strict=True) if p in wanted}
    )
    embedded = staging.embed(catalogue.select(rows=touched), progress)
    old_rows = old.column("row").to_pylist()
    following = max(facts["next_row"], 1 + max(old_rows, default=-1))  # a killed upsert may have left rows on a server
    numbers = []
    for i in touched:
        numbers.append(old_rows[at[i]] if at[i] is not None else following)
        following += at[i] is None
    with pending(folder):
        snapshot = None
        store.widen(wider)
        facts = facts | {"columns": facts["columns"] | dict.fromkeys(wider, str(pa.float64()))}
        if touched:
            complete = staging.complete(part.append_column("row", pa.array(numbers, pa.int64())))
            store.upsert(complete)
            _check_unique(folder, store.count() - len(old) - added)
            snapshot = _after(folder, facts, complete, [old_rows[place[key]] for key in gone])
        store.delete(gone)
        note = f"{added} added, {len(touched) - added} changed, {len(gone)} deleted"
        changed = len(touched) + len(gone)
        version = _commit(folder, store, facts | {"next_row": following}, note, changed, snapshot)
    staging.clear()
    return Changes(added, len(touched) - added, embedded, len(gone), len(table) - len(touched), version)


def delete(index: Opened, product_ids: Sequence[str]) -> int:
    """See `Index.delete`."""
    store = store_of(index.path, index.facts["engine"])
    with writing(index.path):
        facts = read_facts(index.path)
        heal(index.path, facts)
        begun = pending(index.path).deleting
        found = store.read([KEY, "product_id"])
        found = found.filter(pc.is_in(found.column("product_id"), pa.array(product_ids, pa.string())))
        rows = begun | dict(zip(found.column(KEY).to_pylist(), found.column("product_id").to_pylist(), strict=True))
        unknown = set(product_ids) - set(rows.values())
        if unknown:
            names = ", ".join(sorted(unknown)[:5])
            raise ModisteError(f"{index.path} has no product {names}: correct the ids, and repeat the deletion.")
        with pending(index.path, rows):
            store.delete(list(rows))
            note = f"{len(rows)} deleted" + (f", {len(begun)} of them for an interrupted deletion" if begun else "")
            _commit(index.path, store, facts, note, len(rows))
    return len(rows)


def restore(index: Opened, version: int) -> None:
    """See `Index.restore`."""
    check_version(read_facts(index.path), version, index.path)
    store = store_of(index.path, index.facts["engine"])
    with writing(index.path), pending(index.path):
        facts = read_facts(index.path)
        store.restore(version)
        facts["columns"] = store.types(facts["columns"])  # some may have been widened since
        changed = facts["commits"][-1]["rows"] + store.count()  # which of them are equal is not known
        _commit(index.path, store, facts, f"back to version {version}", changed)


def _check_unique(folder: Path, twice: int) -> None:
    """Raise ModisteError if there are more rows than keys."""
    if twice:
        raise ModisteError(
            f"{folder}: {twice} rows exist twice, written by something other than Modiste: "
            f"restore an earlier version with modiste index restore index={shlex.quote(str(folder))} at=VERSION."
        )


def _after(folder: Path, facts: Mapping[str, Any], part: pa.Table, gone: Sequence[int]) -> Snapshot | None:
    """Snapshot after an upsert, from the previous one; None if that is not on disk."""
    before = Snapshot.read(snapshot_folder(folder, facts["commits"][-1]["version"]))
    return None if before is None else changed_snapshot(before, part, gone)


def _commit(
    folder: Path, store: Any, facts: dict[str, Any], note: str, changed: int, snapshot: Snapshot | None = None
) -> int:
    """Publish the store's current content as the newest version.

    Args:
        folder: Folder of the index.
        store: Store with the final rows.
        facts: Facts of the index, to which the version is added.
        note: What the version changes.
        changed: Number of rows that it adds, changes and deletes.
        snapshot: Snapshot of the rows; None: read from the store.
    """
    if len(facts["commits"]) % TIDY_EVERY == 0:
        store.tidy()
    version = store.version
    if facts["engine"]["kind"] == "lancedb":
        _write_snapshot(folder, version, snapshot or snapshot_of(store, facts["types"]), facts)
    else:  # the server keeps only the newest version
        version = 1 + max((commit["version"] for commit in facts["commits"]), default=0)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record = {"version": version, "created": now, "rows": store.count(), "note": note}
    if facts.get("plan"):
        plan = Plan.of(facts["plan"])
        facts = facts | {"plan": replace(plan, changed=plan.changed + changed).record()}
    write_json(folder / FACTS, {**facts, "commits": [*facts["commits"], record]})
    if not (folder / "snapshots").is_dir():
        return version
    kept = {str(commit["version"]) for commit in facts["commits"][1 - KEPT_SNAPSHOTS :]} | {str(version)}
    for old in (folder / "snapshots").iterdir():
        if old.name not in kept:
            shutil.rmtree(old, ignore_errors=True)
    return version


def _write_snapshot(folder: Path, version: int, snapshot: Snapshot, facts: Mapping[str, Any]) -> None:
    """Write a version's snapshot and the codes of its plan, with the measured codes' rotation and scale."""
    place = snapshot_folder(folder, version)
    snapshot.write(place)
    choice = Plan.of(facts.get("plan")).choice
    if choice not in (EXACT, IVF):
        before = facts["commits"][-1]["version"] if facts["commits"] else version
        Codes.make(choice, snapshot.vectors, Codes.read(snapshot_folder(folder, before), choice)).write(place)


def record_plan(index: Opened, choices: list[str], floor: float) -> list[Measured]:
    """See `Index.plan`."""
    store = LanceStore(index.path)
    with _writing_newest(index) as latest:
        index = whole(latest)
        index.store = store
        asked = queries(index, QUERIES)
        measured = list(measure(index, choices, floor, asked))
        taken = smallest(measured, floor)
        limit = measured_limit(index.snapshot, asked[0], taken.milliseconds)
        plan = Plan(taken.choice, limit, floor, len(asked), taken.steps, len(index.snapshot))
        if taken.choice not in (EXACT, IVF):
            Codes.make(taken.choice, index.snapshot.vectors).write(snapshot_folder(index.path, index.version))
        if taken.choice == IVF:  # its index is a new version of the database
            _commit(index.path, store, {**index.facts, "plan": plan.record()}, "approximate index of the vectors", 0)
        else:
            _record(index.path, plan=plan.record())
    return measured


def record_thresholds(index: Opened, coverage: float) -> dict[str, Threshold]:
    """See `Index.calibrate`."""
    with _writing_newest(index) as latest:
        found = calibrate(latest, coverage)
        _record(index.path, thresholds=record(found))
    return found


@contextmanager
def _writing_newest(index: Opened) -> Iterator[Opened]:
    """Yield the newest version under the writer's lock, with the embedder of ``index``."""
    with writing(index.path):
        heal(index.path, read_facts(index.path))
        latest = newest(index.path)
        latest.embedder = index.embedder
        yield latest


def _record(folder: Path, **facts: Any) -> None:
    write_json(folder / FACTS, {**read_facts(folder), **facts})


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Context manager of the writer's lock of an index.

    Raises:
        ModisteError: Another process has been writing for `PATIENCE` seconds.
    """
    with held(folder, PATIENCE, "lock"):
        yield


class pending:  # noqa: N801
    """Mark a commit in progress: after a kill, `heal` makes the database agree with the facts.

    The mark stays until a commit is complete.

    Args:
        folder: Folder of the index.
        rows: Rows that the commit deletes, key → product id.
    """

    def __init__(self, folder: Path, rows: Mapping[str, str] | None = None) -> None:
        self.mark, self.rows = folder / "pending", rows or {}

    @property
    def deleting(self) -> dict[str, str]:
        """Rows that a killed commit may have deleted, key → product id."""
        return read_json(self.mark)

    def __enter__(self) -> None:
        write_json(self.mark, self.rows)

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is None:
            self.mark.unlink(missing_ok=True)


def heal(folder: Path, facts: dict[str, Any]) -> None:
    """Roll back a killed commit to the version that readers see. The caller holds the writer's lock.

    A Qdrant server keeps no versions: a killed deletion is finished, and what a killed upsert wrote stays. The next
    commit publishes both.
    """
    begun = pending(folder)
    if not begun.mark.exists():
        return
    store = store_of(folder, facts["engine"])
    if facts["engine"]["kind"] == "qdrant":
        store.delete(list(begun.deleting))
        return
    if store.version != facts["commits"][-1]["version"]:
        store.restore(facts["commits"][-1]["version"])
    begun.mark.unlink()


# --------------------------------------------------------------------------------------------------------------- rows


def rows_of(catalogue: Catalogue, types: Mapping[str, str] | None = None, folder: Path = Path()) -> pa.Table:
    """A catalogue's rows in the store's form, without row numbers, vectors and thumbnails.

    Columns of integers become int64, of other numbers float64; a missing value becomes null. In names, ``.`` and
    backticks become ``_``.

    Args:
        catalogue: The rows.
        types: Column types of the index that they are for, column → Arrow type name; None: a new index.
        folder: Folder of that index.

    Raises:
        ModisteError: An attribute has the name of a column of the index or of results, or of another attribute; or see
            `typed`.
    """
    columns = {name: catalogue.table.column(name) for name in ("product_id", "text", "split")}
    columns = {name: column.cast(pa.string()) for name, column in columns.items()}
    names = {name: name for name in columns}
    for name in catalogue.attributes:
        stored = name.replace(".", "_").replace("`", "_")
        remedy = f"give it another, data.catalogue.columns.my_{stored.lstrip('_')}={name}."
        if stored in RESULT_COLUMNS or stored.startswith("_"):
            raise ModisteError(f"The attribute '{name}' has the name of an index's own column: {remedy}")
        if stored in names:
            raise ModisteError(
                f"The columns '{names[stored]}' and '{name}' have the same name in an index, '{stored}': {remedy}"
            )
        names[stored] = name
        columns[stored] = numbers_of(catalogue.table.column(name).combine_chunks())
    products, images = catalogue.column("product_id"), catalogue.column("image")
    table = pa.table(columns) if types is None else typed(pa.table(columns), types, folder)
    fixed = {
        KEY: [f"{product}\t{image}" for product, image in zip(products, images, strict=True)],
        "_image": images,
        "_pixels": catalogue.column("pixels"),
        WORDS: _words(table),
        "_hash": _hashes(table, catalogue.column("pixels")),
    }
    for name, values in fixed.items():
        nullable = name != KEY
        table = table.append_column(pa.field(name, pa.string(), nullable), pa.array(values, pa.string()))
    return table


def public(table: pa.Table) -> list[str]:
    """Columns that filters may name, without ``row``."""
    return [name for name in table.column_names if name not in (KEY, WORDS, "row") and not name.startswith("_")]


def numbers_of(values: pa.Array) -> pa.Array:
    """An attribute as numbers if all its values are numbers, with null for ""; else as text.

    >>> numbers_of(pa.array(["12", "", "7"])).to_pylist(), numbers_of(pa.array(["007", "8"])).to_pylist()
    ([12, None, 7], ['007', '8'])
    >>> numbers_of(pa.array(["9.5", "12"])).to_pylist(), numbers_of(pa.array(["38", "M"])).to_pylist()
    ([9.5, 12.0], ['38', 'M'])
    """
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not pa.types.is_string(values.type) and not pa.types.is_large_string(values.type):
        if pa.types.is_integer(values.type):
            return values.cast(pa.int64())
        return values.cast(pa.float64()) if pa.types.is_floating(values.type) else values.cast(pa.string())
    filled = pc.if_else(pc.equal(values, ""), None, values)
    real = filled.drop_null()
    for pattern, kind in ((r"^-?(0|[1-9]\d{0,17})$", pa.int64()), (r"^-?(0|[1-9]\d*)(\.\d+)?$", pa.float64())):
        if len(real) and pc.all(pc.match_substring_regex(real, pattern)).as_py():
            return filled.cast(kind)
    return filled.cast(pa.string())


def typed(table: pa.Table, columns: Mapping[str, str], folder: Path) -> pa.Table:
    """Cast a table to an index's column types, column → Arrow type name.

    A column of decimals for an index with int64 stays float64.

    Raises:
        ModisteError: A column is missing or new, or a value is not of its column's type.
    """
    new, lacking = set(public(table)) - set(columns), set(columns) - set(public(table))
    if new or lacking:
        said = [f"{word} {', '.join(sorted(names))}" for word, names in (("new:", new), ("missing:", lacking)) if names]
        raise ModisteError(
            f"The catalogue's columns differ from those of {folder} ({'; '.join(said)}): re-index with another out=."
        )
    for name, kind in columns.items():
        wanted, column = pa.type_for_alias(kind), table.column(name)
        try:
            table = table.set_column(table.column_names.index(name), name, column.cast(wanted))
        except pa.ArrowInvalid as error:
            if pa.types.is_integer(wanted) and pa.types.is_floating(column.type):
                continue
            raise ModisteError(
                f"The column '{name}' of {folder} holds {kind} values, the catalogue's holds others ({error}): "
                "correct them, or re-index with another out=."
            ) from error
    return table


def _widened(store: LanceStore | QdrantStore, table: pa.Table, columns: Mapping[str, str]) -> list[str]:
    """Columns of whole numbers that a table's decimals make float64.

    Raises:
        ModisteError: A stored number, such as an article number of 18 digits, would be rounded.
    """
    names = [name for name, kind in columns.items() if str(table.schema.field(name).type) != kind]
    for name in names:
        try:
            store.read([name]).column(name).cast(pa.float64())
        except pa.ArrowInvalid as error:
            raise ModisteError(
                f"The column '{name}' has whole numbers that decimals would round ({error}): correct the catalogue's "
                "decimals, or re-index with another out=."
            ) from error
    return names


def _words(table: pa.Table) -> list[str]:
    """Full text of each row: the product's id, its title, its text attributes and its long whole numbers."""
    lists = []
    for name in public(table):
        column = table.column(name)
        if pa.types.is_integer(column.type):
            column = pc.if_else(pc.greater_equal(column, LONG), column, None).cast(pa.string())
        if pa.types.is_string(column.type) and name != "split":
            lists.append(column.to_pylist())
    return [" ".join(filter(None, values)) for values in zip(*lists, strict=True)]


def _hashes(table: pa.Table, pixels: Sequence[str]) -> list[str]:
    """A digest of each row's content, to detect changed rows; 5 and 5.0 are equal."""
    lists = [table.column(name).to_pylist() for name in public(table)]
    lists = [[int(v) if isinstance(v, float) and v.is_integer() else v for v in values] for values in lists]
    return [
        hashlib.sha1(json.dumps(values, default=str).encode(), usedforsecurity=False).hexdigest()
        for values in zip(pixels, *lists, strict=True)
    ]


def image_source(catalogue: Catalogue) -> dict[str, str] | None:
    """Location of the original photos; None if they are not in files, such as synthetic garments."""
    images = catalogue.images
    if isinstance(images, FolderImages):
        return {"kind": "folder", "path": str(Path(images.root).resolve())}
    if isinstance(images, ZipImages):
        return {"kind": "zip", "path": str(Path(images.path).resolve()), "prefix": images.prefix}
    return None


def plain(value: Any) -> Any:
    """A value after a round trip through JSON."""
    return json.loads(json.dumps(value, default=str))


# ----------------------------------------------------------------------------------------------------------- embedding


class Staging:
    """Vectors and thumbnails that are not committed yet, on disk: a killed job reuses them.

    Args:
        folder: Folder of the index.
        source: Source of the embeddings.
    """

    def __init__(self, folder: Path, source: Source) -> None:
        self.source = source
        name = hashlib.sha1(f"{source.card.fingerprint}{source.card.preprocess}".encode(), usedforsecurity=False)
        self.root = folder / "staging"
        self.folder = self.root / name.hexdigest()[:16]
        make_folder(self.folder)
        self.vectors: dict[str, np.ndarray] = dict(source.vectors)
        self.thumbnails: dict[str, bytes] = {}
        for file in sorted(self.folder.glob("*.arrow")):
            table = read_cache(file, read_table, "Finished embeddings")
            if table is not None:
                self._take(table)

    def remember(self, store: LanceStore | QdrantStore, rows: Mapping[str, int]) -> None:
        """Reuse the store's vectors and thumbnails of ``rows``, pixel hash → row number."""
        if rows:
            found = store.take(list(rows.values()), ["_pixels", "_vector", "_thumbnail"])
            self._take(found.select(["_pixels", "_vector", "_thumbnail"]))

    def embed(self, catalogue: Catalogue, progress: Progress) -> int:
        """Embed the photos without a vector; returns their number.

        Raises:
            ModisteError: Photos must be embedded and there is no model.
        """
        first: dict[str, int] = {}
        for row, pixels in enumerate(catalogue.column("pixels")):
            if pixels not in self.vectors or pixels not in self.thumbnails:
                first.setdefault(pixels, row)
        rows = list(first.values())
        new = sum(pixels not in self.vectors for pixels in first)
        if new and self.source.load is None:
            raise ModisteError(
                f"{new} photos have no embedding, and there is no model for them: give run=RUN or model=NAME."
            )
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        for chunk in progress(chunks, len(chunks), f"Embedding {new:,} photos" if new else "Reading photos"):
            self._embed(catalogue.select(rows=chunk))
        return new

    def _embed(self, part: Catalogue) -> None:
        pixels = part.column("pixels")
        if any(name not in self.vectors for name in pixels):
            vectors = self._embedder.images(part).numpy()
        else:
            vectors = np.stack([self.vectors[name] for name in pixels])
        thumbnails = _thumbnails(part.images, part.column("image"))
        table = pa.table(
            {"_pixels": pixels, "_vector": _vectors(vectors), "_thumbnail": pa.array(thumbnails, pa.binary())}
        )
        file = self.folder / f"{len(list(self.folder.glob('*.arrow'))):06}.arrow"
        write_checked(file, lambda path: save_table(path, table), durable=False)
        self._take(table)

    @functools.cached_property
    def _embedder(self) -> Any:
        from modiste.embedding.build import build_embedder

        assert self.source.load is not None
        return build_embedder(self.source.load(), device=None, cache=False, progress=False, **self.source.options)

    def _take(self, table: pa.Table) -> None:
        vectors = table.column("_vector").combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        names = table.column("_pixels").to_pylist()
        self.vectors |= dict(zip(names, vectors, strict=True))
        self.thumbnails |= dict(zip(names, table.column("_thumbnail").to_pylist(), strict=True))

    def complete(self, table: pa.Table) -> pa.Table:
        """Add the rows' vectors and thumbnails to a table."""
        pixels = table.column("_pixels").to_pylist()
        vectors = np.stack([self.vectors[name] for name in pixels])
        table = table.append_column("_vector", _vectors(vectors))
        return table.append_column("_thumbnail", pa.array([self.thumbnails[name] for name in pixels], pa.binary()))

    def clear(self) -> None:
        """Delete the staged files."""
        shutil.rmtree(self.root, ignore_errors=True)


def _vectors(vectors: np.ndarray) -> Any:
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def _thumbnails(images: ImageSource, refs: Sequence[str]) -> list[bytes]:
    """Thumbnails of photos, one chunk per core: a task per photo would cost more than a small photo."""
    share = math.ceil(len(refs) / usable_cores())
    shares = [refs[start : start + share] for start in range(0, len(refs), share)]
    with ThreadPoolExecutor(len(shares)) as pool:
        made = pool.map(lambda some: [thumbnail(images, ref) for ref in some], shares)
        return [one for some in made for one in some]


def thumbnail(images: ImageSource, ref: str) -> bytes:
    """A JPEG of at most `THUMBNAIL` pixels per side, or the file itself if it has at most `SMALL` bytes.

    >>> from modiste.data.sources import ArrayImages
    >>> thumbnail(ArrayImages(np.zeros((1, 4, 4), np.uint8)), "0")[:3]
    b'\\xff\\xd8\\xff'
    """
    data = images.read_bytes(ref) if hasattr(images, "read_bytes") else None
    if data is not None and len(data) <= SMALL and image_format(data) in WEB_FORMATS:
        return data
    image = images.read(ref) if data is None else decode(data, THUMBNAIL)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def vectors_on_disk(path: Path, catalogue: Catalogue) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read precomputed embeddings: pixel hash → embedding, and the manifest of `modiste embed`.

    Args:
        path: Folder of `modiste embed`, or a matrix with one row per catalogue row.
        catalogue: The embedded catalogue.

    Raises:
        ModisteError: The number of rows differs, or the manifest is of another catalogue.
    """
    from modiste.embedding.embedder import MatrixEmbedder, read_matrix

    if path.is_dir():
        refuse_links(path, "is not part of the embeddings")
    image = path / "image.npy" if path.is_dir() else path
    matrix = read_matrix(image)
    vectors = MatrixEmbedder(catalogue, matrix, matrix).images(catalogue).numpy()
    manifest = read_json(image.parent / "manifest.json")
    if manifest and manifest.get("data_fingerprint") != catalogue.fingerprint():
        raise ModisteError(
            f"{image} was computed from another catalogue than data=: use the same data=, or embed again."
        )
    return dict(zip(catalogue.column("pixels"), vectors, strict=True)), manifest
