"""Preprocess a catalogue's images once, for fast epochs: modiste prepare data=kagl size=80 out=DIR"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from modiste.commands._invocation import invocation, of_data
from modiste.config.overrides import as_overrides, override_key
from modiste.errors import ModisteError, did_you_mean
from modiste.utils.progress import progress_bar

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue


FORMATS = ("pixels", "webdataset")


def run(cfg: DictConfig) -> None:
    """Write shards and manifest into ``cfg.out``; the same command resumes an interrupted run.

    Raises:
        ModisteError: The format is unknown, ``out`` contains other data, or another process writes to it.
    """
    if cfg.format not in FORMATS:
        raise ModisteError(f"format={cfg.format} is not known. {did_you_mean(cfg.format, FORMATS)}")
    from modiste.data.build import load
    from modiste.utils.lock import held

    folder = Path(cfg.out)
    write = write_pixels if cfg.format == "pixels" else write_webdataset
    try:
        catalogue = load(cfg.data)
        with held(folder):
            made, use = write(cfg, catalogue, folder)
    except KeyboardInterrupt:
        print("\nInterrupted; finished shards are kept. Resume with the same command.", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"{made} shards written, existing shards reused: {folder}")
    print(f"Train on it: modiste train {use}")


def write_pixels(cfg: DictConfig, catalogue: Catalogue, folder: Path) -> tuple[int, str]:
    """Write preprocessed images; return the number of new shards, and the overrides that use them."""
    from modiste.data.decode import Decoder
    from modiste.data.storage.preprocessed import write
    from modiste.models.preprocess import Preprocess

    preprocess = Preprocess(size=cfg.size, resize=cfg.resize, interpolation=cfg.interpolation, crop_pct=cfg.crop_pct)
    made = write(catalogue, preprocess, folder, cfg.shard_rows, Decoder(cfg.data.decode), progress_bar)
    own = of_data(invocation().overrides)
    if not any(override_key(override) == "data" for override in own):
        own = [f"data={cfg.data.name}", *own]
    return made, shlex.join([*own, f"data.preprocessed={folder}"])


def write_webdataset(cfg: DictConfig, catalogue: Catalogue, folder: Path) -> tuple[int, str]:
    """Write image files and columns as tar shards; return as `write_pixels`."""
    from modiste.data.storage.webdataset import write

    made = write(catalogue, folder, cfg.shard_rows, progress_bar)
    batches = max(catalogue.splits.get("train", 0) // cfg.data.batch_size, 1)
    others = [f"{folder}/{split}-*.tar" for split in catalogue.splits if split != "train"]
    use = {"data.catalogue.path": others, "data.stream.shards": f"{folder}/train-*.tar", "data.stream.batches": batches}
    words = as_overrides(use)
    return made, shlex.join(["data=shards", "data/split=given", *words])
