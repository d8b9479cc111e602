"""Any image-text data set in the layouts of Hugging Face `datasets`, from the hub or from a local folder."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from modiste.data.catalogue import Card, Catalogue
from modiste.data.datasets.table import from_dataset, map_columns, read_table, unreported
from modiste.data.shop import split_word
from modiste.data.sources import FolderImages, ImageSource
from modiste.data.text_tables import Columns
from modiste.errors import ModisteError, did_you_mean
from modiste.utils.run_dir import cache_dir

if TYPE_CHECKING:
    from datasets import Dataset

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


@dataclass(frozen=True)
class Hub:
    """Read a hub data set; code that comes with one is never run (`datasets` 4 and later has no way to).

    Attributes:
        path: ``owner/name`` on the hub, or a folder: an image folder with ``metadata.csv``, ``.jsonl`` or ``.parquet``,
            parquet files, or what ``save_to_disk`` wrote. What begins with ``.``, ``/`` or ``~`` is only ever a folder.
        columns: As in `modiste.data.datasets.table.Table`; an image folder's image column is ``file_name``.
            Without ``split``, the splits are the data set's own ("validation" becomes "val").
        attributes: As in `modiste.data.datasets.table.Table`.
        config: Name of the configuration, for data sets that have several.
        revision: Commit, branch or tag on the hub.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: The data set or one of its columns is missing, or the hub cannot be reached.
    """

    path: str
    columns: Mapping[str, str | None] = field(default_factory=lambda: {"text": "text", "image": "image"})
    attributes: Sequence[str] | None = None
    config: str | None = None
    revision: str | None = None
    max_bad: int | float | None = None

    def __call__(self) -> Catalogue:
        folder = Path(self.path).expanduser()
        if not folder.is_dir() and self._must_be_folder():
            raise ModisteError(f"There is no folder {folder}: set data.catalogue.path to a folder or to owner/name.")
        return Catalogue.build(self._card(folder), *self._read(folder), self.max_bad)

    def load(self, split: str) -> Dataset:
        """One split as a `datasets.Dataset`. Raises ModisteError where there is none of that name."""
        loaded = self._load(Path(self.path).expanduser())
        if split not in loaded:
            raise ModisteError(f"Data set '{self.path}' has no split '{split}'. {did_you_mean(split, loaded)}")
        return loaded[split]

    def _read(self, folder: Path) -> tuple[Columns, ImageSource]:
        tables = sorted(file for name in METADATA for file in folder.rglob(name)) if folder.is_dir() else []
        if tables:
            raw = _image_folder(folder, tables)
            return map_columns(raw, self._columns(raw), self.attributes, self.path), FolderImages(folder)
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

    def _load(self, folder: Path) -> Any:
        import datasets

        try:
            if not folder.is_dir():
                return datasets.load_dataset(self.path, self.config, revision=self.revision)
            if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
                return datasets.load_from_disk(str(folder))
            # The whole path: "json" alone would name a format.
            with unreported():
                cache = str(cache_dir() / "datasets")
                return datasets.load_dataset(str(folder.resolve()), self.config, cache_dir=cache)
        except (datasets.exceptions.DatasetGenerationError, OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            if folder.is_dir():
                remedy = "Give a folder of images with metadata, of parquet files, or one that save_to_disk wrote."
            else:
                remedy = "Check its name and the network (HF_HUB_OFFLINE), or download it and give the folder."
            raise ModisteError(f"Data set '{self.path}' cannot be loaded: {reason.rstrip('.')}. {remedy}") from error


def _one_table(loaded: Any) -> Any:
    """The splits of a `DatasetDict` one after another, with a column that names them."""
    import datasets

    if isinstance(loaded, datasets.Dataset):
        return loaded
    parts = []
    for split, part in loaded.items():
        name = split_word(split)
        parts.append(part if "split" in part.column_names else part.add_column("split", [name] * len(part)))
    return datasets.concatenate_datasets(parts)


def _image_folder(folder: Path, tables: Sequence[Path]) -> dict[str, list[Any]]:
    """The metadata tables of an image folder as one, file names relative to it; a sub-folder names its split."""
    parts = []
    for table in tables:
        part = read_table(table)
        if "file_name" not in part:
            raise ModisteError(f"{table} has no column 'file_name', which is required in an image folder's metadata.")
        inside = PurePosixPath(table.parent.relative_to(folder).as_posix())
        part["file_name"] = [str(inside / str(name)) for name in part["file_name"]]
        part.setdefault("split", [inside.parts[0] if inside.parts else ""] * len(part["file_name"]))
        parts.append(part)
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: [cell for part in parts for cell in part.get(name, [None] * len(part["file_name"]))] for name in names
    }
