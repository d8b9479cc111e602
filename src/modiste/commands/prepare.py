"""Write a catalogue's images as ready pixels, for fast epochs: modiste prepare data=kagl size=80 resize=pad out=DIR"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from modiste.errors import ModisteError


def run(cfg: DictConfig) -> None:
    """Writes shards, table and manifest into ``cfg.out``; an interrupted run goes on with the same command.

    Raises:
        ModisteError: There is no ``out``, or it holds other data.
    """
    if not cfg.out:
        raise ModisteError("modiste prepare needs a directory: out=DIR.")
    from modiste.data.configured import load
    from modiste.data.decode import Decoder
    from modiste.data.prepared import write
    from modiste.preprocess import Preprocess
    from modiste.progress import progress_bar

    preprocess = Preprocess(size=cfg.size, resize=cfg.resize, interpolation=cfg.interpolation, crop_pct=cfg.crop_pct)
    folder = Path(cfg.out)
    try:
        made = write(load(cfg.data), preprocess, folder, cfg.shard_rows, Decoder(cfg.data.decode), progress_bar)
    except KeyboardInterrupt:
        print("\nInterrupted; finished shards are kept. Go on with the same command.", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"{made} shards written, the others were there: {folder}")
    print(f"Train on it: modiste train data={cfg.data.name} data.prepared={folder}")
