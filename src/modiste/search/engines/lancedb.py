"""Rows, full text, photos and versions in a LanceDB table, written through one class that holds the safeguards."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modiste.errors import ModisteError
from modiste.search import where as conditions

if TYPE_CHECKING:
    import pyarrow as pa

NAME = "products"
KEY = "_key"
WORDS = "_words"
"""The column that full text looks into: product id, title and attributes."""


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
        os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of its own defaults
        try:
            import lancedb
        except ImportError:
            raise ModisteError("An index needs lancedb: pip install 'modiste[search]'.") from None
        return lancedb.connect(self.folder / "lance", read_consistency_interval=timedelta(0))

    @functools.cached_property
    def table(self) -> Any:
        table = self.database.open_table(NAME)
        if self.at is not None:
            table.checkout(self.at)
        return table

    def create(self, data: pa.Table, types: Mapping[str, str]) -> None:
        """The table with its first rows."""
        self.__dict__.pop("table", None)
        table = self.database.create_table(NAME, data, mode="overwrite")
        table.set_unenforced_primary_key(KEY)
        # No positions: phrases are not searched, and LanceDB crashed on them in `optimize`.
        table.create_fts_index(WORDS, with_position=False, stem=True, remove_stop_words=True)

    def upsert(self, data: pa.Table) -> None:
        """Replace the rows whose id exists and add the others, atomically."""
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

    def read(self, columns: Sequence[str]) -> pa.Table:
        """All rows of some columns, as an Arrow table, in ascending order of ``row`` if that is one of them."""
        table = self.table.search().select(list(columns)).limit(max(1, self.table.count_rows())).to_arrow()
        return table.sort_by("row") if "row" in columns else table

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

    def nearest(self, vector: np.ndarray, k: int, probes: int, condition: conditions.Node | None) -> np.ndarray:
        """Rows of the k nearest by the approximate index, of which ``probes`` partitions are searched."""
        query = self.table.search(vector, vector_column_name="_vector").distance_type("dot").nprobes(probes)
        if condition is not None:
            query = query.where(conditions.sql(condition), prefilter=True)
        return query.refine_factor(4).limit(k).select(["row"]).to_arrow().column("row").to_numpy()

    def take(self, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Columns of some rows, in their order; rows that are not there are missing."""
        import pyarrow as pa

        condition = conditions.sql(conditions.In("row", tuple(map(int, rows))))
        found = self.table.search().where(condition).select(["row", *columns]).limit(max(1, len(rows))).to_arrow()
        place = {row: index for index, row in enumerate(found.column("row").to_pylist())}
        return found.take(pa.array([place[row] for row in map(int, rows) if row in place], pa.int64()))
