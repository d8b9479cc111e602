"""Rows, full text, photos and versions in a LanceDB table, written through one class that holds the safeguards."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
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
"""The column that full text looks into: product id, title and attributes."""
BASE_PATHS = 18
"""The field of a Lance manifest (``base_paths`` in its table.proto) that names folders or addresses outside of the
table: a clone reads its rows there."""
FIELDS, EXTENSION_NAME = 1, 9
"""The columns in a manifest, and the field of a column (file.proto) that names its extension type; metadata do, too."""
Method = TypeVar("Method", bound=Callable[..., Any])


def explained(method: Method) -> Method:
    """Turns any error of lancedb's while it reads into one sentence."""

    @functools.wraps(method)
    def call(self: LanceStore, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except ModisteError:
            raise
        except Exception as error:  # lancedb raises plain runtime errors, and OSError without a number
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise ModisteError(
                f"The rows of {self.folder} cannot be read: {reason}. Make the index again with modiste index run=RUN "
                f"data=… out=…, after removing {shlex.quote(str(self.folder))}."
            ) from error

    return call  # type: ignore[return-value]


class LanceStore:
    """The table of an index.

    LanceDB 0.40 duplicates rows when two processes upsert the same id (lancedb#2463), or one process through an old
    handle (#3377). So writers hold the index's lock (`modiste.search.build.writing`), the handle always looks for the
    newest version (``read_consistency_interval=0``), a primary key makes the slower of two writers try again, and
    `modiste.search.build` counts the rows before and after every upsert.

    Args:
        folder: Of the index.
        version: To read; None: always the newest.
    """

    def __init__(self, folder: Path, version: int | None = None) -> None:
        self.folder, self.at = folder, version

    @functools.cached_property
    def database(self) -> Any:
        """lancedb's connection. Raises ModisteError where a table's files are outside of the index."""
        check_manifests(self.folder / "lance")
        os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of its own defaults
        # There Lance opens whatever the tokenizer of a full-text index names, and what the files there name in turn;
        # the plain tokenizer of Modiste's indexes has no files.
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

    def create(self, data: pa.Table, types: Mapping[str, str]) -> None:
        """The table with its first rows."""
        self.__dict__.pop("table", None)
        table = self.database.create_table(NAME, data, mode="overwrite")
        table.set_unenforced_primary_key(KEY)
        # No positions: phrases are not searched, and LanceDB crashed on them in `optimize`.
        table.create_fts_index(WORDS, with_position=False, stem=True, remove_stop_words=True)

    def upsert(self, data: pa.Table) -> None:
        """Replace the rows whose id exists and add the others, atomically. Raises ModisteError: see `check_schema`."""
        check_schema(self.table.schema, self.folder)  # of its newest version
        merge = self.table.merge_insert(KEY).when_matched_update_all().when_not_matched_insert_all()
        merge.execute(data)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete rows by their ids."""
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
        """The table's own version number."""
        return int(self.table.version)

    def restore(self, version: int) -> None:
        """Restore an earlier version as the newest. Raises ModisteError where its files were cleaned up."""
        try:
            self.table.restore(version)
        except Exception as error:  # lancedb raises plain runtime errors
            raise ModisteError(f"Version {version} of {self.folder} no longer exists: {error}.") from error

    @explained
    def read(self, columns: Sequence[str]) -> pa.Table:
        """All rows of some columns, as an Arrow table, in ascending order of ``row`` if that is one of them."""
        table = self.table.search().select(list(columns)).limit(max(1, self.table.count_rows())).to_arrow()
        return table.sort_by("row") if "row" in columns else table

    @explained
    def full_text(self, query: str, k: int, condition: conditions.Node | None) -> tuple[np.ndarray, np.ndarray]:
        """Rows and BM25 scores of the k rows that match the words best."""
        found = self.table.search(query, query_type="fts", fts_columns=WORDS).limit(k).select(["row", "_score"])
        if condition is not None:
            found = found.where(conditions.sql(condition), prefilter=True)
        table = found.to_arrow()
        return table.column("row").to_numpy(), table.column("_score").to_numpy()

    def index_vectors(self) -> None:
        """Build or rebuild the approximate index of the vectors, and those of the columns that filters name."""
        import pyarrow as pa

        for field in self.table.schema:
            if not field.name.startswith("_"):
                kind: Any = "BTREE" if not pa.types.is_string(field.type) or field.name == "product_id" else "BITMAP"
                self.table.create_scalar_index(field.name, index_type=kind)
        self.table.create_index("dot", vector_column_name="_vector", index_type="IVF_RQ")

    @explained
    def nearest(self, vector: np.ndarray, k: int, probes: int, condition: conditions.Node | None) -> np.ndarray:
        """Rows of the k nearest by the approximate index, of which ``probes`` partitions are searched."""
        query = self.table.search(vector, vector_column_name="_vector").distance_type("dot").nprobes(probes)
        if condition is not None:
            query = query.where(conditions.sql(condition), prefilter=True)
        return query.refine_factor(4).limit(k).select(["row"]).to_arrow().column("row").to_numpy()

    @explained
    def take(self, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Columns of some rows, in their order; rows that are not there are missing."""
        import pyarrow as pa

        condition = conditions.sql(conditions.In("row", tuple(map(int, rows))))
        found = self.table.search().where(condition).select(["row", *columns]).limit(max(1, len(rows))).to_arrow()
        place = {row: index for index, row in enumerate(found.column("row").to_pylist())}
        return found.take(pa.array([place[row] for row in map(int, rows) if row in place], pa.int64()))


def check_schema(schema: pa.Schema, folder: Path) -> None:
    """Raise ModisteError where a table's schema has metadata of its own, which Modiste writes none of.

    lancedb builds the embedding functions that it names, with their code and addresses, at every write.
    """
    names = ", ".join(str(name, "utf-8", "replace") for name in schema.metadata or {})
    if names:
        raise ModisteError(
            f"The rows of {folder} have instructions for another program ({names}), which are not followed: make the "
            "index again from its catalogue."
        )


def check_manifests(folder: Path) -> None:
    """Raise ModisteError where a version of a table names what is outside of it, before any is opened.

    Or where it names extension types, which pyarrow would build; Ray's run code.

    Args:
        folder: Of the database.
    """
    for file in folder.rglob("*.manifest"):
        with suppress(FileNotFoundError):  # tidied up meanwhile
            try:
                named = _named(message_of(file.read_bytes()))
            except ValueError:
                raise ModisteError(f"'{file}' is damaged: remove the index, and make it again.") from None
            if named:
                raise ModisteError(f"'{file}' names {named}: make the index again from its catalogue.")


def _named(message: bytes) -> str:
    """What a manifest names that is not opened, in words; empty where there is nothing."""
    if EXTENSION in message:
        return "extension types, which may run code"
    for number, content in fields(message):
        if number == BASE_PATHS:
            return "files outside of the index, which are not read"
        if number == FIELDS and content is not None and EXTENSION_NAME in {inner for inner, _ in fields(content)}:
            return "extension types, which may run code"
    return ""


def message_of(manifest: bytes) -> bytes:
    """The protobuf message of a manifest: its place is in the last 16 bytes. Raises ValueError where it is none."""
    start = int.from_bytes(manifest[-16:-8], "little") + 4
    size = int.from_bytes(manifest[start - 4 : start], "little")
    if manifest[-4:] != b"LANC" or start + size + 16 != len(manifest):
        raise ValueError("not a manifest")
    return manifest[start:-16]
