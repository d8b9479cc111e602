"""Preprocessed images: the output of an image transform, in memory-mapped shards with checksums."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from modiste.data.catalogue import Card, Catalogue, LoadReport
from modiste.data.decode import Decoder
from modiste.errors import ModisteError
from modiste.models.preprocess import Preprocess
from modiste.utils import arrow
from modiste.utils.atomic import atomic, check_space, file_digest, make_folder, write_text
from modiste.utils.hardware import usable_cores
from modiste.utils.links import refuse_links
from modiste.utils.progress import Progress, silent
from modiste.utils.run_dir import read_json

MANIFEST, TABLE = "manifest.json", "table.parquet"
FORMAT = 1
GEOMETRY = ("size", "interpolation", "resize", "crop_pct", "fill", "crop")
"""Settings of an image transform that determine the uint8 pixels; normalisation is applied later."""


def geometry(preprocess: Preprocess) -> dict[str, Any]:
    """Return the settings of an image transform that determine the pixels."""
    described = preprocess.describe()
    return {name: described[name] for name in GEOMETRY}


class PreprocessedImages:
    """Shards (n, S, S, 3), uint8, of preprocessed images; a reference is the position as text."""

    def __init__(self, folder: Path, shards: list[Mapping[str, Any]], made_by: Mapping[str, Any]) -> None:
        self.folder, self.shards = folder, shards
        self.made_by = {name: made_by[name] for name in GEOMETRY}
        self.starts = np.cumsum([0, *(shard["rows"] for shard in shards)])
        self._arrays: dict[int, np.ndarray] = {}

    def read(self, ref: str) -> Image.Image:
        return Image.fromarray(np.array(self._row(ref)))

    def preprocessed_pixels(self, ref: str, preprocess: Preprocess) -> Tensor:
        """Return the pixels (3, S, S), uint8. Raises ModisteError as `check` does."""
        self.check(preprocess)
        return torch.from_numpy(np.array(self._row(ref))).permute(2, 0, 1).contiguous()

    def check(self, preprocess: Preprocess) -> None:
        """Raise ModisteError if the pixels were made by a transform other than ``preprocess``."""
        wanted = geometry(preprocess)
        if wanted != self.made_by:
            differing = next(name for name in GEOMETRY if wanted[name] != self.made_by[name])
            raise ModisteError(
                f"{self.folder} was preprocessed with {differing}={self.made_by[differing]}, but the model needs "
                f"{differing}={wanted[differing]}: run modiste prepare for this model, or remove data.preprocessed."
            )

    def identity(self, refs: list[str]) -> str:
        return hashlib.sha256("".join(shard["sha256"] for shard in self.shards).encode()).hexdigest()

    def _row(self, ref: str) -> np.ndarray:
        position = int(ref)
        shard = int(np.searchsorted(self.starts, position, side="right")) - 1
        if shard not in self._arrays:
            self._arrays[shard] = np.load(self.folder / self.shards[shard]["file"], mmap_mode="r")
        return self._arrays[shard][position - self.starts[shard]]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "shards": self.shards, "made_by": self.made_by}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


@dataclass(frozen=True)
class Preprocessed:
    """Read the output of `write`: the same catalogue with preprocessed images.

    Attributes:
        path: The folder.
        verify: Verify the checksum of every shard, not only its size.

    Raises:
        ModisteError: The folder holds no preprocessed images or is incomplete, or a file is missing or damaged.
    """

    path: str
    verify: bool = True

    def __call__(self) -> Catalogue:
        folder = Path(self.path)
        manifest = read_manifest(folder)
        if manifest is None:
            raise ModisteError(
                f"{folder} holds no preprocessed images: create it with modiste prepare data=… "
                f"out={shlex.quote(str(folder))}."
            )
        try:
            return self._catalogue(folder, manifest)
        except (KeyError, TypeError, ValueError, OSError) as error:  # includes errors of pyarrow and NumPy
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ModisteError(
                f"{folder} is damaged ({reason}): run the same modiste prepare command again, into an empty folder."
            ) from error

    def _catalogue(self, folder: Path, manifest: Mapping[str, Any]) -> Catalogue:
        if manifest["format"] != FORMAT:
            raise ModisteError(
                f"{folder} holds shards for data.stream, not preprocessed images: create it with format=pixels."
            )
        if manifest["complete"] is not True:
            raise ModisteError(f"{folder} is incomplete: resume with the same modiste prepare command.")
        for shard in manifest["shards"]:
            if not is_whole(folder, shard, checksum=self.verify):
                raise ModisteError(
                    f"The shard {folder / shard['file']} is missing or damaged: run the same modiste prepare command "
                    "again to rebuild it."
                )
        table = arrow.read_parquet(folder / TABLE)
        positions = [str(position) for position in range(len(table))]
        images = PreprocessedImages(folder, manifest["shards"], manifest["preprocess"])
        report = LoadReport(**manifest["report"])
        return Catalogue(Card(**manifest["card"]), table, images, report).replace_column("image", positions)


def write(
    catalogue: Catalogue,
    preprocess: Preprocess,
    folder: Path,
    shard_rows: int = 4096,
    decoder: Decoder | None = None,
    progress: Progress = silent,
) -> int:
    """Write preprocessed images in shards, and the table; an interrupted run resumes.

    Args:
        catalogue: All rows are written, with or without a split.
        preprocess: Image transform of the models that will use the pixels.
        folder: Output folder; complete existing shards are reused.
        shard_rows: Images per shard.
        decoder: Decodes the images; None: Pillow.
        progress: `modiste.utils.progress.progress_bar` or `silent`.

    Returns:
        The number of shards written.

    Raises:
        ModisteError: The folder holds other data, or pixels of another transform; or the disk has too little space.
    """
    decoder = decoder or Decoder()
    manifest = {
        "format": FORMAT, "fingerprint": catalogue.fingerprint(), "shard_rows": shard_rows,
        "preprocess": geometry(preprocess), "decode": decoder.mode, "card": asdict(catalogue.card),
        "report": asdict(catalogue.report),
    }  # fmt: skip
    starts = range(0, len(catalogue), shard_rows)
    parts = {
        f"pixels-{index:05}.npy": range(start, min(start + shard_rows, len(catalogue)))
        for index, start in enumerate(starts)
    }
    return write_parts(
        folder,
        manifest,
        parts,
        lambda rows, path: _write_shard(catalogue, preprocess, decoder, rows, path),
        lambda: _write_table(catalogue, folder / TABLE),
        progress,
        3 * preprocess.size**2,
    )


def write_parts(
    folder: Path,
    manifest: Mapping[str, Any],
    parts: Mapping[str, Sequence[int]],
    write_part: Callable[[Sequence[int], Path], int],
    finish: Callable[[], Any],
    progress: Progress = silent,
    bytes_each: int = 0,
) -> int:
    """Write the missing and damaged files of a folder, and its manifest.

    Args:
        folder: Output folder.
        manifest: Settings that determine the files, and ``card`` and ``report``.
        parts: File name → its rows.
        write_part: Writes rows to a path and returns their number.
        finish: Called before the folder is marked complete.
        progress: `modiste.utils.progress.progress_bar` or `silent`.
        bytes_each: Bytes per row to check the disk space for; 0: unknown.

    Returns:
        The number of files written.

    Raises:
        ModisteError: The folder holds other data, the disk has too little space, or a name is a path.
    """
    for name in parts:
        if Path(name).name != name:
            raise ModisteError(f"'{name}' is not a file name: give splits and shards names without a slash.")
    make_folder(folder)
    known: dict[str, dict[str, Any]] = {}
    earlier = read_manifest(folder)
    if earlier is not None:
        for name in [name for name in manifest if name not in ("card", "report")]:
            if earlier.get(name) != json.loads(json.dumps(manifest[name])):
                raise ModisteError(f"{folder} holds other data ({name} differs): choose another out=…")
        known = {shard["file"]: shard for shard in earlier["shards"] if is_whole(folder, shard, checksum=True)}
    check_space(folder, sum(bytes_each * len(rows) for name, rows in parts.items() if name not in known), "Preparing")
    made = 0
    for name in progress(parts, len(parts), f"Preparing {sum(map(len, parts.values()))} images"):
        if name in known:
            continue
        known[name] = _write_whole(write_part, parts[name], folder / name)
        made += 1
        _write_manifest(folder, {**manifest, "complete": False, "shards": [known[n] for n in parts if n in known]})
    finish()
    _write_manifest(folder, {**manifest, "complete": True, "shards": [known[name] for name in parts]})
    return made


def _write_whole(write_part: Callable[[Sequence[int], Path], int], rows: Sequence[int], path: Path) -> dict[str, Any]:
    with atomic(path) as unfinished:
        count = write_part(rows, unfinished)
        digest = file_digest(unfinished)
    return {"file": path.name, "rows": count, "bytes": path.stat().st_size, "sha256": digest}


def _write_table(catalogue: Catalogue, path: Path) -> None:
    with atomic(path) as unfinished:
        pq.write_table(catalogue.table, unfinished)


def _write_shard(
    catalogue: Catalogue, preprocess: Preprocess, decoder: Decoder, rows: Sequence[int], path: Path
) -> int:
    def load(row: int) -> np.ndarray:
        return decoder.pixels(catalogue, row, preprocess).permute(1, 2, 0).numpy()

    with ThreadPoolExecutor(usable_cores()) as pool:
        array = np.stack(list(pool.map(load, rows)))
    with path.open("wb") as file:
        np.save(file, array)
    return len(array)


def is_whole(folder: Path, shard: Mapping[str, Any], checksum: bool) -> bool:
    """Whether the file of a shard exists and has the recorded size and, if ``checksum``, checksum."""
    path = folder / shard["file"]
    if not path.is_file() or path.stat().st_size != shard["bytes"]:
        return False
    return not checksum or file_digest(path) == shard["sha256"]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read the manifest of a folder, or None if it has none.

    Raises:
        ModisteError: The folder contains links, or the manifest is damaged or names a file outside the folder.
    """
    refuse_links(folder, "is not part of its data")
    manifest = read_json(folder / MANIFEST)
    if not manifest:
        return None
    shards = manifest.get("shards") if isinstance(manifest, dict) else None
    if not isinstance(shards, list) or not all(isinstance(shard, dict) for shard in shards):
        raise ModisteError(f"{folder / MANIFEST} is damaged: delete it, and run the same command again.")
    files = (part["file"] for shard in shards for part in (shard, *shard.values()) if _names_a_file(part))
    outside = next((file for file in files if not isinstance(file, str) or file != Path(file).name), None)
    if outside is not None:
        raise ModisteError(f"{folder / MANIFEST} names the file {outside!r}, which is not in its folder: restore it.")
    return manifest


def _names_a_file(part: Any) -> bool:
    return isinstance(part, dict) and "file" in part


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
