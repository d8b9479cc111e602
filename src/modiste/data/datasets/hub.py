"""Image–text data sets in the layouts of Hugging Face `datasets`, from the hub or a local folder."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from modiste.data.catalogue import Card, Catalogue
from modiste.data.datasets.hub_files import saved_files, split_files
from modiste.data.datasets.table import concatenated, from_dataset, load_files, map_columns, read_schema, read_table
from modiste.data.numbers import read_numbers
from modiste.data.shop import split_word
from modiste.data.sources import MAX_BYTES, FolderImages, ImageSource
from modiste.data.text_tables import Columns
from modiste.errors import ModisteError, did_you_mean
from modiste.utils import arrow
from modiste.utils.links import refuse_outside
from modiste.utils.ranges import BadRows

if TYPE_CHECKING:
    from datasets import Dataset

ELSEWHERE = "is not part of the data set"
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


@dataclass(frozen=True)
class Hub:
    """Read a hub data set. Its code is never run (`datasets` 4 and later does not support it).

    A local data set reads no files outside its folder: the README may name files within it, the rest is ignored.

    Attributes:
        path: ``owner/name`` on the hub, or a folder: an image folder with ``metadata.csv``, ``.jsonl`` or ``.parquet``;
            Parquet, Arrow, CSV, JSON or WebDataset files; images in folders named by label; or the output of
            ``save_to_disk``. A path that begins with ``.``, ``/`` or ``~`` is always a folder.
        columns: As in `modiste.data.datasets.table.Table`; the image column of an image folder is ``file_name``.
            Without ``split``, the splits are the data set's own ("validation" becomes "val").
        attributes: As in `modiste.data.datasets.table.Table`.
        config: Name of the configuration, for data sets with several.
        revision: Commit, branch or tag on the hub.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: The data set or a column is missing, a file is damaged, or the hub cannot be reached.
    """

    path: str
    columns: Mapping[str, str | None] = field(default_factory=lambda: {"text": "text", "image": "image"})
    attributes: Sequence[str] | None = None
    config: str | None = None
    revision: str | None = None
    max_bad: BadRows | None = None

    def __call__(self) -> Catalogue:
        folder = Path(self.path).expanduser()
        if not folder.is_dir() and self._must_be_folder():
            raise ModisteError(f"Folder {folder} does not exist: set data.catalogue.path to a folder or to owner/name.")
        return Catalogue.build(self._card(folder), *self._read(folder), self.max_bad)

    def load(self, split: str) -> Dataset:
        """Load a split as `datasets.Dataset`. Raises ModisteError if it does not exist or cannot be loaded."""
        folder = Path(self.path).expanduser()
        with _explained(self.path, folder):
            loaded = self._load(folder)
        if split not in loaded:
            raise ModisteError(f"Data set '{self.path}' has no split '{split}'. {did_you_mean(split, loaded)}")
        return loaded[split]

    def _read(self, folder: Path) -> tuple[Columns, ImageSource]:
        if folder.is_dir():
            refuse_outside(folder, ELSEWHERE)
        tables = sorted(file for name in METADATA for file in folder.rglob(name)) if folder.is_dir() else []
        if tables:
            raw = _image_folder(folder, tables)
            return map_columns(raw, self._columns(raw), self.attributes, self.path), FolderImages(folder)
        with _explained(self.path, folder):
            dataset = _one_table(self._load(folder))
            columns = self._columns(dataset.column_names)
            return from_dataset(dataset, columns, self.attributes, self.path, folder if folder.is_dir() else None)

    def _columns(self, present: Container[str]) -> dict[str, str | None]:
        own = "split" if "split" in present else None
        return {**self.columns, "split": self.columns.get("split") or own}

    def _must_be_folder(self) -> bool:
        return self.path.startswith((".", "/", "~")) or self.path.count("/") != 1

    def _card(self, folder: Path) -> Card:
        if folder.is_dir():
            return Card("hub", title=folder.name)
        return Card("hub", title=self.path, homepage=f"https://huggingface.co/datasets/{self.path}")

    def _load(self, folder: Path) -> Mapping[str, Dataset]:
        """The splits; a data set without splits is "". Raises ModisteError and the errors of `datasets`."""
        import datasets

        if not folder.is_dir():
            return datasets.load_dataset(self.path, self.config, revision=self.revision)
        refuse_outside(folder, ELSEWHERE)
        saved = saved_files(folder)
        if saved is not None:
            return {split: _saved(files) for split, files in saved.items()}
        kind, files = split_files(folder, self.config)
        if kind == "table":
            return _of_tables(files)
        for file in (file for listed in files.values() for file in listed):
            CHECKS.get(kind, Path.stat)(file)
        return load_files(kind, files)


@contextmanager
def _explained(path: str, folder: Path) -> Iterator[None]:
    """Turn errors of `datasets` into a ModisteError of one sentence."""
    try:
        yield
    except ModisteError:
        raise
    except Exception as error:  # malicious files make pyarrow and datasets raise nearly anything
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if folder.is_dir():
            remedy = "Give a folder of images with metadata, of parquet files, or one that save_to_disk wrote."
        else:
            remedy = "Check its name and the network (HF_HUB_OFFLINE), or download it and give the folder."
        raise ModisteError(f"Data set '{path}' cannot be loaded: {reason.rstrip('.')}. {remedy}") from error


def _saved(files: Sequence[Path]) -> Dataset:
    """Memory-map Arrow files; other settings of ``state.json``, such as a format, are ignored."""
    import datasets

    for file in files:
        arrow.read_table(file)
    return datasets.concatenate_datasets([datasets.Dataset.from_file(str(file)) for file in files])


def _of_tables(splits: Mapping[str, Sequence[Path]]) -> dict[str, Dataset]:
    """Read uncompressed CSV and JSON files with `read_table`, which follows no references to other files."""
    import datasets

    tables = [(split, file, read_table(file)) for split, files in splits.items() for file in files]
    raw = concatenated([table for *_, table in tables])
    whole = datasets.Dataset.from_dict({name: _typed(name, cells) for name, cells in raw.items()})
    places = [split for split, _, table in tables for _ in next(iter(table.values()), [])]
    return {split: whole.select([i for i, place in enumerate(places) if place == split]) for split in splits}


def _typed(name: str, cells: list[Any]) -> list[Any]:
    numbers = read_numbers(cells, name)
    return cells if numbers is None else numbers.values


def _check_tar(file: Path) -> None:
    """Raise ModisteError for a tar that `datasets` could decompress to more than fits in memory."""
    try:
        with file.open("rb") as head:
            if head.read(2) == b"PK":
                raise ValueError("it begins as a zip archive")
        bad = None
        for mode in ("r:", "r|*"):  # `datasets` decompresses by magic number, which a plain tar can also begin with
            with tarfile.open(file, mode) as tar:
                bad = bad or next((member.name for member in tar if not _is_plain(member)), None)
    except (tarfile.TarError, ValueError, EOFError, zlib.error) as error:
        raise ModisteError(f"{file} cannot be read as an uncompressed tar file: {error}.") from None
    if bad is not None:
        raise ModisteError(f"{file} holds '{bad}', which is not an image, text or JSON file: remove it.")


def _is_plain(member: tarfile.TarInfo) -> bool:
    suffix = member.name.rpartition(".")[2].lower()
    plain = member.isreg() and not member.issparse()  # a sparse file of 512 bytes may unpack into any size
    return member.isdir() or (plain and member.size <= MAX_BYTES and suffix in TAR_SUFFIXES)


TAR_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif",
                "txt", "text", "transcript", "json", "cls", "cls2", "id", "index", "inx")  # fmt: skip
CHECKS: dict[str, Callable[[Path], Any]] = {"arrow": arrow.read_table, "parquet": read_schema, "webdataset": _check_tar}
"""Builder → check that raises ModisteError or ValueError for a damaged file."""


def _one_table(loaded: Mapping[str, Dataset]) -> Dataset:
    """Concatenate the splits, with a column ``split``."""
    import datasets

    if list(loaded) == [""]:
        return loaded[""]
    parts = []
    for split, part in loaded.items():
        name = split_word(split)
        parts.append(part if "split" in part.column_names else part.add_column("split", [name] * len(part)))
    return datasets.concatenate_datasets(parts)


def _image_folder(folder: Path, tables: Sequence[Path]) -> dict[str, list[Any]]:
    """Concatenate the metadata tables of an image folder; subfolders name splits."""
    parts = []
    for table in tables:
        part = read_table(table)
        if "file_name" not in part:
            raise ModisteError(f"{table} has no column 'file_name', which is required in an image folder's metadata.")
        inside = PurePosixPath(table.parent.relative_to(folder).as_posix())
        part["file_name"] = [str(inside / str(name)) for name in part["file_name"]]
        part.setdefault("split", [inside.parts[0] if inside.parts else ""] * len(part["file_name"]))
        parts.append(part)
    return concatenated(parts)
