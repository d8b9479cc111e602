"""Preprocessed images or tar shards of a data set, as `modiste prepare` writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from modiste.config.invocation import Invocation
from modiste.config.overrides import as_overrides, of_data, override_key
from modiste.data.build import load
from modiste.data.catalogue import Catalogue
from modiste.data.decode import Decoder
from modiste.data.storage import preprocessed, webdataset
from modiste.errors import ModisteError, did_you_mean
from modiste.models.preprocess import Preprocess
from modiste.utils.lock import held
from modiste.utils.progress import progress_bar


@dataclass(frozen=True)
class Prepared:
    """A folder written by `prepare_config`.

    Attributes:
        folder: The folder.
        made: Number of shards written by this call.
        overrides: Overrides with which `modiste train` reads it.
    """

    folder: Path
    made: int
    overrides: list[str]


def prepare_config(cfg: DictConfig, line: Invocation) -> Prepared:
    """Write the shards of a data set as configured by ``prepare``; an interrupted call resumes.

    Args:
        cfg: The composed configuration.
        line: The command line that it was composed from.

    Raises:
        ModisteError: The format is unknown, the images are corrupted, ``out`` contains other data, or another process
            writes to it.
    """
    if cfg.format not in FORMATS:
        raise ModisteError(f"format={cfg.format} is not known. {did_you_mean(cfg.format, FORMATS)}")
    if cfg.data.get("corruptions"):  # a reader of the folder would take them for the original images
        raise ModisteError("modiste prepare writes the original images: remove data.corruptions.")
    catalogue, folder = load(cfg.data), Path(cfg.out)
    with held(folder):
        return FORMATS[cfg.format](cfg, catalogue, folder, line)


def _pixels(cfg: DictConfig, catalogue: Catalogue, folder: Path, line: Invocation) -> Prepared:
    preprocess = Preprocess(size=cfg.size, resize=cfg.resize, interpolation=cfg.interpolation, crop_pct=cfg.crop_pct)
    decoder = Decoder(cfg.data.decode)
    made = preprocessed.write(catalogue, preprocess, folder, cfg.shard_rows, decoder, progress_bar)
    own = of_data(line.overrides)
    if not any(override_key(override) == "data" for override in own):
        own = [f"data={cfg.data.name}", *own]
    return Prepared(folder, made, [*own, f"data.preprocessed={folder}"])


def _shards(cfg: DictConfig, catalogue: Catalogue, folder: Path, line: Invocation) -> Prepared:
    made = webdataset.write(catalogue, folder, cfg.shard_rows, progress_bar)
    batches = max(catalogue.splits.get("train", 0) // cfg.data.batch_size, 1)
    others = [f"{folder}/{split}-*.tar" for split in catalogue.splits if split != "train"]
    use = {"data.catalogue.path": others, "data.stream.shards": f"{folder}/train-*.tar", "data.stream.batches": batches}
    return Prepared(folder, made, ["data=shards", "data/split=given", *as_overrides(use)])


FORMATS: dict[str, Callable[[DictConfig, Catalogue, Path, Invocation], Prepared]] = {
    "pixels": _pixels,
    "webdataset": _shards,
}
