"""Embed a catalogue's images and texts in shards, by many processes: modiste embed data=kagl run=RUN out=DIR"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from modiste.config import validate
from modiste.config.aliases import load_run_config
from modiste.errors import ModisteError
from modiste.utils.run_dir import RunDir


def run(cfg: DictConfig) -> None:
    """Writes shards, manifest and joined matrices into ``cfg.out``; an interrupted job goes on with the same command.

    Raises:
        ModisteError: There is no ``out`` or no model, or the directory holds other embeddings.
    """
    if not cfg.out:
        raise ModisteError("modiste embed needs a directory: out=DIR.")
    from modiste.commands._line import command_overrides
    from modiste.commands.evaluate import build_model, device, take_over

    run_dir = RunDir.find(cfg.run) if cfg.run else None
    if run_dir is not None:
        trained: Any = load_run_config(run_dir.config)
        take_over(cfg, trained, command_overrides())
    validate(cfg)
    from modiste.data.build import load
    from modiste.data.captions import Captions
    from modiste.embedding.distributed import Job, embed
    from modiste.utils.machine import usable_cores
    from modiste.utils.progress import progress_bar

    model, _ = build_model(cfg, run_dir)
    catalogue = load(cfg.data)
    captions = Captions(list(cfg.data.captions.templates)).bind(catalogue)
    folder = Path(cfg.out)
    job = Job(
        model, catalogue, [captions.first(row) for row in range(len(catalogue))], folder, cfg.shard_rows,
        cfg.batch_size, cfg.precision, cfg.data.get("decode", "pil"), cfg.backend, device(cfg.device), cfg.threads,
        cfg.min_cosine,
    )  # fmt: skip
    try:
        made = embed(job, cfg.workers, usable_cores() if cfg.number is None else cfg.number, progress_bar)
    except KeyboardInterrupt:
        print("\nInterrupted; finished shards are kept. Go on with the same command.", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"{made} shards made, the others were there: {folder}")
    print(
        f"Evaluate: modiste evaluate data={cfg.data.name} embeddings.image={folder / 'image.npy'} "
        f"embeddings.text={folder / 'text.npy'}"
    )
