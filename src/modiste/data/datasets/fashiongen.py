"""FashionGen: studio photos of about four poses per product, with descriptions, in two HDF5 files."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modiste.data.catalogue import Card, Catalogue
from modiste.data.download import chosen, cut_short, note_partial, require
from modiste.data.sources import _stamp
from modiste.errors import ModisteError
from modiste.utils.ranges import BadRows

# The paper's 293,008 images are 260,480 + 32,528; MVLT prints 35,528 for the second. Copies of the training file with
# 260,490 rows exist.
SIZES = {"train": 260480, "test": 32528}
CARD = Card(
    name="fashiongen",
    title="Fashion-Gen",
    licence="research only, by agreement with SSENSE and Element AI",
    citation="N. Rostamzadeh, S. Hosseini, T. Boquet, W. Stokowiec, Y. Zhang, C. Jauvin, C. Pal, Fashion-Gen: The "
    "Generative Fashion Dataset and Challenge, arXiv:1806.08317, 2018",
    homepage="https://arxiv.org/abs/1806.08317",
    expected=SIZES,
    download="Ask its authors for fashiongen_256_256_train.h5 and fashiongen_256_256_validation.h5 and put both into "
    "one folder.",
)
# Papers call the official validation file the test set.
FILES = {"train": "fashiongen_256_256_train.h5", "test": "fashiongen_256_256_validation.h5"}
REQUIRED = ("input_image", "input_productID", "input_description", "input_category", "input_subcategory")
OPTIONAL = (
    *("input_name", "input_brand", "input_gender", "input_composition", "input_department", "input_season"),
    "input_pose",
)
CHUNK = 8192


@dataclass(frozen=True)
class FashionGen:
    """Read the HDF5 files: text = input_description; other texts are attributes, without ``input_``.

    product_id = input_productID, shared by all poses of a product. Images are read from the files on access.

    Attributes:
        path: Folder of the files.
        splits: Splits to read: ``train``, and ``test``, which is the official validation file.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: h5py is not installed, a split is unknown, or a file is missing, damaged, or lacks a required
            dataset.
    """

    path: str
    splits: Sequence[str] = ("train", "test")
    max_bad: BadRows | None = None

    def __call__(self) -> Catalogue:
        _h5py()
        root = Path(self.path)
        splits = chosen("splits", self.splits, list(FILES))
        required = [FILES[split] for split in splits]
        require(CARD, root, required, remedy="Or read only existing splits: data.catalogue.splits=[test] (or [train]).")
        parts = {split: read_texts(root / FILES[split]) for split in splits}
        # Excludes attributes that only one of the files has.
        names = [name for name in (*REQUIRED[1:], *OPTIONAL) if all(name in part for part in parts.values())]
        columns = {name: [value for part in parts.values() for value in part[name]] for name in names}
        columns = {_word(name): values for name, values in columns.items()}
        columns["split"] = [split for split, part in parts.items() for _ in part["input_productID"]]
        columns["image"] = [
            f"{split}/{i}" for split, part in parts.items() for i in range(len(part["input_productID"]))
        ]
        images = Hdf5Images({split: root / FILES[split] for split in splits})
        card = replace(CARD, expected={split: SIZES[split] for split in splits})
        return note_partial(Catalogue.build(card, columns, images, self.max_bad))


def _word(name: str) -> str:
    return {"input_productID": "product_id", "input_description": "text"}.get(name, name.removeprefix("input_"))


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise ModisteError("Fashion-Gen needs h5py: pip install 'modiste[hdf5]'.") from None
    return h5py


def read_texts(path: Path) -> dict[str, list[str]]:
    """Read the HDF5 datasets with one text or number per row, decoded as latin-1: name → values.

    Raises:
        ModisteError: The file is damaged, lacks a required dataset, or its datasets differ in length.
    """
    try:
        with _h5py().File(path, "r") as file:
            for name in REQUIRED:
                if not _is_linked(file, name):
                    raise cut_short(CARD, path, f"it has no dataset {name}")
            parts = {name: _held(file, name) for name in (*REQUIRED, *OPTIONAL) if _is_linked(file, name)}
            lengths = {name: len(part) for name, part in parts.items()}
            if len(set(lengths.values())) > 1:
                raise cut_short(CARD, path, f"its datasets have different lengths, {lengths}")
            return {name: _decoded(part) for name, part in parts.items() if name != "input_image"}
    except (OSError, ValueError, TypeError) as error:
        raise cut_short(CARD, path, str(error)) from None


def _is_linked(file: Any, name: str) -> bool:
    """Whether the file has a link of that name, without following it as ``name in file`` would."""
    return bool(file.id.links.exists(name.encode()))


def _held(file: Any, name: str) -> Any:
    """A dataset of an HDF5 file. Raises ValueError if it is a soft or external link or stored elsewhere."""
    h5py = _h5py()
    if not _is_linked(file, name) or file.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{name} is not a dataset of the file itself")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise ValueError(f"{name} is stored elsewhere")
    return dataset


def _decoded(dataset: Any) -> list[str]:
    """The values of a dataset (N, 1) or (N,) as text, read in chunks."""
    chunks = (np.asarray(dataset[start : start + CHUNK]).ravel() for start in range(0, len(dataset), CHUNK))
    return [
        value.decode("latin-1") if isinstance(value, bytes) else str(value)
        for chunk in chunks
        for value in chunk.tolist()
    ]


class Hdf5Images:
    """Images in ``input_image`` (N, H, W, 3), uint8, of HDF5 files; a reference is ``<key>/<row>``.

    Args:
        paths: Key → file.
    """

    def __init__(self, paths: Mapping[str, Path]):
        self.paths = dict(paths)
        self._lock = threading.Lock()
        self._opened: tuple[int, dict[str, Any]] | None = None

    def _dataset(self, key: str) -> Any:
        """The images of a file, opened once per process: a shared file handle has a shared position."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), {})
            opened = self._opened[1]
            if key not in opened:
                opened[key] = _held(_h5py().File(self.paths[key], "r"), "input_image")
            return opened[key]

    def read(self, ref: str) -> Image.Image:
        key, _, row = ref.partition("/")
        if key not in self.paths:
            raise FileNotFoundError(f"no file has the image {ref}")
        dataset = self._dataset(key)
        if not 0 <= int(row) < len(dataset):
            raise FileNotFoundError(f"{self.paths[key]} has no row {row}")
        pixels = np.asarray(dataset[int(row)])
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"images must be uint8 (H, W, 3), not {pixels.dtype} {pixels.shape}")
        return Image.fromarray(pixels)

    def identity(self, refs: list[str]) -> str:
        return "|".join(f"{key}={_stamp(path)}" for key, path in self.paths.items())

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
