"""Your own catalogue: a CSV, TSV, Parquet or JSON-lines table beside a folder (or zip file) of images.

Also what adapters of tables share: reading the files, and mapping their columns to the catalogue's.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modiste.data.catalogue import GROUNDING, REQUIRED, SCHEMA, Card, Catalogue
from modiste.data.sources import ArrowImages, FolderImages, ImageSource, ZipImages
from modiste.errors import ModisteError, did_you_mean
from modiste.utils.run_dir import cache_dir

Columns = dict[str, list[Any]]
SPLIT_NAMES = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
SUFFIXES = (*DELIMITERS, ".parquet", ".jsonl", ".ndjson")
SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.parquet")
"""How the hub names one of several files, for instance ``data-00003-of-00009.parquet``."""


@dataclass(frozen=True)
class Table:
    """Reads a table of products whose images are files.

    Attributes:
        path: ``.csv``, ``.tsv``, ``.parquet``, ``.jsonl`` or ``.ndjson``, each also as ``.gz`` but Parquet.
        images: Folder or zip file that the image paths are relative to. Ignored for a Parquet file that holds the
            images themselves.
        columns: The catalogue's word → the table's column: ``text`` and ``image``, optionally ``product_id`` (without
            it, each image is a product), ``split``, ``mask``, ``boxes``, and attributes under a name of your own.
        attributes: Columns that are kept as attributes beside the mapped ones; None: all that hold plain values.
        delimiter: Of a text table, where the file's suffix does not say.
        name: Name of the data set in reports.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: A file or a column is not there, or the file is not of its kind.
    """

    path: str
    images: str = "."
    columns: Mapping[str, str | None] = field(default_factory=lambda: {"text": "text", "image": "image"})
    attributes: Sequence[str] | None = None
    delimiter: str | None = None
    name: str = "table"
    max_bad: int | float | None = None

    def __call__(self) -> Catalogue:
        path = Path(self.path)
        if not path.is_file():
            raise ModisteError(f"There is no table {path}: set data.catalogue.path to a {', '.join(SUFFIXES)} file.")
        card = Card(self.name, title=path.name)
        if path.suffix == ".parquet" and _holds_images(path, self.columns.get("image")):
            columns, images = from_dataset(read_parquet([path]), self.columns, self.attributes, self.name)
        else:
            columns = map_columns(read_table(path, self.delimiter), self.columns, self.attributes, self.name)
            images = _image_files(Path(self.images))
        return Catalogue.build(card, columns, images, self.max_bad)


def _image_files(path: Path) -> ImageSource:
    if path.is_dir():
        return FolderImages(path)
    if path.is_file() and zipfile.is_zipfile(path):
        return ZipImages(path)
    raise ModisteError(f"{path} is neither a folder nor a zip file: set data.catalogue.images to where the images are.")


def _holds_images(path: Path, column: str | None) -> bool:
    schema = read_schema(path)
    return column in schema.names and not pa.types.is_string(schema.field(column).type)


def read_table(path: Path, delimiter: str | None = None) -> Columns:
    """The columns of a table, by name. Cells of text tables stay text: "NA" is "NA".

    Raises:
        ModisteError: The suffix is unknown, or the file is not of its kind.
    """
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if delimiter is None and suffix not in SUFFIXES:
        raise ModisteError(f"{path} has the suffix '{suffix}'. {did_you_mean(suffix, SUFFIXES)}")
    if suffix == ".parquet":
        return _reading(path, lambda: pq.read_table(path).to_pydict())
    if suffix in (".jsonl", ".ndjson"):
        return _reading(path, lambda: from_records([json.loads(line) for line in _text(path) if line.strip()]))
    return _reading(path, lambda: _delimited(path, delimiter or DELIMITERS[suffix]))


def _reading(path: Path, read: Any) -> Any:
    try:
        return read()
    except (ValueError, EOFError, OSError, csv.Error, pa.ArrowException) as error:
        raise ModisteError(f"{path} cannot be read as what its name says: {error}.") from error


def _text(path: Path) -> io.TextIOWrapper:
    opener = gzip.open if path.suffix == ".gz" else open
    # Spreadsheets write a byte order mark.
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _delimited(path: Path, delimiter: str) -> Columns:
    with _text(path) as file:
        return read_delimited(file, delimiter)


def read_delimited(lines: Iterable[str], delimiter: str = ",") -> Columns:
    """The columns of an opened text table with a header; cells that a row lacks are "".

    Raises:
        ValueError: A row has more cells than the header.

    >>> read_delimited(["a,b\\n", '1,"x, y"\\n', "2\\n"])
    {'a': ['1', '2'], 'b': ['x, y', '']}
    """
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(lines, delimiter=delimiter)
    header = next(rows, [])
    cells = [row for row in rows if row]
    width = len(header)
    for number, row in enumerate(cells, start=2):
        if len(row) > width:
            raise ValueError(
                f"row {number} has {len(row)} cells, the header {width}; are cells with '{delimiter}' quoted?"
            )
    return {name: [row[i] if i < len(row) else "" for row in cells] for i, name in enumerate(header)}


def from_records(records: Sequence[Any]) -> Columns:
    """The columns of rows that are mappings; None where a row lacks one. Raises ValueError for a row that is none.

    >>> from_records([{"a": 1}, {"b": 2}])
    {'a': [1, None], 'b': [None, 2]}
    """
    if not all(isinstance(record, dict) for record in records):
        raise ValueError("every line must be a JSON object")
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}


def map_columns(
    raw: Mapping[str, Sequence[Any]],
    columns: Mapping[str, str | None],
    attributes: Sequence[str] | None,
    name: str,
) -> Columns:
    """A table's columns under the catalogue's names, and its other columns (or ``attributes``) as attributes.

    Without a product id each image is a product. Of several captions in a cell the first is ``text``, the others are
    the attributes ``text_2``, ``text_3``, …

    Raises:
        ModisteError: A column is not in the table, or ``text`` or ``image`` is not mapped.

    >>> raw = {"title": ["a hat"], "file": ["1.jpg"], "Hue": ["red"]}
    >>> map_columns(raw, {"text": "title", "image": "file"}, None, "x")
    {'text': ['a hat'], 'image': ['1.jpg'], 'product_id': ['1.jpg'], 'Hue': ['red']}
    """
    chosen = {target: source for target, source in columns.items() if source is not None}
    for target, source in [*chosen.items(), *((None, attribute) for attribute in attributes or [])]:
        if source not in raw:
            where = f"columns.{target}" if target else "attributes"
            raise ModisteError(
                f"data.catalogue.{where}: data set '{name}' has no column '{source}'. {did_you_mean(source, raw)}"
            )
    for target in ("text", "image"):
        if target not in chosen:
            raise ModisteError(
                f"Data set '{name}': say which column is the {target}: data.catalogue.columns.{target}=<column>, "
                f"one of: {', '.join(raw)}."
            )
    mapped: Columns = {target: list(raw[source]) for target, source in chosen.items()}
    mapped.setdefault("product_id", mapped["image"])
    if "split" in mapped:
        mapped["split"] = [SPLIT_NAMES.get(str(split), split) for split in mapped["split"]]
    taken = {*SCHEMA, *GROUNDING, *mapped, *chosen.values()}
    others = [column for column in raw if column not in taken and _plain(raw[column])]
    for attribute in others if attributes is None else attributes:
        mapped.setdefault(attribute, list(raw[attribute]))
    captions = _captions(mapped["text"])
    return {
        column: values if column in REQUIRED else [_joined(value) for value in values]
        for column, values in {**mapped, **captions}.items()
    }


def _captions(cells: Sequence[Any]) -> Columns:
    lists = [cell if isinstance(cell, (list, tuple)) else [cell] for cell in cells]
    count = max((len(cell) for cell in lists), default=1)
    names = ["text", *(f"text_{i + 1}" for i in range(1, count))]
    return {name: [cell[i] if i < len(cell) else None for cell in lists] for i, name in enumerate(names)}


def _plain(values: Sequence[Any]) -> bool:
    first = next((value for value in values if value is not None), None)
    if isinstance(first, (list, tuple)):
        return all(isinstance(item, str) for item in first)
    return isinstance(first, (str, int, float))


def _joined(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def read_schema(file: Path) -> pa.Schema:
    """The schema of a Parquet file. Raises ModisteError where it is damaged, or only a pointer to one (Git LFS)."""
    return _reading(file, lambda: pq.read_schema(file))


def find_parquet(folder: Path, card: Card, pattern: str = "*") -> list[Path]:
    """The Parquet files of a data set in ``folder``: ``data/*.parquet`` or ``*.parquet``; none where there are none.

    Raises:
        ModisteError: Some of the files that the others' names count (`SHARD`) are missing.
    """
    files = sorted(folder.glob(f"data/{pattern}.parquet")) or sorted(folder.glob(f"{pattern}.parquet"))
    check_shards(files, card)
    return files


def check_shards(files: Iterable[Path], card: Card) -> None:
    """Raises ModisteError when files are missing of those that the names of ``files`` count (`SHARD`)."""
    present = set(files)
    for file in sorted(present):
        match = SHARD.fullmatch(file.name)
        if match is None:
            continue
        count = int(match["count"])
        names = [f"{match['stem']}-{i:05d}-of-{count:05d}.parquet" for i in range(count)]
        missing = [name for name in names if file.with_name(name) not in present]
        if missing:
            shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            raise ModisteError(
                f"The download of data set '{card.name}' is not complete: {len(missing)} of {count} files are missing "
                f"in {file.parent} ({shown}). Run the download again, it gets what is missing. {card.download}"
            )


def read_parquet(files: Sequence[Path], columns: Sequence[str] | None = None) -> Any:
    """Parquet files that hold images, as one memory-mapped `datasets.Dataset`; ``columns`` of them, or all.

    Raises:
        ModisteError: A file is damaged (see `read_schema`), or their schemas differ.
    """
    import datasets

    for file in files:
        read_schema(file)
    try:
        return datasets.load_dataset(
            "parquet",
            data_files=[str(file) for file in files],
            columns=None if columns is None else list(columns),
            split="train",
            cache_dir=str(cache_dir() / "datasets"),
        )
    except (datasets.exceptions.DatasetGenerationError, OSError, ValueError, pa.ArrowException) as error:
        raise ModisteError(f"{files[0].parent} cannot be read as Parquet files of one schema: {error}.") from error


def from_dataset(
    dataset: Any, columns: Mapping[str, str | None], attributes: Sequence[str] | None, name: str
) -> tuple[Columns, ImageSource]:
    """The columns (see `map_columns`) and the images of a `datasets.Dataset`; class labels by their names."""
    import datasets

    raw: dict[str, Sequence[Any]] = {}
    for column, feature in dataset.features.items():
        if column == columns.get("image"):
            raw[column] = [str(i) for i in range(len(dataset))]
        elif isinstance(feature, datasets.ClassLabel):
            raw[column] = [None if label is None or label < 0 else feature.names[label] for label in dataset[column]]
        elif _light(feature):
            raw[column] = dataset[column][:]
    mapped = map_columns(raw, columns, attributes, name)
    return mapped, ArrowImages(dataset, str(columns["image"]))


def _light(feature: Any) -> bool:
    """Whether a column is of values or lists of values: other images and nested tables are left where they are."""
    import datasets

    inner = getattr(feature, "feature", feature)
    return isinstance(inner, datasets.Value) and "binary" not in inner.dtype
