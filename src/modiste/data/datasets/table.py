"""Your own catalogue: a table, and a folder or zip file of images.

Also helpers for other adapters: reading tables, and mapping their columns to the catalogue's.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import shlex
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from dataclasses import replace as with_changes
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from xml.etree import ElementTree

import pyarrow as pa

from modiste.config.quoting import quote
from modiste.data import shop
from modiste.data.catalogue import GROUNDING, REQUIRED, SCHEMA, Card, Catalogue, LoadReport, name_products
from modiste.data.numbers import read_numbers
from modiste.data.sources import ArrowImages, BytesImages, FolderImages, ImageSource, ZipImages
from modiste.data.text_tables import BY_SUFFIX, Columns, TextFormat, check_cells, parse_table, read_text
from modiste.data.url_images import download, file_name
from modiste.errors import ModisteError, did_you_mean
from modiste.utils import arrow
from modiste.utils.links import leads_out
from modiste.utils.progress import progress_bar
from modiste.utils.ranges import BadRows, Count
from modiste.utils.run_dir import cache_dir

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

Content = TypeVar("Content")
UNREADABLE = (
    ValueError, EOFError, RecursionError, csv.Error, pa.ArrowException, zipfile.BadZipFile, ElementTree.ParseError,
)  # fmt: skip
QUOTINGS = {"quotes": True, "none": False}
SUFFIXES = (*BY_SUFFIX, ".parquet", ".jsonl", ".ndjson", ".json", ".xml")
PACKED = (".gz", ".bz2", ".xz", ".zip")
SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.parquet")
"""Name of one of several files on the hub, for example ``data-00003-of-00009.parquet``."""
SHARED = 20
"""Minimum number of products that share a likely placeholder image."""
PLACEHOLDER = "placeholder image"


@dataclass(frozen=True)
class Table:
    """Read a table of products and their images, as exported by shops and feeds.

    Encoding, delimiter, quoting, compression and unnamed columns are recognised; the log says how. Several images in a
    cell or in several columns give a product several rows. Rows without a text take their empty cells from the first
    row of their product that has one. HTML is removed from texts. Columns of numbers become numeric, also with decimal
    commas and currencies; a rare cell of text among prices becomes empty.

    Attributes:
        path: ``.csv``, ``.tsv``, ``.txt``, ``.parquet``, ``.jsonl``, ``.ndjson``, ``.json`` (a list of objects) or
            ``.xml`` (a Google Merchant Center feed); all but ``.parquet`` also as ``.gz``, ``.bz2``, ``.xz`` or
            ``.zip``.
        images: Folder or zip file that the image paths are relative to; None: ``images`` or ``photos`` next to the
            table, else its folder. A Parquet file may contain the images themselves.
        columns: Name in the catalogue → column of the table: ``text``, ``image`` (or a list of columns),
            ``product_id``, ``split``, ``mask``, ``boxes``, and attributes under names of your choice. None values are
            recognised by name and content; without a product id, each row is a product.
        attributes: Columns to keep as attributes in addition to the mapped ones; None: all with plain values.
        delimiter: Delimiter of a text table; None: recognised.
        encoding: Python codec of a text table; None: recognised.
        quoting: ``quotes`` or ``none`` (``"`` is an ordinary character); None: recognised.
        download: Download images given as URLs once, into the cache; otherwise URLs are an error. Keyword-only, so
            that a stored configuration cannot give this permission.
        placeholders: Drop rows whose image more than this number of products share; None: keep them, with a warning.
        name: Name of the data set in reports.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: A file or a column is missing, or the file cannot be read as its file type.
    """

    path: str
    images: str | None = None
    columns: Mapping[str, str | int | Sequence[str | int] | None] = field(default_factory=dict)
    attributes: Sequence[str] | None = None
    delimiter: str | None = None
    encoding: str | None = None
    quoting: str | None = None
    download: bool = field(default=False, kw_only=True)
    placeholders: Count | None = None
    name: str = "table"
    max_bad: BadRows | None = None

    def __post_init__(self) -> None:
        # YAML reads a name that consists of digits as a number.
        names = {word: self._names(column) for word, column in self.columns.items()}
        for word, column in names.items():
            if word != "image" and not isinstance(column, str | None):
                raise ModisteError(f"data.catalogue.columns.{word}={column}: name one column; only image takes a list.")
        object.__setattr__(self, "columns", names)

    @staticmethod
    def _names(column: Any) -> Any:
        return (
            str(column) if isinstance(column, int) else list(map(str, column)) if isinstance(column, list) else column
        )

    def __call__(self) -> Catalogue:
        path = self.file
        column = _column_of_pictures(path, self.columns.get("image")) if path.suffix.lower() == ".parquet" else None
        if column is not None:
            return self._of_pictures(path, column)
        raw, how = _read(path, self.delimiter, self.encoding, self.quoting)
        said = f"{how}; " if how else ""
        log.info("%s: %s%d rows, %d columns", path.name, said, len(next(iter(raw.values()), [])), len(raw))
        return self.catalogue(raw, path, path.name, how.lines if how else None)

    def _of_pictures(self, path: Path, column: str) -> Catalogue:
        """The catalogue of a Parquet file that contains the images, read from it on access."""
        dataset = read_parquet([path])
        _refuse_empty(len(dataset))
        others = _plain_columns(dataset, column)
        # In Arrow format `datasets` does not open and decode the images of other columns, of any format and URL.
        first = dataset.with_format("arrow", columns=others)[:1000].to_pydict() if others else {}
        roles = shop.recognise({**first, column: []}, {**self.columns, "image": column})
        log.info("%s: %s", path.name, roles)
        folder = self._folder(path.parent)
        columns, images = from_dataset(dataset, self._mapping(roles), self.attributes, self.name, folder)
        catalogue = Catalogue.build(Card(self.name, title=path.name), columns, images, self.max_bad)
        return self._without_placeholders(catalogue)

    def catalogue(self, raw: Columns, path: Path, title: str, lines: Sequence[int] | None = None) -> Catalogue:
        """Return the catalogue of a table that has been read.

        Args:
            raw: Its columns.
            path: The file, next to which images are searched.
            title: Title of the data card.
            lines: Line of each row in the file, which names rows without a product id; None: the number of the row.

        Raises:
            ModisteError: See the class.
        """
        _refuse_empty(max(map(len, raw.values()), default=0))
        roles = shop.recognise(raw, self.columns)
        self._complete(roles, raw)
        log.info("%s: %s", title or self.name, roles)
        if roles.product_id is None and (column := shop.like_ids(raw, roles)) is not None:
            value = column if re.fullmatch(r"\w+", column) else quote(column)
            setting = shlex.quote(f"data.catalogue.columns.product_id={value}")
            log.info("%s: '%s' looks like a product id: if it is one, set %s", title or self.name, column, setting)
        columns = self._mapped(raw, roles, lines)
        images = _pictures_in_cells(columns) or self._images(path, columns)
        return self._without_placeholders(Catalogue.build(Card(self.name, title=title), columns, images, self.max_bad))

    @property
    def file(self) -> Path:
        """Path of the table. Raises ModisteError if it does not exist."""
        path = Path(self.path).expanduser()
        if not path.is_file():
            where = "" if path.is_absolute() else f" in {Path.cwd()}"
            raise ModisteError(
                f"Table {path}{where} does not exist: set data.catalogue.path to a {', '.join(SUFFIXES)} file."
            )
        return path

    def read(self) -> Columns:
        """Read the columns of the table, unchanged. Raises ModisteError as `read_table` does."""
        return read_table(self.file, self.delimiter, self.encoding, self.quoting)

    def _complete(self, roles: shop.Roles, raw: Mapping[str, Any]) -> None:
        for target, found in (("text", roles.text), ("image", roles.images)):
            if not found:
                raise ModisteError(
                    f"Data set '{self.name}': no column found for {target}: set "
                    f"data.catalogue.columns.{target}=<column>, one of: {', '.join(raw)}."
                )
        columns = [("text", roles.text), *(("image", name) for name in roles.images), ("product_id", roles.product_id)]
        for target, column in columns:
            if column is not None and column not in raw:
                raise ModisteError(
                    f"data.catalogue.columns.{target}: data set '{self.name}' has no column '{column}'. "
                    f"{did_you_mean(column, raw)}"
                )

    def _mapping(self, roles: shop.Roles) -> dict[str, str | None]:
        own = {"text": roles.text, "image": roles.images[0], "product_id": roles.product_id, "split": roles.split}
        given = {name: None if column is None else str(column) for name, column in self.columns.items()}
        return {**{name: column for name, column in given.items() if name != "image"}, **own}

    def _mapped(self, raw: Columns, roles: shop.Roles, lines: Sequence[int] | None) -> Columns:
        raw = shop.fill_further_rows(raw, roles)
        count = len(next(iter(raw.values()), []))
        names = [f"line {line}" for line in lines] if lines else [f"row {row + 1}" for row in range(count)]
        if roles.product_id is None:  # each row is one product, even with several images
            single = len(roles.images) == 1 and all(len(shop.references(cell)) < 2 for cell in raw[roles.images[0]])
            if not single:
                raw, roles = {**raw, "product_id": names}, with_changes(roles, product_id="product_id")
        else:
            raw = {**raw, roles.product_id: name_products(raw[roles.product_id], names, self.name)}
        raw = shop.one_row_per_image(raw, roles)
        cleaned = {
            name: cells if name in roles.images else [shop.without_html(cell) for cell in cells]
            for name, cells in raw.items()
        }
        columns = map_columns(cleaned, self._mapping(roles), self.attributes, self.name)
        return {
            name: cells if name in (*REQUIRED, *SCHEMA, *GROUNDING) else self._typed(name, cells)
            for name, cells in columns.items()
        }

    def _typed(self, name: str, cells: list[Any]) -> list[Any]:
        """Convert an attribute to numbers if it is numeric, and log how."""
        numbers = read_numbers(cells, name)
        if numbers is None:
            return cells
        if numbers.comma or numbers.odd:
            log.info("%s: %s: %s", self.name, name, numbers)
        return numbers.values

    def _images(self, path: Path, columns: Columns) -> ImageSource:
        addresses = [cell for cell in columns["image"] if isinstance(cell, str) and shop.URL.match(cell)]
        if not addresses:
            return self._image_files(path)
        if not self.download:
            raise ModisteError(
                f"Data set '{self.name}': {len(addresses):,} of {len(columns['image']):,} images are URLs such as "
                f"{addresses[0]}: set data.catalogue.download=true to download them once."
            )
        if len(addresses) < len(columns["image"]):
            raise ModisteError(
                f"Data set '{self.name}': some images are URLs and some are files: use one kind per table."
            )

        folder = download(addresses, progress=progress_bar)
        columns["image"] = [file_name(address) for address in columns["image"]]
        return FolderImages(folder)

    def _folder(self, folder: Path) -> Path:
        if self.images is not None:
            return Path(self.images).expanduser()
        found = next((folder / name for name in ("images", "photos") if (folder / name).is_dir()), folder)
        if not found.resolve().is_relative_to(folder.resolve()):
            raise ModisteError(
                f"{found} is a link to {found.resolve()}: set data.catalogue.images to the folder of the images."
            )
        return found

    def _image_files(self, path: Path) -> ImageSource:
        folder = self._folder(path.parent)
        log.info("%s: images in %s", self.name, folder)
        if folder.is_dir():
            return FolderImages(folder)
        if folder.is_file() and zipfile.is_zipfile(folder):
            return ZipImages(folder)
        raise ModisteError(f"{folder} is neither a folder nor a zip file: set data.catalogue.images to the images.")

    def _without_placeholders(self, catalogue: Catalogue) -> Catalogue:
        shared = shared_pictures(catalogue)
        if self.placeholders is None:
            for count, _, image in shared[:3]:
                log.warning(
                    "%s: %d products share one image, for example %s: data.catalogue.placeholders=%d drops "
                    "such rows.", self.name, count, image, SHARED - 1,
                )  # fmt: skip
            return catalogue
        bad = {pixels for count, pixels, _ in shared_pictures(catalogue, self.placeholders + 1)}
        keep = [pixels not in bad for pixels in catalogue.column("pixels")]
        dropped = [id for id, kept in zip(catalogue.column("product_id"), keep, strict=True) if not kept]
        if not dropped:
            return catalogue
        report = LoadReport(catalogue.report.rows, sum(keep), {**catalogue.report.bad, PLACEHOLDER: dropped})
        if not report.kept:
            raise ModisteError(
                f"Data set '{self.name}' has no usable row: {report}. Raise data.catalogue.placeholders."
            )
        log.warning("%s: %s", self.name, report)
        return with_changes(catalogue.kept(keep), report=report)


def shared_pictures(catalogue: Catalogue, least: int = SHARED) -> list[tuple[int, str, str]]:
    """Return (number of products, pixel hash, reference) of images shared by at least ``least`` products."""
    pairs = zip(catalogue.column("pixels"), catalogue.column("product_id"), strict=True)
    count = Counter(pixels for pixels, _ in set(pairs))
    image = dict(zip(catalogue.column("pixels"), catalogue.column("image"), strict=True))
    return [(number, pixels, image[pixels]) for pixels, number in count.most_common() if number >= least]


def _pictures_in_cells(columns: Columns) -> ImageSource | None:
    """The encoded images in the cells of a table, or None; replaces the cells by references to them."""
    cells = columns["image"]
    if not any(isinstance(cell, (bytes, dict)) for cell in cells):
        return None
    columns["image"] = [str(number) for number in range(len(cells))]
    encoded = [cell.get("bytes") if isinstance(cell, dict) else cell for cell in cells]
    return BytesImages([cell if isinstance(cell, bytes) else None for cell in encoded])


def _column_of_pictures(path: Path, column: str | int | Sequence[str | int] | None) -> str | None:
    """The image column of a Parquet file if it contains encoded images, else None."""
    schema = read_schema(path)
    if column is not None:
        if not isinstance(column, str) or column not in schema.names:
            return None
        return column if _holds_pictures(schema.field(column).type) else None
    named = [name for name in schema.names if _holds_pictures(schema.field(name).type)]
    return named[0] if named else None


def _holds_pictures(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or (pa.types.is_struct(kind) and "bytes" in [kind.field(i).name for i in range(kind.num_fields)])
    )


def read_table(
    path: Path, delimiter: str | None = None, encoding: str | None = None, quoting: str | None = None
) -> Columns:
    """Read the columns of a table. Cells of text tables stay text: "NA" is "NA".

    Args:
        path: See `Table`.
        delimiter: See `Table`, as for ``encoding`` and ``quoting``.

    Raises:
        ModisteError: The suffix or the quoting is unknown, or the file cannot be read as its file type.
    """
    return _read(path, delimiter, encoding, quoting)[0]


def _read(
    path: Path, delimiter: str | None = None, encoding: str | None = None, quoting: str | None = None
) -> tuple[Columns, TextFormat | None]:
    """The columns of a table, and the format of a delimited text table; see `read_table`."""
    if quoting is not None and quoting not in QUOTINGS:
        raise ModisteError(f"data.catalogue.quoting={quoting} is not known. {did_you_mean(quoting, QUOTINGS)}")
    inner = path.with_suffix("") if path.suffix.lower() in PACKED else path
    suffix = inner.suffix.lower()
    if delimiter is None and suffix not in SUFFIXES:
        raise ModisteError(f"{path} has the suffix '{suffix}'. {did_you_mean(suffix, SUFFIXES)}")
    if suffix in READERS:
        return _reading(path, lambda: READERS[suffix](path, encoding)), None
    return _reading(path, lambda: _delimited(path, suffix, delimiter, encoding, quoting))


def _reading(path: Path, read: Callable[[], Content]) -> Content:
    try:
        return read()
    except (*UNREADABLE, OSError) as error:
        reason = " ".join(str(error).split())
        raise ModisteError(f"{path} cannot be read as its file type: {reason}.") from error


def _delimited(
    path: Path, suffix: str, delimiter: str | None, encoding: str | None, quoting: str | None
) -> tuple[Columns, TextFormat]:
    text, found = read_text(path, encoding)
    return parse_table(text, found, delimiter, None if quoting is None else QUOTINGS[quoting], suffix)


def _parquet(path: Path, encoding: str | None) -> Columns:
    table = arrow.read_parquet(path)
    return {name: plain(table.column(name)) for name in table.column_names}


def _json_lines(path: Path, encoding: str | None) -> Columns:
    return from_records([json.loads(line) for line in _lines(path, encoding)])


def _json(path: Path, encoding: str | None) -> Columns:
    return from_records(_records(json.loads(read_text(path, encoding)[0].lstrip("\ufeff"))))


def _xml(path: Path, encoding: str | None) -> Columns:
    return from_records(_feed(path))


READERS = {".parquet": _parquet, ".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json, ".xml": _xml}


def _lines(path: Path, encoding: str | None) -> list[str]:
    return [line for line in read_text(path, encoding)[0].lstrip("\ufeff").splitlines() if line.strip()]


def _records(content: Any) -> list[Any]:
    """The rows of a JSON file: a list of objects, at the top level or as the only list of an object."""
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else content
    if not isinstance(content, list):
        raise ValueError("it is not a list of objects")
    return content


def _feed(path: Path) -> list[dict[str, Any]]:
    """The items of an RSS or Atom feed; repeated elements of an item become a list."""
    text = read_text(path)[0]
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it declares a document type, which feeds may not")
    root = ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text.lstrip("\ufeff")))
    items = [element for element in root.iter() if element.tag.rpartition("}")[2] in ("item", "entry")]
    rows = []
    for item in items:
        row: dict[str, Any] = {}
        for element in item:
            name, value = element.tag.rpartition("}")[2], (element.text or "").strip()
            known = row.get(name)
            row[name] = value if known is None else [*(known if isinstance(known, list) else [known]), value]
        rows.append(row)
    if not rows:
        raise ValueError("it has no items")
    return rows


def plain(column: pa.ChunkedArray) -> list[Any]:
    """Convert an Arrow column to Python values: dictionaries decoded, decimals and dates as text.

    >>> plain(pa.chunked_array([pa.array(["a", "b"]).dictionary_encode()]))
    ['a', 'b']
    """
    values = column.to_pylist()
    simple = (str, int, float, bool, bytes, list, tuple, dict, type(None))
    return [value if isinstance(value, simple) else str(value) for value in values]


def read_delimited(lines: Iterable[str], delimiter: str = ",") -> Columns:
    """Read the columns of an open text table with a header; missing cells are "".

    Raises:
        ValueError: A row has more cells than the header.

    >>> read_delimited(["a,b\\n", '1,"x, y"\\n', "2\\n"])
    {'a': ['1', '2'], 'b': ['x, y', '']}
    """
    return parse_table("".join(lines), TextFormat(), delimiter, True)[0]


def from_records(records: Sequence[object]) -> Columns:
    """Convert rows to columns; missing values are None.

    Raises:
        ValueError: A row is not a dict.
        ModisteError: See `modiste.data.text_tables.check_cells`.

    >>> from_records([{"a": 1}, {"b": 2}])
    {'a': [1, None], 'b': [None, 2]}
    """
    rows = [record for record in records if isinstance(record, dict)]
    if len(rows) < len(records):
        raise ValueError("every line must be a JSON object")
    names = dict.fromkeys(name for row in rows for name in row)
    check_cells(len(rows), len(names), sum(map(len, rows)))
    return {name: [row.get(name) for row in rows] for name in names}


def concatenated(tables: Sequence[Mapping[str, Sequence[Any]]]) -> Columns:
    """Concatenate tables; cells of columns that a table lacks are None.

    Raises:
        ModisteError: See `modiste.data.text_tables.check_cells`.

    >>> concatenated([{"a": [1, 2]}, {"a": [3], "b": [4]}])
    {'a': [1, 2, 3], 'b': [None, None, 4]}
    """
    counts = [len(next(iter(table.values()), [])) for table in tables]
    names = dict.fromkeys(name for table in tables for name in table)
    check_cells(sum(counts), len(names), sum(map(len, chain.from_iterable(table.values() for table in tables))))
    return {
        name: [cell for table, rows in zip(tables, counts, strict=True) for cell in table.get(name, [None] * rows)]
        for name in names
    }


def _refuse_empty(rows: int) -> None:
    if not rows:
        raise ModisteError("The table has no rows: give one with a header and at least one row.")


def map_columns(
    raw: Mapping[str, Sequence[Any]],
    columns: Mapping[str, str | None],
    attributes: Sequence[str] | None,
    name: str,
) -> Columns:
    """Rename the columns of a table to those of the catalogue, with the other columns as attributes.

    Without a product id, each image is a product. If a cell has several captions, the first is ``text``, the others are
    the attributes ``text_2``, ``text_3``, …

    Args:
        raw: The columns of the table.
        columns: Name in the catalogue → column of the table; None values are skipped.
        attributes: Columns to keep as attributes; None: all with plain values.
        name: Name of the data set, for error messages.

    Raises:
        ModisteError: A column is not in the table, ``text`` or ``image`` is not mapped, ``pixels`` is, or a row has
            many more captions than the others (see `modiste.data.text_tables.check_cells`).

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
    if "pixels" in chosen or "pixels" in (attributes or ()):
        raise ModisteError(
            f"Data set '{name}': the column pixels is computed from the images: give the table's column another "
            "name, data.catalogue.columns.<name>=pixels."
        )
    for target in ("text", "image"):
        if target not in chosen:
            raise ModisteError(
                f"Data set '{name}': no column found for {target}: set data.catalogue.columns.{target}=<column>, "
                f"one of: {', '.join(raw)}."
            )
    mapped: Columns = {target: list(raw[source]) for target, source in chosen.items()}
    mapped.setdefault("product_id", mapped["image"])
    if "split" in mapped:
        mapped["split"] = [shop.split_word(split) for split in mapped["split"]]
    taken = {*SCHEMA, *GROUNDING, *mapped, *chosen.values()}
    others = [column for column in raw if column not in taken and _plain(raw[column])]
    for attribute in others if attributes is None else attributes:
        mapped.setdefault(attribute, list(raw[attribute]))
    if attributes is None:
        _name_unused({column: raw[column] for column in raw if column not in (*chosen.values(), *others)}, name)
    captions = _captions(mapped["text"])
    return {
        column: values if column in REQUIRED else [_joined(value) for value in values]
        for column, values in {**mapped, **captions}.items()
    }


def _name_unused(unused: Mapping[str, Sequence[Any]], name: str) -> None:
    """Warn of the columns of a table that are no attributes, with the reason."""
    own = [column for column, values in unused.items() if _plain(values)]
    if own:
        log.warning(
            "%s: not used: %s, since a catalogue has columns of these names: to keep one, set "
            "data.catalogue.columns.<another name>=%s", name, ", ".join(own), own[0],
        )  # fmt: skip
    if others := [column for column in unused if column not in own]:
        log.warning("%s: not used: %s, which are empty or nested", name, ", ".join(others))


def _captions(cells: Sequence[Any]) -> Columns:
    lists = [cell if isinstance(cell, (list, tuple)) else [cell] for cell in cells]
    count = max((len(cell) for cell in lists), default=1)
    check_cells(len(lists), count, sum(map(len, lists)))
    names = ["text", *(f"text_{i + 1}" for i in range(1, count))]
    return {name: [cell[i] if i < len(cell) else None for cell in lists] for i, name in enumerate(names)}


def _plain(values: Sequence[Any]) -> bool:
    first = next((value for value in values if value is not None), None)
    if isinstance(first, (list, tuple)):
        return all(isinstance(item, str) for item in first)
    return isinstance(first, (str, int, float, bool))


def _joined(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def read_schema(file: Path) -> pa.Schema:
    """Read the schema of a Parquet file. Raises ModisteError if it is damaged or only a Git LFS pointer."""
    return _reading(file, lambda: arrow.read_parquet_schema(file))


def find_parquet(folder: Path, card: Card, pattern: str = "*") -> list[Path]:
    """Find the Parquet files of a data set: ``data/*.parquet``, else ``*.parquet``, else [].

    Args:
        folder: Folder of the data set.
        card: Its card, for error messages.
        pattern: Pattern of the file names, without suffix.

    Raises:
        ModisteError: A file of a numbered series (`SHARD`) is missing, or a link leads out of the folder.
    """
    files = sorted(folder.glob(f"data/{pattern}.parquet")) or sorted(folder.glob(f"{pattern}.parquet"))
    for file in files:
        if leads_out(file, folder):
            raise ModisteError(f"'{file}' leads out of its folder: put a copy of the file in its place.")
    check_shards(files, card)
    return files


def check_shards(files: Iterable[Path], card: Card) -> None:
    """Raise ModisteError if files of a numbered series (`SHARD`) are missing."""
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
                f"The download of data set '{card.name}' is incomplete: {len(missing)} of {count} files are missing "
                f"in {file.parent} ({shown}). Run the download again to fetch them. {card.download}"
            )


def read_parquet(files: Sequence[Path], columns: Sequence[str] | None = None) -> Dataset:
    """Load Parquet files as one memory-mapped `datasets.Dataset`, with ``columns`` or all columns.

    Raises:
        ModisteError: A file is damaged (see `read_schema`), or the schemas differ.
    """
    for file in files:
        read_schema(file)
    try:
        chosen = None if columns is None else list(columns)
        return load_files("parquet", {"train": files}, columns=chosen)["train"]
    except ModisteError:
        raise
    except Exception as error:  # malformed metadata in a schema makes datasets raise nearly anything
        reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        raise ModisteError(f"{files[0].parent} cannot be read as Parquet files of one schema: {reason}.") from error


def load_files(builder: str, splits: Mapping[str, Sequence[Path]], **options: Any) -> Mapping[str, Dataset]:
    """Load local files with a builder of `datasets`, by full path, so that no pattern or URL is resolved.

    Args:
        builder: Name of the builder, such as ``parquet``.
        splits: Split → files.
        options: Options of the builder.

    Raises:
        ModisteError: A path contains "::", by which `datasets` refers to members of archives.
    """
    import datasets
    from datasets.data_files import DataFilesDict, DataFilesList

    listed = {split: [os.path.abspath(file) for file in files] for split, files in splits.items()}
    chained = next((name for names in listed.values() for name in names if "::" in name), None)
    if chained is not None:
        raise ModisteError(f"'{chained}' has '::' in its path, by which datasets names archives: rename it.")
    files = DataFilesDict(
        {split: DataFilesList(names, [_version(name) for name in names]) for split, names in listed.items()}
    )
    with unreported():
        return datasets.load_dataset(builder, data_files=files, cache_dir=str(cache_dir() / "datasets"), **options)


def _version(name: str) -> tuple[str, str]:
    """Key by which `datasets` recognises that a file has changed since it was cached."""
    status = Path(name).stat()
    return name, f"{status.st_mtime_ns}-{status.st_size}"


@contextmanager
def unreported() -> Iterator[None]:
    """Load local files without contacting the hub, where `datasets` counts every load."""
    import datasets

    before, datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS, False
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = before


def from_dataset(
    dataset: Dataset,
    columns: Mapping[str, str | None],
    attributes: Sequence[str] | None,
    name: str,
    folder: Path | None = None,
) -> tuple[Columns, ImageSource]:
    """Return the columns (see `map_columns`) and images of a `datasets.Dataset`; class labels by name.

    Args:
        dataset: The dataset.
        columns: See `map_columns`; ``image`` is a column of encoded images or paths.
        attributes: See `map_columns`.
        name: Name of the data set, for error messages.
        folder: See `modiste.data.sources.ArrowImages`.

    Raises:
        ModisteError: See `map_columns`.
    """
    image, features = str(columns.get("image")), dataset.features
    names = _plain_columns(dataset, image)
    # All columns at once: one by one, `datasets` takes minutes for 20,000 columns.
    table = dataset.with_format("arrow", columns=names)[:] if names else None
    raw: dict[str, Sequence[Any]] = {} if image not in features else {image: [str(i) for i in range(len(dataset))]}
    for column, cells in zip(names, table.columns if table is not None else [], strict=True):
        raw[column] = cells.to_pylist()
        if _is_label(features[column]):
            labels = dict(enumerate(features[column].names))
            raw[column] = [labels.get(label) for label in raw[column]]  # -1 means no label
    raw = {column: raw[column] for column in features if column in raw}
    mapped = map_columns(raw, columns, attributes, name)
    return mapped, ArrowImages(dataset, str(columns["image"]), folder)


def _plain_columns(dataset: Dataset, image: str) -> list[str]:
    """Columns of values, lists of values and class labels, without the image column."""
    return [name for name, kind in dataset.features.items() if name != image and (_is_label(kind) or _light(kind))]


def _is_label(feature: object) -> bool:
    import datasets

    return isinstance(feature, datasets.ClassLabel)


def _light(feature: Any) -> bool:
    """Whether a column has values or lists of values, not images or nested tables, which are not read."""
    import datasets

    inner = getattr(feature, "feature", feature)
    return isinstance(inner, datasets.Value) and "binary" not in inner.dtype
