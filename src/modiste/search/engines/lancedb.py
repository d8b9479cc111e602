"""LanceDB table of an index: rows, full text, photos and versions, with safeguards for every access."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from modiste.errors import ModisteError
from modiste.search import where as conditions
from modiste.utils.arrow import EXTENSION
from modiste.utils.protobuf import fields

if TYPE_CHECKING:
    import pyarrow as pa

NAME = "products"
KEY = "_key"
WORDS = "_words"
"""Column of the full-text index: product id, title, text attributes and long whole numbers."""
WIDE = "_wide"
"""Column of a conversion that is not finished."""
BASE_PATHS = 18
"""Field of a Lance manifest (``base_paths`` in table.proto) that names folders or URLs outside the table, from which
a clone reads its rows."""
FIELDS, EXTENSION_NAME = 1, 9
"""Fields of a manifest's columns, and of a column's extension type (file.proto); metadata may name one too."""
Method = TypeVar("Method", bound=Callable[..., Any])


def explained(method: Method) -> Method:
    """Turn any read error of lancedb into a ModisteError of one sentence."""

    @functools.wraps(method)
    def call(self: LanceStore, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except ModisteError:
            raise
        except Exception as error:  # lancedb raises plain runtime errors, and OSError without a number
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise ModisteError(
                f"The rows of {self.folder} cannot be read ({reason}): remove {shlex.quote(str(self.folder))} and "
                "rebuild the index with modiste index run=RUN data=… out=…."
            ) from error

    return call  # type: ignore[return-value]


class LanceStore:
    """The table of an index.

    LanceDB 0.40 duplicates rows when two processes upsert the same id (lancedb#2463), or one process through an old
    handle (#3377). So writers hold the index's lock (`modiste.search.build.writing`), the handle always checks for the
    newest version (``read_consistency_interval=0``), a primary key makes the slower of two writers retry, and
    `modiste.search.build` counts the rows before and after every upsert.

    Args:
        folder: Folder of the index.
        version: Version to read; None: always the newest.
    """

    def __init__(self, folder: Path, version: int | None = None) -> None:
        self.folder, self.at = folder, version

    @functools.cached_property
    def database(self) -> Any:
        """The lancedb connection. Raises ModisteError as `check_manifests`, or if lancedb is not installed."""
        check_manifests(self.folder / "lance")
        os.environ.setdefault("LANCEDB_LOG", "error")  # it warns about its own defaults
        # Lance opens files in this folder that a full-text index's tokenizer names, and files that these name in turn;
        # the plain tokenizer of Modiste's indexes needs none.
        os.environ["LANCE_LANGUAGE_MODEL_HOME"] = os.devnull
        try:
            import lancedb
        except ImportError:
            raise ModisteError("An index needs lancedb: pip install 'modiste[search]'.") from None
        return lancedb.connect(self.folder / "lance", read_consistency_interval=timedelta(0))

    @functools.cached_property
    @explained
    def table(self) -> Any:
        table = self.database.open_table(NAME)
        if self.at is not None:
            table.checkout(self.at)
        check_schema(table.schema, self.folder)
        return table

    def check_free(self, resumed: bool) -> None:
        """Do nothing: the table is in the index's own folder."""

    def create(self, data: pa.Table, types: Mapping[str, str]) -> None:
        """Create the table with its first rows."""
        self.__dict__.pop("table", None)
        table = self.database.create_table(NAME, data, mode="overwrite")
        table.set_unenforced_primary_key(KEY)
        # No positions: phrases are not searched, and they crashed LanceDB's `optimize`.
        table.create_fts_index(WORDS, with_position=False, stem=True, remove_stop_words=True)

    def upsert(self, data: pa.Table) -> None:
        """Replace rows whose key exists and add the others, atomically. Raises ModisteError as `check_schema`."""
        check_schema(self.table.schema, self.folder)  # of its newest version
        merge = self.table.merge_insert(KEY).when_matched_update_all().when_not_matched_insert_all()
        merge.execute(data)

    def widen(self, names: Sequence[str]) -> None:
        """Make columns of integers float64: LanceDB 0.40 cannot cast one in place."""
        for name in names:
            self.table.add_columns({WIDE: f"CAST(`{name}` AS DOUBLE)"})
            self.table.drop_columns([name])
            self.table.alter_columns({"path": WIDE, "rename": name})

    def types(self, names: Iterable[str]) -> dict[str, str]:
        """Arrow type name of each column."""
        return {name: str(self.table.schema.field(name).type) for name in names}

    def delete(self, ids: Sequence[str]) -> None:
        """Delete rows by their keys."""
        for start in range(0, len(ids), 1000):
            self.table.delete(str(conditions.sql(conditions.In(KEY, tuple(ids[start : start + 1000])))))

    def tidy(self) -> None:
        """Compact small files, and add new rows to the full-text and vector indexes; old versions stay."""
        self.table.optimize(cleanup_older_than=timedelta(days=36500))

    def count(self) -> int:
        """Number of rows."""
        return int(self.table.count_rows())

    @property
    def version(self) -> int:
        """Version number of the table."""
        return int(self.table.version)

    def restore(self, version: int) -> None:
        """Restore an earlier version as the newest. Raises ModisteError if its files were deleted."""
        try:
            self.table.restore(version)
        except Exception as error:  # lancedb raises plain runtime errors
            raise ModisteError(f"Version {version} of {self.folder} no longer exists: {error}.") from error

    @explained
    def read(self, columns: Sequence[str]) -> pa.Table:
        """Read columns of all rows as an Arrow table, ascending by ``row`` if that is one of them."""
        table = self.table.search().select(list(columns)).limit(max(1, self.table.count_rows())).to_arrow()
        return table.sort_by("row") if "row" in columns else table

    @explained
    def full_text(self, query: str, condition: conditions.Node | None) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers and BM25 scores of all rows that match the query's words, best first."""
        from lancedb.query import MatchQuery

        # Quotes in a plain text would ask for a phrase.
        words = MatchQuery(query, WORDS)  # type: ignore[call-arg]  # the others have defaults
        found = self.table.search(words, query_type="fts").limit(max(1, self.count())).select(["row", "_score"])
        if condition is not None:
            found = found.where(conditions.sql(condition), prefilter=True)
        table = found.to_arrow()
        return table.column("row").to_numpy(), table.column("_score").to_numpy()

    def index_vectors(self) -> None:
        """Build or rebuild the approximate index of the vectors, and the indexes of the filter columns."""
        import pyarrow as pa

        for field in self.table.schema:
            if not field.name.startswith("_"):
                kind: Any = "BTREE" if not pa.types.is_string(field.type) or field.name == "product_id" else "BITMAP"
                self.table.create_scalar_index(field.name, index_type=kind)
        self.table.create_index("dot", vector_column_name="_vector", index_type="IVF_RQ")

    @explained
    def nearest(self, vector: np.ndarray, k: int, probes: int, condition: conditions.Node | None) -> np.ndarray:
        """Row numbers of the k nearest by the approximate index, with ``probes`` partitions searched."""
        query = self.table.search(vector, vector_column_name="_vector").distance_type("dot").nprobes(probes)
        if condition is not None:
            query = query.where(conditions.sql(condition), prefilter=True)
        return query.refine_factor(4).limit(k).select(["row"]).to_arrow().column("row").to_numpy()

    @explained
    def take(self, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Read columns of some rows, in the given order; rows that do not exist are missing."""
        import pyarrow as pa

        condition = conditions.sql(conditions.In("row", tuple(map(int, rows))))
        found = self.table.search().where(condition).select(["row", *columns]).limit(max(1, len(rows))).to_arrow()
        place = {row: index for index, row in enumerate(found.column("row").to_pylist())}
        return found.take(pa.array([place[row] for row in map(int, rows) if row in place], pa.int64()))


def check_schema(schema: pa.Schema, folder: Path) -> None:
    """Raise ModisteError if a table's schema has metadata; Modiste writes none.

    At every write, lancedb builds the embedding functions that metadata name, with their code and URLs.
    """
    names = ", ".join(str(name, "utf-8", "replace") for name in schema.metadata or {})
    if names:
        raise ModisteError(
            f"The rows of {folder} have metadata for another program ({names}), which is ignored: rebuild the "
            "index from its catalogue."
        )


def check_manifests(folder: Path) -> None:
    """Raise ModisteError if a version names files outside its table or extension types; opens no table.

    pyarrow would build the extension types, and those of Ray run code.

    Args:
        folder: Folder of the database.
    """
    for file in folder.rglob("*.manifest"):
        with suppress(FileNotFoundError):  # compacted meanwhile
            try:
                named = _named(message_of(file.read_bytes()))
            except ValueError:
                raise ModisteError(f"'{file}' is damaged: remove the index and rebuild it.") from None
            if named:
                raise ModisteError(f"'{file}' names {named}: rebuild the index from its catalogue.")


def _named(message: bytes) -> str:
    """What a manifest names that must not be opened; empty for nothing."""
    if EXTENSION in message:
        return "extension types, which may run code"
    for number, content in fields(message):
        if number == BASE_PATHS:
            return "files outside the index, which are not read"
        if number == FIELDS and content is not None and EXTENSION_NAME in {inner for inner, _ in fields(content)}:
            return "extension types, which may run code"
    return ""


def message_of(manifest: bytes) -> bytes:
    """The protobuf message of a manifest, located by its last 16 bytes. Raises ValueError if invalid."""
    start = int.from_bytes(manifest[-16:-8], "little") + 4
    size = int.from_bytes(manifest[start - 4 : start], "little")
    if manifest[-4:] != b"LANC" or start + size + 16 != len(manifest):
        raise ValueError("not a manifest")
    return manifest[start:-16]
