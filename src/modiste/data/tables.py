"""A catalogue from an in-memory table and a folder of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import pyarrow as pa

from modiste.data.catalogue import Catalogue
from modiste.data.datasets.table import Table, plain
from modiste.data.splits import GivenSplit, RandomSplit
from modiste.data.text_tables import Columns
from modiste.errors import ModisteError
from modiste.utils.ranges import BadRows


def from_table(
    table: object,
    images: str | Path,
    text: str | None = None,
    image: str | Sequence[str] | None = None,
    product_id: str | None = None,
    split: str | Mapping[str, float] | None = None,
    name: str = "table",
    max_bad: BadRows | None = None,
) -> Catalogue:
    """Build a catalogue from an in-memory table, checked as in `Catalogue.build`, and split it.

    Args:
        table: A pandas, Polars or pyarrow table, or a mapping of columns. Numeric columns stay numeric.
        images: Folder or zip file that the image paths are relative to.
        text: Column of captions; None: recognised by name, as are ``image`` and ``product_id``.
        image: Column of image paths, or several columns.
        product_id: Column of product ids, shared by the rows of a product; without one, each row is a product.
        split: Column of splits, or split → fraction; None: a recognised column of splits if there is one, otherwise
            80 % train, 10 % val, 10 % test.
        name: Name of the data set in results.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: ``table`` is not a table, a column is missing or cannot be recognised, or see `Catalogue.build`.

    >>> from tempfile import TemporaryDirectory
    >>> import pyarrow as pa
    >>> from PIL import Image
    >>> with TemporaryDirectory() as folder:
    ...     Image.new("RGB", (8, 8), "red").save(f"{folder}/a.png")
    ...     Image.new("RGB", (8, 8), "blue").save(f"{folder}/b.png")
    ...     table = {"title": ["a red hat", "a blue cap"], "file": ["a.png", "b.png"], "price": [9.5, 12.0]}
    ...     catalogue = from_table(pa.table(table), images=folder)
    >>> len(catalogue), catalogue.column("text"), catalogue.attributes
    (2, ['a red hat', 'a blue cap'], ['price'])
    """
    if not isinstance(images, (str, Path)):
        raise ModisteError(f"images={images!r}: give the folder or the zip file of the images.")
    if not isinstance(split, (str, Mapping, NoneType)):
        raise ModisteError(f"split={split!r}: give a column of splits, or a mapping of splits to fractions.")
    column = split if isinstance(split, str) else None
    columns = {"text": text, "image": image, "product_id": product_id, "split": column}
    raw = _columns(table)
    reader = Table("", str(images), columns, name=name, max_bad=max_bad)
    catalogue = reader.catalogue(raw, Path(images), title="")
    if column is not None or (split is None and any(catalogue.column("split"))):
        return GivenSplit()(catalogue)
    fractions = split if isinstance(split, Mapping) else {"train": 0.8, "val": 0.1, "test": 0.1}
    return RandomSplit(fractions)(catalogue)


def _columns(table: object) -> Columns:
    """The columns of a mapping, or of a pandas, Polars or pyarrow table."""
    if isinstance(table, Mapping):
        return _listed(table)
    try:
        arrow = _arrow(table)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        reason = "; ".join(map(str, error.args)).rstrip(".")
        raise ModisteError(
            f"The table cannot be read: {reason}: give columns of one type and different names."
        ) from error
    if arrow is None:
        raise ModisteError(f"A {type(table).__name__} is not a table: give a pandas, Polars or pyarrow table.")
    repeated = [name for name, count in Counter(arrow.column_names).items() if count > 1]
    if repeated:
        raise ModisteError(f"The table has several columns '{repeated[0]}': rename them.")
    return {column: plain(arrow.column(column)) for column in arrow.column_names if column != "__index_level_0__"}


def _listed(table: Mapping[Any, Any]) -> Columns:
    """The columns of a mapping as lists of one length."""
    columns: Columns = {}
    for name, cells in table.items():
        cells = cells.tolist() if hasattr(cells, "tolist") else cells
        if isinstance(cells, (str, bytes)) or not isinstance(cells, Iterable):
            raise ModisteError(f"Column '{name}' of the table is no list: give one value per row.")
        columns[str(name)] = [cell.as_py() if isinstance(cell, pa.Scalar) else cell for cell in cells]
    lengths = {name: len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ModisteError(f"The columns have different lengths, {lengths}: give one value per row.")
    return columns


def _arrow(table: object) -> pa.Table | None:
    """A pandas, Polars or pyarrow table as Arrow; None: it is no table."""
    if isinstance(table, pa.Table):
        return table
    if hasattr(table, "__arrow_c_stream__"):
        return pa.table(table)
    if hasattr(table, "to_arrow"):
        return table.to_arrow()
    return pa.Table.from_pandas(table, preserve_index=False) if type(table).__module__.startswith("pandas") else None
